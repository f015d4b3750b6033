//! `imgbuild node NAME`: one machine that runs, by its agent.

use super::{print, print_json};
use crate::cluster::{DEFAULT, Definition};
use crate::error::{Error, Result};
use crate::node::{Caller, Client, Trouble, Upgrade, parse_address, text};
use crate::release::Bundle;
use crate::request::Context;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde::de::DeserializeOwned;
use spec::agent::{Accepted, PowerRequest, ResetRequest, organization, path};
use spec::cluster::Role;
use std::io::{BufRead, BufReader, ErrorKind, IsTerminal, Write};
use std::net::{SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::time::Duration;
use time::OffsetDateTime;

/// For one answer; a master that asks the others first needs some seconds.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Args)]
pub(super) struct NodeArguments {
    /// Machine of the cluster definition
    name: String,
    /// Cluster that the machine is of
    // clap hands a global option's value to the commands above too: under the name of theirs it
    // would be one of a build.
    #[arg(id = "node-cluster", short = 'c', long = "cluster", value_name = "NAME", default_value = DEFAULT, global = true)]
    cluster: String,
    /// Where the machine is reached [default: from the definition]
    #[arg(long, value_name = "IP[:PORT]", value_parser = parse_address, global = true)]
    address: Option<SocketAddr>,
    #[command(subcommand)]
    command: NodeCommand,
}

#[derive(Subcommand)]
enum NodeCommand {
    /// State, services, certificates
    Status,
    /// The last lines of a service's log
    Logs {
        /// As `status` lists it
        service: String,
        /// Go on with what is written from now on
        #[arg(short, long)]
        follow: bool,
        /// How many lines
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(..=100_000))]
        lines: u32,
    },
    /// The kernel's messages
    Dmesg,
    /// Processes with their memory and time
    Processes,
    /// Interfaces, addresses, routes
    Network,
    /// Disks, file systems, room that is left
    Disks,
    /// When each certificate ends
    Certificates,
    /// Reboot, pods first
    Reboot(Force),
    /// Power off, pods first
    Shutdown(Force),
    /// Write a bundle to the slot that does not run, reboot into it and wait until it is good
    Upgrade(UpgradeArguments),
    /// Reboot and make the state anew: everything on the state partition is lost
    Reset {
        /// The machine's name once more, instead of being asked for it
        #[arg(long, value_name = "NAME")]
        confirm: Option<String>,
        #[command(flatten)]
        force: Force,
    },
}

#[derive(Args)]
struct UpgradeArguments {
    /// Made by `imgbuild bundle`
    bundle: PathBuf,
    /// The machine fetches what it lacks from the `imgbuild serve` there, not from here
    #[arg(long, value_name = "IP:PORT")]
    from: Option<SocketAddrV4>,
    /// Leave the reboot to somebody else
    #[arg(long)]
    no_reboot: bool,
    #[command(flatten)]
    force: Force,
}

#[derive(Args, Clone, Copy)]
struct Force {
    /// Although etcd loses its quorum or a voter by it
    #[arg(long)]
    force: bool,
}

pub(super) fn execute(context: &Context, arguments: &NodeArguments) -> Result<()> {
    let cluster = super::cluster::name_or_default(Some(&arguments.cluster))?;
    let definition = Definition::of_name(&context.project, &cluster)?;
    let address = definition.agent_address(&arguments.name, arguments.address)?;
    let machine = Machine { context, definition: &definition, name: &arguments.name, address };
    let now = OffsetDateTime::now_utc().unix_timestamp();
    match &arguments.command {
        NodeCommand::Status => machine.show(path::STATUS, |status| text::status(status, now)),
        NodeCommand::Logs { service, follow, lines } => machine.logs(service, *follow, *lines),
        NodeCommand::Dmesg => machine.show(path::DMESG, |messages: &Vec<_>| text::dmesg(messages)),
        NodeCommand::Processes => machine.show(path::PROCESSES, |processes: &Vec<_>| text::processes(processes)),
        NodeCommand::Network => machine.show(path::NETWORK, text::network),
        NodeCommand::Disks => machine.show(path::DISKS, text::disks),
        NodeCommand::Certificates => machine.show(path::CERTIFICATES, |ends| text::certificates(ends, now)),
        NodeCommand::Reboot(force) => machine.take_down(path::REBOOT, *force),
        NodeCommand::Shutdown(force) => machine.take_down(path::SHUTDOWN, *force),
        NodeCommand::Upgrade(arguments) => machine.upgrade(arguments),
        NodeCommand::Reset { confirm, force } => machine.reset(confirm.as_deref(), *force),
    }
}

struct Machine<'a> {
    context: &'a Context,
    definition: &'a Definition,
    name: &'a str,
    address: SocketAddr,
}

impl Machine<'_> {
    /// With no more rights than the command needs.
    fn client(&self, organization: &str) -> Result<Client> {
        let caller = Caller::of(self.definition, organization, OffsetDateTime::now_utc())?;
        Ok(Client::new(&caller, self.name, self.address, LIMIT))
    }

    fn show<T: DeserializeOwned + Serialize>(&self, path: &str, text: impl Fn(&T) -> String) -> Result<()> {
        let client = self.client(organization::READER)?;
        let document: T = client.get(path).map_err(|trouble| client.error(&trouble))?;
        match self.context.json {
            true => print_document(&document),
            false => print(&text(&document)),
        }
    }

    fn logs(&self, service: &str, follow: bool, lines: u32) -> Result<()> {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if !service.bytes().all(is_name) || service.is_empty() {
            return Err(Error::bad_input(format!("{service:?} is no name of a service"))
                .help(format!("imgbuild node {} status lists them", self.name)));
        }
        let client = self.client(organization::READER)?;
        let path = format!("{}?lines={lines}&follow={}", path::log(service), u8::from(follow));
        let log = client.stream(&path).map_err(|trouble| client.error(&trouble))?;
        self.copy(BufReader::new(log))
    }

    /// Line by line, so that what is followed is seen at once. A reader that has seen enough is no error.
    fn copy(&self, mut log: impl BufRead) -> Result<()> {
        let mut output = std::io::stdout().lock();
        let mut line = Vec::new();
        loop {
            line.clear();
            let length = log.read_until(b'\n', &mut line);
            if length.map_err(|error| Error::because(format!("{}: the log broke off", self.name), error))? == 0 {
                return Ok(());
            }
            if self.context.json {
                let text = String::from_utf8_lossy(&line);
                line = format!("{}\n", serde_json::json!({ "line": text.trim_end_matches('\n') })).into_bytes();
            }
            match output.write_all(&line).and_then(|()| output.flush()) {
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
                Err(error) => return Err(Error::because("cannot write to standard output", error)),
                Ok(()) => {}
            }
        }
    }

    fn upgrade(&self, arguments: &UpgradeArguments) -> Result<()> {
        let bundle = Bundle::open(&arguments.bundle)?;
        let progress = &self.context.progress;
        let client = self.client(organization::OPERATOR)?;
        let upgrade = Upgrade { client, bundle: &bundle, from: arguments.from, progress };
        let before = upgrade.running_slot()?;
        upgrade.write()?;
        if arguments.no_reboot {
            progress.note(&format!("{}: the next boot is from slot {}", self.name, before.other().letter()));
            return Ok(());
        }
        self.take_down(path::REBOOT, arguments.force)?;
        upgrade.wait(before)
    }

    fn take_down(&self, path: &str, Force { force }: Force) -> Result<()> {
        let role = if force { organization::ADMIN } else { organization::OPERATOR };
        let accepted = self.ask(role, path, &PowerRequest { force }, force)?;
        self.tell(&accepted, "")
    }

    fn reset(&self, confirm: Option<&str>, Force { force }: Force) -> Result<()> {
        let typed = match confirm {
            Some(typed) => typed.to_owned(),
            None => self.ask_for_name()?,
        };
        if typed != self.name {
            return Err(Error::bad_input(format!("{typed:?} is not {}: nothing was reset", self.name)));
        }
        let request = ResetRequest { name: typed, force };
        let accepted = self.ask(organization::ADMIN, path::RESET, &request, force)?;
        let role = self.definition.machine(self.name)?.role;
        let next = match role {
            Role::Master => String::new(),
            Role::Node => format!("It joins again once its name is free: kubectl delete node {}\n", self.name),
        };
        self.tell(&accepted, &next)
    }

    fn ask_for_name(&self) -> Result<String> {
        if !std::io::stdin().is_terminal() {
            return Err(Error::bad_input(format!("a reset wipes everything that {} has on its state", self.name))
                .help(format!("if that is meant: --confirm {}", self.name)));
        }
        let mut typed = String::new();
        let asked =
            write!(std::io::stderr(), "Everything on the state of {0} will be lost. Type {0} to go on: ", self.name);
        asked
            .and_then(|()| std::io::stdin().read_line(&mut typed))
            .map_err(|error| Error::because("cannot ask on this terminal", error))?;
        Ok(typed.trim().to_owned())
    }

    fn ask<Q: Serialize>(&self, role: &str, path: &str, question: &Q, forced: bool) -> Result<Accepted> {
        let client = self.client(role)?;
        client.post(path, question).map_err(|trouble| match trouble {
            Trouble::Refused { code: 409, .. } if !forced => {
                client.error(&trouble).help("to go on all the same: --force")
            }
            _ => client.error(&trouble),
        })
    }

    fn tell(&self, accepted: &Accepted, next: &str) -> Result<()> {
        match self.context.json {
            true => print_document(accepted),
            false => print(&format!("{}\n{next}", accepted.message)),
        }
    }
}

pub(super) fn print_document<T: Serialize>(document: &T) -> Result<()> {
    let value = serde_json::to_value(document);
    print_json(&value.map_err(|error| Error::because("the document cannot be shown", error))?)
}
