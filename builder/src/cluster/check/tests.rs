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

#[test]
fn a_node_needs_a_master_with_an_address() {
    let found = problems(&format!("{MASTER}[[machine]]\nname = \"n1\"\nrole = \"node\"\n"));
    assert_eq!(found, ["2: the master master-1 has no address"]);
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

/// One problem, whose line and message start so.
#[track_caller]
fn refused(text: &str, wanted: &str) {
    let found = problems(text);
    assert!(found.len() == 1 && found[0].starts_with(wanted), "wanted {wanted:?}, found {found:?}");
}

/// The single master with these lines below it; the first is line 5.
fn master_with(lines: &str) -> String {
    format!("{MASTER}{lines}")
}

/// The single master with these lines before it; the first is line 2.
fn cluster_with(lines: &str) -> String {
    MASTER.replace("[[machine]]", &format!("{lines}\n[[machine]]"))
}

#[test]
fn labels_that_kubernetes_refuses_or_the_machine_owns_are_refused_at_their_key() {
    refused(&master_with("[machine.labels]\ncpu = \"high\"\n\"a b\" = \"x\""), "7: master-1: the label a b");
    refused(&master_with("labels = { cpu = \"-high\" }"), "5: master-1: the label cpu = \"-high\"");
    refused(&master_with("labels = { \"Ex.org/x\" = \"\" }"), "5: master-1: the label Ex.org/x");
    refused(
        &master_with("labels = { \"kubernetes.io/arch\" = \"x\" }"),
        "5: master-1: the label kubernetes.io/arch is set by",
    );
    let sound = "labels = { \"topology.kubernetes.io/zone\" = \"a.1_b\", x = \"\" }";
    assert_eq!(problems(&master_with(sound)), Vec::<String>::new());
}

#[test]
fn nodes_that_are_not_listed_need_a_prefix_that_begins_a_name() {
    let address = "network = { address = \"192.0.2.11/24\" }\n";
    let any = |lines: &str| format!("{MASTER}{address}[any-node]\n{lines}\n");
    assert_eq!(problems(&any("prefix = \"rack7-\"\nlabels = { room = \"7\" }")), Vec::<String>::new());
    refused(&any("prefix = \"Rack-\""), "7: the nodes' prefix \"Rack-\" does not begin a DNS label");
    let long = "a".repeat(52);
    refused(&any(&format!("prefix = {long:?}")), &format!("7: the nodes' prefix {long:?}"));
    refused(&any("prefix = \"n-\"\ntaints = [\"gpu\"]"), "8: n-*: the taint \"gpu\" is not valid");
}

#[test]
fn taints_that_kubernetes_refuses_are_refused() {
    for text in ["gpu", "gpu:Never", "=x:NoSchedule", "gpu=a b:NoSchedule", ":NoExecute"] {
        refused(
            &master_with(&format!("taints = [{text:?}]")),
            &format!("5: master-1: the taint {text:?} is not valid"),
        );
    }
    let twice = "taints = [\"gpu=a:NoSchedule\",\n\"gpu:NoExecute\",\n\"gpu=b:NoSchedule\"]";
    refused(&master_with(twice), "7: master-1: a second taint gpu with the effect NoSchedule");
}

#[test]
fn the_virtual_address_is_in_the_masters_network_and_nobodys() {
    let with = |address: &str| {
        let text = cluster_with(&format!("virtual-address = {address:?}"));
        format!("{text}network = {{ address = \"192.0.2.11/24\", gateway = \"192.0.2.1\" }}\n")
    };
    assert_eq!(problems(&with("192.0.2.9")), Vec::<String>::new());
    refused(
        &with("198.51.100.9"),
        "2: the virtual address 198.51.100.9 is no host's in the network 192.0.2.0/24 of master-1",
    );
    refused(&with("192.0.2.255"), "2: the virtual address 192.0.2.255 is no host's");
    refused(&with("192.0.2.1"), "2: the virtual address 192.0.2.1 is the gateway of master-1");
    refused(&with("192.0.2.11"), "6: the address 192.0.2.11 of master-1 is the cluster's virtual address's too");
    refused(&with("224.0.0.9"), "2: the virtual address 224.0.0.9 is none of a machine");
    refused(&with("192.0.2.9/24"), "2: the virtual address \"192.0.2.9/24\" is no address");
    let by_dhcp = cluster_with("virtual-address = \"192.0.2.9\"");
    assert_eq!(problems(&by_dhcp), Vec::<String>::new(), "where its network is, only DHCP knows");
}

#[test]
fn servers_are_addresses_and_time_servers_may_be_names() {
    refused(
        &cluster_with("ntp = [\"ntp.example.org\", \"192.0.2.300\"]"),
        "2: the time server \"192.0.2.300\" is neither",
    );
    refused(&cluster_with("ntp = [\"a_b\"]"), "2: the time server");
    refused(&cluster_with("dns = [\"dns.example.org\"]"), "2: the DNS server \"dns.example.org\" is no address");
    refused(&cluster_with("dns = [\"127.0.0.1\"]"), "2: the DNS server");
    refused(&cluster_with("dns = [\"192.0.2.1\", \"192.0.2.2\", \"192.0.2.3\",\n\"192.0.2.4\"]"), "3: 4 DNS servers");
    refused(&master_with("network = { dns = [\"0.0.0.0\"] }"), "5: master-1: the DNS server");
    refused(&cluster_with("api-name = \"192.0.2.1\""), "2: the API's name \"192.0.2.1\" is no DNS name");
}

#[test]
fn bgp_needs_kube_router_and_routers_that_are_there_once() {
    let with = |network: &str| {
        format!(
            "name = \"lab\"\nnetwork = {network:?}\n[bgp]\nasn = 0\n[[bgp.peer]]\naddress = \"192.0.2.1\"\nasn = 64500\n\
             [[bgp.peer]]\naddress = \"192.0.2.1\"\nasn = 64500\n[[bgp.peer]]\naddress = \"router\"\nasn = 1\nport = 0\n\
             [[machine]]\nname = \"master-1\"\nrole = \"master\"\n"
        )
    };
    let expected = [
        "4: no autonomous system has this number",
        "9: the router 192.0.2.1 is listed twice",
        "12: \"router\" is no address of a router",
        "14: nothing listens on port 0",
    ];
    assert_eq!(problems(&with("kube-router")), expected);
    assert_eq!(problems(&with("kube-proxy")).len(), 1 + expected.len());
}

#[test]
fn an_election_lasts_several_heartbeats_and_not_for_ever() {
    let with = |table: &str| {
        problems(&format!("name = \"lab\"\n[etcd]\n{table}\n[[machine]]\nname = \"master-1\"\nrole = \"master\"\n"))
    };
    assert_eq!(with("heartbeat-ms = 500\nelection-ms = 5000"), [""; 0]);
    assert_eq!(with("heartbeat-ms = 300"), ["2: etcd refuses an election timeout of 1000 ms"]);
    assert_eq!(with("election-ms = 60000"), ["3: etcd refuses an election timeout of 60000 ms"]);
    assert_eq!(with("heartbeat-ms = 0"), ["3: etcd's leader never rests"]);
}

#[test]
fn what_the_masters_dns_serves_must_be_there_and_fit_into_a_corefile() {
    let with = |tables: &str| {
        problems(&format!("name = \"lab\"\n{tables}\n[[machine]]\nname = \"master-1\"\nrole = \"master\"\n"))
    };
    let sound = "[dns-server]\nexceptions = [\"corp.example\"]\n\
        [[dns-server.forward]]\nname = \"consul\"\nservers = [\"192.0.2.1:8600\", \"[fd00::1]:8600\", \"192.0.2.2\"]\n\
        [[dns-server.rewrite]]\nkind = \"regex\"\nfrom = \"(.*)\\\\.old\\\\.example\\\\.$\"\nto = \"{1}.new.example\"\n\
        answer = { from = \"(.*)\\\\.new\\\\.example\\\\.$\", to = \"{1}.old.example\" }";
    assert_eq!(with(sound), Vec::<String>::new());
    let unsound = "[[dns-server.forward]]\nname = \"cluster.local\"\nservers = [\"consul\"]\n\
        [[dns-server.forward]]\nname = \"a.example\"\nservers = []\n\
        [[dns-server.zone]]\nname = \"a.example\"\nfile = \"a\"\n\
        [[dns-server.rewrite]]\nkind = \"regex\"\nfrom = \"a b\"\nto = \"c\"";
    insta::assert_snapshot!(with(unsound).join("\n"), @r#"
        3: cluster.local is the domain of the Services
        4: the server "consul" of cluster.local is no address
        6: a.example is served twice
        7: a.example has 0 servers
        11: "a b" cannot stand in a rewrite
        11: the rewrite of "a b" lacks its way back
        "#);
}

#[test]
fn registry_mirrors_are_hosts_with_urls() {
    let with = |registry: &str, mirrors: &str| cluster_with(&format!("[registry-mirrors]\n{registry:?} = {mirrors}"));
    let sound = with("registry.example.org:5000", "[\"https://192.0.2.1:5000/v2/x\", \"http://[2001:db8::1]:80\"]");
    assert_eq!(problems(&sound), Vec::<String>::new());
    refused(&with("docker.io", "[]"), "3: docker.io has no mirrors");
    refused(&with("https://docker.io", "[\"https://m\"]"), "3: \"https://docker.io\" is no registry");
    for url in ["https://", "ftp://x", "m.example.org", "https://x:0", "https://a b", "https://x/a b", "https://[::g]"]
    {
        refused(&with("docker.io", &format!("[{url:?}]")), &format!("3: the mirror {url:?} of docker.io is no URL"));
    }
}

#[test]
fn bonds_need_a_known_mode_and_cards() {
    let with =
        |mode: &str, members: &str| master_with(&format!("network.bond = {{ mode = {mode:?}, members = {members} }}"));
    assert_eq!(problems(&with("802.3ad", "[\"52:54:00:00:00:01\", \"52:54:00:00:00:02\"]")), Vec::<String>::new());
    refused(&with("lacp", "[\"52:54:00:00:00:01\"]"), "5: master-1: the bond's mode \"lacp\" is not known");
    refused(&with("802.3ad", "[]"), "5: master-1: the bond has no members");
    refused(&with("802.3ad", "[\"eth0\"]"), "5: master-1: \"eth0\" is no MAC address");
    refused(&with("802.3ad", "[\"52:54:00:00:00:01\", \"52:54:00:00:00:01\"]"), "5: the MAC address 52:54:00:00:00:01");
}

#[test]
fn what_a_machine_is_found_by_can_be_found() {
    for mac in ["00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "52-54-00-00-00-01", "52:54:00:00:00"] {
        refused(&master_with(&format!("mac = {mac:?}")), &format!("5: master-1: {mac:?} is no MAC address"));
    }
    for serial in ["", " S1"] {
        refused(&master_with(&format!("serial = {serial:?}")), "5: master-1: the serial");
    }
    for disk in ["", "/dev/sda", ".", ".."] {
        refused(&master_with(&format!("state-disk = {disk:?}")), "5: master-1: ");
    }
    refused(&MASTER.replace("master-1", "localhost"), "3: a machine's name is localhost");
}

#[test]
fn a_gateway_is_in_the_machines_network_and_not_the_machine() {
    let with = |network: &str| master_with(&format!("network = {{ {network} }}"));
    let address = "address = \"192.0.2.11/24\"";
    refused(&with(&format!("{address}, gateway = \"192.0.3.1\"")), "5: master-1: the gateway 192.0.3.1 is outside");
    refused(
        &with(&format!("{address}, gateway = \"192.0.2.11\"")),
        "5: master-1: the gateway 192.0.2.11 is the machine itself",
    );
    refused(&with(&format!("{address}, gateway = \"router\"")), "5: master-1: the gateway \"router\" is no address");
    refused(&with("gateway = \"192.0.2.1\""), "5: master-1: a gateway without an address");
}

#[test]
fn masters_may_be_in_different_networks_but_speak_one_family() {
    let master = |name: &str, address: &str| {
        format!("[[machine]]\nname = {name:?}\nrole = \"master\"\nnetwork = {{ address = {address:?} }}\n")
    };
    let of = |third: &str| {
        format!(
            "name = \"lab\"\n{}{}{}",
            master("a", "192.0.2.1/24"),
            master("b", "198.51.100.1/26"),
            master("c", third)
        )
    };
    assert_eq!(problems(&of("203.0.113.1/30")), Vec::<String>::new());
    refused(&of("2001:db8::1/64"), "13: c: the address 2001:db8::1 and service-cidr 10.96.0.0/12 are of two families");
    refused(
        &cluster_with("pod-cidr = \"fd00::/56\""),
        "0: service-cidr 10.96.0.0/12 and pod-cidr fd00::/56 are of two families",
    );
}

#[test]
fn masters_that_nothing_tells_apart_are_warned_about_and_nodes_are_not() {
    let warnings = |text: &str| {
        let source = Source::new(Path::new("cluster.toml"), "cluster.toml", text);
        definition(&toml::from_str(text).unwrap(), &Places::of(&source)).warnings
    };
    let found = warnings(&format!("{MASTER}{MASTER_2}"));
    assert!(found.len() == 1 && found[0].starts_with("master-1, master-2 have neither"), "{found:?}");
    let nodes = MASTER_2.replace("master", "node") + &MASTER_2.replace("master-2", "node-3").replace("master", "node");
    assert_eq!(warnings(&format!("{MASTER}{nodes}")), Vec::<String>::new());
}

/// Three masters and nodes, `count` machines in all, each with everything that a machine can say.
fn large(count: usize) -> String {
    let mut text = String::from(
        "name = \"lab\"\npod-cidr = \"10.128.0.0/11\"\nservice-cidr = \"10.96.0.0/12\"\nvirtual-address = \"172.16.0.9\"\n",
    );
    for number in 0..count {
        let role = if number < 3 { "master" } else { "node" };
        let (high, low) = ((number + 16) / 250, (number + 16) % 250 + 1);
        text.push_str(&format!(
            "[[machine]]\nname = \"{role}-{number}\"\nrole = \"{role}\"\nmac = \"52:54:00:00:{:02x}:{:02x}\"\nserial = \"S{number}\"\n\
             network = {{ address = \"172.16.{high}.{low}/16\", gateway = \"172.16.0.1\", dns = [\"172.16.0.2\"], mtu = 9000 }}\n\
             labels = {{ rack = \"r{high}\" }}\ntaints = [\"rack=r{high}:NoSchedule\"]\n",
            number / 256,
            number % 256
        ));
    }
    text
}

#[test]
fn five_thousand_machines_are_checked() {
    let text = large(5000);
    assert_eq!(problems(&text), Vec::<String>::new());
    let last = text.replace("52:54:00:00:13:87", "52:54:00:00:00:00");
    let found = problems(&last);
    assert!(
        found.len() == 1 && found[0].ends_with("the MAC address 52:54:00:00:00:00 of node-4999 is master-0's too"),
        "{found:?}"
    );
}

#[test]
fn a_mistake_in_thousands_of_machines_is_shown_some_hundred_times() {
    let found = problems(&large(1000).replace("mtu = 9000", "mtu = 90"));
    assert_eq!(found.len(), REPORTED + 1);
    assert_eq!(found.last().map(String::as_str), Some("0: 800 more problems"));
}

#[test]
fn the_pods_network_has_room_for_every_machine() {
    refused(
        &large(300).replace("10.128.0.0/11", "10.128.0.0/16"),
        "2: pod-cidr 10.128.0.0/16 has room for the pods of 256 machines, and there are 300",
    );
    refused(&cluster_with("pod-cidr = \"10.244.0.0/25\""), "2: pod-cidr 10.244.0.0/25 has no room for a node's pods");
}

#[test]
fn a_disk_to_install_to_is_one_that_can_be() {
    let with = |install: &str| {
        problems(&format!(
            "name = \"lab\"\n[[machine]]\nname = \"master-1\"\nrole = \"master\"\ninstall = {{ {install} }}\n"
        ))
    };
    assert_eq!(with("transport = \"nvme\", min-gb = 100, max-gb = 100, wipe = \"S5X\""), [""; 0]);
    assert_eq!(with("id = \"/dev/sda\""), ["5: master-1: \"/dev/sda\" is no name of a disk"]);
    assert_eq!(with("min-gb = 2, max-gb = 1"), ["5: master-1: no disk has at least 2 and at most 1 GB"]);
    assert_eq!(with("wipe = \" \""), ["5: master-1: the disk's wipe is empty"]);
    let of_any = |install: &str| {
        let found = problems(&cluster_with(&format!("[any-node]\nprefix = \"r-\"\ninstall = {{ {install} }}")));
        found.into_iter().filter(|problem| problem.contains("r-*")).collect::<Vec<_>>()
    };
    assert_eq!(of_any("transport = \"nvme\", max-gb = 4000"), [""; 0]);
    let wipe = ["4: r-*: wipe = \"S5X\" is one disk's, and this rule is for many machines"];
    assert_eq!(of_any("wipe = \"S5X\""), wipe);
}
