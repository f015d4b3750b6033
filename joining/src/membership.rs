//! What a cluster with a quorum does about its members, one action at a time. Asked by the agent
//! beside etcd's leader; etcd itself puts concurrent changes in order and refuses what no longer fits.

use crate::decide::JoinRequest;
use crate::forming::majority;
use crate::reason::Reason;
use crate::types::{ClusterId, Definition, MemberId, Name};
use std::collections::BTreeMap;

/// How a member is, as etcd's leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Health {
    /// It runs; whether its log is close enough to the leader's to be promoted.
    Up { caught_up: bool },
    /// No contact now.
    Down,
    /// No contact for longer than a machine needs to boot: a learner in this state is in the way.
    Gone,
}

/// A member of etcd.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Member {
    pub id: MemberId,
    /// Empty until the member has started once, as in etcd.
    pub name: Name,
    pub peer_urls: Vec<String>,
    pub learner: bool,
    pub health: Health,
}

/// The cluster as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    pub id: ClusterId,
    pub members: Vec<Member>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberAction {
    Remove(MemberId),
    /// The new member's number goes into the `Admission` that answers the request of this name.
    AddLearner {
        name: Name,
        peer_url: String,
    },
    Promote(MemberId),
    UpdatePeerUrls {
        member: MemberId,
        peer_urls: Vec<String>,
    },
}

/// The next action, and why requests that got none wait.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    pub action: Option<MemberAction>,
    pub waits: BTreeMap<Name, Reason>,
}

/// What to do next. In this order: finish a learner, follow a changed address, clear a dead learner,
/// then the first request by name. A voter is removed only when its own machine asks to join anew,
/// which says that its data is gone.
pub fn membership(cluster: &Cluster, definition: &Definition, requests: &BTreeMap<Name, JoinRequest>) -> Plan {
    let mut plan = Plan { action: promote(cluster), ..Plan::default() };
    move_members(cluster, definition, &mut plan);
    for (name, request) in requests {
        match serve(cluster, definition, name, request) {
            Ok(action) => drop(plan.action.get_or_insert(action)),
            Err(reason) => drop(plan.waits.insert(name.clone(), reason)),
        }
    }
    if plan.action.is_none() {
        let dead = cluster.members.iter().find(|member| member.learner && member.health == Health::Gone);
        plan.action = dead.map(|member| MemberAction::Remove(member.id));
    }
    plan
}

fn is_up(member: &&Member) -> bool {
    matches!(member.health, Health::Up { .. })
}

/// A learner that has caught up becomes a voter when the voters that run are a quorum of the larger cluster.
fn promote(cluster: &Cluster) -> Option<MemberAction> {
    let voters = || cluster.members.iter().filter(|member| !member.learner);
    let ready = voters().filter(is_up).count() + 1 >= majority(voters().count() + 1);
    let caught_up = |member: &&Member| member.learner && member.health == Health::Up { caught_up: true };
    let learner = cluster.members.iter().find(caught_up).filter(|_| ready)?;
    Some(MemberAction::Promote(learner.id))
}

/// Members whose address in the definition is another one. etcd refuses one that another member
/// holds, so two that swapped theirs go by way of a third.
fn move_members(cluster: &Cluster, definition: &Definition, plan: &mut Plan) {
    for member in &cluster.members {
        let Some(url) = definition.masters.get(&member.name) else { continue };
        if matches!(member.peer_urls.as_slice(), [only] if only == url) {
            continue;
        }
        match cluster.members.iter().find(|other| other.id != member.id && other.peer_urls.contains(url)) {
            Some(holder) => {
                let taken = Reason::AddressTaken { name: member.name.clone(), url: url.clone(), member: holder.id };
                plan.waits.insert(member.name.clone(), taken);
            }
            None => {
                let peer_urls = vec![url.clone()];
                plan.action.get_or_insert(MemberAction::UpdatePeerUrls { member: member.id, peer_urls });
            }
        }
    }
}

/// A request: the machine of this name has no data. Whatever member it was before is removed, even
/// one that never started, since nobody can tell; then it is added anew.
fn serve(
    cluster: &Cluster,
    definition: &Definition,
    name: &Name,
    request: &JoinRequest,
) -> Result<MemberAction, Reason> {
    let Some(url) = definition.masters.get(name) else {
        return Err(Reason::NotListed { name: name.clone() });
    };
    if request.cluster != cluster.id {
        let (asked, running) = (request.cluster.clone(), cluster.id.clone());
        return Err(Reason::WrongCluster { name: name.clone(), asked, running });
    }
    let is_old = |member: &&Member| member.name == *name || member.name.is_empty() && member.peer_urls.contains(url);
    if let Some(old) = cluster.members.iter().find(is_old) {
        return match old.health {
            Health::Up { .. } => Err(Reason::TwoMachines { name: name.clone(), member: old.id }),
            Health::Down | Health::Gone => Ok(MemberAction::Remove(old.id)),
        };
    }
    match cluster.members.iter().find(|member| member.learner) {
        Some(learner) if learner.health == Health::Gone => Ok(MemberAction::Remove(learner.id)),
        Some(learner) => Err(Reason::LearnerBusy { name: name.clone(), member: learner.id }),
        None => Ok(MemberAction::AddLearner { name: name.clone(), peer_url: url.clone() }),
    }
}
