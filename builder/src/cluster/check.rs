//! The checks of a cluster definition: pure, and every conflict at once.

use crate::error::Problem;
use crate::places::Places;
use ipnet::IpNet;
use spec::cluster::{Bond, Cluster, Machine, Role};
use std::collections::BTreeMap;
use std::net::IpAddr;

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

/// A DNS label (RFC 1123): lower-case letters, digits and `-`, not at the ends, at most 63.
pub fn is_label(text: &str) -> bool {
    let sound = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.len() <= 63 && text.bytes().all(sound) && !text.starts_with('-') && !text.ends_with('-')
}

const LABEL: &str = "lower-case letters, digits and - are wanted, at most 63, with a letter or digit at both ends";
const BOND_MODES: [&str; 7] =
    ["balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"];
const TAINT_EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

struct Checker<'a> {
    cluster: &'a Cluster,
    places: &'a Places,
    findings: Findings,
}

impl<'a> Checker<'a> {
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

    fn machine(&mut self, index: usize, machine: &Machine) {
        let at = |key: &str| format!("machine[{index}].{key}");
        let name = &machine.name;
        if !is_label(name) {
            self.report(&at("name"), format!("the machine's name {name:?} is no DNS label"), LABEL);
        }
        if let Some(mac) = machine.mac.as_deref().filter(|mac| hardware_address(mac).is_none()) {
            self.report(
                &at("mac"),
                format!("{name}: {mac:?} is no MAC address"),
                "six pairs of hexadecimal digits are wanted, such as 52:54:00:12:34:56",
            );
        }
        if machine.serial.as_deref().is_some_and(|serial| serial.trim().is_empty()) {
            self.report(
                &at("serial"),
                format!("{name}: the serial is empty"),
                "write what /sys/class/dmi/id/product_serial says, or remove it",
            );
        }
        for (key, value) in &machine.labels {
            if !is_qualified_name(key) || !(value.is_empty() || is_label_value(value)) {
                self.report(&at("labels"), format!("{name}: the label {key} = {value:?} is none that Kubernetes takes"), "letters, digits, - _ . with a letter or digit at both ends, at most 63; a key may have a DNS name and / before it");
            }
        }
        for (place, taint) in machine.taints.iter().enumerate().filter(|(_, taint)| !is_taint(taint)) {
            self.report(
                &format!("machine[{index}].taints[{place}]"),
                format!("{name}: the taint {taint:?} is not valid"),
                format!("KEY=VALUE:EFFECT is wanted, EFFECT one of {}", TAINT_EFFECTS.join(", ")),
            );
        }
        if let Some(disk) =
            machine.state_disk.as_deref().filter(|disk| disk.is_empty() || disk.contains('/') || *disk == "..")
        {
            self.report(
                &at("state-disk"),
                format!("{name}: {disk:?} is no name of a disk"),
                "a name below /dev/disk/by-id is wanted, without the folder",
            );
        }
        self.machine_network(index, machine);
    }

    fn machine_network(&mut self, index: usize, machine: &Machine) {
        let at = |key: &str| format!("machine[{index}].network.{key}");
        let (name, network) = (&machine.name, &machine.network);
        let own = network.address.as_deref().map(host_address);
        if let Some(Err(help)) = &own {
            let text = network.address.as_deref().unwrap_or_default();
            self.report(&at("address"), format!("{name}: {text:?} is no address of a machine"), help);
        }
        if let Some((message, help)) = network.gateway.as_deref().and_then(|gateway| gateway_problem(gateway, own)) {
            self.report(&at("gateway"), format!("{name}: {message}"), help);
        }
        for (place, text) in network.dns.iter().enumerate().filter(|(_, text)| text.parse::<IpAddr>().is_err()) {
            self.report(
                &at(&format!("dns[{place}]")),
                format!("{name}: the DNS server {text:?} is no address"),
                "an address is wanted: a name would need a DNS server",
            );
        }
        if let Some(mtu) = network.mtu.filter(|mtu| !(1280..=9216).contains(mtu)) {
            self.report(
                &at("mtu"),
                format!("{name}: an MTU of {mtu} bytes"),
                "1280 to 9216 are wanted; 1500 and 9000 are usual",
            );
        }
        if let Some(vlan) = network.vlan.filter(|vlan| !(1..=4094).contains(vlan)) {
            self.report(&at("vlan"), format!("{name}: the VLAN {vlan}"), "1 to 4094 are wanted (IEEE 802.1Q)");
        }
        if let Some(bond) = &network.bond {
            self.bond(index, name, bond);
        }
    }

    fn bond(&mut self, index: usize, name: &str, bond: &Bond) {
        let at = |key: &str| format!("machine[{index}].network.bond{key}");
        if !BOND_MODES.contains(&bond.mode.as_str()) {
            self.report(
                &at(".mode"),
                format!("{name}: the bond's mode {:?} is not known", bond.mode),
                format!("one of {}", BOND_MODES.join(", ")),
            );
        }
        if bond.members.is_empty() {
            self.report(&at(""), format!("{name}: the bond has no members"), "list the cards' MAC addresses");
        }
        for (place, mac) in bond.members.iter().enumerate().filter(|(_, mac)| hardware_address(mac).is_none()) {
            self.report(
                &at(&format!(".members[{place}]")),
                format!("{name}: {mac:?} is no MAC address"),
                "six pairs of hexadecimal digits are wanted",
            );
        }
    }

    /// Names, addresses, MAC addresses and serials belong to one machine each.
    fn duplicates(&mut self) {
        let mut seen: BTreeMap<(&str, String), String> = BTreeMap::new();
        if let Some(address) = self.cluster.virtual_address.as_deref().and_then(|text| text.parse::<IpAddr>().ok()) {
            seen.insert(("address", address.to_string()), "the cluster's virtual address".into());
        }
        let mut claims: Vec<(String, &str, String, &'a str)> = Vec::new();
        for (index, machine) in self.cluster.machines.iter().enumerate() {
            let name = machine.name.as_str();
            let mut claim = |path: String, kind, value| claims.push((path, kind, value, name));
            claim(format!("machine[{index}].name"), "name", machine.name.clone());
            if let Some(Ok(address)) = machine.network.address.as_deref().map(host_address) {
                claim(format!("machine[{index}].network.address"), "address", address.addr().to_string());
            }
            if let Some(mac) = machine.mac.as_deref().and_then(hardware_address) {
                claim(format!("machine[{index}].mac"), "MAC address", mac);
            }
            if let Some(serial) = &machine.serial {
                claim(format!("machine[{index}].serial"), "serial", serial.clone());
            }
            // A machine may be found by a card that is in its own bond.
            let own = machine.mac.as_deref().and_then(hardware_address);
            let members = machine.network.bond.iter().flat_map(|bond| &bond.members).enumerate();
            for (place, mac) in members.filter_map(|(place, mac)| Some((place, hardware_address(mac)?))) {
                if own.as_ref() != Some(&mac) {
                    claim(format!("machine[{index}].network.bond.members[{place}]"), "MAC address", mac);
                }
            }
        }
        for (path, kind, value, name) in claims {
            match seen.get(&(kind, value.clone())) {
                Some(other) => {
                    let owner = if kind == "name" { "another machine".to_owned() } else { other.clone() };
                    let message = format!("the {kind} {value} of {name} is {owner}'s too");
                    self.report(&path, message, format!("each machine needs a {kind} of its own"));
                }
                None => {
                    seen.insert((kind, value), name.to_owned());
                }
            }
        }
    }

    /// Pods, Services, machines and what the appliance takes for itself share no address.
    fn overlaps(&mut self) {
        let mut networks: Vec<(String, String, IpNet)> = Vec::new();
        for (path, text) in [("pod-cidr", &self.cluster.pod_cidr), ("service-cidr", &self.cluster.service_cidr)] {
            if let Ok(net) = network(text) {
                networks.push((path.to_owned(), format!("{path} {net}"), net));
            }
        }
        let virtual_address = self.cluster.virtual_address.as_deref().and_then(|text| text.parse::<IpAddr>().ok());
        let mut others: Vec<(String, String, IpNet)> = virtual_address
            .map(|address| {
                ("virtual-address".to_owned(), format!("the virtual address {address}"), IpNet::from(address))
            })
            .into_iter()
            .collect();
        for (index, machine) in self.cluster.machines.iter().enumerate() {
            if let Some(Ok(own)) = machine.network.address.as_deref().map(host_address) {
                others.push((
                    format!("machine[{index}].network.address"),
                    format!("the network {} of {}", own.trunc(), machine.name),
                    own.trunc(),
                ));
            }
        }
        let reserved = reserved_networks();
        let ours =
            networks.iter().chain(&others).flat_map(|net| reserved.iter().map(move |(name, held)| (net, name, held)));
        let mut found: Vec<(String, String)> = ours
            .filter(|((_, _, net), _, held)| overlap(net, held))
            .map(|((path, words, _), name, held)| (path.clone(), format!("{words} overlaps {name} {held}")))
            .collect();
        if let [pods, services] = networks.as_slice()
            && overlap(&pods.2, &services.2)
        {
            found.push((services.0.clone(), format!("{} overlaps {}", services.1, pods.1)));
        }
        for (path, words, net) in &others {
            for (_, other, _) in networks.iter().filter(|(_, _, other)| overlap(net, other)) {
                found.push((path.clone(), format!("{words} overlaps {other}")));
            }
        }
        for (path, message) in found {
            self.report(
                &path,
                message,
                "pods, Services and machines need networks apart from each other: change one of them",
            );
        }
    }

    /// Machines of one network must agree on the MTU, or large packets vanish between them.
    fn packet_sizes(&mut self) {
        let mut first: BTreeMap<String, (u32, &str)> = BTreeMap::new();
        let mut found = Vec::new();
        for (index, machine) in self.cluster.machines.iter().enumerate() {
            let (Some(mtu), Some(Ok(own))) =
                (machine.network.mtu, machine.network.address.as_deref().map(host_address))
            else {
                continue;
            };
            let (wanted, other) = first.entry(own.trunc().to_string()).or_insert((mtu, &machine.name));
            if *wanted != mtu {
                found.push((
                    index,
                    format!("{} has an MTU of {mtu}, but {other} in the same network {wanted}", machine.name),
                ));
            }
        }
        for (index, message) in found {
            self.report(
                &format!("machine[{index}].network.mtu"),
                message,
                "one MTU for all machines of a network is wanted",
            );
        }
    }

    /// Several machines of a role that nothing tells apart work only with images of their own.
    fn ambiguous_machines(&mut self) {
        for role in [Role::Master, Role::Node] {
            let any: Vec<&str> = self
                .cluster
                .machines
                .iter()
                .filter(|machine| machine.role == role && machine.mac.is_none() && machine.serial.is_none())
                .map(|machine| machine.name.as_str())
                .collect();
            if any.len() > 1 {
                self.findings.warnings.push(format!(
                    "{} have neither `mac` nor `serial`: build an image for each with --machine NAME, or say how to find them",
                    any.join(", ")
                ));
            }
        }
    }
}

/// What no cluster may use: the loopback network and the address of the node-local DNS cache.
fn reserved_networks() -> Vec<(&'static str, IpNet)> {
    let dns = IpNet::from(IpAddr::from(spec::ports::NODE_DNS_ADDRESS));
    let loopback = IpNet::new(IpAddr::from([127, 0, 0, 0]), 8).ok();
    let mut networks = vec![("the node-local DNS cache's address", dns)];
    networks.extend(loopback.map(|net| ("the loopback network", net)));
    networks
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

fn host_bits(net: &IpNet) -> u8 {
    net.max_prefix_len() - net.prefix_len()
}

/// Prefix of a node's share of the pods' network, as kube-controller-manager cuts it.
const fn node_prefix(pods: &IpNet) -> u8 {
    match pods {
        IpNet::V4(_) => 24,
        IpNet::V6(_) => 64,
    }
}

/// A network without host bits.
fn network(text: &str) -> Result<IpNet, String> {
    match text.parse::<IpNet>() {
        Ok(net) if net.trunc() == net => Ok(net),
        Ok(net) => Err(format!("the address has bits beyond the prefix: write {}", net.trunc())),
        Err(_) => Err("a CIDR such as 10.244.0.0/16 is wanted".into()),
    }
}

/// An address with the prefix of its network, and neither the network's own nor its broadcast address.
pub(super) fn host_address(text: &str) -> Result<IpNet, String> {
    let net = text.parse::<IpNet>().map_err(|_| match text.parse::<IpAddr>() {
        Ok(address) => format!("the prefix is missing: write {address}/24, if that is its network"),
        Err(_) => "an address with its prefix is wanted, such as 192.0.2.11/24".to_owned(),
    })?;
    let address = net.addr();
    if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
        return Err("no machine can be reached there".into());
    }
    let ends = [net.network(), net.broadcast()];
    if matches!(net, IpNet::V4(_)) && host_bits(&net) > 1 && ends.contains(&address) {
        return Err(format!(
            "it is the network's own or its broadcast address; {} to {} are its ends",
            ends[0], ends[1]
        ));
    }
    Ok(net)
}

/// What is wrong with a gateway, and what to do. `own` is the machine's address, where it has one.
fn gateway_problem(gateway: &str, own: Option<Result<IpNet, String>>) -> Option<(String, &'static str)> {
    let Ok(address) = gateway.parse::<IpAddr>() else {
        return Some((format!("the gateway {gateway:?} is no address"), "an address without a prefix is wanted"));
    };
    match own {
        None => {
            Some(("a gateway without an address".into(), "DHCP gives both; write an address or remove the gateway"))
        }
        Some(Ok(own)) if !own.contains(&address) => Some((
            format!("the gateway {address} is outside of the machine's network {}", own.trunc()),
            "a gateway is reached directly: correct one of the two",
        )),
        Some(Ok(own)) if own.addr() == address => {
            Some((format!("the gateway {address} is the machine itself"), "write the router's address"))
        }
        Some(_) => None,
    }
}

/// The MAC address in lower case.
fn hardware_address(text: &str) -> Option<String> {
    let parts: Vec<&str> = text.split(':').collect();
    let pair = |part: &&str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    (parts.len() == 6 && parts.iter().all(pair)).then(|| text.to_ascii_lowercase())
}

fn is_domain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// The name part of a Kubernetes label, or its value.
fn is_label_value(text: &str) -> bool {
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

fn is_qualified_name(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_domain(prefix) && is_label_value(name),
        None => is_label_value(text),
    }
}

fn is_taint(text: &str) -> bool {
    let Some((pair, effect)) = text.rsplit_once(':') else { return false };
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    is_qualified_name(key) && (value.is_empty() || is_label_value(value)) && TAINT_EFFECTS.contains(&effect)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Source;
    use std::path::Path;

    /// `LINE: message` of each problem.
    fn problems(text: &str) -> Vec<String> {
        let source = Source::new(Path::new("cluster.toml"), "cluster.toml", text);
        let cluster: Cluster = toml::from_str(text).unwrap();
        let findings = definition(&cluster, &Places::of(&source));
        let line = |problem: &Problem| problem.place().map_or(0, crate::error::Place::line);
        findings.problems.iter().map(|problem| format!("{}: {}", line(problem), problem.message)).collect()
    }

    const MASTER: &str = "name = \"lab\"\n[[machine]]\nname = \"master-1\"\nrole = \"master\"\n";

    #[test]
    fn a_single_master_by_dhcp_is_sound() {
        assert_eq!(problems(MASTER), Vec::<String>::new());
    }

    #[test]
    fn every_conflict_is_found_at_once_with_its_line() {
        let text = r#"name = "Lab"
pod-cidr = "10.0.0.0/8"
service-cidr = "10.96.0.0/12"
virtual-address = "192.0.2.11"
[[machine]]
name = "a"
role = "master"
mac = "52:54:00:00:00:01"
network = { address = "192.0.2.11/24", gateway = "198.51.100.1", mtu = 9000 }
[[machine]]
name = "b"
role = "master"
mac = "52:54:00:00:00:01"
serial = "S1"
network = { address = "192.0.2.12/24", mtu = 1500, vlan = 4095 }
[[machine]]
name = "b"
role = "node"
serial = "S1"
network = { address = "10.1.2.3/24" }
taints = ["gpu"]
"#;
        insta::assert_snapshot!(problems(text).join("\n"), @r#"
        1: the cluster's name "Lab" is no DNS label
        10: 2 masters: etcd with 2 members survives no more failures than with 1
        9: a: the gateway 198.51.100.1 is outside of the machine's network 192.0.2.0/24
        15: b: the VLAN 4095
        21: b: the taint "gpu" is not valid
        9: the address 192.0.2.11 of a is the cluster's virtual address's too
        13: the MAC address 52:54:00:00:00:01 of b is a's too
        17: the name b of b is another machine's too
        19: the serial S1 of b is b's too
        3: service-cidr 10.96.0.0/12 overlaps pod-cidr 10.0.0.0/8
        20: the network 10.1.2.0/24 of b overlaps pod-cidr 10.0.0.0/8
        15: b has an MTU of 1500, but a in the same network 9000
        "#);
    }

    #[test]
    fn three_masters_need_addresses() {
        let text = format!("{MASTER}{}{}", MASTER_2, MASTER_2.replace("master-2", "master-3"));
        let found = problems(&text);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[1].starts_with("5: the master master-2 has no address"), "{found:?}");
    }

    const MASTER_2: &str = "[[machine]]\nname = \"master-2\"\nrole = \"master\"\n";

    #[test]
    fn an_even_number_of_masters_is_refused() {
        let address = |number: u8| format!("network = {{ address = \"192.0.2.{number}/24\" }}\n");
        let found = problems(&format!("{MASTER}{}{MASTER_2}{}", address(1), address(2)));
        assert_eq!(found, ["6: 2 masters: etcd with 2 members survives no more failures than with 1"]);
    }

    #[test]
    fn a_machine_needs_an_address_of_its_own_kind() {
        assert!(host_address("192.0.2.11/24").is_ok());
        assert!(host_address("192.0.2.11").unwrap_err().contains("prefix is missing"));
        for text in ["192.0.2.0/24", "192.0.2.255/24", "127.0.0.1/8", "0.0.0.0/0", "224.0.0.1/4", "x/24", ""] {
            assert!(host_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn overlaps_name_both_sides() {
        let found = problems(&MASTER.replace("[[", "service-cidr = \"10.244.128.0/20\"\n[["));
        assert_eq!(found, ["2: service-cidr 10.244.128.0/20 overlaps pod-cidr 10.244.0.0/16"]);
        let found = problems(&MASTER.replace("[[", "service-cidr = \"169.254.0.0/16\"\n[["));
        assert!(found[0].contains("node-local DNS cache"), "{found:?}");
    }
}
