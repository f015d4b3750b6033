//! All machines of a definition, asked at the same time, and what is not well about them.

use super::address::{MachineAddress, defined};
use super::client::{Caller, Client};
use crate::cluster::Definition;
use crate::error::Result;
use serde::Serialize;
use spec::agent::{AgentStatus, EtcdMember, path};
use spec::cluster::{Machine, Role};
use spec::status::{ETCD_HEALTHY, ETCD_WAITING, ServiceState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use time::OffsetDateTime;

/// A machine that needs longer does not answer.
const LIMIT: Duration = Duration::from_secs(3);
/// A master itself gives its etcd's members that long.
const MEMBERS_LIMIT: Duration = Duration::from_secs(10);
/// Machines that are asked at once.
const AT_ONCE: usize = 64;
/// A certificate that ends within as many days should have been renewed long ago.
const CERTIFICATE_DAYS: i64 = 30;
const DAY: i64 = 24 * 3600;

/// What was seen of a cluster.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Survey {
    pub cluster: String,
    /// Seconds since the epoch.
    pub at: i64,
    pub machines: Vec<Seen>,
    /// By the master that knows best; empty when none has etcd running.
    pub etcd: Vec<EtcdMember>,
    /// Sentences; empty when all is well.
    pub troubles: Vec<String>,
}

/// What was seen of a machine.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Seen {
    pub name: String,
    pub role: Role,
    pub address: Option<SocketAddr>,
    pub status: Option<AgentStatus>,
    /// Why there is no status.
    pub trouble: Option<String>,
}

/// Asks every machine; `given` addresses go before those of the definition.
///
/// # Errors
/// Bad input for an address of a machine that the definition does not list.
pub fn survey(
    definition: &Definition,
    given: &[MachineAddress],
    caller: &Caller,
    now: OffsetDateTime,
) -> Result<Survey> {
    for given in given {
        definition.machine(&given.name)?;
    }
    let answers = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    let machines = &definition.cluster.machines;
    std::thread::scope(|scope| {
        for _ in 0..machines.len().min(AT_ONCE) {
            scope.spawn(|| {
                while let Some((place, machine)) = take(&next, machines) {
                    let address = given.iter().find(|given| given.name == machine.name).map(|given| given.address);
                    let answer = ask(machine, address.or_else(|| defined(machine)), caller);
                    answers.lock().unwrap_or_else(PoisonError::into_inner).push((place, answer));
                }
            });
        }
    });
    let mut answers = answers.into_inner().unwrap_or_else(PoisonError::into_inner);
    answers.sort_by_key(|(place, _)| *place);
    let (machines, lists): (Vec<Seen>, Vec<Vec<EtcdMember>>) = answers.into_iter().map(|(_, answer)| answer).unzip();
    // One that is cut off from the others sees less of them.
    let healthy = |list: &Vec<EtcdMember>| list.iter().filter(|member| member.is_healthy()).count();
    let etcd = lists.into_iter().max_by_key(healthy).unwrap_or_default();
    Ok(Survey::of(&definition.cluster.name, now.unix_timestamp(), machines, etcd))
}

fn take<'a>(next: &AtomicUsize, machines: &'a [Machine]) -> Option<(usize, &'a Machine)> {
    let place = next.fetch_add(1, Ordering::Relaxed);
    machines.get(place).map(|machine| (place, machine))
}

fn ask(machine: &Machine, address: Option<SocketAddr>, caller: &Caller) -> (Seen, Vec<EtcdMember>) {
    let seen = |status: Option<AgentStatus>, trouble: Option<String>| Seen {
        name: machine.name.clone(),
        role: machine.role,
        address,
        status,
        trouble,
    };
    let Some(address) = address else {
        let unknown = format!("has no address in the definition (DHCP): --address {}=IP", machine.name);
        return (seen(None, Some(unknown)), Vec::new());
    };
    match Client::new(caller, &machine.name, address, LIMIT).get(path::STATUS) {
        Ok(status) => {
            let members = match machine.role {
                Role::Master => Client::new(caller, &machine.name, address, MEMBERS_LIMIT).get(path::ETCD_MEMBERS),
                Role::Node => Ok(Vec::new()),
            };
            // Before a cluster has formed there is no etcd to ask.
            (seen(Some(status), None), members.unwrap_or_default())
        }
        Err(trouble) => (seen(None, Some(trouble.to_string())), Vec::new()),
    }
}

impl Survey {
    pub(super) fn of(cluster: &str, at: i64, machines: Vec<Seen>, etcd: Vec<EtcdMember>) -> Survey {
        let mut troubles: Vec<String> = machines.iter().flat_map(|seen| seen.troubles(at)).collect();
        troubles.extend(etcd.iter().flat_map(member_troubles));
        Survey { cluster: cluster.to_owned(), at, machines, etcd, troubles }
    }

    /// The masters whose etcd serves.
    pub(super) fn serving(&self) -> impl Iterator<Item = &AgentStatus> {
        let masters = self.machines.iter().filter(|seen| seen.role == Role::Master);
        masters
            .filter_map(|seen| seen.status.as_ref())
            .filter(|status| status.node.etcd.as_deref() == Some(ETCD_HEALTHY))
    }
}

impl Seen {
    fn troubles(&self, now: i64) -> Vec<String> {
        let name = &self.name;
        let Some(status) = &self.status else {
            return self.trouble.iter().map(|trouble| format!("{name} {trouble}")).collect();
        };
        let mut troubles = Vec::new();
        let etcd = status.node.etcd.as_deref().unwrap_or(ETCD_WAITING);
        // Mostly the machine's phase says the same.
        let said = etcd == status.node.phase || etcd == ETCD_WAITING && !status.node.ready;
        if self.role == Role::Master && etcd != ETCD_HEALTHY && !said {
            troubles.push(format!("{name}: etcd: {etcd}"));
        }
        if status.init.shutting_down {
            troubles.push(format!("{name} goes down"));
        } else if !status.node.ready {
            troubles.push(format!("{name}: {}", status.node.phase));
        }
        for service in status.init.services.iter().filter(|service| !service.state.is_well()) {
            let verb = if service.state == ServiceState::Failed { "has" } else { "is" };
            let detail = service.detail.as_ref().map(|detail| format!(": {detail}")).unwrap_or_default();
            troubles.push(format!("{name}: service {} {verb} {}{detail}", service.name, state_word(service.state)));
        }
        if let Some((certificate, days)) = first_end(status, now).filter(|(_, days)| *days < CERTIFICATE_DAYS) {
            troubles.push(format!("{name}: certificate {certificate} {}", end_words(days)));
        }
        troubles
    }
}

fn end_words(days: i64) -> String {
    if days < 0 { "has ended".to_owned() } else { format!("ends in {days} days") }
}

/// The certificate that ends first, and the whole days until then.
pub(super) fn first_end(status: &AgentStatus, now: i64) -> Option<(&str, i64)> {
    let (name, end) = status.certificates.iter().min_by_key(|(_, end)| **end)?;
    Some((name, (end - now).div_euclid(DAY)))
}

pub(super) const fn state_word(state: ServiceState) -> &'static str {
    match state {
        ServiceState::Waiting => "waiting",
        ServiceState::Starting => "starting",
        ServiceState::Ready => "ready",
        ServiceState::Done => "done",
        ServiceState::Failed => "failed",
        ServiceState::Stopping => "stopping",
        ServiceState::Stopped => "stopped",
    }
}

fn member_troubles(member: &EtcdMember) -> Vec<String> {
    let name = if member.name.is_empty() { &member.id } else { &member.name };
    let Some(health) = &member.health else { return vec![format!("etcd's member {name} does not answer")] };
    let mut troubles = Vec::new();
    if !health.has_leader {
        troubles.push(format!("etcd's member {name} knows no leader"));
    }
    if member.learner {
        troubles.push(format!("etcd's member {name} has no vote yet: it catches up"));
    }
    troubles.extend(health.errors.iter().map(|error| format!("etcd's member {name}: {error}")));
    troubles
}
