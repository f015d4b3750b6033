//! The checks of a cluster definition: pure, and every conflict at once.

mod conflicts;
mod dns;
mod machines;
mod values;

use crate::error::Problem;
use crate::places::Places;
use ipnet::IpNet;
use spec::cluster::{Bgp, Cluster, EtcdTiming, Machine, NetworkChoice, Role};
use std::net::IpAddr;
use values::{
    LABEL, host_bits, is_authority, is_domain, is_host_name, is_web_address, network, node_prefix, server_address,
};

pub(super) use values::host_address;
pub use values::is_label;

/// Problems that are shown each by itself; each keeps a copy of the definition's text to point into,
/// and one mistake in a script can put it into thousands of machines.
const REPORTED: usize = 200;
/// glibc's MAXNS.
const NAME_SERVERS: usize = 3;

/// What a check found.
#[derive(Debug, Default)]
pub struct Findings {
    pub problems: Vec<Problem>,
    /// Sentences about what works, but not for long or not well.
    pub warnings: Vec<String>,
}

impl Findings {
    pub(super) fn extend(&mut self, other: Findings) {
        self.problems.extend(other.problems);
        self.warnings.extend(other.warnings);
    }
}

/// Checks the definition itself.
pub(super) fn definition(cluster: &Cluster, places: &Places) -> Findings {
    let mut checker = Checker { cluster, places, findings: Findings::default(), more: 0 };
    checker.names();
    checker.mirrors();
    checker.bgp();
    checker.etcd();
    checker.dns_server();
    checker.addresses_of_cluster();
    checker.families();
    checker.masters();
    for (index, machine) in cluster.machines.iter().enumerate() {
        checker.machine(index, machine);
    }
    if let Some(any) = &cluster.any_node {
        checker.any_node(any);
    }
    checker.duplicates();
    checker.virtual_address();
    checker.overlaps();
    checker.packet_sizes();
    checker.ambiguous_masters();
    checker.finish()
}

struct Checker<'a> {
    cluster: &'a Cluster,
    places: &'a Places,
    findings: Findings,
    /// Problems beyond [`REPORTED`].
    more: usize,
}

impl Checker<'_> {
    fn report(&mut self, path: &str, message: impl Into<String>, help: impl Into<String>) {
        if self.findings.problems.len() == REPORTED {
            self.more += 1;
            return;
        }
        let problem = Problem::new(message).at(self.places.get(path), "here").help(help);
        self.findings.problems.push(problem);
    }

    fn finish(mut self) -> Findings {
        if self.more > 0 {
            let message = format!("{} more problems", self.more);
            self.findings.problems.push(Problem::new(message).help("mend those above first"));
        }
        self.findings
    }

    fn names(&mut self) {
        let cluster = self.cluster;
        if !is_label(&cluster.name) {
            self.report("name", format!("the cluster's name {:?} is no DNS label", cluster.name), LABEL);
        }
        if !is_domain(&cluster.domain) {
            self.report(
                "domain",
                format!("the domain {:?} is no DNS name", cluster.domain),
                "labels joined by dots are wanted, such as cluster.local",
            );
        }
        if let Some(name) = cluster.api_name.as_deref().filter(|name| !is_host_name(name)) {
            self.report(
                "api-name",
                format!("the API's name {name:?} is no DNS name"),
                "labels joined by dots are wanted, such as api.example.org; an address goes into virtual-address",
            );
        }
        self.time_servers("ntp", &cluster.ntp);
    }

    fn time_servers(&mut self, path: &str, servers: &[String]) {
        for (index, server) in servers.iter().enumerate() {
            if server_address(server).is_none() && !is_host_name(server) {
                self.report(
                    &format!("{path}[{index}]"),
                    format!("the time server {server:?} is neither an address nor a DNS name"),
                    "such as 192.0.2.1 or ntp.example.org",
                );
            }
        }
    }

    fn mirrors(&mut self) {
        for (registry, mirrors) in &self.cluster.registry_mirrors {
            let path = format!("registry-mirrors.{registry}");
            if !is_authority(registry) {
                self.report(
                    &path,
                    format!("{registry:?} is no registry"),
                    "its host is wanted as it stands in an image's name, such as docker.io or registry.example.org:5000",
                );
            }
            if mirrors.is_empty() {
                self.report(&path, format!("{registry} has no mirrors"), "list one or more URLs, or remove the key");
            }
            for (index, url) in mirrors.iter().enumerate().filter(|(_, url)| !is_web_address(url)) {
                self.report(
                    &format!("{path}[{index}]"),
                    format!("the mirror {url:?} of {registry} is no URL"),
                    "https://HOST or http://HOST is wanted, with :PORT and /PATH where they are needed",
                );
            }
        }
    }

    fn bgp(&mut self) {
        let bgp = &self.cluster.bgp;
        if *bgp != Bgp::default() && self.cluster.network != NetworkChoice::KubeRouter {
            self.report("bgp", "BGP needs kube-router", "write network = \"kube-router\", or remove the table");
        }
        let numbers = std::iter::once(("bgp.asn".to_owned(), bgp.asn))
            .chain(bgp.peers.iter().enumerate().map(|(index, peer)| (format!("bgp.peer[{index}].asn"), peer.asn)));
        for (path, _) in numbers.filter(|(_, number)| [0, u32::MAX].contains(number)) {
            self.report(
                &path,
                "no autonomous system has this number",
                "1 to 4294967294 are wanted (RFC 7607, RFC 7300)",
            );
        }
        for (index, peer) in bgp.peers.iter().enumerate() {
            let path = format!("bgp.peer[{index}].address");
            if server_address(&peer.address).is_none() {
                self.report(&path, format!("{:?} is no address of a router", peer.address), "such as 192.0.2.1");
            } else if bgp.peers[..index].iter().any(|other| other.address == peer.address) {
                self.report(&path, format!("the router {} is listed twice", peer.address), "remove one of them");
            }
            if peer.port == 0 {
                let path = format!("bgp.peer[{index}].port");
                self.report(&path, "nothing listens on port 0", "1 to 65535 is wanted; absent: 179 (RFC 4271)");
            }
        }
    }

    fn etcd(&mut self) {
        let EtcdTiming { heartbeat_ms, election_ms } = self.cluster.etcd;
        if heartbeat_ms == 0 {
            self.report("etcd.heartbeat-ms", "etcd's leader never rests", "at least 1 is wanted");
        }
        let least = heartbeat_ms.saturating_mul(EtcdTiming::LEAST_HEARTBEATS);
        if election_ms < least || election_ms > EtcdTiming::LONGEST_ELECTION_MS {
            self.report(
                "etcd.election-ms",
                format!("etcd refuses an election timeout of {election_ms} ms"),
                format!(
                    "{} heartbeats ({least} ms) at least and {} ms at most are wanted",
                    EtcdTiming::LEAST_HEARTBEATS,
                    EtcdTiming::LONGEST_ELECTION_MS
                ),
            );
        }
    }

    fn addresses_of_cluster(&mut self) {
        for (path, text) in [("pod-cidr", &self.cluster.pod_cidr), ("service-cidr", &self.cluster.service_cidr)] {
            if let Err(help) = network(text) {
                self.report(path, format!("{path} {text:?} is no network"), help);
            }
        }
        if let Some(pods) = network(&self.cluster.pod_cidr).ok().filter(|pods| pods.prefix_len() > node_prefix(pods)) {
            let message = format!("pod-cidr {pods} has no room for a node's pods");
            self.report(
                "pod-cidr",
                message,
                format!("each node takes a /{} out of it: a shorter prefix is wanted", node_prefix(&pods)),
            );
        }
        if let Some(services) =
            network(&self.cluster.service_cidr).ok().filter(|net| host_bits(net) > 20 || host_bits(net) < 4)
        {
            let message = format!("service-cidr {services} is too large or too small");
            self.report(
                "service-cidr",
                message,
                "kube-apiserver takes networks of 4 to 20 host bits: /12 to /28 for IPv4",
            );
        }
        if let Some(text) = self.cluster.virtual_address.as_deref().filter(|text| text.parse::<IpAddr>().is_err()) {
            self.report(
                "virtual-address",
                format!("the virtual address {text:?} is no address"),
                "an address without a prefix is wanted",
            );
        }
        self.name_servers("dns", "", &self.cluster.dns);
        let Ok(pods) = network(&self.cluster.pod_cidr) else { return };
        let (machines, spare_bits) =
            (self.cluster.machines.len(), node_prefix(&pods).saturating_sub(pods.prefix_len()));
        // Without spare bits it is said above.
        if spare_bits > 0 && spare_bits < 32 && machines > 1 << spare_bits {
            self.report(
                "pod-cidr",
                format!(
                    "pod-cidr {pods} has room for the pods of {} machines, and there are {machines}",
                    1u64 << spare_bits
                ),
                format!("each machine takes a /{} out of it: a shorter prefix is wanted", node_prefix(&pods)),
            );
        }
    }

    /// DNS servers of the cluster or (`name` and a colon before the message) of one machine.
    fn name_servers(&mut self, path: &str, name: &str, servers: &[String]) {
        for (index, text) in servers.iter().enumerate().filter(|(_, text)| server_address(text).is_none()) {
            self.report(
                &format!("{path}[{index}]"),
                format!("{name}the DNS server {text:?} is no address of a server"),
                "an address is wanted: a name would need a DNS server",
            );
        }
        if servers.len() > NAME_SERVERS {
            self.report(
                &format!("{path}[{NAME_SERVERS}]"),
                format!("{name}{} DNS servers", servers.len()),
                format!("{NAME_SERVERS} at most are wanted: the resolver asks no more (resolv.conf(5))"),
            );
        }
    }

    /// Pods, Services and masters speak one family: kube-apiserver and kube-controller-manager refuse
    /// to start otherwise.
    fn families(&mut self) {
        let Ok(services) = network(&self.cluster.service_cidr) else { return };
        let differs = |net: &IpNet| matches!(net, IpNet::V4(_)) != matches!(services, IpNet::V4(_));
        const HELP: &str = "pods, Services and masters need addresses of one family, IPv4 or IPv6";
        if let Some(pods) = network(&self.cluster.pod_cidr).ok().filter(differs) {
            self.report(
                "service-cidr",
                format!("service-cidr {services} and pod-cidr {pods} are of two families"),
                HELP,
            );
        }
        for (index, machine) in self.cluster.machines.iter().enumerate() {
            let own = machine.network.address.as_deref().and_then(|text| host_address(text).ok());
            if let Some(own) = own.filter(|own| machine.role == Role::Master && differs(own)) {
                self.report(
                    &format!("machine[{index}].network.address"),
                    format!(
                        "{}: the address {} and service-cidr {services} are of two families",
                        machine.name,
                        own.addr()
                    ),
                    HELP,
                );
            }
        }
    }

    fn masters(&mut self) {
        let masters: Vec<(usize, &Machine)> =
            self.cluster.machines.iter().enumerate().filter(|(_, machine)| machine.role == Role::Master).collect();
        let count = masters.len();
        if count == 0 {
            self.report("machine", "the cluster has no master", "add a [[machine]] with role = \"master\"");
        } else if count.is_multiple_of(2) {
            let last = masters.last().map_or(0, |(index, _)| *index);
            self.report(
                &format!("machine[{last}]"),
                format!("{count} masters: etcd with {count} members survives no more failures than with {}", count - 1),
                "an odd number of masters is wanted: 1, 3 or 5",
            );
        }
        if self.cluster.has_several() {
            for (index, machine) in masters.iter().filter(|(_, machine)| machine.network.address.is_none()) {
                self.report(
                    &format!("machine[{index}]"),
                    format!("the master {} has no address", machine.name),
                    "the other machines find it by its address; write into it: network = { address = \"192.0.2.11/24\", gateway = \"192.0.2.1\" }",
                );
            }
        }
    }
}

#[cfg(test)]
mod tests;
