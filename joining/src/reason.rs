//! Why a master waits, in one line for a person at a console: what for, which machines, what to do.

use crate::types::{ClusterId, MemberId, Name};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};

const WITHOUT: &str = "imgbuild cluster form --without";
const NEW: &str = "imgbuild cluster form --i-lost-everything --new";
const RESTORE: &str = "imgbuild etcd restore FILE";
const RESET: &str = "imgbuild node NAME reset";

/// Why one master that is needed for a forming cannot take part in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    Silent,
    StateUnavailable {
        why: String,
    },
    NoPermit,
    /// It knows a cluster and has no data.
    Lost {
        clusters: BTreeSet<ClusterId>,
    },
    Data {
        cluster: ClusterId,
    },
    Started {
        forming: ClusterId,
    },
    Partial {
        why: String,
    },
    /// It recorded this forming before, which `gone` (wiped, or left out) may have run by themselves.
    MayHaveRun {
        forming: ClusterId,
        gone: BTreeSet<Name>,
    },
}

/// Why a master waits, or why what was asked for is not done. `listed` counts the masters of the definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    NotListed { name: Name },
    StateUnavailable { why: String },
    Forming { obstacles: BTreeMap<Name, Obstacle> },
    Acknowledgement { forming: ClusterId, missing: BTreeSet<Name> },
    Proposer { name: Name },
    NoQuorum { clusters: BTreeSet<ClusterId>, holders: BTreeSet<Name>, silent: BTreeSet<Name>, listed: usize },
    OtherCluster { known: BTreeSet<ClusterId>, running: BTreeSet<ClusterId> },
    Abandoned { cluster: ClusterId, by: ClusterId },
    Partial { why: String },
    FirstCommit { forming: ClusterId, silent: BTreeSet<Name>, gone: BTreeSet<Name>, hopeless: bool },
    TooFew { left: usize, listed: usize, wanted: usize },
    OrderWaits { name: Name },
    StillRuns { name: Name, cluster: ClusterId },
    LearnerBusy { name: Name, member: MemberId },
    TwoMachines { name: Name, member: MemberId },
    AddressTaken { name: Name, url: String, member: MemberId },
    WrongCluster { name: Name, asked: ClusterId, running: ClusterId },
}

impl Obstacle {
    /// Whether only a person can lift it.
    pub fn needs_operator(&self) -> bool {
        !matches!(self, Obstacle::Silent | Obstacle::Started { .. } | Obstacle::Data { .. })
    }

    /// Whether it stands against forming even where an order leaves the machine out: there was a cluster.
    pub(crate) fn is_evidence(&self) -> bool {
        matches!(self, Obstacle::Lost { .. } | Obstacle::Data { .. })
    }
}

impl Reason {
    /// Whether it stays until a person does something, as far as this machine can tell.
    pub fn needs_operator(&self) -> bool {
        match self {
            Reason::Forming { obstacles } => obstacles.values().any(Obstacle::needs_operator),
            Reason::NoQuorum { silent, .. } => silent.is_empty(),
            Reason::FirstCommit { hopeless, .. } => *hopeless,
            Reason::Acknowledgement { .. } | Reason::Proposer { .. } | Reason::LearnerBusy { .. } => false,
            _ => true,
        }
    }
}

/// `m1, m2 and m3`
fn joined<T: Display>(parts: impl IntoIterator<Item = T>) -> String {
    let parts: Vec<String> = parts.into_iter().map(|part| part.to_string()).collect();
    match parts.as_slice() {
        [] => "nobody".to_owned(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// `c1 c2`, as a command takes them.
fn words<T: Display>(parts: impl IntoIterator<Item = T>) -> String {
    parts.into_iter().map(|part| part.to_string()).collect::<Vec<_>>().join(" ")
}

impl Display for Obstacle {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::Silent => write!(formatter, "no answer"),
            Obstacle::StateUnavailable { why } => write!(formatter, "its state disk cannot be used: {why}"),
            Obstacle::NoPermit => write!(formatter, "its seed has no permit to form"),
            Obstacle::Lost { clusters } => write!(formatter, "no data, but it knows cluster {}", joined(clusters)),
            Obstacle::Data { cluster } => write!(formatter, "member of cluster {cluster}"),
            Obstacle::Started { forming } => write!(formatter, "has started forming {forming}"),
            Obstacle::Partial { why } => write!(formatter, "its etcd data is damaged: {why}"),
            Obstacle::MayHaveRun { forming, gone } => {
                write!(formatter, "recorded forming {forming}, which {} may have run", joined(gone))
            }
        }
    }
}

/// What to do about the machines that a forming waits for.
fn advice(obstacles: &BTreeMap<Name, Obstacle>) -> String {
    let mut known = BTreeSet::new();
    for obstacle in obstacles.values() {
        match obstacle {
            Obstacle::Lost { clusters } => known.extend(clusters),
            Obstacle::Data { cluster: id } | Obstacle::Started { forming: id } => drop(known.insert(id)),
            Obstacle::MayHaveRun { forming, .. } => drop(known.insert(forming)),
            _ => {}
        }
    }
    if !known.is_empty() {
        let (ids, named) = (joined(&known), words(&known));
        return format!(
            "switch on the masters that hold data of {ids}; if it is lost, `{RESTORE}`, or `{NEW} {named}`"
        );
    }
    let names: Vec<String> = obstacles.keys().map(|name| format!("--without {name}")).collect();
    let flags = names.join(" ");
    let flags = flags.strip_prefix("--without ").unwrap_or(&flags);
    format!("switch on or repair {}, or if no data is there go on with `{WITHOUT} {flags}`", joined(obstacles.keys()))
}

impl Display for Reason {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NotListed { name } => {
                write!(
                    formatter,
                    "{name} is not a master of the cluster definition: correct the name or the definition"
                )
            }
            Reason::StateUnavailable { why } => write!(
                formatter,
                "the state disk cannot be used ({why}): repair or replace it; it may hold data, so this machine neither forms nor joins"
            ),
            Reason::Forming { obstacles } => {
                let list = obstacles.iter().map(|(name, obstacle)| format!("{name} ({obstacle})"));
                write!(formatter, "forming the cluster waits for {}: {}", joined(list), advice(obstacles))
            }
            Reason::Acknowledgement { forming, missing } => {
                write!(formatter, "forming {forming} waits until {} recorded it too", joined(missing))
            }
            Reason::Proposer { name } => write!(formatter, "forming the cluster waits for {name} to propose it"),
            Reason::NoQuorum { clusters, holders, silent, listed } => {
                let (ids, named) = (joined(clusters), words(clusters));
                let held = if holders.is_empty() {
                    "nobody who answers holds its data".to_owned()
                } else {
                    format!("only {} of its members answered", joined(holders))
                };
                let next = if silent.is_empty() { String::new() } else { format!("switch on {}; ", joined(silent)) };
                if 2 * holders.len() > *listed {
                    // So it is at every start, for a moment; and for ever where the members are not the listed masters.
                    return write!(
                        formatter,
                        "cluster {ids} has no leader yet ({} of its members answered); if that lasts, {next}or if the data is lost, `{RESTORE}`, or `{NEW} {named}`",
                        joined(holders)
                    );
                }
                write!(
                    formatter,
                    "cluster {ids} has no quorum ({held}), and no other is formed beside it: {next}if the data is lost, `{RESTORE}`, or `{NEW} {named}`"
                )
            }
            Reason::OtherCluster { known, running } => write!(
                formatter,
                "this machine knows cluster {}, but {} runs: give it the right seed, or `{RESET}`",
                joined(known),
                joined(running)
            ),
            Reason::Abandoned { cluster, by } => write!(
                formatter,
                "this machine holds data of cluster {cluster}, which {by} replaced by an order: save what is needed, then `{RESET}` lets it join {by}"
            ),
            Reason::Partial { why } => write!(
                formatter,
                "etcd's data is damaged ({why}) and no cluster runs that could give it again: switch on the other masters, or `{RESTORE}`; if everything is lost, `{NEW} unknown`"
            ),
            Reason::FirstCommit { forming, gone, hopeless: true, .. } => write!(
                formatter,
                "forming {forming} cannot get a quorum any more, {} wiped since it began: `{RESTORE}`, or `{NEW} {forming}`",
                joined(gone)
            ),
            Reason::FirstCommit { forming, silent, .. } if silent.is_empty() => {
                write!(formatter, "etcd of forming {forming} waits for its first commit")
            }
            Reason::FirstCommit { forming, silent, .. } => {
                write!(formatter, "etcd of forming {forming} waits for its first commit: switch on {}", joined(silent))
            }
            Reason::TooFew { left, listed, wanted } => write!(
                formatter,
                "going on with {left} of {listed} masters, at least {wanted} wanted: the others together could be a cluster of their own; if everything is lost, `{NEW} ID`"
            ),
            Reason::OrderWaits { name } => write!(
                formatter,
                "{name} does not answer or has no state disk: switch it on, or go on without it too with `{WITHOUT} {name}`"
            ),
            Reason::StillRuns { name, cluster } => write!(
                formatter,
                "{name} runs cluster {cluster}, which has a quorum and is not given up: fresh masters join it by themselves"
            ),
            Reason::LearnerBusy { name, member } => {
                write!(formatter, "{name} waits: one learner at a time, and member {member:x} is still catching up")
            }
            Reason::TwoMachines { name, member } => write!(
                formatter,
                "{name} asks to join while its member {member:x} runs: two machines use that name; switch one off or give it another seed"
            ),
            Reason::AddressTaken { name, url, member } => write!(
                formatter,
                "{name} is to move to {url}, which member {member:x} holds: give one of them an address that is free first"
            ),
            Reason::WrongCluster { name, asked, running } => {
                write!(formatter, "{name} asks for cluster {asked}, here runs {running}: give {name} the right seed")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_that_is_there_may_only_wait_for_a_leader() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let reason = |holders: &[&str], silent: &[&str]| Reason::NoQuorum {
            clusters: names(&["c1"]),
            holders: names(holders),
            silent: names(silent),
            listed: 3,
        };
        let starting = reason(&["m1", "m2"], &["m3"]).to_string();
        assert!(starting.starts_with("cluster c1 has no leader yet (m1 and m2 of its members answered)"), "{starting}");
        assert!(starting.contains("if that lasts, switch on m3; or if the data is lost"), "{starting}");
        assert!(reason(&["m1"], &["m2", "m3"]).to_string().contains("has no quorum (only m1 of its members answered)"));
        assert!(reason(&["m1"], &[]).needs_operator());
    }
}
