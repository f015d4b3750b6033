//! A supervised service of the machine: the TOML files below `paths::SERVICES_DIR`, read by init.

use crate::cluster::NetworkChoice;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One service. The file's stem is its name; unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Service {
    /// One line for the console.
    pub description: String,
    /// Program (absolute path) and arguments. No shell, no expansion.
    pub exec: Vec<String>,
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// A file of KEY=VALUE lines read at each start, in addition to `environment`. May be absent.
    #[serde(default)]
    pub environment_file: Option<String>,
    /// A file whose lines are further arguments, read at each start (the agent renders it). Must exist.
    #[serde(default)]
    pub arguments_file: Option<String>,
    /// User name of /etc/passwd; root when absent.
    #[serde(default)]
    pub user: Option<String>,
    /// Services that must be ready before this one starts; they are stopped after it.
    #[serde(default)]
    pub after: Vec<String>,
    /// Absolute paths that must exist before this one starts (checked by inotify, not by polling).
    #[serde(default)]
    pub wants_files: Vec<String>,
    #[serde(default)]
    pub ready: Ready,
    /// Seconds to become ready before it is reported as late (it is not killed).
    #[serde(default = "default_ready_timeout")]
    pub ready_timeout: u32,
    #[serde(default)]
    pub restart: Restart,
    /// Program (absolute path) and arguments that are run before SIGTERM, as root: what the service's end takes. They have
    /// `stop_timeout`, too.
    #[serde(default)]
    pub before_stop: Vec<String>,
    /// Seconds between SIGTERM and SIGKILL.
    #[serde(default = "default_stop_timeout")]
    pub stop_timeout: u32,
    /// `leaf`: a cgroup of its own, killed whole at the end. `runtime`: only the main process is
    /// signalled; its children (containerd's shims) are moved to a cgroup that outlives a restart.
    #[serde(default)]
    pub kill: Kill,
    #[serde(default)]
    pub limits: Limits,
    /// Capabilities kept (names such as CAP_NET_BIND_SERVICE); absent: all for root, none for another user.
    #[serde(default)]
    pub capabilities: Option<Vec<String>>,
    /// Folders made before each start: path, owner, mode.
    #[serde(default)]
    pub directories: Vec<Directory>,
    /// Roles of the machine that run it (`master`, `node`); empty: every machine.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Networks of the cluster definition that want it; empty: any.
    #[serde(default)]
    pub networks: Vec<NetworkChoice>,
}

impl Service {
    /// Whether a machine of this role, in a cluster with this network, runs it.
    pub fn runs_on(&self, role: &str, network: NetworkChoice) -> bool {
        (self.roles.is_empty() || self.roles.iter().any(|wanted| wanted == role))
            && (self.networks.is_empty() || self.networks.contains(&network))
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Directory {
    pub path: String,
    #[serde(default)]
    pub user: Option<String>,
    /// Octal, as a string: "0700".
    pub mode: String,
}

/// What makes a service ready.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ready {
    /// As soon as the program runs.
    #[default]
    Started,
    /// `READY=1` on the notify socket, sd_notify(3).
    Notify,
    /// When the program has ended with status 0 (a one-shot); it is not restarted after that.
    Exit,
    /// When this file exists.
    File(String),
    /// When this address and port (`127.0.0.1:2379`) takes a TCP connection.
    Tcp(String),
    /// When an HTTP GET of this plain `http://ADDRESS:PORT/PATH` answers 200.
    Http(String),
}

/// When a service that ended is started again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Restart {
    pub policy: RestartPolicy,
    /// First delay in milliseconds; doubled after each failure up to `maximum_delay_ms`.
    pub delay_ms: u64,
    pub maximum_delay_ms: u64,
    /// A run of this many seconds sets the delay back to the first.
    pub reset_after: u32,
}

impl Default for Restart {
    fn default() -> Self {
        Restart { policy: RestartPolicy::Always, delay_ms: 200, maximum_delay_ms: 10_000, reset_after: 30 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    #[default]
    Always,
    OnFailure,
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kill {
    #[default]
    Leaf,
    Runtime,
}

/// cgroup v2 limits and rlimits.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Limits {
    /// Bytes, memory.max.
    pub memory_max: Option<u64>,
    /// 1 to 10000, cpu.weight.
    pub cpu_weight: Option<u32>,
    pub pids_max: Option<u32>,
    /// -1000 to 1000, oom_score_adj.
    pub oom_score_adjust: Option<i32>,
    /// RLIMIT_NOFILE, soft and hard.
    pub open_files: Option<u64>,
}

const fn default_ready_timeout() -> u32 {
    300
}

const fn default_stop_timeout() -> u32 {
    20
}
