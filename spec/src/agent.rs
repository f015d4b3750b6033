//! The agents' own API on `ports::AGENT`: HTTP with JSON over mutual TLS. Every certificate in it is
//! signed by the `machine` authority alone; the subject's O is the role, its CN the name, and a
//! machine's certificate has its name as DNS name, by which a peer is verified (addresses change).

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
    /// The join credential in a seed: good for `path::JOIN` alone, in the name of its CN.
    pub const JOIN: &str = "imgbuild:join";
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
    /// GET, anyone with a certificate: `AgentStatus`.
    pub const STATUS: &str = "/v1/status";
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
    pub requests: BTreeMap<NodeCredential, String>,
}

/// Certificates in PEM, and the cluster that the node is now of: it refuses every other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct JoinAnswer {
    pub cluster: Option<String>,
    pub certificates: BTreeMap<NodeCredential, String>,
}

/// `path::STATUS`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct AgentStatus {
    pub version: u32,
    pub image: String,
    pub node: crate::status::NodeStatus,
    pub init: crate::status::InitStatus,
    /// Common name and end of life (seconds since the epoch) of each certificate of the machine.
    pub certificates: BTreeMap<String, i64>,
}

/// Why a request was refused, for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Refusal {
    pub reason: String,
}
