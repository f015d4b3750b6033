//! What init and agent tell each other and the console: JSON files and init's socket.

use crate::layout::Slot;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceState {
    Waiting,
    Starting,
    Ready,
    /// A one-shot that ended well.
    Done,
    Failed,
    Stopping,
    Stopped,
}

impl ServiceState {
    /// Ready, or done where it only has to run once.
    pub fn is_well(self) -> bool {
        matches!(self, ServiceState::Ready | ServiceState::Done)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ServiceStatus {
    pub name: String,
    pub state: ServiceState,
    pub pid: Option<u32>,
    pub restarts: u32,
    /// Milliseconds since kernel start at which it last changed state.
    pub since_ms: u64,
    /// Why it waits or failed.
    pub detail: Option<String>,
}

/// A stage of the boot and when it ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct StageStatus {
    pub name: String,
    /// Milliseconds since kernel start.
    pub started_ms: u64,
    pub ended_ms: Option<u64>,
    pub error: Option<String>,
}

/// What the machine runs from: partitions as device paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BootPlace {
    pub slot: Slot,
    pub esp: String,
    pub root_a: String,
    pub root_b: String,
}

impl BootPlace {
    /// The partition of a slot's root.
    pub fn root(&self, slot: Slot) -> &str {
        match slot {
            Slot::A => &self.root_a,
            Slot::B => &self.root_b,
        }
    }
}

/// init's view: `paths::INIT_STATUS_FILE`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct InitStatus {
    pub stages: Vec<StageStatus>,
    pub services: Vec<ServiceStatus>,
    /// sysctls that did not take: key, wanted, found.
    pub sysctl_failures: Vec<(String, String, String)>,
    pub shutting_down: bool,
    pub boot: Option<BootPlace>,
}

/// `NodeStatus::etcd` of a member that serves, and of a master that runs no member yet.
pub const ETCD_HEALTHY: &str = "healthy";
pub const ETCD_WAITING: &str = "waiting";

/// The agent's view: `paths::NODE_STATUS_FILE`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct NodeStatus {
    pub name: String,
    pub role: String,
    pub cluster: String,
    pub addresses: Vec<String>,
    /// The node object's Ready condition.
    pub ready: bool,
    /// One line: what the agent waits for now, or "Ready".
    pub phase: String,
    pub kubernetes_version: Option<String>,
    /// [`ETCD_HEALTHY`], [`ETCD_WAITING`] (the phase says for what), or what it waits for; masters have it.
    pub etcd: Option<String>,
    pub pods: Option<u32>,
    /// "synchronised", "no server answers", and so on.
    pub clock: Option<String>,
}

/// A request on `paths::INIT_SOCKET`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "request")]
pub enum Request {
    Status,
    Reboot,
    PowerOff,
    RestartService {
        name: String,
    },
    /// The cluster that this machine is now of: its id goes into the seed, the permit to form out of it.
    SealSeed {
        cluster_id: String,
    },
    /// The state partition's file system is to be made anew at the next boot, which begins now.
    ResetState,
    /// The agent wants the clock set (seconds since the epoch, fraction in nanoseconds).
    SetClock {
        seconds: u64,
        nanoseconds: u32,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "response")]
pub enum Response {
    Ok,
    Status { status: InitStatus },
    Error { message: String },
}
