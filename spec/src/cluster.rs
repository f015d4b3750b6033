//! The cluster definition, `clusters/NAME/cluster.toml`: what an operator writes, and what init and
//! agent read from the seed. Checks are pure and report every conflict at once.

use crate::dns::DnsServer;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A cluster. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Cluster {
    /// DNS label.
    pub name: String,
    /// DNS domain of the Services.
    #[serde(default = "default_domain")]
    pub domain: String,
    /// CIDRs as text, `10.244.0.0/16`.
    #[serde(default = "default_pod_cidr")]
    pub pod_cidr: String,
    #[serde(default = "default_service_cidr")]
    pub service_cidr: String,
    /// DNS name of the API, in the API servers' certificates.
    #[serde(default)]
    pub api_name: Option<String>,
    /// An address that the masters hold among themselves.
    #[serde(default)]
    pub virtual_address: Option<String>,
    #[serde(default)]
    pub dns: Vec<String>,
    /// What the masters' DNS serves beside the cluster's names.
    #[serde(default)]
    pub dns_server: DnsServer,
    /// SNTP servers, addresses or names; empty: those that DHCP gives.
    #[serde(default)]
    pub ntp: Vec<String>,
    /// Pods may run on masters.
    #[serde(default = "default_true")]
    pub schedulable_masters: bool,
    #[serde(default)]
    pub network: NetworkChoice,
    /// What kube-router says to other routers.
    #[serde(default)]
    pub bgp: Bgp,
    /// What etcd's members take for silence.
    #[serde(default)]
    pub etcd: EtcdTiming,
    /// Registry host -> mirror URLs.
    #[serde(default)]
    pub registry_mirrors: BTreeMap<String, Vec<String>>,
    /// Files of Kubernetes objects (YAML or JSON), relative to the definition's folder: the masters'
    /// seeds carry them, and they are applied in the order of their names.
    #[serde(default)]
    pub manifests: Vec<String>,
    #[serde(default, rename = "machine")]
    pub machines: Vec<Machine>,
    /// Nodes that no `[[machine]]` names: one stick for all of them. Each waits until an operator approves its key.
    #[serde(default)]
    pub any_node: Option<AnyNode>,
}

/// What a node gets that the definition does not list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct AnyNode {
    /// Of its name, which ends with the lowest MAC address of its cards: `rack7-` makes `rack7-525400123456`.
    pub prefix: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// `key=value:Effect`
    #[serde(default)]
    pub taints: Vec<String>,
    /// Where each puts itself; the stick keeps its seed for the next one. Nothing in it that one disk alone has.
    #[serde(default)]
    pub install: Option<Install>,
}

/// Hexadecimal digits of a MAC address.
const MAC_DIGITS: usize = 12;

impl AnyNode {
    /// Longest prefix, so that the name is a DNS label.
    pub const LONGEST_PREFIX: usize = 63 - MAC_DIGITS;

    /// The name of the machine with this MAC address, `52:54:00:12:34:56`.
    pub fn name(&self, mac: &str) -> String {
        format!("{}{}", self.prefix, mac.replace(':', "").to_lowercase())
    }

    fn has(&self, name: &str) -> bool {
        let digits = name.strip_prefix(&self.prefix).unwrap_or_default();
        digits.len() == MAC_DIGITS && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    }

    fn machine(&self, name: &str) -> Machine {
        Machine {
            name: name.to_owned(),
            role: Role::Node,
            mac: None,
            serial: None,
            network: MachineNetwork::default(),
            labels: self.labels.clone(),
            taints: self.taints.clone(),
            state_disk: None,
            install: self.install.clone(),
            bmc: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum NetworkChoice {
    /// kube-proxy in nftables mode, bridge CNI, routes between hosts.
    #[default]
    KubeProxy,
    /// Routes by BGP, Services by IPVS, network policy.
    KubeRouter,
    /// Brought by add-on images.
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    Master,
    Node,
}

impl Role {
    pub const fn name(self) -> &'static str {
        match self {
            Role::Master => "master",
            Role::Node => "node",
        }
    }
}

/// Prefix of a node's share of the pods' network, as kube-controller-manager cuts it.
pub const fn node_prefix(is_ipv4: bool) -> u8 {
    if is_ipv4 { 24 } else { 64 }
}

/// etcd's clock among its members (etcd's documentation, "Tuning", "Time parameters"), the same on all masters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct EtcdTiming {
    /// Milliseconds between two signs of life of the leader: about the time of a round trip.
    pub heartbeat_ms: u32,
    /// Milliseconds without one until another stands for election; for so long nothing is written when a master
    /// falls. Masters that are far from each other, or emulated, need more.
    pub election_ms: u32,
}

impl EtcdTiming {
    /// etcd refuses an election timeout of fewer heartbeats.
    pub const LEAST_HEARTBEATS: u32 = 5;
    /// Longest election timeout that etcd takes, in milliseconds.
    pub const LONGEST_ELECTION_MS: u32 = 50_000;
}

impl Default for EtcdTiming {
    /// etcd's own.
    fn default() -> Self {
        EtcdTiming { heartbeat_ms: 100, election_ms: 1000 }
    }
}

/// BGP (RFC 4271) between the machines, and with the site's routers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Bgp {
    /// The machines' autonomous system.
    pub asn: u32,
    /// Tell the peers the Services' cluster, external and load balancer addresses, beside the pods' networks.
    pub advertise_services: bool,
    #[serde(rename = "peer")]
    pub peers: Vec<BgpPeer>,
}

impl Default for Bgp {
    fn default() -> Self {
        Bgp { asn: PRIVATE_ASN, advertise_services: false, peers: Vec::new() }
    }
}

/// The first of those that nobody else uses (RFC 6996).
const PRIVATE_ASN: u32 = 64512;

/// A router of the site, which every machine peers with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BgpPeer {
    pub address: String,
    /// TCP port that it listens on.
    #[serde(default = "BgpPeer::port")]
    pub port: u16,
    pub asn: u32,
    /// Of TCP's MD5 signature (RFC 2385); absent: none.
    #[serde(default)]
    pub password: Option<String>,
}

impl BgpPeer {
    fn port() -> u16 {
        crate::ports::BGP
    }
}

/// A machine of the cluster, found by MAC address, by DMI serial, or (with neither) by being any
/// machine whose image has the role.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Machine {
    /// Host name, a DNS label, unique.
    pub name: String,
    pub role: Role,
    /// `52:54:00:12:34:56`
    #[serde(default)]
    pub mac: Option<String>,
    #[serde(default)]
    pub serial: Option<String>,
    #[serde(default)]
    pub network: MachineNetwork,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// `key=value:Effect`
    #[serde(default)]
    pub taints: Vec<String>,
    /// Name below /dev/disk/by-id; absent: the disk that it booted from.
    #[serde(default)]
    pub state_disk: Option<String>,
    /// Where it puts itself when it was started from a stick; absent: it runs from the stick.
    #[serde(default)]
    pub install: Option<Install>,
    /// Its baseboard management controller, which `imgbuild power` asks; absent: it is switched by hand.
    #[serde(default)]
    pub bmc: Option<Bmc>,
}

impl Machine {
    /// Whether it must not run from memory alone: a master that forgets at each start would call itself fresh each time, and
    /// the cluster's data would hang on none of them losing power.
    pub fn forgets_without_a_disk(&self) -> bool {
        self.role == Role::Master && self.state_disk.is_none() && self.install.is_none()
    }
}

/// A baseboard management controller that speaks Redfish (DMTF DSP0266). User and password stand in bmc.toml beside the
/// definition: they are the operator's alone, and in no seed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Bmc {
    /// `https://192.0.2.201`
    pub url: String,
    /// SHA-256 of its certificate, 64 hexadecimal digits: it alone is trusted.
    #[serde(default)]
    pub certificate: Option<String>,
    /// Id of the machine among the BMC's systems; absent: its only one.
    #[serde(default)]
    pub system: Option<String>,
}

/// The disk that a machine puts itself on: the only one of its own that has all of this.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Install {
    /// Name below /dev/disk/by-id.
    pub id: Option<String>,
    /// As the disk tells it, whole.
    pub model: Option<String>,
    pub transport: Option<Transport>,
    /// Sizes in 10^9 bytes, as disks are sold.
    pub min_gb: Option<u32>,
    pub max_gb: Option<u32>,
    /// Serial number of a disk that may lose what is on it. Without it only an empty one is written to.
    pub wipe: Option<String>,
}

/// How a disk of the machine's own is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    Nvme,
    Sata,
    Sas,
    Scsi,
    Virtio,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct MachineNetwork {
    /// Static address with prefix, `192.0.2.10/24`; absent: DHCP.
    pub address: Option<String>,
    pub gateway: Option<String>,
    pub dns: Vec<String>,
    /// Time servers of this machine, in place of the cluster's.
    pub ntp: Vec<String>,
    pub mtu: Option<u32>,
    /// VLAN id on top of the interface or bond.
    pub vlan: Option<u16>,
    pub bond: Option<Bond>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Bond {
    /// `802.3ad`, `active-backup`, ...
    pub mode: String,
    /// MAC addresses of the members.
    pub members: Vec<String>,
}

/// Who this machine is, as init found out: `paths::IDENTITY_FILE`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Identity {
    pub name: String,
    pub role: Role,
    /// 32 hexadecimal digits.
    pub machine_id: String,
    /// The interface with the machine's address.
    pub interface: String,
    /// Addresses with prefix.
    pub addresses: Vec<String>,
    pub gateway: Option<String>,
    pub dns: Vec<String>,
    /// SNTP servers from DHCP option 42 (addresses).
    pub ntp: Vec<String>,
    /// The first boot of this state.
    pub fresh_state: bool,
}

impl Cluster {
    /// The definition's masters, in its order.
    pub fn masters(&self) -> impl Iterator<Item = &Machine> {
        self.machines.iter().filter(|machine| machine.role == Role::Master)
    }

    /// The machine of this name: one that is listed, or a node that `any-node` makes room for.
    pub fn machine(&self, name: &str) -> Option<Cow<'_, Machine>> {
        let listed = self.machines.iter().find(|machine| machine.name == name).map(Cow::Borrowed);
        listed.or_else(|| {
            let any = self.any_node.as_ref().filter(|any| any.has(name))?;
            Some(Cow::Owned(any.machine(name)))
        })
    }

    /// Whether a machine of this role need not be listed.
    pub fn takes_any(&self, role: Role) -> bool {
        role == Role::Node && self.any_node.is_some()
    }

    /// Whether the definition has a machine of this name itself.
    pub fn lists(&self, name: &str) -> bool {
        self.machines.iter().any(|machine| machine.name == name)
    }

    /// Whether there is, or may be, more than one machine.
    pub fn has_several(&self) -> bool {
        self.machines.len() > 1 || self.any_node.is_some()
    }
}

impl Machine {
    /// Its address when that is a fixed one, without the prefix; `None` by DHCP.
    pub fn static_address(&self) -> Option<IpAddr> {
        address(self.network.address.as_deref()?)
    }
}

/// The address of `192.0.2.1/24` or `192.0.2.1`.
pub fn address(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}

fn default_domain() -> String {
    "cluster.local".into()
}
fn default_pod_cidr() -> String {
    "10.244.0.0/16".into()
}
fn default_service_cidr() -> String {
    "10.96.0.0/12".into()
}
const fn default_true() -> bool {
    true
}
