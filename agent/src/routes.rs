//! Routes between machines for the choice kube-proxy: the pods of every other node are reached by way
//! of that node's address. Which routes there should be is a pure function of the Node objects; they
//! carry a protocol number of our own in the kernel, so that nobody else's route is touched.

use crate::api::{Api, ApiError};
use crate::machine::say;
use crate::netlink::{self, CREATE, Netlink, REPLACE};
use crate::node::pod_cidrs;
use ipnet::IpNet;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

/// rtm_protocol of our routes (rtnetlink(7): user-defined above 4); routing daemons' are others.
const PROTOCOL: u8 = 0x49;
/// Nodes in one answer: an object with its list of images may be 15 KiB.
const PAGE: u32 = 100;
/// Between two looks at the kernel's table, which loses routes when a link goes down.
const LOOK: Duration = Duration::from_secs(15);

const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;
const FIXED: usize = 12;
const TABLE_MAIN: u8 = 254;
const UNIVERSE: u8 = 0;
const UNICAST: u8 = 1;
const ATTRIBUTE_DESTINATION: u16 = 1;
const ATTRIBUTE_GATEWAY: u16 = 5;

/// A node as far as its routes need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// InternalIP, in the node's order.
    pub addresses: Vec<IpAddr>,
    pub pod_cidrs: Vec<IpNet>,
}

/// Name and routing facts of a Node object.
pub fn read(object: &Value) -> Option<(String, Node)> {
    let name = object.pointer("/metadata/name")?.as_str()?.to_string();
    let pod_cidrs = pod_cidrs(object).iter().filter_map(|text| network(text)).collect();
    Some((name, Node { addresses: internal_addresses(object), pod_cidrs }))
}

/// The InternalIPs of a Node object.
pub fn internal_addresses(object: &Value) -> Vec<IpAddr> {
    let entries = object.pointer("/status/addresses").and_then(Value::as_array).into_iter().flatten();
    entries
        .filter(|entry| entry["type"] == "InternalIP")
        .filter_map(|entry| entry.get("address")?.as_str()?.parse().ok())
        .collect()
}

/// `10.244.1.0/24`; nothing behind the prefix, which the kernel would refuse.
fn network(text: &str) -> Option<IpNet> {
    text.trim().parse().ok().filter(|network: &IpNet| *network == network.trunc())
}

/// `destination via gateway`
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    pub destination: IpNet,
    pub gateway: IpAddr,
}

impl std::fmt::Display for Route {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} via {}", self.destination, self.gateway)
    }
}

/// The routes to the pods of every node but `own`. A node's range outside of the cluster's `pods` is
/// left out: no Node object draws other traffic to itself.
pub fn wanted(nodes: &BTreeMap<String, Node>, own: &str, pods: &[IpNet]) -> BTreeSet<Route> {
    let mut routes: BTreeMap<IpNet, IpAddr> = BTreeMap::new();
    for (_, node) in nodes.iter().filter(|(name, _)| *name != own) {
        for cidr in node.pod_cidrs.iter().filter(|cidr| pods.iter().any(|pods| pods.contains(*cidr))) {
            let gateway = node.addresses.iter().find(|address| address.is_ipv4() == cidr.addr().is_ipv4());
            if let Some(gateway) = gateway {
                routes.entry(*cidr).or_insert(*gateway);
            }
        }
    }
    routes.into_iter().map(|(destination, gateway)| Route { destination, gateway }).collect()
}

/// What is to be done, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub remove: Vec<Route>,
    pub add: Vec<Route>,
}

/// `found`: the kernel's routes with our protocol number.
pub fn plan(wanted: &BTreeSet<Route>, found: &BTreeSet<Route>) -> Plan {
    Plan { remove: found.difference(wanted).copied().collect(), add: wanted.difference(found).copied().collect() }
}

/// Follows the Node objects and keeps the kernel's routes like them, until the API wants the list read
/// anew. `pod_cidr`: the cluster's, several divided by commas.
pub async fn keep(api: &Api, own_name: &str, pod_cidr: &str) -> Result<(), ApiError> {
    let pods: Vec<IpNet> = pod_cidr.split(',').filter_map(network).collect();
    let (mut nodes, mut version) = list(api).await?;
    let mut failed = apply(&wanted(&nodes, own_name, &pods));
    let mut look = tokio::time::interval(LOOK);
    loop {
        let mut watch = api.watch("/api/v1/nodes", &version).await?;
        loop {
            let event = tokio::select! {
                event = watch.next() => event?,
                _ = look.tick() => {
                    failed = apply_again(&wanted(&nodes, own_name, &pods), failed);
                    continue;
                }
            };
            // The API ends a watch every few minutes; it goes on where it was.
            let Some(event) = event else { break };
            if event["type"] == "ERROR" {
                return Ok(());
            }
            if let Some(seen) = event.pointer("/object/metadata/resourceVersion").and_then(Value::as_str) {
                version = seen.into();
            }
            if take(&mut nodes, &event) {
                failed = apply_again(&wanted(&nodes, own_name, &pods), failed);
            }
        }
    }
}

/// All nodes, page by page, and the version to watch from.
async fn list(api: &Api) -> Result<(BTreeMap<String, Node>, String), ApiError> {
    let mut nodes = BTreeMap::new();
    let mut next = String::new();
    loop {
        let page = api.get(&format!("/api/v1/nodes?limit={PAGE}&continue={next}")).await?;
        nodes.extend(page.get("items").and_then(Value::as_array).into_iter().flatten().filter_map(read));
        let field = |pointer| page.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_string();
        next = field("/metadata/continue");
        if next.is_empty() {
            return Ok((nodes, field("/metadata/resourceVersion")));
        }
    }
}

/// Takes an event in; whether it changes any route.
fn take(nodes: &mut BTreeMap<String, Node>, event: &Value) -> bool {
    let Some((name, node)) = event.get("object").and_then(read) else { return false };
    match event.get("type").and_then(Value::as_str) {
        Some("ADDED" | "MODIFIED") => nodes.insert(name, node.clone()) != Some(node),
        Some("DELETED") => nodes.remove(&name).is_some(),
        _ => false,
    }
}

/// Why a route is not as it should be, by route.
type Failures = BTreeMap<Route, String>;

fn apply(wanted: &BTreeSet<Route>) -> Failures {
    apply_again(wanted, Failures::new())
}

/// Makes the kernel's routes those; says what changed, and of failures what is new.
fn apply_again(wanted: &BTreeSet<Route>, before: Failures) -> Failures {
    let (plan, failures) = match carry_out(wanted) {
        Ok(done) => done,
        Err(error) => {
            say(format!("routes: {error}"));
            return before;
        }
    };
    for route in &plan.remove {
        say(format!("route removed: {route}"));
    }
    for route in plan.add.iter().filter(|route| !failures.contains_key(route)) {
        say(format!("route added: {route}"));
    }
    for (route, reason) in failures.iter().filter(|(route, reason)| before.get(route) != Some(reason)) {
        say(format!("route {route}: {reason}"));
    }
    failures
}

fn carry_out(wanted: &BTreeSet<Route>) -> io::Result<(Plan, Failures)> {
    let mut netlink = Netlink::open()?;
    let plan = plan(wanted, &found(&mut netlink)?);
    let mut failures = Failures::new();
    for route in &plan.remove {
        match netlink.request(DELETE_ROUTE, 0, &body(route)) {
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::SRCH.raw_os_error()) => {
                failures.insert(*route, error.to_string());
            }
            _ => {}
        }
    }
    for route in &plan.add {
        if let Err(error) = netlink.request(NEW_ROUTE, CREATE | REPLACE, &body(route)) {
            failures.insert(*route, error.to_string());
        }
    }
    Ok((plan, failures))
}

/// The kernel's routes that are ours.
fn found(netlink: &mut Netlink) -> io::Result<BTreeSet<Route>> {
    let mut routes = BTreeSet::new();
    for family in [netlink::INTERNET, netlink::INTERNET6] {
        let mut body = [0u8; FIXED];
        body[0] = family;
        let messages = match netlink.dump(GET_ROUTE, &body) {
            // A kernel without IPv6 has no routes of it.
            Err(error) if family == netlink::INTERNET6 && error.kind() == io::ErrorKind::Unsupported => continue,
            other => other?,
        };
        routes.extend(messages.iter().filter(|(kind, _)| *kind == NEW_ROUTE).filter_map(|(_, body)| own_route(body)));
    }
    Ok(routes)
}

/// An `rtmsg` for a route of ours.
fn body(route: &Route) -> Vec<u8> {
    let (address, prefix) = (route.destination.addr(), route.destination.prefix_len());
    let mut body = vec![netlink::family(address), prefix, 0, 0, TABLE_MAIN, PROTOCOL, UNIVERSE, UNICAST, 0, 0, 0, 0];
    netlink::put(&mut body, ATTRIBUTE_DESTINATION, &netlink::octets(address));
    netlink::put(&mut body, ATTRIBUTE_GATEWAY, &netlink::octets(route.gateway));
    body
}

/// The route in an `rtmsg` with its attributes, when it is one of ours.
fn own_route(body: &[u8]) -> Option<Route> {
    let fixed = body.get(..FIXED)?;
    if (fixed[4], fixed[5], fixed[7]) != (TABLE_MAIN, PROTOCOL, UNICAST) {
        return None;
    }
    let attribute =
        |wanted: u16| netlink::attributes(&body[FIXED..]).find_map(|(kind, value)| (kind == wanted).then_some(value));
    let destination = IpNet::new(netlink::address(attribute(ATTRIBUTE_DESTINATION)?)?, fixed[1]).ok()?;
    Some(Route { destination, gateway: netlink::address(attribute(ATTRIBUTE_GATEWAY)?)? })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::netlink::tests::{in_a_namespace, ip};
    use proptest::prelude::*;
    use serde_json::json;

    fn node(addresses: &[&str], cidrs: &[&str]) -> Node {
        Node {
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            pod_cidrs: cidrs.iter().map(|text| network(text).unwrap()).collect(),
        }
    }

    fn routes(texts: &[&str]) -> BTreeSet<Route> {
        let route = |text: &&str| {
            let (destination, gateway) = text.split_once(" via ").unwrap();
            Route { destination: network(destination).unwrap(), gateway: gateway.parse().unwrap() }
        };
        texts.iter().map(route).collect()
    }

    #[test]
    fn every_other_nodes_pods_have_a_route_by_family() {
        let nodes = BTreeMap::from([
            ("own".to_string(), node(&["192.0.2.1"], &["10.244.0.0/24"])),
            ("n1".into(), node(&["192.0.2.2", "fd00::2"], &["10.244.1.0/24", "fd01:0:0:1::/64"])),
            ("only-v4".into(), node(&["192.0.2.3"], &["10.244.2.0/24", "fd01:0:0:2::/64"])),
            ("new".into(), node(&["192.0.2.4"], &[])),
            ("greedy".into(), node(&["192.0.2.5"], &["0.0.0.0/0", "10.0.0.0/8", "192.0.2.0/24"])),
            ("thief".into(), node(&["192.0.2.6"], &["10.244.1.0/24"])),
        ]);
        let pods = ["10.244.0.0/16", "fd01::/48"].map(|text| network(text).unwrap());
        let expected =
            routes(&["10.244.1.0/24 via 192.0.2.2", "10.244.2.0/24 via 192.0.2.3", "fd01:0:0:1::/64 via fd00::2"]);
        assert_eq!(wanted(&nodes, "own", &pods), expected);
    }

    #[test]
    fn the_plan_is_the_difference() {
        let cases = [
            (&["10.0.1.0/24 via 192.0.2.1"][..], &[][..], &[][..], &["10.0.1.0/24 via 192.0.2.1"][..]),
            (&["10.0.1.0/24 via 192.0.2.1"], &["10.0.1.0/24 via 192.0.2.1"], &[], &[]),
            (&[], &["10.0.1.0/24 via 192.0.2.1"], &["10.0.1.0/24 via 192.0.2.1"], &[]),
            (
                &["10.0.1.0/24 via 192.0.2.9"],
                &["10.0.1.0/24 via 192.0.2.1"],
                &["10.0.1.0/24 via 192.0.2.1"],
                &["10.0.1.0/24 via 192.0.2.9"],
            ),
        ];
        for (wanted, found, remove, add) in cases {
            let plan = plan(&routes(wanted), &routes(found));
            assert_eq!(BTreeSet::from_iter(plan.remove), routes(remove));
            assert_eq!(BTreeSet::from_iter(plan.add), routes(add));
        }
    }

    #[test]
    fn only_what_routes_need_makes_an_event_count() {
        let object = |cidr: &str, version: &str| {
            json!({"metadata": {"name": "n1", "resourceVersion": version}, "spec": {"podCIDR": cidr},
                "status": {"addresses": [{"type": "Hostname", "address": "192.0.2.9"}, {"type": "InternalIP", "address": "192.0.2.2"}]}})
        };
        let event = |kind: &str, object: Value| json!({"type": kind, "object": object});
        let mut nodes = BTreeMap::new();
        assert!(take(&mut nodes, &event("ADDED", object("10.244.1.0/24", "1"))));
        assert_eq!(nodes["n1"], node(&["192.0.2.2"], &["10.244.1.0/24"]));
        assert!(!take(&mut nodes, &event("MODIFIED", object("10.244.1.0/24", "2"))), "a heartbeat");
        assert!(take(&mut nodes, &event("MODIFIED", object("10.244.7.0/24", "3"))));
        assert!(!take(&mut nodes, &event("BOOKMARK", json!({"metadata": {"resourceVersion": "4"}}))));
        assert!(take(&mut nodes, &event("DELETED", object("10.244.7.0/24", "5"))));
        assert!(nodes.is_empty());
    }

    #[test]
    fn the_kernels_routes_become_those_wanted_and_others_stay() {
        if !in_a_namespace("routes::tests::the_kernels_routes_become_those_wanted_and_others_stay") {
            return;
        }
        ip("address add 192.0.2.10/24 dev up0");
        ip("address add fd00::10/64 dev up0 nodad");
        ip("route add 10.9.0.0/24 via 192.0.2.99");
        let first = routes(&["10.244.1.0/24 via 192.0.2.11", "fd01:0:0:1::/64 via fd00::11"]);
        assert_eq!(apply(&first), Failures::new());
        assert_eq!(found(&mut Netlink::open().unwrap()).unwrap(), first);
        let second = routes(&["10.244.1.0/24 via 192.0.2.12", "fd01:0:0:1::/64 via fd00::12"]);
        assert_eq!(apply(&second), Failures::new());
        assert_eq!(carry_out(&second).unwrap().0, Plan::default());
        assert!(ip("route show").contains("10.244.1.0/24 via 192.0.2.12 dev up0 proto 73"), "{}", ip("route show"));
        assert!(ip("-6 route show").contains("fd01:0:0:1::/64 via fd00::12 dev up0 proto 73"));
        let unreachable = routes(&["10.244.2.0/24 via 198.51.100.1"]);
        assert_eq!(apply(&unreachable).len(), 1, "one failure stops no other route");
        assert!(found(&mut Netlink::open().unwrap()).unwrap().is_empty());
        assert!(ip("route show").contains("10.9.0.0/24 via 192.0.2.99"));
    }

    proptest! {
        #[test]
        fn a_route_is_read_as_it_was_written(destination in any::<u32>(), gateway in any::<u32>(), prefix in 0u8..=32) {
            let destination = IpNet::new(IpAddr::V4(destination.into()), prefix).unwrap().trunc();
            let route = Route { destination, gateway: IpAddr::V4(gateway.into()) };
            prop_assert_eq!(own_route(&body(&route)), Some(route));
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = own_route(&bytes);
        }
    }
}
