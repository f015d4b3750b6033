#![allow(clippy::unwrap_used)]

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
