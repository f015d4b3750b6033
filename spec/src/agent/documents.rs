//! What people and their tools read and ask for through the agents' API: one type a document. Times
//! are seconds since the epoch, sizes bytes. docs/node-api.yaml describes the same for other tools.

use crate::layout::Slot;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// `path::CERTIFICATES`: name below PKI_DIR and end of life.
pub type Certificates = BTreeMap<String, i64>;

/// What the loader holds of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotState {
    Good,
    /// Nobody has called it good yet; the loader starts it a few times.
    Trial,
    Bad,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SlotStatus {
    pub slot: Slot,
    /// Counts the writes of slots on this machine.
    pub generation: u32,
    pub state: SlotState,
    /// The machine runs from it.
    pub running: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpgradePhase {
    /// No bundle has come since the agent started.
    #[default]
    None,
    /// The other slot is emptied, and what the machine has already is copied into it.
    Copying,
    /// The chunks in `missing` are waited for.
    Receiving,
    /// The machine fetches them by itself; what it cannot get it waits for again, and `reason` says why.
    Fetching,
    /// What was written is read back, and the boot files are written.
    Checking,
    /// The other slot is on trial: the next boot takes it.
    Written,
    Failed,
}

/// `path::UPGRADE`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Upgrade {
    pub phase: UpgradePhase,
    /// SHA-256 of the bundle's manifest.
    pub digest: String,
    /// Of the image in it.
    pub version: String,
    /// Bytes of the payload, and of those what the machine had or was sent.
    pub size: u64,
    pub present: u64,
    /// File of the payload -> numbers of its chunks, from 0.
    pub missing: BTreeMap<String, Vec<u32>>,
    /// Why it failed, or could not fetch.
    pub reason: Option<String>,
}

/// `path::CORDON`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CordonRequest {
    pub unschedulable: bool,
}

/// `path::DRAIN`: what is still on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Drained {
    pub remaining: Vec<RemainingPod>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RemainingPod {
    pub namespace: String,
    pub name: String,
    /// What keeps it.
    pub why: String,
}

/// `path::LOCK`: one roll through the cluster at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LockRequest {
    pub holder: String,
    /// For how long it is held unless it is asked for again.
    pub seconds: u32,
    /// Give it back.
    #[serde(default)]
    pub release: bool,
}

/// A message of the kernel: `path::DMESG` is a list of them, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct KernelMessage {
    /// syslog(2): 0 (emergency) to 7 (debug).
    pub level: u8,
    /// Microseconds since kernel start.
    pub since_start_us: u64,
    pub text: String,
}

/// A process: `path::PROCESSES` is a list of them, by pid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Process {
    pub pid: u32,
    /// At most 15 characters, as the kernel keeps it.
    pub name: String,
    pub user_id: u32,
    /// Bytes in memory; 0 for the kernel's own threads.
    pub resident: u64,
    pub cpu_seconds: f64,
}

/// `path::NETWORK`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Network {
    pub interfaces: Vec<Interface>,
    /// The main table's unicast routes.
    pub routes: Vec<Route>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Interface {
    pub name: String,
    /// RFC 2863's operational state: up, down, lower-layer-down, dormant, unknown and so on.
    pub state: String,
    pub mac: Option<String>,
    pub mtu: u32,
    /// With prefix.
    pub addresses: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Route {
    /// With prefix; `default` for all.
    pub destination: String,
    pub gateway: Option<String>,
    pub interface: Option<String>,
    pub metric: Option<u32>,
}

/// `path::DISKS`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Disks {
    pub disks: Vec<Disk>,
    /// File systems on disks, each at the place where it was mounted first.
    pub mounts: Vec<Mount>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Disk {
    pub name: String,
    pub size: u64,
    pub model: Option<String>,
    pub serial: Option<String>,
    pub removable: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Mount {
    pub source: String,
    pub target: String,
    pub file_system: String,
    pub size: u64,
    /// Bytes that programs without privileges may still write.
    pub free: u64,
}

/// A member of etcd as this master's agent sees it: `path::ETCD_MEMBERS` is a list of them, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct EtcdMember {
    /// In hexadecimal, as etcdctl shows it.
    pub id: String,
    /// Empty until it has started once.
    pub name: String,
    pub peer_urls: Vec<String>,
    pub client_urls: Vec<String>,
    /// It has no vote yet.
    pub learner: bool,
    /// `None`: it does not answer.
    pub health: Option<EtcdHealth>,
}

/// What a member says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct EtcdHealth {
    pub leader: bool,
    /// It knows a leader: without one it serves nobody.
    pub has_leader: bool,
    /// Bytes of the database's file.
    pub database_size: i64,
    /// Alarms and other trouble, in etcd's words.
    pub errors: Vec<String>,
}

impl EtcdMember {
    /// It answers, knows a leader, and complains of nothing.
    pub fn is_healthy(&self) -> bool {
        self.health.as_ref().is_some_and(|health| health.has_leader && health.errors.is_empty())
    }
}

/// `path::REBOOT` and `path::SHUTDOWN`; no body means the same as an empty object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct PowerRequest {
    /// Although etcd loses its quorum: an admin's word.
    pub force: bool,
}

/// `path::RESET`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ResetRequest {
    /// The machine's own name, typed by the operator.
    pub name: String,
    /// Although its etcd is a voter of a cluster with other members.
    #[serde(default)]
    pub force: bool,
}

/// A request that changes the machine was taken: what happens now, for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Accepted {
    pub message: String,
}

/// `path::ETCD_ORDER`: what an operator decides and no machine may.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct OrderRequest {
    /// Masters to go on without.
    pub without: BTreeSet<String>,
    /// Forming although there was a cluster.
    #[serde(default)]
    pub new: Option<NewCluster>,
}

/// The data that an order gives up.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NewCluster {
    /// Clusters and formings.
    pub abandons: BTreeSet<String>,
    /// Damaged data too of which nobody can say whose it is.
    #[serde(default)]
    pub unknown: bool,
    /// The snapshot that every founder starts from, by its SHA-256 in hexadecimal; each has been sent it.
    #[serde(default)]
    pub restore: Option<String>,
}

/// etcd's leader is about to hand over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HoldRequest {
    /// The member that leads now; in hexadecimal, as etcdctl shows it.
    pub leader: String,
}

/// The order as the agent keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct OrderAnswer {
    pub number: u64,
    /// The masters that form.
    pub members: BTreeSet<String>,
    pub without: BTreeSet<String>,
}

/// A machine that waits for an operator's word: `path::PENDING` is a list of them, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PendingMachine {
    pub name: String,
    /// The beginning of its key's SHA-256, as its console shows it: `KEY_DIGITS` hexadecimal digits.
    pub key: String,
    /// When it asked first.
    pub since: i64,
}

/// What is shown of a key's SHA-256, and asked for: 64 bits are nobody's to find a second key for.
pub const KEY_DIGITS: usize = 16;

/// `path::APPROVE`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ApproveRequest {
    pub name: String,
    /// As the machine's console shows it.
    pub key: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_may_leave_out_what_is_not_wanted_and_nothing_unknown_passes() {
        assert_eq!(serde_json::from_str::<PowerRequest>("{}").unwrap(), PowerRequest { force: false });
        assert!(serde_json::from_str::<PowerRequest>("{\"forse\": true}").is_err());
        let order: OrderRequest = serde_json::from_str("{\"without\": [\"m3\"], \"new\": null}").unwrap();
        assert_eq!((order.without, order.new), (["m3".to_owned()].into(), None));
        assert!(serde_json::from_str::<ResetRequest>("{}").is_err(), "a reset names its machine");
    }

    #[test]
    fn a_member_without_a_leader_or_with_an_alarm_is_not_healthy() {
        let health = |has_leader, errors: &[&str]| EtcdHealth {
            leader: false,
            has_leader,
            database_size: 0,
            errors: errors.iter().map(|&text| text.into()).collect(),
        };
        let member = |health| EtcdMember {
            id: "1".into(),
            name: "m1".into(),
            peer_urls: Vec::new(),
            client_urls: Vec::new(),
            learner: false,
            health,
        };
        assert!(member(Some(health(true, &[]))).is_healthy());
        assert!(!member(Some(health(false, &[]))).is_healthy());
        assert!(!member(Some(health(true, &["memberID:1 alarm:NOSPACE"]))).is_healthy());
        assert!(!member(None).is_healthy());
    }
}
