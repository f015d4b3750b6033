//! Tells the host firewall what it cannot know of the cluster, since the image's ruleset is the same in
//! every one and its sets start empty: the addresses of the machines, from which alone kube-router's BGP
//! and tunnels are let in, and the Services' networks and ports where IPVS serves them.

use crate::api::{Api, ApiError};
use crate::machine::say;
use crate::nft;
use crate::nodes::{self, Nodes, networks};
use ipnet::IpNet;
use spec::cluster::{Cluster, Machine, NetworkChoice};
use spec::firewall::{MEMBERS, MEMBERS6, NODE_PORTS, SERVICES, SERVICES6, TABLE};
use spec::ports;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

/// Between two fillings: when the ruleset is loaded again, its sets are empty again.
const PERIOD: Duration = Duration::from_secs(60);
/// The ruleset may be loaded a few seconds after the agent's start.
const TRIES: u32 = 5;
const RETRY: Duration = Duration::from_secs(2);

/// The machines' static addresses.
pub fn from_definition(cluster: &Cluster) -> BTreeSet<IpAddr> {
    cluster.machines.iter().filter_map(Machine::static_address).collect()
}

/// Fills the sets with exactly these. Fails until the firewall's ruleset is loaded.
async fn fill(members: &BTreeSet<IpAddr>, services: &[IpNet]) -> io::Result<()> {
    nft::run(script(members, services)).await
}

/// The Services' networks where IPVS serves them.
fn behind_ipvs(cluster: &Cluster) -> Vec<IpNet> {
    match cluster.network {
        NetworkChoice::KubeRouter => networks(&cluster.service_cidr).collect(),
        NetworkChoice::KubeProxy | NetworkChoice::None => Vec::new(),
    }
}

/// Keeps the sets filled with the definition's addresses and those of the Node objects, until the API
/// wants the list read anew.
pub async fn keep(api: &Api, cluster: &Cluster) -> Result<(), ApiError> {
    let (listed, services) = (from_definition(cluster), behind_ipvs(cluster));
    nodes::follow(api, PERIOD, async |nodes| {
        let members = with_nodes(&listed, nodes);
        for _ in 0..TRIES {
            match fill(&members, &services).await {
                Ok(()) => return,
                Err(error) => say(format!("firewall: its sets: {error}")),
            }
            tokio::time::sleep(RETRY).await;
        }
    })
    .await
}

fn with_nodes(listed: &BTreeSet<IpAddr>, nodes: &Nodes) -> BTreeSet<IpAddr> {
    listed.iter().copied().chain(nodes.values().flat_map(|node| node.addresses.iter().copied())).collect()
}

/// What nft(8) is told; it does all of it at once, so that no member is ever missing for a moment.
fn script(members: &BTreeSet<IpAddr>, services: &[IpNet]) -> String {
    let machines = |v4: bool| members.iter().filter(|member| member.is_ipv4() == v4).map(ToString::to_string).collect();
    let services_of =
        |v4: bool| services.iter().filter(|net| net.addr().is_ipv4() == v4).map(ToString::to_string).collect();
    let (first, last) = (ports::NODE_PORT_FIRST, ports::NODE_PORT_LAST);
    let node_ports = if services.is_empty() { Vec::new() } else { vec![format!("{first}-{last}")] };
    let sets: [(&str, Vec<String>); 5] = [
        (MEMBERS, machines(true)),
        (MEMBERS6, machines(false)),
        (SERVICES, services_of(true)),
        (SERVICES6, services_of(false)),
        (NODE_PORTS, node_ports),
    ];
    let mut script = String::new();
    for (set, elements) in sets {
        // Writing to a String cannot fail.
        let _ = writeln!(script, "flush set inet {TABLE} {set}");
        if !elements.is_empty() {
            let _ = writeln!(script, "add element inet {TABLE} {set} {{ {} }}", elements.join(", "));
        }
    }
    script
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::netlink::tests::in_a_namespace;
    use crate::nft::tests::run_here;
    use crate::nodes::network;
    use crate::nodes::tests::node;

    fn members(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn members_are_the_definitions_and_the_nodes() {
        let cluster: Cluster = toml::from_str(
            "name = \"demo\"\n[[machine]]\nname = \"m1\"\nrole = \"master\"\nnetwork = { address = \"192.0.2.1/24\" }\n\
             [[machine]]\nname = \"n1\"\nrole = \"node\"\n",
        )
        .unwrap();
        let nodes = Nodes::from([
            ("m1".to_string(), node(&["192.0.2.1"], &[])),
            ("n1".into(), node(&["192.0.2.7", "fd00::7"], &[])),
        ]);
        assert_eq!(with_nodes(&from_definition(&cluster), &nodes), members(&["192.0.2.1", "192.0.2.7", "fd00::7"]));
    }

    #[test]
    fn the_script_replaces_every_set() {
        assert_eq!(
            script(&members(&["192.0.2.2", "192.0.2.1"]), &[network("10.96.0.0/16").unwrap()]),
            "flush set inet imgbuild members\nadd element inet imgbuild members { 192.0.2.1, 192.0.2.2 }\n\
             flush set inet imgbuild members6\n\
             flush set inet imgbuild services\nadd element inet imgbuild services { 10.96.0.0/16 }\n\
             flush set inet imgbuild services6\n\
             flush set inet imgbuild node-ports\nadd element inet imgbuild node-ports { 30000-32767 }\n"
        );
    }

    #[test]
    fn nft_takes_the_script_twice_and_for_thousands() {
        if !in_a_namespace("members::tests::nft_takes_the_script_twice_and_for_thousands") {
            return;
        }
        let sets = format!(
            "table inet {TABLE} {{ set {MEMBERS} {{ type ipv4_addr; }}; set {MEMBERS6} {{ type ipv6_addr; }}; \
             set {SERVICES} {{ type ipv4_addr; flags interval; }}; set {SERVICES6} {{ type ipv6_addr; flags interval; }}; \
             set {NODE_PORTS} {{ type inet_service; flags interval; }}; }}"
        );
        let Some(result) = run_here(&sets) else { return };
        result.unwrap();
        let many: BTreeSet<IpAddr> = (0..5000u32).map(|number| IpAddr::V4((0xc000_0200 + number).into())).collect();
        for members in [&members(&["192.0.2.1", "fd00::1"]), &members(&["192.0.2.1"]), &many, &members(&[])] {
            for services in [&[][..], &["10.96.0.0/16", "fd00:96::/108"].map(|text| network(text).unwrap())[..]] {
                run_here(&script(members, services)).unwrap().unwrap();
            }
        }
        assert!(run_here("flush set inet imgbuild nothing").unwrap().is_err());
    }
}
