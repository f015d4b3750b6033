//! What operators ask this master's etcd: who its members are, whether the cluster can do without
//! this machine, and orders.

use super::{Member, all, names};
use crate::etcd::client;
use crate::facts::under;
use crate::files;
use crate::hex;
use crate::machine::say;
use joining::{Etcd, New, Order, Orders, Reason};
use spec::agent::{AgentStatus, EtcdHealth, EtcdMember, path};
use spec::paths;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::Path;

impl Member {
    /// The members by this master's etcd, by name, whether or not there is a quorum.
    ///
    /// # Errors
    /// In words: etcd does not answer here, or is a learner.
    pub async fn members(&self) -> Result<Vec<EtcdMember>, String> {
        let etcd = self.client.own().await.map_err(|error| error.to_string())?;
        let members = etcd.known_members().await.map_err(|error| error.to_string())?;
        let mut asked: Vec<_> = members.iter().map(|member| Box::pin(self.client.status_of(member))).collect();
        let health = all(&mut asked).await;
        drop(asked);
        let mut told: Vec<_> = members.into_iter().zip(health).map(|(member, health)| tell(member, health)).collect();
        told.sort_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)));
        Ok(told)
    }

    /// Leave to take this machine down. The other masters hear that it goes before they are asked how they are,
    /// so that of two that are told to go at the same moment no two get leave that etcd cannot both miss.
    ///
    /// # Errors
    /// Why it must stay, in words.
    pub async fn leave(&self) -> Result<Leave<'_>, String> {
        if self.going.replace(true) {
            return Err(format!("{} goes down already, or is asking the other masters", self.facts.identity.name));
        }
        let leave = Leave { going: &self.going };
        self.loses_quorum().await.map_or(Ok(leave), Err)
    }

    /// Whether it has leave to go down, or asks for it.
    pub fn is_going(&self) -> bool {
        self.going.get()
    }

    /// Why this machine must stay: etcd has a quorum and would lose it. What does not run cannot be missed.
    async fn loses_quorum(&self) -> Option<String> {
        let own = self.client.own().await.ok()?.status().await.ok()?;
        if own.learner {
            return None;
        }
        let members = match self.members().await {
            Ok(members) => members,
            Err(error) => return Some(format!("whether etcd can do without this machine is not known: {error}")),
        };
        let voters: Vec<EtcdMember> = members.into_iter().filter(|member| !member.learner).collect();
        let own = hexadecimal(own.member());
        let leaving = self.leaving(&voters).await;
        quorum_loss(&own, self.etcd.get() == Etcd::Serving, &voters, &leaving)
    }

    /// The other masters that are on their way down: their etcd still runs while their pods end.
    async fn leaving(&self, voters: &[EtcdMember]) -> BTreeSet<String> {
        let others = voters.iter().map(|voter| voter.name.clone()).filter(|name| *name != self.facts.identity.name);
        let ask = |name: String| async move {
            let status = self.peers.get::<AgentStatus>(&name, path::STATUS).await;
            status.is_ok_and(|status| status.init.shutting_down).then_some(name)
        };
        let mut asked: Vec<_> = others.map(|name| Box::pin(ask(name))).collect();
        all(&mut asked).await.into_iter().flatten().collect()
    }

    /// Why this machine's state should stay: its etcd is a voter of a cluster with other members.
    pub async fn is_needed(&self) -> Option<String> {
        let cluster = self.cluster()?;
        let name = &self.facts.identity.name;
        let own = match self.client.own().await {
            Ok(etcd) => etcd.status().await.ok(),
            Err(_) => None,
        };
        let Some(own) = own else {
            return Some(format!(
                "{name} holds data of cluster {cluster} and its etcd does not answer, so nobody can say whether it is needed"
            ));
        };
        if own.learner {
            return None;
        }
        let others = match self.members().await {
            Ok(members) => members.into_iter().filter(|member| member.id != hexadecimal(own.member())),
            Err(error) => return Some(format!("etcd's members cannot be listed: {error}")),
        };
        let others: Vec<String> = others.map(|member| title(&member)).collect();
        (!others.is_empty()).then(|| {
            format!(
                "{name} is a voter of cluster {cluster} beside {}: wiped it costs a voter until it has joined anew",
                names(others.iter())
            )
        })
    }

    /// Keeps an operator's order, which this master then carries out with the others.
    ///
    /// # Errors
    /// Why it cannot be given, for the operator.
    pub fn order(&self, operator: &str, without: BTreeSet<String>, new: Option<New>) -> Result<Order, Reason> {
        let unusable = |why: String| Reason::StateUnavailable { why };
        let random = || hex::random::<8>().ok_or_else(|| unusable("the system gives no random bytes".into()));
        let own = self.own(random()?);
        let order = Order::issue(&own, &self.definition, &self.reports.borrow(), random()?, without, new)?;
        write_order(&self.root, &order).map_err(|error| unusable(error.to_string()))?;
        say(format!("etcd: {operator} orders {}", describe(&order)));
        self.orders.borrow_mut().latest = Some(order.clone());
        Ok(order)
    }
}

/// Leave to go down; given back when it is dropped, unless the machine goes.
pub struct Leave<'a> {
    going: &'a Cell<bool>,
}

impl Leave<'_> {
    /// The machine goes.
    pub fn take(self) {
        std::mem::forget(self);
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.going.set(false);
    }
}

pub(super) fn hexadecimal(id: u64) -> String {
    format!("{id:x}")
}

fn tell(member: client::Member, health: Option<client::MemberStatus>) -> EtcdMember {
    EtcdMember {
        id: hexadecimal(member.id),
        name: member.name,
        peer_urls: member.peer_urls,
        client_urls: member.client_urls,
        learner: member.learner,
        health: health.map(|status| EtcdHealth {
            leader: status.is_leader(),
            has_leader: status.leader != 0,
            database_size: status.database_size,
            errors: status.errors,
        }),
    }
}

/// A member that has never started has no name.
fn title(member: &EtcdMember) -> String {
    if member.name.is_empty() { format!("member {}", member.id) } else { member.name.clone() }
}

/// Why the voter `own` must not go down: the others that run and stay are no quorum. `serving`: a read
/// that takes a quorum was answered just now. The only voter has no others to fail.
fn quorum_loss(own: &str, serving: bool, voters: &[EtcdMember], leaving: &BTreeSet<String>) -> Option<String> {
    let runs = |voter: &&EtcdMember| voter.health.as_ref().is_some_and(|health| health.has_leader);
    let wanted = joining::majority(voters.len());
    let has_quorum = serving || voters.iter().filter(runs).count() >= wanted;
    let is_voter = voters.iter().any(|voter| voter.id == own);
    let (good, bad): (Vec<&EtcdMember>, Vec<&EtcdMember>) =
        voters.iter().filter(|voter| voter.id != own).partition(|voter| runs(voter) && !leaving.contains(&voter.name));
    if !is_voter || !has_quorum || good.len() >= wanted || voters.len() == 1 {
        return None;
    }
    let state = |voter: &&EtcdMember| {
        let why = if leaving.contains(&voter.name) { "goes down already" } else { "does not answer" };
        format!("{} {why}", title(voter))
    };
    let bad: Vec<String> = bad.iter().map(state).collect();
    let why = if bad.is_empty() { "all of them are needed".to_owned() } else { names(bad.iter()) };
    Some(format!(
        "etcd would lose its quorum: {wanted} of {} voters must run, without this one {} would ({why})",
        voters.len(),
        good.len()
    ))
}

fn describe(order: &Order) -> String {
    let mut text = format!("forming without {}", names(order.without.iter()));
    if let Some(new) = &order.new {
        text.push_str(&format!(", although {} was there", names(new.abandons.iter())));
    }
    text
}

fn write_order(root: &Path, order: &Order) -> Result<(), files::FileError> {
    let path = under(root, paths::ORDER_FILE);
    let text = serde_json::to_string_pretty(order)
        .map_err(|error| files::FileError::Content { path: path.clone(), reason: error.to_string() })?;
    files::write(&path, text, 0o600, true)
}

/// The order that was kept. One that cannot be read is none: nothing happens without it.
pub fn read_orders(root: &Path) -> Orders {
    let path = under(root, paths::ORDER_FILE);
    let text = files::read_if_there(&path).unwrap_or_else(|error| {
        say(error.to_string());
        None
    });
    let latest = text.and_then(|text| match serde_json::from_str(&text) {
        Ok(order) => Some(order),
        Err(error) => {
            say(format!("{}: {error}: give the order again", path.display()));
            None
        }
    });
    Orders { latest }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn voter(name: &str, up: bool) -> EtcdMember {
        let health =
            EtcdHealth { leader: false, has_leader: true, database_size: 0, errors: vec!["alarm:NOSPACE".into()] };
        EtcdMember {
            id: name.trim_start_matches('m').into(),
            name: name.into(),
            peer_urls: Vec::new(),
            client_urls: Vec::new(),
            learner: false,
            health: up.then_some(health),
        }
    }

    /// The judgement about m1 with the others up as said.
    fn judge(serving: bool, up: &[bool], leaving: &[&str]) -> Option<String> {
        let voters: Vec<_> = up.iter().zip(1..).map(|(up, number)| voter(&format!("m{number}"), *up)).collect();
        quorum_loss("1", serving, &voters, &leaving.iter().map(|&name| name.to_owned()).collect())
    }

    #[test]
    fn a_master_may_go_while_the_others_are_a_quorum() {
        assert_eq!(judge(true, &[true, true, true], &[]), None);
        assert_eq!(judge(true, &[true, true, true, true, false], &[]), None);
        assert_eq!(judge(true, &[true], &[]), None, "alone it has no quorum to keep");
        assert_eq!(quorum_loss("9", true, &[voter("m1", true), voter("m2", true)], &BTreeSet::new()), None);
    }

    #[test]
    fn a_master_stays_whose_going_would_end_the_quorum() {
        let said = judge(true, &[true, true, false], &[]).unwrap();
        assert_eq!(
            said,
            "etcd would lose its quorum: 2 of 3 voters must run, without this one 1 would (m3 does not answer)"
        );
        assert!(judge(true, &[true, true], &[]).unwrap().contains("all of them are needed"));
        // The others seem down from here, but a quorum has answered.
        assert!(judge(true, &[true, false, false], &[]).is_some());
        let said = judge(false, &[true, true, true], &["m2"]).unwrap();
        assert!(said.contains("m2 goes down already"), "{said}");
    }

    #[test]
    fn a_quorum_that_is_lost_cannot_be_lost_again() {
        assert_eq!(judge(false, &[true, false, false], &[]), None);
        let mut leaderless = voter("m1", true);
        leaderless.health.as_mut().unwrap().has_leader = false;
        assert_eq!(
            quorum_loss("1", false, &[leaderless, voter("m2", true), voter("m3", false)], &BTreeSet::new()),
            None
        );
    }

    #[test]
    fn an_order_is_read_back_and_a_torn_one_is_none() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("var/lib/imgbuild")).unwrap();
        assert_eq!(read_orders(root.path()), Orders::default());
        let order = Order {
            id: "a1".into(),
            number: 3,
            members: [("m1".to_owned(), "s1".to_owned())].into(),
            without: ["m3".to_owned()].into(),
            new: Some(New { abandons: ["c1".to_owned()].into(), unknown: false, restore: None }),
        };
        write_order(root.path(), &order).unwrap();
        assert_eq!(read_orders(root.path()).latest, Some(order));
        std::fs::write(root.path().join("var/lib/imgbuild/order.json"), "{").unwrap();
        assert_eq!(read_orders(root.path()), Orders::default());
    }
}
