//! `imgbuild cluster rotate`: join credentials are taken back (every seed gets one of its own when it is written, so
//! that there is nothing to make anew), or the authorities are exchanged, one step a call.

use super::masters::{MachineAddresses, masters, show_accepted};
use crate::cluster::{DEFAULT, Definition, Step, next_step, take_step, trust_files, trusted, write_kubeconfig};
use crate::error::{Error, Result};
use crate::node::{Caller, Client, Trouble};
use crate::request::Context;
use clap::Args;
use spec::agent::{Accepted, AgentStatus, Trust, TrustRequest, organization, path};
use spec::cluster::{Machine, Role};
use spec::status::{ETCD_HEALTHY, ServiceStatus};
use std::time::{Duration, Instant};
use time::OffsetDateTime;

/// For one answer of a machine.
const LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at a machine that starts its services anew.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(in crate::cli) struct RotateArguments {
    #[arg(default_value = DEFAULT)]
    pub(super) name: String,
    #[command(flatten)]
    what: What,
    /// A machine that is off; with other authorities it needs a new seed before it can come back
    #[arg(long, value_name = "NAME", requires = "authorities")]
    without: Vec<String>,
    /// How long each machine may take to be well again
    #[arg(long, value_name = "10m|1h", requires = "authorities", default_value = "10m", value_parser = super::life)]
    wait: time::Duration,
    #[command(flatten)]
    addresses: MachineAddresses,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct What {
    /// Take join credentials back; machines that have joined already stay
    #[arg(long)]
    join_credentials: bool,
    /// Exchange the four authorities, one step a call: trust the new ones; let them sign; forget the old
    #[arg(long)]
    authorities: bool,
}

pub(super) fn execute(context: &Context, definition: &Definition, arguments: &RotateArguments) -> Result<()> {
    if arguments.what.authorities {
        return authorities(context, definition, arguments);
    }
    let ask = |client: &Client| client.post::<_, Accepted>(path::JOIN_VOID, &serde_json::json!({}));
    let accepted = arguments.addresses.ask_first(definition, &masters(definition), organization::ADMIN, ask)?;
    show_accepted(context, accepted)
}

/// Brings the machines to the step that the files have taken; when all are there already, takes the next.
fn authorities(context: &Context, definition: &Definition, arguments: &RotateArguments) -> Result<()> {
    let machines = machines(definition, arguments)?;
    let exchange = Exchange { context, definition, arguments };
    let mut behind = Vec::new();
    let mut renewed = true;
    for machine in &machines {
        let trust = exchange.trust_of(machine)?;
        renewed &= trust.renewed;
        if trust.authorities != trusted(definition, machine.role)? {
            behind.push(*machine);
        }
    }
    let next = next_step(definition)?;
    let step = match (behind.is_empty(), next) {
        // An earlier call was interrupted.
        (false, Step::Sign) => Step::Trust,
        (false, Step::Forget) => Step::Sign,
        (false, Step::Trust) => Step::Forget,
        (true, Step::Forget) if !renewed => {
            return Err(Error::failure("not every machine has certificates of the new authorities yet").help(
                "imgbuild node NAME certificates; wait until the machine's kubelet has its own, then call again",
            ));
        }
        (true, next) => {
            take_step(definition, next, OffsetDateTime::now_utc())?;
            write_kubeconfig(definition, kubeconfigs_server(definition).as_deref(), OffsetDateTime::now_utc())?;
            context.progress.note("admin.kubeconfig is issued anew");
            behind = machines;
            next
        }
    };
    // The masters first: they sign for the nodes.
    behind.sort_by_key(|machine| machine.role != Role::Master);
    for machine in behind {
        exchange.bring(machine)?;
        context.progress.note(&format!("{} has taken the step", machine.name));
    }
    context.progress.note(step.outcome());
    if step != Step::Forget {
        let again = "the next step: give pods some minutes to see the new authority, then the same command again";
        context.progress.note(again);
    }
    Ok(())
}

/// All of the definition but those that are off.
fn machines<'a>(definition: &'a Definition, arguments: &RotateArguments) -> Result<Vec<&'a Machine>> {
    for name in arguments.without.iter().chain(arguments.addresses.address.iter().map(|given| &given.name)) {
        definition.machine(name)?;
    }
    let machines = definition.cluster.machines.iter();
    Ok(machines.filter(|machine| !arguments.without.contains(&machine.name)).collect())
}

/// What the operator's kubeconfig has reached the API by.
fn kubeconfigs_server(definition: &Definition) -> Option<String> {
    let text = std::fs::read_to_string(definition.folder.join(crate::cluster::ADMIN_KUBECONFIG)).ok()?;
    let server = text.lines().find_map(|line| line.trim().strip_prefix("server:"))?;
    Some(server.trim().trim_matches('"').to_owned())
}

struct Exchange<'a> {
    context: &'a Context,
    definition: &'a Definition,
    arguments: &'a RotateArguments,
}

impl Exchange<'_> {
    /// Made anew each time: with the authorities the operator's own certificate changes.
    fn client(&self, machine: &Machine) -> Result<Client> {
        let caller = Caller::of(self.definition, organization::ADMIN, OffsetDateTime::now_utc())?;
        let given = self.arguments.addresses.address.iter().find(|given| given.name == machine.name);
        let address = self.definition.agent_address(&machine.name, given.map(|given| given.address))?;
        Ok(Client::new(&caller, &machine.name, address, LIMIT))
    }

    fn trust_of(&self, machine: &Machine) -> Result<Trust> {
        let client = self.client(machine)?;
        client.get(path::TRUST).map_err(|trouble| client.error(&trouble))
    }

    /// Sends one machine its authorities and waits until it is well with them.
    fn bring(&self, machine: &Machine) -> Result<()> {
        let request = TrustRequest { files: trust_files(self.definition, machine.role)? };
        let client = self.client(machine)?;
        match client.post::<_, Accepted>(path::TRUST, &request) {
            // The agent may be gone before its answer is out; whether it has taken them is asked below.
            Ok(_) | Err(Trouble::Silent(_)) => {}
            Err(trouble) => return Err(client.error(&trouble)),
        }
        let begun = Instant::now();
        let mut told = String::new();
        loop {
            let Some(trouble) = self.trouble_of(machine)? else { return Ok(()) };
            if begun.elapsed() >= self.arguments.wait.unsigned_abs() {
                let message = format!("{} is not well with the other authorities: {trouble}", machine.name);
                return Err(Error::failure(message)
                    .help("look at it (imgbuild node NAME status), then call again: what was done stays done"));
            }
            if told != trouble {
                self.context.progress.note(&format!("{}: {trouble}", machine.name));
                told = trouble;
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// What is still to come on a machine.
    fn trouble_of(&self, machine: &Machine) -> Result<Option<String>> {
        let client = self.client(machine)?;
        let trust: Trust = match client.get(path::TRUST) {
            Ok(trust) => trust,
            Err(trouble) => return Ok(Some(trouble.to_string())),
        };
        if trust.authorities != trusted(self.definition, machine.role)? {
            return Ok(Some("it has not taken them yet".into()));
        }
        if !trust.renewed {
            return Ok(Some("it waits for certificates of the new authorities".into()));
        }
        let status: AgentStatus = match client.get(path::STATUS) {
            Ok(status) => status,
            Err(trouble) => return Ok(Some(trouble.to_string())),
        };
        let ill = |service: &&ServiceStatus| !service.state.is_well();
        if let Some(service) = status.init.services.iter().find(ill) {
            return Ok(Some(format!("{} is {:?}", service.name, service.state).to_lowercase()));
        }
        let etcd = status.node.etcd.filter(|etcd| etcd != ETCD_HEALTHY);
        Ok(etcd.map(|etcd| format!("etcd: {etcd}")))
    }
}
