//! The agents' own API on `ports::AGENT`: HTTP with JSON over mutual TLS. Every certificate in it is
//! signed by the `machine` authority alone; the subject's O is the role, its CN the name, and a
//! machine's certificate has its name as DNS name, by which a peer is verified (addresses change).

mod documents;

pub use documents::*;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the API: the first part of every path, and of every message that machines keep.
pub const VERSION: u32 = 1;

/// What the subject's O of a certificate of the `machine` authority says.
pub mod organization {
    /// A machine that is a master.
    pub const MASTER: &str = "imgbuild:master";
    /// A machine that has joined as a node.
    pub const NODE: &str = "imgbuild:node";
    /// The join credential in a seed: good for `path::JOIN` (a node's) or `path::HANDOVER` (a master's)
    /// alone, in the name of its CN.
    pub const JOIN: &str = "imgbuild:join";
    /// The join credential in a seed for nodes that the definition does not list: good for `path::JOIN` alone,
    /// once an operator has approved the key that is asked with.
    pub const PENDING: &str = "imgbuild:pending";
    /// People: what they may read, do to one machine, and do to the cluster.
    pub const READER: &str = "imgbuild:reader";
    pub const OPERATOR: &str = "imgbuild:operator";
    pub const ADMIN: &str = "imgbuild:admin";
}

/// Paths of the API.
pub mod path {
    /// GET, masters: what is on this master's disks (`joining::Report`).
    pub const REPORT: &str = "/v1/etcd/report";
    /// POST, masters: a `joining::JoinRequest`; answered by a `joining::Admission` (200) or by why not yet (409).
    pub const LEARNER: &str = "/v1/etcd/learner";
    /// POST, join credential or node: `JoinQuestion`, answered by `JoinAnswer`.
    pub const JOIN: &str = "/v1/join";
    /// GET, readers, masters alone have it: a list of `PendingMachine`.
    pub const PENDING: &str = "/v1/pending";
    /// POST, operators, masters alone have it: `ApproveRequest`, answered by `Accepted`, or by why not (409).
    pub const APPROVE: &str = "/v1/approve";
    /// POST, admins, masters alone have it: join credentials that were issued until now are good for nothing any
    /// more; answered by `Accepted`.
    pub const JOIN_VOID: &str = "/v1/join/void";
    /// GET, readers: `Trust`. POST, admins: `TrustRequest`, answered by `Accepted`, or by why not (409); the agent
    /// starts anew with it.
    pub const TRUST: &str = "/v1/trust";
    /// POST, join credential of a master: `HandoverQuestion`, answered by `HandoverAnswer`.
    pub const HANDOVER: &str = "/v1/handover";
    /// GET, anyone but who only joins: `AgentStatus`.
    pub const STATUS: &str = "/v1/status";
    /// GET, readers: the last lines of a service's log as text. `lines`: how many; `follow=1`: and what
    /// is written from now on, until the caller hangs up.
    pub const LOG: &str = "/v1/logs/{name}";
    /// GET, readers: a list of `KernelMessage`.
    pub const DMESG: &str = "/v1/dmesg";
    /// GET, readers: a list of `Process`.
    pub const PROCESSES: &str = "/v1/processes";
    /// GET, readers: `Network`.
    pub const NETWORK: &str = "/v1/network";
    /// GET, readers: `Disks`.
    pub const DISKS: &str = "/v1/disks";
    /// GET, readers: `Certificates`.
    pub const CERTIFICATES: &str = "/v1/certificates";
    /// GET, readers, masters alone have it: a list of `EtcdMember`.
    pub const ETCD_MEMBERS: &str = "/v1/etcd/members";
    /// POST, operators, masters alone have it: this member gives its free space back to the disk and serves
    /// nobody meanwhile; answered by `Accepted`.
    pub const ETCD_DEFRAG: &str = "/v1/etcd/defrag";
    /// POST, masters: `HoldRequest`; this master's API server stands still until etcd's leader is another, for a
    /// second and a half at most. Answered by `Accepted` once etcd has got what it sent before, or by why not (503).
    pub const ETCD_HOLD: &str = "/v1/etcd/hold";
    /// POST, operators: `PowerRequest`, answered by `Accepted`, or by why not (409).
    pub const REBOOT: &str = "/v1/reboot";
    pub const SHUTDOWN: &str = "/v1/shutdown";
    /// POST, admins: `ResetRequest`, answered by `Accepted`, or by why not (409).
    pub const RESET: &str = "/v1/reset";
    /// POST, admins, masters alone have it: `OrderRequest`, answered by `OrderAnswer`, or by why not (409).
    pub const ETCD_ORDER: &str = "/v1/etcd/order";

    /// GET, admins, masters alone have it: etcd's data as one file, bytes as they come.
    pub const ETCD_SNAPSHOT: &str = "/v1/etcd/snapshot";
    /// POST, admins, masters alone have it: a piece of the snapshot whose SHA-256 in hexadecimal is the
    /// name. `offset`: where the body's bytes belong; `last=1` and no body: all is sent, check and keep it.
    pub const ETCD_RESTORE: &str = "/v1/etcd/restore/{name}";

    /// GET, readers: `Upgrade`. POST, operators: a bundle's manifest, its signature in hexadecimal as `signature=`;
    /// answered by `Accepted`, or by why not (409). The other slot is emptied, and what the machine has of the bundle
    /// is copied there.
    pub const UPGRADE: &str = "/v1/upgrade";
    /// POST, operators: a chunk of the bundle whose manifest's SHA-256 is the name. `file=` and `chunk=` say which;
    /// `from=IP:PORT` and no body: the machine fetches what it lacks from the `imgbuild serve` there. `last=1` and no body:
    /// all is there, check it and put the slot on trial.
    pub const UPGRADE_CHUNK: &str = "/v1/upgrade/{name}";

    /// POST, operators, masters alone have it: `CordonRequest` for the node of this name, answered by `Accepted`.
    pub const CORDON: &str = "/v1/nodes/{name}/cordon";
    /// POST, operators, masters alone have it: the node's pods are evicted as their budgets let them; answered by
    /// `Drained`, to be asked again until nothing remains.
    pub const DRAIN: &str = "/v1/nodes/{name}/drain";
    /// POST, operators, masters alone have it: `LockRequest`, answered by `Accepted`, or by who holds it (409).
    pub const LOCK: &str = "/v1/lock";

    /// The part of a path that is a name.
    pub const NAME: &str = "{name}";

    /// `CORDON` or `DRAIN` of one node.
    pub fn of_node(path: &str, node: &str) -> String {
        path.replace(NAME, node)
    }

    /// `UPGRADE_CHUNK` of one bundle.
    pub fn upgrade_chunk(digest: &str) -> String {
        UPGRADE_CHUNK.replace(NAME, digest)
    }

    /// `ETCD_RESTORE` of one snapshot.
    pub fn restore(digest: &str) -> String {
        ETCD_RESTORE.replace(NAME, digest)
    }

    /// `LOG` of one service.
    pub fn log(name: &str) -> String {
        LOG.replace(NAME, name)
    }
}

/// The credentials that a node asks a master for, and gets as certificates for keys of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeCredential {
    /// To other agents: CN the machine's name, O `organization::NODE`, DNS name the machine's name.
    Machine,
    /// To the API server for kubelet's TLS bootstrapping: CN `bootstrap_user(NAME)`, O `system:bootstrappers`.
    Bootstrap,
    /// To the API server for the node's agent: CN `node_agent_user(NAME)`, O `NODE_AGENTS`.
    Agent,
    /// To the API server for kube-proxy: CN `system:kube-proxy`.
    Proxy,
    /// kubelet's own, CN `system:node:NAME`: for a machine that shows its own certificate, when the authority of the
    /// one that kubelet has signs no more. kubelet itself would ask for another at the end of its life.
    Kubelet,
}

/// Group of the nodes' agents at the API server.
pub const NODE_AGENTS: &str = "imgbuild:node-agents";

/// The user that asks for the first certificate of kubelet `name`, and of no other.
pub fn bootstrap_user(name: &str) -> String {
    format!("imgbuild:bootstrap:{name}")
}

/// The agent of the node `name` at the API server.
pub fn node_agent_user(name: &str) -> String {
    format!("imgbuild:node-agent:{name}")
}

/// A node asks for its credentials: PKCS#10 requests in PEM, whose keys never leave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct JoinQuestion {
    pub version: u32,
    /// Who asks, which only a credential that is bound to no name leaves open.
    #[serde(default)]
    pub name: String,
    pub requests: BTreeMap<NodeCredential, String>,
}

/// Certificates in PEM, and the cluster that the node is now of: it refuses every other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct JoinAnswer {
    pub cluster: Option<String>,
    pub certificates: BTreeMap<NodeCredential, String>,
}

/// A master that joins a cluster asks for the keys that its seed does not carry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HandoverQuestion {
    pub version: u32,
    /// 64 hexadecimal digits that this machine drew once: who asks again with the same credential and
    /// others is another machine.
    pub key: String,
}

/// The cluster, and the files of `seed::files` that are missing, in base64.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HandoverAnswer {
    pub cluster: Option<String>,
    pub files: BTreeMap<String, String>,
}

/// The authorities that a machine trusts, and the way it has come with an exchange of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Trust {
    /// By name, the SHA-256 of each certificate's DER in hexadecimal; the first is the one that signs.
    pub authorities: BTreeMap<String, Vec<String>>,
    /// Whether each of the machine's own certificates is by an authority that signs.
    pub renewed: bool,
}

/// Authorities to trust from now on, in place of those that the machine has: files of `seed::files` in base64. A
/// certificate's file may hold several, of which the first signs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TrustRequest {
    pub files: BTreeMap<String, String>,
}

/// `path::STATUS`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct AgentStatus {
    pub version: u32,
    pub image: String,
    /// The cluster that the machine is of, once there is one.
    #[serde(default)]
    pub cluster_id: Option<String>,
    pub node: crate::status::NodeStatus,
    pub init: crate::status::InitStatus,
    pub certificates: Certificates,
    /// The slots of its disk, the one that the loader prefers first.
    #[serde(default)]
    pub slots: Vec<SlotStatus>,
}

/// Why a request was refused, for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Refusal {
    pub reason: String,
}
