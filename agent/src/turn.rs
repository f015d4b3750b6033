//! When this master's API server may start: after those of the masters that come before it by name. Started all at
//! once on a cluster's first boot they write the same roles and objects side by side, and their first checks time out
//! on a machine that is slow; one after the other each finds them done.

use crate::api::Api;
use crate::etcd::Member;
use crate::facts::{Facts, under};
use crate::machine::{Status, say};
use crate::run::{RunError, api_of};
use spec::{paths, ports};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// Between two questions.
const PAUSE: Duration = Duration::from_secs(2);
/// How long one that comes before is waited for: one that does not become ready must not keep the others.
const LIMIT: Duration = Duration::from_secs(180);
/// For one answer; a machine that has lost its power gives none.
const ANSWER: Duration = Duration::from_secs(10);

/// The API servers that start before this machine's, with their masters' names.
pub struct Turn(Vec<(String, Api)>);

impl Turn {
    /// # Errors
    /// No credentials to ask the others with.
    pub fn new(root: &Path, facts: &Facts) -> Result<Turn, RunError> {
        // Within one boot the turn comes once.
        if under(root, paths::API_TURN_FILE).exists() {
            return Ok(Turn(Vec::new()));
        }
        let own = &facts.identity.name;
        let mut before: Vec<_> = facts.cluster.masters().filter(|machine| machine.name < *own).collect();
        before.sort_by(|one, other| one.name.cmp(&other.name));
        let addressed = before.into_iter().filter_map(|machine| Some((&machine.name, machine.static_address()?)));
        let api = |(name, address): (&String, _)| {
            Ok((name.clone(), api_of(root, SocketAddr::new(address, ports::KUBE_APISERVER))?))
        };
        Ok(Turn(addressed.map(api).collect::<Result<_, RunError>>()?))
    }

    /// Ends when it has come.
    pub async fn wait(&self, member: &Member, status: &Status) {
        if !self.0.is_empty() {
            until_serving(member).await;
        }
        for (name, api) in &self.0 {
            let end = Instant::now() + LIMIT;
            while member.is_beside(name) && !is_ready(api).await {
                if Instant::now() >= end {
                    say(format!("the API server of {name} is not ready after {} s: not waited for", LIMIT.as_secs()));
                    break;
                }
                status.phase(&format!("the API server waits for the one of {name}"));
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Ends when etcd answers here.
pub async fn until_serving(member: &Member) {
    while !member.is_serving() {
        tokio::time::sleep(PAUSE).await;
    }
}

async fn is_ready(api: &Api) -> bool {
    tokio::time::timeout(ANSWER, api.is_ready()).await.unwrap_or(false)
}
