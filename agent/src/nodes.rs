//! All Node objects, as far as the network between machines needs them: listed once, then followed.
//! With thousands of nodes a list is tens of megabytes for the API, so it is not done again while the
//! API can tell what changed.

use crate::api::{Api, ApiError};
use crate::node::pod_cidrs;
use ipnet::IpNet;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

const COLLECTION: &str = "/api/v1/nodes";
/// Nodes in one answer: an object with its list of images may be 15 KiB.
const PAGE: u32 = 100;

/// Nodes by name.
pub type Nodes = BTreeMap<String, Node>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// InternalIP, in the node's order.
    pub addresses: Vec<IpAddr>,
    pub pod_cidrs: Vec<IpNet>,
}

/// `10.244.1.0/24`; nothing behind the prefix, which the kernel would refuse.
pub fn network(text: &str) -> Option<IpNet> {
    text.trim().parse().ok().filter(|network: &IpNet| *network == network.trunc())
}

/// Networks divided by commas, as the cluster definition has them.
pub fn networks(text: &str) -> impl Iterator<Item = IpNet> {
    text.split(',').filter_map(network)
}

/// Calls `each` with the nodes there are: at first, after every change of an address or a pod CIDR, and
/// every `period`. Returns when the API wants the list read anew.
pub async fn follow(api: &Api, period: Duration, mut each: impl AsyncFnMut(&Nodes)) -> Result<(), ApiError> {
    let (mut nodes, mut version) = list(api).await?;
    // Its first tick is at once.
    let mut ticks = tokio::time::interval(period);
    loop {
        let mut watch = api.watch(COLLECTION, &version).await?;
        loop {
            let event = tokio::select! {
                event = watch.next() => event?,
                _ = ticks.tick() => {
                    each(&nodes).await;
                    continue;
                }
            };
            // The API ends a watch every few minutes; the next one goes on where it was.
            let Some(event) = event else { break };
            if event["type"] == "ERROR" {
                return Ok(());
            }
            if let Some(seen) = event.pointer("/object/metadata/resourceVersion").and_then(Value::as_str) {
                version = seen.into();
            }
            if take(&mut nodes, &event) {
                each(&nodes).await;
            }
        }
    }
}

/// All nodes, page by page, and the version to watch from.
async fn list(api: &Api) -> Result<(Nodes, String), ApiError> {
    let mut nodes = Nodes::new();
    let mut next = String::new();
    loop {
        let page = api.get(&format!("{COLLECTION}?limit={PAGE}&continue={next}")).await?;
        nodes.extend(page.get("items").and_then(Value::as_array).into_iter().flatten().filter_map(read));
        let field = |pointer| page.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_string();
        next = field("/metadata/continue");
        if next.is_empty() {
            return Ok((nodes, field("/metadata/resourceVersion")));
        }
    }
}

/// Takes an event in; whether it changes anything that is kept.
fn take(nodes: &mut Nodes, event: &Value) -> bool {
    let Some((name, node)) = event.get("object").and_then(read) else { return false };
    match event.get("type").and_then(Value::as_str) {
        Some("ADDED" | "MODIFIED") => nodes.insert(name, node.clone()) != Some(node),
        Some("DELETED") => nodes.remove(&name).is_some(),
        _ => false,
    }
}

/// Name and facts of a Node object.
fn read(object: &Value) -> Option<(String, Node)> {
    let name = object.pointer("/metadata/name")?.as_str()?.to_string();
    let entries = object.pointer("/status/addresses").and_then(Value::as_array).into_iter().flatten();
    let addresses = entries
        .filter(|entry| entry["type"] == "InternalIP")
        .filter_map(|entry| entry.get("address")?.as_str()?.parse().ok())
        .collect();
    let pod_cidrs = pod_cidrs(object).iter().filter_map(|text| network(text)).collect();
    Some((name, Node { addresses, pod_cidrs }))
}

#[cfg(test)]
pub mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    pub fn node(addresses: &[&str], cidrs: &[&str]) -> Node {
        Node {
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            pod_cidrs: cidrs.iter().map(|text| network(text).unwrap()).collect(),
        }
    }

    #[test]
    fn only_addresses_and_pod_cidrs_make_an_event_count() {
        let object = |cidr: &str, version: &str| {
            json!({"metadata": {"name": "n1", "resourceVersion": version}, "spec": {"podCIDR": cidr},
                "status": {"addresses": [
                    {"type": "Hostname", "address": "192.0.2.9"}, {"type": "InternalIP", "address": "192.0.2.2"}]}})
        };
        let event = |kind: &str, object: Value| json!({"type": kind, "object": object});
        let mut nodes = Nodes::new();
        assert!(take(&mut nodes, &event("ADDED", object("10.244.1.0/24", "1"))));
        assert_eq!(nodes["n1"], node(&["192.0.2.2"], &["10.244.1.0/24"]));
        assert!(!take(&mut nodes, &event("MODIFIED", object("10.244.1.0/24", "2"))), "a heartbeat");
        assert!(take(&mut nodes, &event("MODIFIED", object("10.244.7.0/24", "3"))));
        assert!(!take(&mut nodes, &event("BOOKMARK", json!({"metadata": {"resourceVersion": "4"}}))));
        assert!(take(&mut nodes, &event("DELETED", object("10.244.7.0/24", "5"))));
        assert!(nodes.is_empty());
    }

    #[test]
    fn networks_have_nothing_behind_their_prefix() {
        assert!(network("10.244.1.0/24").is_some());
        for bad in ["10.0.0.0", "10.0.0.1/24", "10.0.0.0/33", "fd00::/129", "x/8", "10.0.0.0/-1"] {
            assert_eq!(network(bad), None, "{bad}");
        }
    }
}
