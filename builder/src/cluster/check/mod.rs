//! The checks of a cluster definition: pure, and every conflict at once.

mod conflicts;
mod machines;
mod values;

use crate::error::Problem;
use crate::places::Places;
use spec::cluster::{Cluster, Machine, Role};
use std::net::IpAddr;
use values::{LABEL, host_bits, is_domain, network, node_prefix};

pub(super) use values::host_address;
pub use values::is_label;

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
    let mut checker = Checker { cluster, places, findings: Findings::default() };
    checker.names();
    checker.addresses_of_cluster();
    checker.masters();
    for (index, machine) in cluster.machines.iter().enumerate() {
        checker.machine(index, machine);
    }
    checker.duplicates();
    checker.overlaps();
    checker.packet_sizes();
    checker.ambiguous_machines();
    checker.findings
}

struct Checker<'a> {
    cluster: &'a Cluster,
    places: &'a Places,
    findings: Findings,
}

impl Checker<'_> {
    fn report(&mut self, path: &str, message: impl Into<String>, help: impl Into<String>) {
        let problem = Problem::new(message).at(self.places.get(path), "here").help(help);
        self.findings.problems.push(problem);
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
        if let Some(name) = cluster.api_name.as_deref().filter(|name| !is_domain(name)) {
            self.report(
                "api-name",
                format!("the API's name {name:?} is no DNS name"),
                "labels joined by dots are wanted, such as api.example.org",
            );
        }
        for (index, server) in cluster.ntp.iter().enumerate() {
            if server.parse::<IpAddr>().is_err() && !is_domain(server) {
                self.report(
                    &format!("ntp[{index}]"),
                    format!("the time server {server:?} is neither an address nor a DNS name"),
                    "such as 192.0.2.1 or ntp.example.org",
                );
            }
        }
        for (registry, mirrors) in &cluster.registry_mirrors {
            let path = format!("registry-mirrors.{registry}");
            if mirrors.iter().any(|url| !url.starts_with("https://") && !url.starts_with("http://")) {
                self.report(
                    &path,
                    format!("a mirror of {registry} is no URL"),
                    "https://HOST or http://HOST is wanted",
                );
            }
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
        for (index, text) in self.cluster.dns.iter().enumerate().filter(|(_, text)| text.parse::<IpAddr>().is_err()) {
            self.report(
                &format!("dns[{index}]"),
                format!("the DNS server {text:?} is no address"),
                "an address is wanted: a name would need a DNS server",
            );
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
        if count > 1 {
            for (index, machine) in masters.iter().filter(|(_, machine)| machine.network.address.is_none()) {
                self.report(
                    &format!("machine[{index}]"),
                    format!("the master {} has no address", machine.name),
                    format!("the {count} masters find each other by their addresses; write into it: network = {{ address = \"192.0.2.11/24\", gateway = \"192.0.2.1\" }}"),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests;
