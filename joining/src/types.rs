//! What a master holds on its disks, what it tells the others of it, and what the decision is made from.

use crate::forming::{Forming, Order};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A machine's name in the cluster definition.
pub type Name = String;
/// etcd's number for a member.
pub type MemberId = u64;
/// A cluster, and the forming that made it: drawn at random by who proposes; etcd's `initial-cluster-token`.
pub type ClusterId = String;
/// One life of a state disk: drawn at random when its file system is made, gone when it is wiped.
pub type StateId = String;
/// An operator's order, drawn at random by the command.
pub type OrderId = String;

/// Format of `Report`; a report of another version counts as silence.
pub const VERSION: u32 = 1;

/// A master's answer to another, over mutual TLS: what is on its disks, never what it is about to write.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Report {
    pub version: u32,
    /// The name in the certificate that it answered with; the caller has compared them.
    pub name: Name,
    pub standing: Standing,
    /// Its etcd answered a linearizable read just now: its cluster has a quorum.
    pub serving: bool,
}

/// What a machine's disks say.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Standing {
    /// The seed's one-time permit to form.
    pub permit: bool,
    /// The cluster that the seed knows.
    pub seed_cluster: Option<ClusterId>,
    pub state: State,
}

/// The state disk.
#[allow(clippy::large_enum_variant, reason = "one for each machine; nearly always the large one")]
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum State {
    /// No disk, no driver, a foreign or broken file system. Not fresh: nobody knows what is on it.
    Unavailable {
        why: String,
    },
    Mounted(Note),
}

/// The note on a mounted state disk: one file, replaced as a whole (temporary, sync, rename, sync the folder).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Note {
    pub id: StateId,
    /// The clusters of this definition that the disk has heard of. Who knows one never answers fresh.
    pub knows: BTreeSet<ClusterId>,
    /// Orders up to this number are used up, or were contradicted by a cluster that runs.
    pub used_orders: u64,
    /// Formings that this disk recorded and gave up for others.
    pub left: Vec<Forming>,
    pub holds: Holds,
}

/// What there is of etcd.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Holds {
    /// No etcd data. Fresh when no cluster is known; otherwise what was here is lost.
    Nothing,
    /// The promise to start no forming of lower rank. etcd has not been started.
    Recorded(Forming),
    /// Written before etcd's first start: it may have voted, no commit is known.
    Started(Forming),
    /// Written before the first start as an added learner.
    Joining(Admission),
    /// etcd holds committed data.
    Data(Membership),
    /// A data folder that is neither whole nor absent, and the forming that it came from.
    Partial { why: String, forming: Option<Forming> },
}

/// What a running cluster gives a machine that it has added as a learner.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Admission {
    pub cluster: ClusterId,
    /// The clusters that this one was formed to replace.
    pub abandons: BTreeSet<ClusterId>,
    /// The state disk that asked: an answer to an earlier life of the machine is not for this one.
    pub state: StateId,
    pub member: MemberId,
    /// etcd's `initial-cluster`: name and peer URL of every member, the new one included.
    pub members: BTreeMap<Name, String>,
}

/// A member with data.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Membership {
    pub cluster: ClusterId,
    pub abandons: BTreeSet<ClusterId>,
    /// The number that it was added with; none: a founder.
    pub member: Option<MemberId>,
    /// What a founder started from, so that a founder that is late can still start it.
    pub forming: Option<Forming>,
}

impl Holds {
    /// The cluster that the machine is a member of by the word of others, and what that cluster replaced.
    pub fn cluster(&self) -> Option<(&ClusterId, &BTreeSet<ClusterId>)> {
        match self {
            Holds::Joining(admission) => Some((&admission.cluster, &admission.abandons)),
            Holds::Data(membership) => Some((&membership.cluster, &membership.abandons)),
            _ => None,
        }
    }

    /// The forming that this founder has started.
    pub fn started(&self) -> Option<&Forming> {
        match self {
            Holds::Started(forming) => Some(forming),
            Holds::Data(membership) => membership.forming.as_ref(),
            Holds::Partial { forming, .. } => forming.as_ref(),
            _ => None,
        }
    }

    /// What is left once the data folder is found damaged.
    #[must_use]
    pub fn damaged(&self, why: impl Into<String>) -> Holds {
        Holds::Partial { why: why.into(), forming: self.started().cloned() }
    }

    pub fn recorded(&self) -> Option<&Forming> {
        if let Holds::Recorded(forming) = self { Some(forming) } else { None }
    }

    /// The name of etcd's data folder: one for each identity, so that no identity ever starts on
    /// another's data, nor twice on none. What is given up stays behind under its name.
    pub fn data_folder(&self) -> Option<String> {
        match self {
            Holds::Nothing | Holds::Recorded(_) | Holds::Partial { .. } => None,
            Holds::Started(forming) => Some(format!("{}-founder", forming.id)),
            Holds::Joining(admission) => Some(format!("{}-{:x}", admission.cluster, admission.member)),
            Holds::Data(Membership { cluster, member: Some(member), .. }) => Some(format!("{cluster}-{member:x}")),
            Holds::Data(Membership { cluster, member: None, .. }) => Some(format!("{cluster}-founder")),
        }
    }
}

impl Standing {
    pub fn note(&self) -> Option<&Note> {
        if let State::Mounted(note) = &self.state { Some(note) } else { None }
    }

    pub fn holds(&self) -> Option<&Holds> {
        self.note().map(|note| &note.holds)
    }

    /// The clusters that seed or state disk know.
    pub fn knows(&self) -> BTreeSet<ClusterId> {
        let state = self.note().map(|note| note.knows.clone()).unwrap_or_default();
        state.into_iter().chain(self.seed_cluster.clone()).collect()
    }
}

/// What the machine itself sees of its etcd process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Etcd {
    #[default]
    Stopped,
    /// It runs; nothing committed was seen.
    Running,
    /// It has committed entries, but no quorum answers it now, or it is still a learner.
    Committed,
    /// A linearizable read was answered.
    Serving,
    /// It ended because the cluster has removed this member for good.
    Removed,
}

/// This master.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Own {
    pub name: Name,
    pub standing: Standing,
    pub etcd: Etcd,
    /// The last answer to `Decision::AskToJoin`.
    pub admission: Option<Admission>,
    /// A new random id, for the case that this master has to propose a forming.
    pub candidate: ClusterId,
}

impl Own {
    /// What to answer the others.
    pub fn report(&self) -> Report {
        let serving = self.etcd == Etcd::Serving;
        Report { version: VERSION, name: self.name.clone(), standing: self.standing.clone(), serving }
    }
}

/// The masters of the cluster definition with their peer URLs as they are now.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Definition {
    pub masters: BTreeMap<Name, String>,
}

/// The order that the operator gave to this machine's agent, if any; kept by the agent, not by the others.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Orders {
    pub latest: Option<Order>,
}

/// The last answers of the other listed masters. One that is silent is not in it.
///
/// The caller keeps to this: an answer replaces only an older one of the same machine, and is
/// dropped when a later request to that machine fails. How old it is does not matter otherwise.
pub type Reports = BTreeMap<Name, Report>;
