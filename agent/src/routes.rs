//! Routes between machines for the choice kube-proxy: the pods of every other node are reached by way
//! of that node's address. Which routes there should be is a pure function of the Node objects; they
//! carry a protocol number of our own in the kernel, so that nobody else's route is touched.

use crate::api::{Api, ApiError};
use crate::machine::say;
use crate::netlink::{self, CREATE, Netlink, REPLACE};
use crate::nodes::{self, Nodes, networks};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

/// rtm_protocol of our routes (rtnetlink(7): user-defined above 4); routing daemons' are others.
const PROTOCOL: u8 = 0x49;
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
pub fn wanted(nodes: &Nodes, own: &str, pods: &[IpNet]) -> BTreeSet<Route> {
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
    let pods: Vec<IpNet> = networks(pod_cidr).collect();
    let mut failures = Failures::new();
    nodes::follow(api, LOOK, async |nodes| {
        failures = apply(&wanted(nodes, own_name, &pods), std::mem::take(&mut failures));
    })
    .await
}

/// Why a route is not as it should be, by route.
type Failures = BTreeMap<Route, String>;

/// Makes the kernel's routes those; says what changed, and of failures what is new.
fn apply(wanted: &BTreeSet<Route>, before: Failures) -> Failures {
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
    use crate::nodes::network;
    use crate::nodes::tests::node;
    use proptest::prelude::*;

    fn routes(texts: &[&str]) -> BTreeSet<Route> {
        let route = |text: &&str| {
            let (destination, gateway) = text.split_once(" via ").unwrap();
            Route { destination: network(destination).unwrap(), gateway: gateway.parse().unwrap() }
        };
        texts.iter().map(route).collect()
    }

    #[test]
    fn every_other_nodes_pods_have_a_route_by_family() {
        let nodes = Nodes::from([
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
    fn the_kernels_routes_become_those_wanted_and_others_stay() {
        if !in_a_namespace("routes::tests::the_kernels_routes_become_those_wanted_and_others_stay") {
            return;
        }
        ip("address add 192.0.2.10/24 dev up0");
        ip("address add fd00::10/64 dev up0 nodad");
        ip("route add 10.9.0.0/24 via 192.0.2.99");
        let first = routes(&["10.244.1.0/24 via 192.0.2.11", "fd01:0:0:1::/64 via fd00::11"]);
        assert_eq!(apply(&first, Failures::new()), Failures::new());
        assert_eq!(found(&mut Netlink::open().unwrap()).unwrap(), first);
        let second = routes(&["10.244.1.0/24 via 192.0.2.12", "fd01:0:0:1::/64 via fd00::12"]);
        assert_eq!(apply(&second, Failures::new()), Failures::new());
        assert_eq!(carry_out(&second).unwrap().0, Plan::default());
        assert!(ip("route show").contains("10.244.1.0/24 via 192.0.2.12 dev up0 proto 73"), "{}", ip("route show"));
        assert!(ip("-6 route show").contains("fd01:0:0:1::/64 via fd00::12 dev up0 proto 73"));
        let unreachable = routes(&["10.244.2.0/24 via 198.51.100.1"]);
        assert_eq!(apply(&unreachable, Failures::new()).len(), 1, "one failure stops no other route");
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
