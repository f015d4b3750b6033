//! A forming is the proposal of one new cluster, the same text on every founder's disk. An order is
//! what an operator may decide and a machine may not: to go on without machines that do not answer,
//! and to give up data.

use crate::reason::Reason;
use crate::types::{ClusterId, Definition, Name, OrderId, Own, Report, Reports, StateId};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// More than half of `count`.
pub const fn majority(count: usize) -> usize {
    count / 2 + 1
}

/// A founder: the machine of this name with this state disk and no other.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Founder {
    pub state: StateId,
    /// etcd's peer URL, `https://192.0.2.11:2380`.
    pub peer_url: String,
}

/// `forming(id)`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Forming {
    /// The cluster's id, if it comes to be.
    pub id: ClusterId,
    /// One higher than every forming that its proposer had heard of.
    pub round: u64,
    pub members: BTreeMap<Name, Founder>,
    /// The order that names who is left out and what is given up; none: every listed master takes part.
    pub order: Option<Order>,
}

/// `imgbuild cluster form`, bound to the state disks that its members had when it was given: once
/// one of them is wiped the order is void, so an old order never forms a second cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Order {
    pub id: OrderId,
    /// One higher than every order that its agent had heard of.
    pub number: u64,
    pub members: BTreeMap<Name, StateId>,
    /// `--without NAME`: the listed masters to go on without.
    pub without: BTreeSet<Name>,
    /// `--i-lost-everything --new`.
    pub new: Option<New>,
}

/// Forming although there was a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct New {
    /// The clusters and formings whose data is given up.
    pub abandons: BTreeSet<ClusterId>,
    /// `unknown`: a damaged data folder of which nobody can say whose it is is given up too.
    pub unknown: bool,
    /// The snapshot that every founder starts from, by its SHA-256 in hexadecimal; none: an empty cluster.
    #[serde(default)]
    pub restore: Option<String>,
}

impl Forming {
    /// Members that must run before anything is committed.
    pub fn quorum(&self) -> usize {
        majority(self.members.len())
    }

    /// Where two formings meet the higher round goes on, of the same round the lesser id.
    pub fn outranks(&self, other: &Forming) -> bool {
        (self.round, Reverse(&self.id)) > (other.round, Reverse(&other.id))
    }

    pub fn is_founder(&self, name: &Name, state: &StateId) -> bool {
        self.members.get(name).is_some_and(|founder| founder.state == *state)
    }

    /// The clusters that this one is formed to replace.
    pub fn abandons(&self) -> BTreeSet<ClusterId> {
        self.order.iter().filter_map(|order| order.new.as_ref()).flat_map(|new| new.abandons.clone()).collect()
    }

    /// The snapshot that its founders start from.
    pub fn restores(&self) -> Option<&String> {
        self.order.as_ref()?.new.as_ref()?.restore.as_ref()
    }

    /// The founders of this forming whom `next` does not bind (other disk or left out), when they
    /// are enough to have run this one by themselves and no order gives it up.
    pub fn may_run_beside(&self, next: &Forming) -> Option<BTreeSet<Name>> {
        let unbound = self.members.iter().filter(|(name, founder)| !next.is_founder(name, &founder.state));
        let unbound: BTreeSet<Name> = unbound.map(|(name, _)| name.clone()).collect();
        let may = self.id != next.id && !next.abandons().contains(&self.id) && unbound.len() >= self.quorum();
        may.then_some(unbound)
    }

    /// etcd's `initial-cluster`: name and peer URL.
    pub fn initial_cluster(&self) -> BTreeMap<Name, String> {
        self.members.iter().map(|(name, founder)| (name.clone(), founder.peer_url.clone())).collect()
    }
}

impl Order {
    pub fn abandons(&self, cluster: &ClusterId) -> bool {
        self.new.as_ref().is_some_and(|new| new.abandons.contains(cluster))
    }

    /// Makes the order that an operator asked this master's agent for. Every member must answer with
    /// a mounted state disk; the operator is shown `Reason` otherwise.
    ///
    /// # Errors
    /// `NotListed`, `TooFew`, `OrderWaits` (a member is silent or has no state disk), `StillRuns`
    /// (a cluster that has a quorum is never given up: fresh masters join it).
    pub fn issue(
        own: &Own,
        definition: &Definition,
        reports: &Reports,
        id: OrderId,
        without: BTreeSet<Name>,
        new: Option<New>,
    ) -> Result<Order, Reason> {
        let listed = definition.masters.len();
        if let Some(name) = without.iter().find(|name| !definition.masters.contains_key(*name)) {
            return Err(Reason::NotListed { name: name.clone() });
        }
        let wanted = if new.is_some() { 1 } else { majority(listed) };
        if listed - without.len() < wanted {
            return Err(Reason::TooFew { left: listed - without.len(), listed, wanted });
        }
        let own_report = own.report();
        let all: Vec<&Report> = reports.values().chain([&own_report]).collect();
        if let Some(serving) = all.iter().find(|report| report.serving) {
            let cluster = serving.standing.holds().and_then(|holds| holds.cluster()).map(|(id, _)| id.clone());
            return Err(Reason::StillRuns { name: serving.name.clone(), cluster: cluster.unwrap_or_default() });
        }
        let state = |name: &Name| Some(all.iter().find(|report| report.name == *name)?.standing.note()?.id.clone());
        let mut members = BTreeMap::new();
        for name in definition.masters.keys().filter(|name| !without.contains(*name)) {
            let state = state(name).ok_or_else(|| Reason::OrderWaits { name: name.clone() })?;
            members.insert(name.clone(), state);
        }
        let notes = || all.iter().filter_map(|report| report.standing.note());
        let orders = notes().flat_map(|note| note.formings()).filter_map(|forming| forming.order.as_ref());
        let numbers = orders.map(|order| order.number).chain(notes().map(|note| note.used_orders));
        let number = 1 + numbers.max().unwrap_or(0);
        Ok(Order { id, number, members, without, new })
    }

    /// Whether the order speaks of exactly the masters of the definition, and is more than a
    /// minority unless everything is lost.
    pub(crate) fn fits(&self, definition: &Definition) -> bool {
        let named: BTreeSet<&Name> = self.members.keys().chain(&self.without).collect();
        named.len() == self.members.len() + self.without.len()
            && named.into_iter().eq(definition.masters.keys())
            && (self.new.is_some() || self.members.len() >= majority(definition.masters.len()))
    }
}
