//! Addresses of interfaces: the node-local DNS cache's on loopback, the masters' virtual one.

use crate::netlink::{self, CREATE, Netlink, REPLACE};
use std::io;
use std::net::{IpAddr, Ipv4Addr};

const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const ATTRIBUTE_ADDRESS: u16 = 1;
const ATTRIBUTE_LOCAL: u16 = 2;
const ATTRIBUTE_LIFE: u16 = 6;
const GET_LINK: u16 = 18;
const LINK_FIXED: usize = 16;
const ATTRIBUTE_HARDWARE: u16 = 1;
const ATTRIBUTE_NAME: u16 = 3;
/// The loopback interface is always the first.
const LOOPBACK_INDEX: u32 = 1;
/// Of an address: no duplicate address detection (IPv6).
const NO_DETECTION: u8 = 0x02;

/// Adds ADDRESS/32 to lo; having it already is fine.
pub fn add_to_loopback(address: Ipv4Addr) -> io::Result<()> {
    add(LOOPBACK_INDEX, address.into())
}

/// Adds ADDRESS/32 (IPv6: /128) to an interface; having it already is fine. It can be used at once.
pub fn add(interface: u32, address: IpAddr) -> io::Result<()> {
    Netlink::open()?.request(NEW_ADDRESS, CREATE | REPLACE, &body(interface, address))
}

/// The same for so many seconds from now: the kernel takes it away when it is not prolonged. Meanwhile
/// the machine does not choose it for connections of its own (it counts as deprecated).
pub fn add_for(interface: u32, address: IpAddr, seconds: u32) -> io::Result<()> {
    let mut body = body(interface, address);
    // An `ifa_cacheinfo`: preferred and valid seconds, and two times that the kernel fills.
    let life = [0, seconds, 0, 0].map(u32::to_ne_bytes).concat();
    netlink::put(&mut body, ATTRIBUTE_LIFE, &life);
    Netlink::open()?.request(NEW_ADDRESS, CREATE | REPLACE, &body)
}

/// Takes it away again; not having it is fine.
pub fn remove(interface: u32, address: IpAddr) -> io::Result<()> {
    match Netlink::open()?.request(DELETE_ADDRESS, 0, &body(interface, address)) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Ok(()),
        other => other,
    }
}

/// An interface as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    /// Hardware address; six bytes on Ethernet.
    pub hardware: Vec<u8>,
}

/// Looks an interface up by its name.
pub fn find(interface: &str) -> io::Result<Link> {
    let links = Netlink::open()?.dump(GET_LINK, &[0; LINK_FIXED])?;
    let missing = || io::Error::new(io::ErrorKind::NotFound, format!("there is no interface {interface}"));
    links.iter().find_map(|(_, body)| read_link(body, interface)).ok_or_else(missing)
}

/// The link in an `ifinfomsg` with its attributes, when it has this name.
fn read_link(body: &[u8], name: &str) -> Option<Link> {
    let attribute = |wanted: u16| {
        netlink::attributes(body.get(LINK_FIXED..)?).find_map(|(kind, value)| (kind == wanted).then_some(value))
    };
    let found = attribute(ATTRIBUTE_NAME)?;
    (found.strip_suffix(b"\0").unwrap_or(found) == name.as_bytes()).then_some(())?;
    let index = u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?);
    Some(Link { index, hardware: attribute(ATTRIBUTE_HARDWARE).unwrap_or_default().to_vec() })
}

/// An `ifaddrmsg` with the address alone.
fn body(interface: u32, address: IpAddr) -> Vec<u8> {
    let octets = netlink::octets(address);
    let prefix = 8 * octets.len() as u8;
    let flags = if address.is_ipv6() { NO_DETECTION } else { 0 };
    let mut body = vec![netlink::family(address), prefix, flags, 0];
    body.extend(interface.to_ne_bytes());
    for kind in [ATTRIBUTE_LOCAL, ATTRIBUTE_ADDRESS] {
        netlink::put(&mut body, kind, &octets);
    }
    body
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::netlink::tests::{in_a_namespace, ip};
    use std::time::{Duration, Instant};

    #[test]
    fn the_body_is_an_address_twice() {
        let body = body(1, Ipv4Addr::new(169, 254, 20, 10).into());
        assert_eq!(body.len(), 8 + 16);
        assert_eq!(body[12..16], [169, 254, 20, 10]);
        assert_eq!(body[..4], [2, 32, 0, 0]);
    }

    #[test]
    fn addresses_come_and_go_twice_without_complaint() {
        if !in_a_namespace("link_address::tests::addresses_come_and_go_twice_without_complaint") {
            return;
        }
        let Link { index: interface, hardware } = find("up0").unwrap();
        assert_eq!(hardware.len(), 6);
        assert_eq!(find("up9").unwrap_err().kind(), io::ErrorKind::NotFound);
        for text in ["192.0.2.100", "fd00::100"] {
            let address = text.parse().unwrap();
            add(interface, address).unwrap();
            add(interface, address).unwrap();
            assert!(ip("address show dev up0").contains(text));
            remove(interface, address).unwrap();
            remove(interface, address).unwrap();
            assert!(!ip("address show dev up0").contains(text));
        }
        for text in ["192.0.2.101", "fd00::101"] {
            let address = text.parse().unwrap();
            let there = || ip("address show dev up0").contains(text);
            add_for(interface, address, 2).unwrap();
            std::thread::sleep(Duration::from_secs(1));
            add_for(interface, address, 2).unwrap();
            assert!(ip("address show dev up0 deprecated").contains(text));
            let end = Instant::now() + Duration::from_secs(10);
            while there() {
                assert!(Instant::now() < end, "the kernel keeps {text}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        add_to_loopback(Ipv4Addr::new(169, 254, 20, 10)).unwrap();
        assert!(ip("address show dev lo").contains("169.254.20.10/32"));
    }
}
