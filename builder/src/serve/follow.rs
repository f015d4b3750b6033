//! What becomes of a machine once it has its seed: its agent is asked, as `imgbuild node NAME status` would, until it is
//! Ready.

use super::machines::{Follower, Machines};
use crate::cluster::Definition;
use crate::error::Result;
use crate::node::{Caller, Client};
use spec::agent::{AgentStatus, organization, path};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

/// Between two questions.
const PAUSE: Duration = Duration::from_secs(2);
/// For an answer: while the machine starts, or installs itself, there is none.
const LIMIT: Duration = Duration::from_secs(3);

/// Shows the phases of the machine `name`, whose agent will be at `address`; ends with Ready, with its next seed, or with
/// `machines`.
///
/// # Errors
/// The cluster's secrets give nobody to ask as.
pub fn follow(
    definition: &Definition,
    name: &str,
    address: SocketAddr,
    follower: Follower,
    machines: &Arc<Machines>,
) -> Result<()> {
    let caller = Caller::of(definition, organization::READER, OffsetDateTime::now_utc())?;
    let client = Client::new(&caller, name, address, LIMIT);
    let machines = Arc::downgrade(machines);
    let mut shown = String::new();
    let work = move || {
        while let Some(machines) = machines.upgrade().filter(|machines| machines.is_last(&follower)) {
            if let Ok(status) = client.get::<AgentStatus>(path::STATUS) {
                if status.node.phase != shown {
                    machines.note(&follower.mac, &status.node.phase);
                    shown = status.node.phase;
                }
                if status.node.ready {
                    break;
                }
            }
            drop(machines);
            std::thread::sleep(PAUSE);
        }
    };
    // A host that has no thread left shows less.
    drop(std::thread::Builder::new().name(format!("follow {name}")).spawn(work));
    Ok(())
}
