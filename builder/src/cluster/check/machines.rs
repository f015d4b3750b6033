//! What one `[[machine]]` says, by itself.

use super::Checker;
use super::values::{
    LABEL, TAINT_EFFECTS, hardware_address, host_address, is_label, is_label_value, is_qualified_name, is_taint,
};
use ipnet::IpNet;
use spec::cluster::{Bond, Machine};
use std::net::IpAddr;

const BOND_MODES: [&str; 7] =
    ["balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"];

impl Checker<'_> {
    pub(super) fn machine(&mut self, index: usize, machine: &Machine) {
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
