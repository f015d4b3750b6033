//! The host firewall as an nftables ruleset (nft(8)), made from the profile's ports.
//!
//! One base chain of our own on `input`, default deny. Pods' traffic, forwarding and NodePorts stay
//! with kube-proxy or kube-router: what they translate to an address of the machine itself arrives
//! with the status `dnat` and is let in; what IPVS serves is let in by sets that the agent fills. What only the cluster's machines may send (kube-router's BGP and
//! tunnels) is let in from two sets of addresses, which the agent fills.

use crate::error::{Error, Result};
use crate::profile::parse_port;
use spec::firewall::{MEMBERS, MEMBERS6, NODE_PORTS, SERVICES, SERVICES6, TABLE};
use spec::ports;
use spec::profile::{Port, Profile};
use std::fmt::Write;

/// Modules that the ruleset needs.
pub const MODULES: [&str; 3] = ["nf_tables", "nf_conntrack", "nft_ct"];
/// What `private` in a port's `from` stands for: RFC 1918.
const PRIVATE: [&str; 3] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"];
/// What pods are connected by, whatever the network is called: the bridge plugin's and kube-router's bridges, an add-on's
/// bridge, or no bridge at all (Cilium, Calico). Machines are connected by cards, bonds and VLANs. Kinds as rtnetlink has
/// them (`IFLA_INFO_KIND`).
const POD_LINKS: [&str; 3] = ["bridge", "veth", "netkit"];

/// Protocol numbers of packets in packets, by number since the image has no /etc/protocols: IPv4 in
/// IPv4 (RFC 2003) and IPv6 in IPv6 (RFC 2473).
const IPV4_ENCAPSULATED: u8 = 4;
const IPV6_ENCAPSULATED: u8 = 41;

/// The ruleset of a merged profile.
///
/// # Errors
/// Bad input when a port or source of the profile cannot be read (a validated profile has none).
pub fn ruleset(profile: &Profile) -> Result<String> {
    let mut rules = String::new();
    for (name, port) in &profile.ports {
        rules.push_str(&port_rules(name, port)?);
    }
    let pods = POD_LINKS.map(|kind| format!("\"{kind}\"")).join(", ");
    Ok(format!(
        "\
# The host firewall, made by imgbuild from the profile's ports: changes belong there.
table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
    # The cluster's machines: the agent knows them.
    set {MEMBERS} {{
        type ipv4_addr
    }}
    set {MEMBERS6} {{
        type ipv6_addr
    }}

    # Where IPVS serves them.
    set {SERVICES} {{
        type ipv4_addr
        flags interval
    }}
    set {SERVICES6} {{
        type ipv6_addr
        flags interval
    }}
    set {NODE_PORTS} {{
        type inet_service
        flags interval
    }}

    chain input {{
        type filter hook input priority filter; policy drop;

        ct state established,related accept
        ct state invalid drop

        # GoBGP's interface has no authentication: nobody reaches it, pods and the machine included.
        tcp dport {gobgp} drop

        iifname \"lo\" accept

        icmp type {{ echo-request, destination-unreachable, time-exceeded, parameter-problem }} accept
        icmpv6 type {{ echo-request, destination-unreachable, packet-too-big, time-exceeded, parameter-problem, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert, mld-listener-query }} accept

        udp sport 67 udp dport 68 accept comment \"DHCP\"
        ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept comment \"DHCPv6\"

        # Translated by the Services' rules to a port of this machine: the cluster said so.
        ct status dnat accept

        # IPVS takes them after this; kube-router's own rules refuse what is no Service's port.
        ip daddr @{SERVICES} accept
        ip6 daddr @{SERVICES6} accept
        meta l4proto {{ tcp, udp, sctp }} th dport @{NODE_PORTS} accept

        # Pods of this machine to its DNS cache and its kubelet.
        meta iifkind {{ {pods} }} ip daddr {dns} meta l4proto {{ tcp, udp }} th dport 53 accept
        meta iifkind {{ {pods} }} tcp dport {kubelet} accept

        # kube-router between machines: BGP, and what it sends through tunnels.
        ip saddr @{MEMBERS} tcp dport {bgp} accept
        ip6 saddr @{MEMBERS6} tcp dport {bgp} accept
        ip saddr @{MEMBERS} meta l4proto {IPV4_ENCAPSULATED} accept
        ip6 saddr @{MEMBERS6} meta l4proto {IPV6_ENCAPSULATED} accept

{rules}
        counter drop
    }}
}}
",
        gobgp = ports::GOBGP,
        dns = ports::NODE_DNS_ADDRESS,
        kubelet = ports::KUBELET,
        bgp = ports::BGP,
    ))
}

/// The rules of one port: one for everyone, or one for each family of its sources.
fn port_rules(name: &str, port: &Port) -> Result<String> {
    let range = parse_port(&port.port).map_err(|message| Error::bad_input(format!("ports.{name}: {message}")))?;
    let number = match (range.start(), range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    };
    let accept = format!("{} dport {number} accept comment \"{}\"", port.protocol, port.description);
    let mut rules = String::new();
    let mut rule = |source: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(rules, "        {source}{accept}");
    };
    if port.from.is_empty() {
        rule("");
        return Ok(rules);
    }
    for (family, sources) in sources_by_family(name, port)? {
        rule(&format!("{family} saddr {{ {} }} ", sources.join(", ")));
    }
    Ok(rules)
}

/// Sources as elements of a set, sorted, without those that lie in another: nft refuses overlaps.
fn sources_by_family(name: &str, port: &Port) -> Result<Vec<(&'static str, Vec<String>)>> {
    let texts = port.from.iter().flat_map(|from| match from.as_str() {
        "private" => PRIVATE.to_vec(),
        other => vec![other],
    });
    let networks = texts
        .map(|text| {
            text.parse::<ipnet::IpNet>().map_err(|_| Error::bad_input(format!("ports.{name}: {text:?} is no CIDR")))
        })
        .collect::<Result<Vec<_>>>()?;
    let networks = ipnet::IpNet::aggregate(&networks);
    let family = |wanted: bool| {
        let mut members: Vec<&ipnet::IpNet> = networks.iter().filter(|net| net.addr().is_ipv4() == wanted).collect();
        members.sort();
        members.into_iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let mut families = vec![("ip", family(true)), ("ip6", family(false))];
    families.retain(|(_, members)| !members.is_empty());
    Ok(families)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::testing::profile;

    const PORTS: &str = r#"
[ports.kube-apiserver]
port = "6443"
description = "Kubernetes API"
[ports.etcd]
port = "2379-2380"
from = ["192.0.2.0/24", "2001:db8::/32"]
description = "etcd"
[ports.dns]
port = "253"
protocol = "udp"
from = ["private", "10.1.0.0/16"]
description = "CoreDNS"
"#;

    #[test]
    fn the_ruleset_of_a_few_ports() {
        insta::assert_snapshot!(ruleset(&profile(PORTS).merged).unwrap());
    }

    #[test]
    fn without_ports_nothing_of_ours_is_open() {
        let text = ruleset(&Profile::default()).unwrap();
        assert!(text.contains("policy drop"));
        let open: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("dport") && line.contains("accept"))
            .filter(|line| !line.contains("iifkind") && !line.contains('@'))
            .collect();
        assert_eq!(open.len(), 2, "DHCP alone: {open:?}");
    }

    /// nft itself is the judge of the syntax, where it is installed and may run.
    #[test]
    fn nft_takes_the_ruleset() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), ruleset(&profile(PORTS).merged).unwrap()).unwrap();
        let Ok(output) = std::process::Command::new("nft").arg("--check").arg("--file").arg(file.path()).output()
        else {
            return;
        };
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() || text.contains("not permitted") || text.contains("not supported"), "{text}");
    }
}
