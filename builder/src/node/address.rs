//! Where a machine's agent listens: as the definition says, or as given on the command line.

use crate::cluster::Definition;
use crate::error::{Error, Result};
use spec::cluster::Machine;
use spec::ports;
use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

/// `NAME=IP[:PORT]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineAddress {
    pub name: String,
    pub address: SocketAddr,
}

/// `IP` or `IP:PORT`, IPv6 in brackets where a port follows; without a port the agents' own.
///
/// # Errors
/// What is wanted instead, for the command line.
pub fn parse_address(text: &str) -> std::result::Result<SocketAddr, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let alone = bare.parse::<IpAddr>().map(|address| SocketAddr::new(address, ports::AGENT));
    text.parse().or(alone).map_err(|_| "IP or IP:PORT is wanted, such as 192.0.2.11 or 127.0.0.1:40001".to_owned())
}

/// The same of a machine.
///
/// # Errors
/// As [`parse_address`].
pub fn parse_machine_address(text: &str) -> std::result::Result<MachineAddress, String> {
    let (name, address) = text.split_once('=').ok_or("NAME=IP[:PORT] is wanted, such as master-1=127.0.0.1:40001")?;
    Ok(MachineAddress { name: name.to_owned(), address: parse_address(address)? })
}

/// As the definition says; `None`: the machine's address comes by DHCP.
pub(super) fn defined(machine: &Machine) -> Option<SocketAddr> {
    Some(SocketAddr::new(machine.static_address()?, ports::AGENT))
}

impl Definition {
    /// The machine of this name.
    ///
    /// # Errors
    /// Bad input with the names that there are.
    pub fn machine(&self, name: &str) -> Result<Cow<'_, Machine>> {
        let machines = &self.cluster.machines;
        self.cluster.machine(name).ok_or_else(|| {
            const SHOWN: usize = 20;
            let names: Vec<&str> = machines.iter().take(SHOWN).map(|machine| machine.name.as_str()).collect();
            let more = if machines.len() > SHOWN { " and others" } else { "" };
            Error::bad_input(format!("the cluster {} has no machine {name:?}", self.cluster.name))
                .help(format!("it has {}{more}; another cluster: --cluster NAME", names.join(", ")))
        })
    }

    /// Where the agent of a machine listens.
    ///
    /// # Errors
    /// Bad input for a machine that the definition does not list, or has no address of.
    pub fn agent_address(&self, name: &str, given: Option<SocketAddr>) -> Result<SocketAddr> {
        let machine = self.machine(name)?;
        given.or_else(|| defined(&machine)).ok_or_else(|| {
            Error::bad_input(format!("{name} gets its address by DHCP: {} has none of it", self.source.name))
                .help("give it: --address IP, or --address IP:PORT where a port is forwarded to the machine")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_port_or_the_agents() {
        for (text, wanted) in [
            ("192.0.2.1", "192.0.2.1:7443"),
            ("127.0.0.1:40001", "127.0.0.1:40001"),
            ("2001:db8::1", "[2001:db8::1]:7443"),
            ("[2001:db8::1]", "[2001:db8::1]:7443"),
            ("[2001:db8::1]:1", "[2001:db8::1]:1"),
        ] {
            assert_eq!(parse_address(text), Ok(wanted.parse().unwrap()), "{text}");
        }
        for text in ["", "m1", "192.0.2.1:", "192.0.2.1/24", "192.0.2.1:99999"] {
            assert!(parse_address(text).is_err(), "{text}");
            assert!(parse_machine_address(&format!("m1={text}")).is_err(), "{text}");
        }
        assert_eq!(parse_machine_address("m1=192.0.2.1").map(|found| found.name), Ok("m1".to_owned()));
        assert!(parse_machine_address("192.0.2.1").is_err());
    }
}
