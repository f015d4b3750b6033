//! What the host firewall of the image and the agent that fills its sets agree on (nft(8) names).

/// The table, of family inet; loading the ruleset again replaces it whole, its sets included.
pub const TABLE: &str = "imgbuild";
/// Addresses of the cluster's machines. An image does not know its cluster: the sets are empty at boot
/// and the agent fills them.
pub const MEMBERS: &str = "members";
pub const MEMBERS6: &str = "members6";
/// The Services' networks and node ports, where IPVS serves them: it takes packets after the firewall has
/// judged them, as packets to this machine. Empty with kube-proxy, which translates before.
pub const SERVICES: &str = "services";
pub const SERVICES6: &str = "services6";
pub const NODE_PORTS: &str = "node-ports";
