//! What one `[[machine]]` says, by itself.

use super::Checker;
use super::values::{
    LABEL, TAINT_EFFECTS, hardware_address, host_address, is_label, is_label_value, is_qualified_name, server_address,
    taint,
};
use ipnet::IpNet;
use spec::cluster::{AnyNode, Bmc, Bond, Install, Machine};
use std::collections::{BTreeMap, BTreeSet};

const MAC: &str = "six pairs of hexadecimal digits are wanted, such as 52:54:00:12:34:56, of a card and not of a group";
/// Labels that kubelet and agent keep as they find the machine.
const OWNED_LABELS: [&str; 6] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "node-role.kubernetes.io/control-plane",
];
const BOND_MODES: [&str; 7] =
    ["balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"];

impl Checker<'_> {
    pub(super) fn machine(&mut self, index: usize, machine: &Machine) {
        let at = |key: &str| format!("machine[{index}].{key}");
        let name = &machine.name;
        if !is_label(name) {
            self.report(&at("name"), format!("the machine's name {name:?} is no DNS label"), LABEL);
        } else if name == "localhost" {
            self.report(
                &at("name"),
                "a machine's name is localhost",
                "every machine is that to itself: choose another",
            );
        }
        if let Some(mac) = machine.mac.as_deref().filter(|mac| hardware_address(mac).is_none()) {
            self.report(&at("mac"), format!("{name}: {mac:?} is no MAC address"), MAC);
        }
        if let Some(serial) = machine.serial.as_deref().filter(|serial| serial.is_empty() || serial.trim() != *serial) {
            self.report(
                &at("serial"),
                format!("{name}: the serial {serial:?} is empty or has spaces around it"),
                "write what /sys/class/dmi/id/product_serial says without them, or remove it",
            );
        }
        self.labels(&at("labels"), name, &machine.labels);
        self.taints(&at("taints"), name, &machine.taints);
        if let Some(disk) = &machine.state_disk {
            self.disk_id(&at("state-disk"), name, disk);
        }
        if let Some(install) = &machine.install {
            self.install(&at("install"), name, install);
        }
        if let Some(bmc) = &machine.bmc {
            self.bmc(&at("bmc"), name, bmc);
        }
        self.machine_network(index, machine);
    }

    fn disk_id(&mut self, path: &str, name: &str, disk: &str) {
        if disk.is_empty() || disk.contains('/') || [".", ".."].contains(&disk) {
            self.report(
                path,
                format!("{name}: {disk:?} is no name of a disk"),
                "a name below /dev/disk/by-id is wanted, without the folder",
            );
        }
    }

    fn install(&mut self, path: &str, name: &str, install: &Install) {
        if let Some(id) = &install.id {
            self.disk_id(&format!("{path}.id"), name, id);
        }
        if let (Some(least), Some(most)) = (install.min_gb, install.max_gb)
            && least > most
        {
            self.report(
                &format!("{path}.min-gb"),
                format!("{name}: no disk has at least {least} and at most {most} GB"),
                "min-gb is at most max-gb",
            );
        }
        for (key, value) in [("model", &install.model), ("wipe", &install.wipe)] {
            if value.as_ref().is_some_and(|value| value.trim().is_empty()) {
                self.report(
                    &format!("{path}.{key}"),
                    format!("{name}: the disk's {key} is empty"),
                    "what the disk itself says is wanted; absent: anything, and nothing is wiped",
                );
            }
        }
    }

    fn bmc(&mut self, path: &str, name: &str, bmc: &Bmc) {
        let is_bare = |rest: &str| !rest.is_empty() && !rest.contains(['/', '@', '?', '#']);
        if !["https://", "http://"].iter().any(|scheme| bmc.url.strip_prefix(scheme).is_some_and(is_bare)) {
            self.report(
                &format!("{path}.url"),
                format!("{name}: {:?} is no URL of a BMC", bmc.url),
                "https:// and its address are wanted, without a path and without a password",
            );
        }
        let is_sha256 = |text: &String| text.len() == 64 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        if let Some(certificate) = bmc.certificate.as_ref().filter(|text| !is_sha256(text)) {
            self.report(
                &format!("{path}.certificate"),
                format!("{name}: {certificate:?} is no SHA-256"),
                "64 hexadecimal digits are wanted: `imgbuild power` says which the BMC shows",
            );
        }
    }

    pub(super) fn any_node(&mut self, any: &AnyNode) {
        let prefix = &any.prefix;
        if !is_label(&any.name("00:00:00:00:00:00")) {
            self.report(
                "any-node.prefix",
                format!("the nodes' prefix {prefix:?} does not begin a DNS label"),
                format!(
                    "at most {} lower-case letters, digits and - are wanted, a letter or digit first, such as rack7-",
                    AnyNode::LONGEST_PREFIX
                ),
            );
        }
        let who = format!("{prefix}*");
        self.labels("any-node.labels", &who, &any.labels);
        self.taints("any-node.taints", &who, &any.taints);
        let Some(install) = &any.install else { return };
        self.install("any-node.install", &who, install);
        for (key, value) in [("id", &install.id), ("wipe", &install.wipe)] {
            if let Some(value) = value {
                self.report(
                    &format!("any-node.install.{key}"),
                    format!("{who}: {key} = {value:?} is one disk's, and this rule is for many machines"),
                    "choose by model, transport or size; a disk with data is given away on the machine's console",
                );
            }
        }
    }

    fn labels(&mut self, at: &str, name: &str, labels: &BTreeMap<String, String>) {
        for (key, value) in labels {
            let path = format!("{at}.{key}");
            if !is_qualified_name(key) || !(value.is_empty() || is_label_value(value)) {
                self.report(
                    &path,
                    format!("{name}: the label {key} = {value:?} is none that Kubernetes takes"),
                    "letters, digits, - _ . with a letter or digit at both ends, at most 63; a key may have a DNS name and / before it",
                );
            } else if OWNED_LABELS.contains(&key.as_str()) {
                self.report(
                    &path,
                    format!("{name}: the label {key} is set by the machine itself"),
                    "remove it: it comes from the machine's name, role and processor",
                );
            }
        }
    }

    /// Kubernetes has one taint of each key and effect on a node.
    fn taints(&mut self, at: &str, name: &str, taints: &[String]) {
        let mut seen = BTreeSet::new();
        for (place, text) in taints.iter().enumerate() {
            let path = format!("{at}[{place}]");
            match taint(text) {
                None => self.report(
                    &path,
                    format!("{name}: the taint {text:?} is not valid"),
                    format!("KEY=VALUE:EFFECT is wanted, EFFECT one of {}", TAINT_EFFECTS.join(", ")),
                ),
                Some(pair) if !seen.insert(pair) => self.report(
                    &path,
                    format!("{name}: a second taint {} with the effect {}", pair.0, pair.1),
                    "remove one of the two",
                ),
                Some(_) => {}
            }
        }
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
        self.name_servers(&at("dns"), &format!("{name}: "), &network.dns);
        self.time_servers(&at("ntp"), &network.ntp);
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
            self.report(&at(&format!(".members[{place}]")), format!("{name}: {mac:?} is no MAC address"), MAC);
        }
    }
}

/// What is wrong with a gateway, and what to do. `own` is the machine's address, where it has one.
fn gateway_problem(gateway: &str, own: Option<Result<IpNet, String>>) -> Option<(String, &'static str)> {
    let Some(address) = server_address(gateway) else {
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
