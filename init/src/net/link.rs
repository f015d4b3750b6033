//! rtnetlink: links, addresses, routes. Messages by netlink-packet-route, the socket by hand.

use super::plan::{BondMode, Card};
use crate::files::trimmed;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoBond, InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::fd::OwnedFd;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, SocketType};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

/// Group of link changes (RTMGRP_LINK).
const LINK_CHANGES: u32 = 1;

/// A descriptor that becomes readable whenever a link appears, goes, or gains or loses its carrier.
///
/// # Errors
/// As the kernel answers.
pub fn link_changes() -> io::Result<OwnedFd> {
    open(LINK_CHANGES)
}

/// Empties the descriptor of [`link_changes`].
pub fn drain(changes: &OwnedFd) {
    let mut buffer = [0u8; 8192];
    while matches!(
        rustix::net::recv(changes, &mut buffer[..], RecvFlags::DONTWAIT),
        Ok(_) | Err(rustix::io::Errno::NOBUFS)
    ) {}
}

fn open(groups: u32) -> io::Result<OwnedFd> {
    // NETLINK_ROUTE is protocol 0, which is what `None` means.
    let socket =
        rustix::net::socket_with(rustix::net::AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// Physical Ethernet cards, in the order in which the kernel found them.
pub fn cards() -> Vec<Card> {
    let names = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let mut cards: Vec<(u32, Card)> = names
        .filter(|entry| entry.path().join("device").exists() && !entry.path().join("wireless").exists())
        .filter(|entry| trimmed(entry.path().join("type")).as_deref() == Some("1"))
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            // A bond gives its members one address; the card's own one stays in the bond's folder.
            let permanent = trimmed(entry.path().join("bonding_slave/perm_hwaddr"));
            let mac = super::parse_mac(&permanent.or_else(|| trimmed(entry.path().join("address")))?)?;
            let carrier = trimmed(entry.path().join("carrier")).as_deref() == Some("1");
            Some((index(&name)?, Card { name, mac, carrier }))
        })
        .collect();
    cards.sort_by_key(|(index, _)| *index);
    cards.into_iter().map(|(_, card)| card).collect()
}

/// Interface index.
pub fn index(name: &str) -> Option<u32> {
    trimmed(Path::new("/sys/class/net").join(name).join("ifindex"))?.parse().ok()
}

pub fn has_carrier(name: &str) -> bool {
    trimmed(Path::new("/sys/class/net").join(name).join("carrier")).as_deref() == Some("1")
}

pub fn mac(name: &str) -> Option<[u8; 6]> {
    super::parse_mac(&trimmed(Path::new("/sys/class/net").join(name).join("address"))?)
}

/// A connection for requests.
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// # Errors
    /// As the kernel answers.
    pub fn open() -> io::Result<Netlink> {
        Ok(Netlink { socket: open(0)?, sequence: 0 })
    }

    fn request(&mut self, payload: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence += 1;
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(payload));
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        rustix::net::send(&self.socket, &bytes, SendFlags::empty())?;
        self.acknowledgement()
    }

    fn acknowledgement(&self) -> io::Result<()> {
        let mut buffer = [0u8; 8192];
        loop {
            if !crate::wait_readable(&self.socket, Some(Duration::from_secs(5)))? {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let (length, _) = rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
            let answer =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(&buffer[..length]).map_err(io::Error::other)?;
            match answer.payload {
                NetlinkPayload::Error(error) if answer.header.sequence_number == self.sequence => {
                    return match error.code {
                        None => Ok(()),
                        Some(code) => Err(io::Error::from_raw_os_error(-code.get())),
                    };
                }
                _ => {}
            }
        }
    }

    /// Brings a link up, with an MTU and a bond above it where given.
    ///
    /// # Errors
    /// As the kernel answers.
    pub fn bring_up(&mut self, index: u32, mtu: Option<u32>) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes.extend(mtu.map(LinkAttribute::Mtu));
        self.request(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Makes a bond that watches its members' carrier every 100 ms. One that is there is kept.
    ///
    /// # Errors
    /// As the kernel answers.
    pub fn make_bond(&mut self, name: &str, mode: BondMode) -> io::Result<()> {
        let data = vec![InfoBond::Mode(mode.0.into()), InfoBond::MiiMon(100)];
        self.make(name, vec![], vec![LinkInfo::Kind(InfoKind::Bond), LinkInfo::Data(InfoData::Bond(data))])
    }

    /// Makes a VLAN on top of the link `below`. One that is there is kept.
    ///
    /// # Errors
    /// As the kernel answers.
    pub fn make_vlan(&mut self, name: &str, below: u32, id: u16) -> io::Result<()> {
        let info = vec![LinkInfo::Kind(InfoKind::Vlan), LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(id)]))];
        self.make(name, vec![LinkAttribute::Link(below)], info)
    }

    fn make(&mut self, name: &str, mut attributes: Vec<LinkAttribute>, info: Vec<LinkInfo>) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.append(&mut attributes);
        message.attributes.push(LinkAttribute::LinkInfo(info));
        match self.request(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    /// Puts a card, taken down first, into a bond.
    ///
    /// # Errors
    /// As the kernel answers.
    pub fn enslave(&mut self, card: u32, bond: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = card;
        message.header.change_mask = LinkFlags::Up;
        self.request(RouteNetlinkMessage::SetLink(message.clone()), 0)?;
        message.header.change_mask = LinkFlags::empty();
        message.attributes.push(LinkAttribute::Controller(bond));
        self.request(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Adds (or prolongs) an address.
    ///
    /// # Errors
    /// As the kernel answers.
    pub fn add_address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let message = address_message(index, address, prefix);
        self.request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// # Errors
    /// As the kernel answers.
    pub fn remove_address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        self.request(RouteNetlinkMessage::DelAddress(address_message(index, address, prefix)), 0)
    }

    /// Sets the default route. A gateway outside the subnet (a /32 lease) is reached on the link.
    ///
    /// # Errors
    /// As the kernel answers.
    pub fn set_default_route(&mut self, index: u32, gateway: Ipv4Addr, source: Ipv4Addr) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = 254;
        message.header.protocol = RouteProtocol::Dhcp;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.header.flags = netlink_packet_route::route::RouteFlags::Onlink;
        message.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
        message.attributes.push(RouteAttribute::Oif(index));
        message.attributes.push(RouteAttribute::PrefSource(RouteAddress::Inet(source)));
        self.request(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
    }
}

fn address_message(index: u32, address: Ipv4Addr, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = prefix;
    message.header.scope = AddressScope::Universe;
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(IpAddr::V4(address)));
    message.attributes.push(AddressAttribute::Address(IpAddr::V4(address)));
    if prefix < 31 {
        let host_bits = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
        message.attributes.push(AddressAttribute::Broadcast(Ipv4Addr::from(u32::from(address) | host_bits)));
    }
    message
}
