//! What machines and networks claim against each other.

use super::Checker;
use super::values::{hardware_address, host_address, network};
use ipnet::IpNet;
use spec::cluster::Machine;
use std::collections::BTreeMap;
use std::net::IpAddr;

impl<'a> Checker<'a> {
    /// Names, addresses, MAC addresses and serials belong to one machine each.
    pub(super) fn duplicates(&mut self) {
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
    pub(super) fn overlaps(&mut self) {
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
    pub(super) fn packet_sizes(&mut self) {
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

    /// The virtual address goes from one master to the next: it must be in the network of every one.
    pub(super) fn virtual_address(&mut self) {
        let Some(address) = self.cluster.virtual_address.as_deref().and_then(|text| text.parse::<IpAddr>().ok()) else {
            return;
        };
        const PATH: &str = "virtual-address";
        if let Err(help) = host_address(&IpNet::from(address).to_string()) {
            self.report(PATH, format!("the virtual address {address} is none of a machine"), help);
            return;
        }
        let elsewhere = self
            .cluster
            .masters()
            .filter_map(|machine| Some((machine, host_address(machine.network.address.as_deref()?).ok()?)))
            .find(|(_, own)| {
                host_address(&format!("{address}/{}", own.prefix_len())).is_err() || !own.contains(&address)
            });
        if let Some((master, own)) = elsewhere {
            let message =
                format!("the virtual address {address} is no host's in the network {} of {}", own.trunc(), master.name);
            self.report(
                PATH,
                message,
                "every master must be able to hold it: an address of their common network is wanted",
            );
        }
        let gateway =
            |machine: &&Machine| machine.network.gateway.as_deref().and_then(|text| text.parse().ok()) == Some(address);
        if let Some(machine) = self.cluster.machines.iter().find(gateway) {
            let message = format!("the virtual address {address} is the gateway of {}", machine.name);
            self.report(PATH, message, "an address that nobody has is wanted");
        }
    }

    /// Several masters that nothing tells apart work only with images of their own. A node's seed has
    /// its name always.
    pub(super) fn ambiguous_masters(&mut self) {
        let masters = self.cluster.masters();
        let any: Vec<&str> = masters
            .filter(|machine| machine.mac.is_none() && machine.serial.is_none())
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
