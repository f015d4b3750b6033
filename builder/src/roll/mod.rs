//! A new image for a whole cluster, machine by machine: the plan, the lock, and each machine's way from cordoned to good.
//! Everything that it relies on is asked of the machines again, so that a roll which was interrupted goes on with the
//! same command from anywhere.

mod plan;

pub use plan::{Plan, Step, plan};

use crate::cluster::Definition;
use crate::error::{Error, Result};
use crate::node::{Caller, Client, MachineAddress, Survey, Trouble, Upgrade, survey};
use crate::progress::Progress;
use crate::release::Bundle;
use serde::Serialize;
use serde::de::DeserializeOwned;
use spec::agent::{Accepted, CordonRequest, Drained, LockRequest, PowerRequest, organization, path};
use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use ureq::http::StatusCode;

/// For one answer.
const LIMIT: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK: Duration = Duration::from_secs(2);
/// The lock of a roll that is not heard of any more is free after this many seconds.
const LOCK_SECONDS: u32 = 60;
/// For the cluster to be well again after a machine.
const WELL_LIMIT: Duration = Duration::from_secs(10 * 60);

/// What a roll was asked for.
pub struct Roll<'a> {
    pub definition: &'a Definition,
    /// Where machines are reached, instead of what the definition says.
    pub addresses: &'a [MachineAddress],
    pub bundles: &'a [Bundle],
    /// An `imgbuild serve` that the machines fetch from.
    pub from: Option<SocketAddrV4>,
    pub progress: &'a Progress,
    /// Who rolls, for the others.
    pub holder: String,
    /// For the pods of one machine to go elsewhere.
    pub drain_limit: Duration,
    /// Between two machines.
    pub pause: Duration,
    /// Nodes that go at the same time.
    pub nodes_at_once: usize,
}

impl Roll<'_> {
    /// How the cluster is now.
    ///
    /// # Errors
    /// The cluster's secrets do not serve.
    pub fn look(&self) -> Result<Survey> {
        let now = OffsetDateTime::now_utc();
        let caller = Caller::of(self.definition, organization::READER, now)?;
        survey(self.definition, self.addresses, &caller, now)
    }

    /// A machine that is missing may be away for another's roll: then that is what speaks against one.
    ///
    /// # Errors
    /// Another roll.
    pub fn beside_no_other(&self) -> Result<()> {
        match self.lock(true) {
            Err(declined) if declined.is_of_another() => Err(declined.error),
            // Whoever looked at the cluster has more to say of it.
            _ => Ok(()),
        }
    }

    /// Rolls. Stops at the first machine that does not come up, with the machines after it untouched.
    ///
    /// # Errors
    /// Another roll, a machine that falls back or cannot be drained, a cluster that is not well in between.
    pub fn run(&self, plan: &Plan) -> Result<()> {
        self.lock(false)?;
        let over = AtomicBool::new(false);
        let lost = AtomicBool::new(false);
        let rolled = std::thread::scope(|scope| {
            scope.spawn(|| self.keep_lock(&over, &lost));
            let rolled = self.steps(plan, &lost);
            over.store(true, Ordering::SeqCst);
            rolled
        });
        // Whoever comes next need not wait for it.
        let released = self.lock(true);
        rolled.and(released.map_err(Error::from))
    }

    fn steps(&self, plan: &Plan, lost: &AtomicBool) -> Result<()> {
        for machine in &plan.done {
            // A roll that was interrupted may have left it cordoned.
            self.cordon(machine, false)?;
        }
        let mut first = true;
        for group in plan.groups(self.nodes_at_once) {
            if lost.load(Ordering::SeqCst) {
                return Err(Error::failure("another roll has taken the lock: this one stops"));
            }
            if !std::mem::take(&mut first) && !self.pause.is_zero() {
                self.progress.note(&format!("the next after {} s", self.pause.as_secs()));
                std::thread::sleep(self.pause);
            }
            self.wait_until_well()?;
            let outcomes: Vec<Result<()>> = std::thread::scope(|scope| {
                let threads: Vec<_> = group.iter().map(|step| scope.spawn(|| self.step(step))).collect();
                let join = |thread: std::thread::ScopedJoinHandle<'_, Result<()>>| {
                    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                };
                threads.into_iter().map(join).collect()
            });
            outcomes.into_iter().collect::<Result<()>>()?;
        }
        self.wait_until_well()
    }

    /// One machine, from cordoned to good.
    fn step(&self, step: &Step) -> Result<()> {
        let name = step.machine.as_str();
        let bundle = self.bundles.get(step.bundle);
        let bundle = bundle.ok_or_else(|| Error::failure(format!("{name}: its bundle is not there")))?;
        let client = self.client(name, organization::OPERATOR)?;
        let upgrade = Upgrade { client, bundle, from: self.from, progress: self.progress };
        let before = upgrade.running_slot()?;
        // What takes long comes while the machine still works.
        upgrade.write()?;
        self.cordon(name, true)?;
        self.drain(name)?;
        self.progress.note(&format!("{name} reboots"));
        let force = PowerRequest { force: false };
        let accepted: std::result::Result<Accepted, Trouble> = upgrade.client.post(path::REBOOT, &force);
        accepted.map_err(|trouble| upgrade.client.error(&trouble))?;
        upgrade.wait(before)?;
        self.cordon(name, false)
    }

    fn cordon(&self, machine: &str, unschedulable: bool) -> Result<()> {
        let request = CordonRequest { unschedulable };
        Ok(self.ask_master::<_, Accepted>(&path::of_node(path::CORDON, machine), &request).map(drop)?)
    }

    fn drain(&self, machine: &str) -> Result<()> {
        let end = Instant::now() + self.drain_limit;
        let mut told = String::new();
        loop {
            let drained: Drained = self.ask_master(&path::of_node(path::DRAIN, machine), &serde_json::json!({}))?;
            let Some(pod) = drained.remaining.first() else { return Ok(()) };
            let words = format!(
                "{machine}: {} pods are left; {}/{}: {}",
                drained.remaining.len(),
                pod.namespace,
                pod.name,
                pod.why
            );
            if Instant::now() >= end {
                return Err(Error::failure(words).help(format!(
                    "the machine stays cordoned and is not rebooted; let the pod go, then the same command again ({} s were given: --drain)",
                    self.drain_limit.as_secs()
                )));
            }
            if words != told {
                self.progress.note(&words);
                told = words;
            }
            std::thread::sleep(LOOK);
        }
    }

    fn wait_until_well(&self) -> Result<()> {
        let end = Instant::now() + WELL_LIMIT;
        loop {
            let survey = self.look()?;
            let Some(trouble) = survey.troubles.first() else { return Ok(()) };
            if Instant::now() >= end {
                return Err(Error::failure(format!("the cluster is not well, so that no machine goes: {trouble}"))
                    .help(format!("imgbuild cluster status {}", self.definition.cluster.name)));
            }
            std::thread::sleep(LOOK);
        }
    }

    fn lock(&self, release: bool) -> std::result::Result<(), Declined> {
        let request = LockRequest { holder: self.holder.clone(), seconds: LOCK_SECONDS, release };
        self.ask_master::<_, Accepted>(path::LOCK, &request).map(drop)
    }

    /// Holds it for as long as the roll lasts, and says when another has it.
    fn keep_lock(&self, over: &AtomicBool, lost: &AtomicBool) {
        let mut renewed = Instant::now();
        while !over.load(Ordering::SeqCst) {
            std::thread::sleep(LOOK);
            if renewed.elapsed() < Duration::from_secs(u64::from(LOCK_SECONDS) / 4) {
                continue;
            }
            match self.lock(false) {
                Ok(()) => renewed = Instant::now(),
                Err(declined) if declined.is_of_another() => lost.store(true, Ordering::SeqCst),
                // A master that reboots just now, most likely.
                Err(_) => {}
            }
        }
    }

    /// The first master that answers.
    fn ask_master<Q: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        question: &Q,
    ) -> std::result::Result<A, Declined> {
        let mut last = None;
        for master in self.definition.cluster.masters() {
            let client = self.client(&master.name, organization::OPERATOR)?;
            let declined = match client.post(path, question) {
                Ok(answer) => return Ok(answer),
                Err(trouble) => Declined::of(&client, &trouble),
            };
            if declined.code.is_some_and(|code| code != StatusCode::SERVICE_UNAVAILABLE.as_u16()) {
                return Err(declined);
            }
            last = Some(declined);
        }
        Err(last.unwrap_or_else(|| Error::failure("the cluster has no master").into()))
    }

    /// With a certificate of its own: a roll may last longer than one does.
    fn client(&self, machine: &str, organization: &str) -> Result<Client> {
        let given = self.addresses.iter().find(|given| given.name == machine).map(|given| given.address);
        let address = self.definition.agent_address(machine, given)?;
        let caller = Caller::of(self.definition, organization, OffsetDateTime::now_utc())?;
        Ok(Client::new(&caller, machine, address, LIMIT))
    }
}

/// Why no master did what was asked.
struct Declined {
    /// Of a master that answered.
    code: Option<u16>,
    error: Error,
}

impl Declined {
    fn of(client: &Client, trouble: &Trouble) -> Declined {
        let code = if let Trouble::Refused { code, .. } = trouble { Some(*code) } else { None };
        Declined { code, error: client.error(trouble) }
    }

    /// What a master says of the lock when somebody else rolls.
    fn is_of_another(&self) -> bool {
        self.code == Some(StatusCode::CONFLICT.as_u16())
    }
}

impl From<Error> for Declined {
    fn from(error: Error) -> Declined {
        Declined { code: None, error }
    }
}

impl From<Declined> for Error {
    fn from(declined: Declined) -> Error {
        declined.error
    }
}
