//! etcd's leader hands over before it stops, and no write is on its way meanwhile.
//!
//! A leader that hands over drops what the other members send it to propose, and tells nobody (etcd's raft,
//! `ErrProposalDropped` while there is a `leadTransferee`): who asked for such a write hears of a timeout after seven
//! seconds. It takes milliseconds, and a busy cluster has a write on its way at any of them. So the masters' API servers,
//! whose writes they are, stand still for as long: their clients wait a moment longer for an answer.

use super::operator::hexadecimal;
use super::{Member, all};
use crate::etcd::Client;
use crate::etcd::client::MemberStatus;
use crate::facts::Facts;
use crate::machine::say;
use crate::peers::Peers;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use spec::agent::{Accepted, HoldRequest, path};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_rustls::rustls::ClientConfig;

/// init's name of the service that is held.
const API_SERVER: &str = "kube-apiserver";
/// An API server stands still no longer than this, whatever becomes of etcd's leader: balancers take one for dead that is
/// silent for longer (`balancer::Timing::silence_limit`).
const LONGEST: Duration = Duration::from_millis(1500);
/// How often etcd is asked who leads.
const LOOK: Duration = Duration::from_millis(5);
/// For all of it.
const LIMIT: Duration = Duration::from_secs(8);

/// Where this machine's etcd leads and another member can: has that one lead.
///
/// # Errors
/// Why it leads on, in words; etcd hands over by itself when it stops, without holding anybody.
pub async fn hand_over(root: &Path, tls: Arc<ClientConfig>) -> Result<(), String> {
    let work = tokio::time::timeout(LIMIT, move_lead(root, tls)).await;
    work.unwrap_or_else(|_| Err(format!("etcd: no other member leads after {} s", LIMIT.as_secs())))
}

async fn move_lead(root: &Path, tls: Arc<ClientConfig>) -> Result<(), String> {
    let facts = Facts::read(root).map_err(|error| error.to_string())?;
    let client = Client::new(root).map_err(|error| error.to_string())?;
    let etcd = client.own().await.map_err(|error| error.to_string())?;
    let own = etcd.status().await.map_err(|error| error.to_string())?;
    if !own.is_leader() {
        return Ok(());
    }
    let members = etcd.known_members().await.map_err(|error| error.to_string())?;
    let others = members.iter().filter(|member| member.id != own.member() && !member.learner);
    let mut asked: Vec<_> = others.map(|member| Box::pin(client.status_of(member))).collect();
    let Some(heir) = heir(own.member(), all(&mut asked).await.into_iter().flatten()) else { return Ok(()) };
    drop(asked);

    let peers = Peers::with_own(&facts, tls);
    let request = HoldRequest { leader: hexadecimal(own.member()) };
    let ask = |name: String| {
        let (peers, request) = (&peers, &request);
        async move {
            if let Err(error) = peers.post::<_, Accepted>(&name, path::ETCD_HOLD, request).await {
                say(format!("etcd: the API server of {name} is not held: {error}"));
            }
        }
    };
    let mut held: Vec<_> = peers.names().map(|name| Box::pin(ask(name.clone()))).collect();
    all(&mut held).await;
    etcd.move_leader(heir).await.map_err(|error| error.to_string())?;
    let name = members.iter().find(|member| member.id == heir).map_or("another member", |member| &member.name);
    say(format!("etcd: {name} leads from now on"));
    Ok(())
}

/// Of the members that follow this leader, the one that has the most of its log.
fn heir(leader: u64, others: impl Iterator<Item = MemberStatus>) -> Option<u64> {
    let followers = others.filter(|status| status.leader == leader);
    followers.max_by_key(|status| status.raft_index).map(|status| status.member())
}

impl Member {
    /// Has this machine's API server stand still until etcd's leader is another than this one; what it has sent before
    /// is the leader's by the time this returns.
    ///
    /// # Errors
    /// In words; then it does not stand still.
    pub async fn hold(self: &Rc<Self>, leader: String) -> Result<String, String> {
        let held = match self.process(API_SERVER).map_or(Err(Errno::SRCH), Held::stop) {
            Ok(held) => held,
            Err(Errno::SRCH) => return Ok("no API server runs here".into()),
            Err(error) => return Err(format!("holding the API server: {error}")),
        };
        let end = Instant::now() + LONGEST;
        // A member's messages to the leader arrive in their order. The first read may overtake what etcd has just taken
        // from the API server's connection, the second comes a round trip later.
        let flushed = async {
            let etcd = self.client.own().await?;
            etcd.read().await?;
            etcd.read().await
        };
        match tokio::time::timeout_at(end, flushed).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("etcd does not answer".into()),
        }
        let member = Rc::clone(self);
        tokio::task::spawn_local(async move {
            if tokio::time::timeout_at(end, member.until_another_leads(&leader)).await.is_err() {
                say(format!("etcd: {leader} was to hand over and has not"));
            }
            drop(held);
        });
        Ok("the API server stands still until another leads".into())
    }

    /// Lets an API server go that stood still when an agent before this one ended.
    pub fn let_go(&self) {
        // What is dropped goes on; where there is no such process, nobody stands still.
        drop(self.process(API_SERVER).map(Held::of));
    }

    async fn until_another_leads(&self, leader: &str) {
        loop {
            if let Ok(etcd) = self.client.own().await
                && let Ok(status) = etcd.status().await
                && status.leader != 0
                && hexadecimal(status.leader) != leader
            {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// A process that stands still once it is stopped, until this is dropped.
struct Held(OwnedFd);

impl Held {
    fn of(process: u32) -> rustix::io::Result<Held> {
        let pid = i32::try_from(process).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
        pidfd_open(pid, PidfdFlags::empty()).map(Held)
    }

    fn stop(process: u32) -> rustix::io::Result<Held> {
        let held = Held::of(process)?;
        pidfd_send_signal(&held.0, Signal::STOP)?;
        Ok(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // What has ended meanwhile goes nowhere.
        let _ = pidfd_send_signal(&self.0, Signal::CONT);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::etcd::client::Header;

    fn status(member: u64, leader: u64, raft_index: u64) -> MemberStatus {
        MemberStatus { header: Some(Header { member }), leader, raft_index, ..MemberStatus::default() }
    }

    #[test]
    fn the_heir_follows_this_leader_and_has_the_most_of_its_log() {
        let heir = |others: &[MemberStatus]| heir(1, others.iter().cloned());
        assert_eq!(heir(&[status(2, 1, 70), status(3, 1, 71), status(4, 9, 99)]), Some(3));
        assert_eq!(heir(&[status(4, 9, 99), status(5, 0, 99)]), None);
        assert_eq!(heir(&[]), None);
    }

    #[test]
    fn a_process_stands_still_until_it_is_let_go() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let state = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
            stat.rsplit(") ").next().unwrap().chars().next().unwrap()
        };
        let until = |wanted: char| {
            let end = std::time::Instant::now() + Duration::from_secs(30);
            while state() != wanted && std::time::Instant::now() < end {
                std::thread::yield_now();
            }
            assert_eq!(state(), wanted);
        };
        let held = Held::stop(child.id()).unwrap();
        until('T');
        drop(held);
        until('S');
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(Held::stop(child.id()).is_err());
    }
}
