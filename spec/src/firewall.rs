//! What the host firewall of the image and the agent that fills its sets agree on (nft(8) names).

/// The table, of family inet; loading the ruleset again replaces it whole, its sets included.
pub const TABLE: &str = "imgbuild";
/// Addresses of the cluster's machines. An image does not know its cluster: the sets are empty at boot
/// and the agent fills them.
pub const MEMBERS: &str = "members";
pub const MEMBERS6: &str = "members6";
