//! This master's part in etcd's cluster: the pure decision is the crate `joining`; here are its
//! edges: the note on the state disk, the other masters' reports, etcd itself.

mod client;
mod member;
mod note;
mod restore;
mod snapshot;

pub use client::{Client, ClientError};
pub use member::{Member, hand_over_lead};
pub use restore::{finish, write_piece};
pub use snapshot::send as send_snapshot;

use joining::{Run, Start};
use std::collections::BTreeMap;
use std::process::Stdio;
use tokio::process::Command;

/// Runs one of etcd's programs to its end; it is killed when the caller waits no longer.
///
/// # Errors
/// The last line that it said.
async fn run(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(text.lines().last().unwrap_or("it failed and says nothing").into())
}

/// etcd's flags for a start; etcd reads the initial ones only while it has no data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flags {
    /// Below `note::DATA_DIR`.
    pub data_folder: String,
    pub token: String,
    pub new: bool,
    /// Name and peer URL of each member.
    pub members: BTreeMap<String, String>,
}

impl Flags {
    /// As etcd's flag has it.
    pub fn initial_cluster(&self) -> String {
        let members: Vec<String> = self.members.iter().map(|(name, url)| format!("{name}={url}")).collect();
        members.join(",")
    }

    /// `name` and `peer_url`: this machine's.
    pub fn of(run: &Run, name: &str, peer_url: &str) -> Flags {
        let own = || BTreeMap::from([(name.to_owned(), peer_url.to_owned())]);
        let (token, new, members, holds) = match &run.start {
            Start::Form(forming) => {
                (&forming.id, true, forming.initial_cluster(), joining::Holds::Started(forming.clone()))
            }
            Start::Join(admission) => {
                (&admission.cluster, false, admission.members.clone(), joining::Holds::Joining(admission.clone()))
            }
            Start::Resume(membership) => (&membership.cluster, false, own(), joining::Holds::Data(membership.clone())),
        };
        let data_folder = holds.data_folder().unwrap_or_default();
        Flags { data_folder, token: token.clone(), new, members }
    }
}
