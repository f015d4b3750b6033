//! What to do with which interface: pure, from the machine's definition and the cards that are there.

use super::parse_mac;
use spec::cluster::{Machine, MachineNetwork};
use std::net::Ipv4Addr;
use thiserror::Error;

/// A network card as /sys shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    pub name: String,
    pub mac: [u8; 6],
    pub carrier: bool,
}

/// The links to make or use; their names follow from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The cards used: one, or a bond's members.
    pub cards: Vec<String>,
    pub bond: Option<BondMode>,
    pub vlan: Option<u16>,
    pub mtu: Option<u32>,
    pub addressing: Addressing,
}

/// Bonding modes by the kernel's names and numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BondMode(pub u8);

const BOND_MODES: [&str; 7] =
    ["balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addressing {
    Dhcp,
    Static { address: Ipv4Addr, prefix: u8, gateway: Option<Ipv4Addr>, dns: Vec<Ipv4Addr> },
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlanError {
    /// Not there yet: worth waiting for.
    #[error("no network card {wanted}; there is {found}")]
    NoCard { wanted: String, found: String },
    #[error("machine {machine}: network.{key} is `{found}`, wanted {wanted}")]
    Value { machine: String, key: &'static str, found: String, wanted: &'static str },
}

pub const BOND_NAME: &str = "bond0";

impl Plan {
    /// Name of the interface below the VLAN.
    pub fn base(&self) -> &str {
        if self.bond.is_some() { BOND_NAME } else { self.cards.first().map_or("", String::as_str) }
    }

    /// Name of the interface that has the address.
    pub fn interface(&self) -> String {
        match self.vlan {
            Some(id) => format!("{}.{id}", self.base()),
            None => self.base().to_owned(),
        }
    }
}

/// The plan for a machine. `None` for `machine`: an unnamed one, by DHCP on the first card.
///
/// # Errors
/// A card that is not there, or a value that makes no sense.
pub fn plan(machine: &Machine, cards: &[Card]) -> Result<Plan, PlanError> {
    let network = &machine.network;
    let bond = match &network.bond {
        Some(bond) => Some(bond_mode(&bond.mode).ok_or_else(|| {
            wrong(machine, "bond.mode", &bond.mode, "a mode of the bonding driver, such as 802.3ad or active-backup")
        })?),
        None => None,
    };
    if let Some(id) = network.vlan.filter(|id| !(1..=4094).contains(id)) {
        return Err(wrong(machine, "vlan", &id.to_string(), "1 to 4094"));
    }
    Ok(Plan {
        cards: choose_cards(machine, cards)?,
        bond,
        vlan: network.vlan,
        mtu: network.mtu,
        addressing: addressing(machine, network)?,
    })
}

fn bond_mode(name: &str) -> Option<BondMode> {
    BOND_MODES.iter().position(|mode| *mode == name).and_then(|number| u8::try_from(number).ok()).map(BondMode)
}

fn wrong(machine: &Machine, key: &'static str, found: &str, wanted: &'static str) -> PlanError {
    PlanError::Value { machine: machine.name.clone(), key, found: found.to_owned(), wanted }
}

fn choose_cards(machine: &Machine, cards: &[Card]) -> Result<Vec<String>, PlanError> {
    let found = || match cards {
        [] => "none".to_owned(),
        cards => {
            cards.iter().map(|card| format!("{} ({})", card.name, format_mac(&card.mac))).collect::<Vec<_>>().join(", ")
        }
    };
    let by_mac = |text: &String| {
        let mac = parse_mac(text).ok_or_else(|| wrong(machine, "mac", text, "six bytes such as 52:54:00:12:34:56"))?;
        let card = cards.iter().find(|card| card.mac == mac);
        card.map(|card| card.name.clone())
            .ok_or_else(|| PlanError::NoCard { wanted: format!("with the address {text}"), found: found() })
    };
    if let Some(bond) = &machine.network.bond {
        return bond.members.iter().map(by_mac).collect();
    }
    if let Some(mac) = &machine.mac {
        return Ok(vec![by_mac(mac)?]);
    }
    // Any card will do; one with a cable in it does better.
    let card = cards.iter().find(|card| card.carrier).or(cards.first());
    card.map(|card| vec![card.name.clone()])
        .ok_or_else(|| PlanError::NoCard { wanted: "at all".to_owned(), found: found() })
}

fn addressing(machine: &Machine, network: &MachineNetwork) -> Result<Addressing, PlanError> {
    let Some(text) = &network.address else { return Ok(Addressing::Dhcp) };
    let parsed = text.split_once('/').and_then(|(address, prefix)| {
        let prefix: u8 = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
        Some((address.parse::<Ipv4Addr>().ok()?, prefix))
    });
    let (address, prefix) =
        parsed.ok_or_else(|| wrong(machine, "address", text, "an address with its prefix, such as 192.0.2.10/24"))?;
    let ip = |key, text: &String| text.parse::<Ipv4Addr>().map_err(|_| wrong(machine, key, text, "an IPv4 address"));
    let gateway = network.gateway.as_ref().map(|text| ip("gateway", text)).transpose()?;
    let dns = network.dns.iter().map(|text| ip("dns", text)).collect::<Result<_, _>>()?;
    Ok(Addressing::Static { address, prefix, gateway, dns })
}

pub fn format_mac(mac: &[u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;
    use spec::cluster::{Bond, Role};

    fn machine() -> Machine {
        Machine {
            name: "m1".into(),
            role: Role::Master,
            mac: None,
            serial: None,
            network: MachineNetwork::default(),
            labels: Default::default(),
            taints: vec![],
            state_disk: None,
            install: None,
            bmc: None,
        }
    }

    fn cards() -> Vec<Card> {
        [("eth0", 1, false), ("eth1", 2, true)]
            .map(|(name, last, carrier)| Card { name: name.into(), mac: [2, 0, 0, 0, 0, last], carrier })
            .to_vec()
    }

    #[test]
    fn without_a_wish_the_card_with_a_cable_gets_a_lease() {
        let plan = plan(&machine(), &cards()).unwrap();
        assert_eq!((plan.interface().as_str(), plan.addressing), ("eth1", Addressing::Dhcp));
    }

    #[test]
    fn a_vlan_on_a_bond_with_a_static_address() {
        let mut machine = machine();
        machine.network = MachineNetwork {
            address: Some("192.0.2.10/24".into()),
            gateway: Some("192.0.2.1".into()),
            dns: vec!["192.0.2.53".into()],
            ntp: vec![],
            mtu: Some(9000),
            vlan: Some(7),
            bond: Some(Bond {
                mode: "802.3ad".into(),
                members: vec!["02:00:00:00:00:02".into(), "02:00:00:00:00:01".into()],
            }),
        };
        let plan = plan(&machine, &cards()).unwrap();
        assert_eq!((plan.base(), plan.interface().as_str()), ("bond0", "bond0.7"));
        assert_eq!(
            (plan.cards, plan.bond, plan.mtu),
            (vec!["eth1".to_owned(), "eth0".to_owned()], Some(BondMode(4)), Some(9000))
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let mut other = machine();
        other.mac = Some("02:00:00:00:00:09".into());
        let message = plan(&other, &cards()).unwrap_err().to_string();
        assert!(message.contains("02:00:00:00:00:09") && message.contains("eth0 (02:00:00:00:00:01)"), "{message}");
        let mut other = machine();
        other.network.address = Some("192.0.2.10".into());
        let message = plan(&other, &cards()).unwrap_err().to_string();
        assert!(message.contains("m1") && message.contains("network.address is `192.0.2.10`"), "{message}");
        other.network.address = Some("192.0.2.10/33".into());
        assert!(plan(&other, &cards()).is_err());
    }
}
