//! Tells the neighbours that an address is now at this machine: an ARP announcement (RFC 5227 section
//! 3) or an unsolicited neighbour advertisement (RFC 4861 section 7.2.6).

use crate::link_address::Link;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike, sendto, socket};
use rustix::net::{SendFlags, SocketFlags, SocketType, ipproto, sockopt};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd;

const ETHERNET_BROADCAST: [u8; 6] = [0xff; 6];
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ARP_REQUEST: u16 = 1;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// The neighbours take it in place of what they remember.
const OVERRIDE: u8 = 0x20;
const OPTION_TARGET_LINK: u8 = 2;
/// Neighbours ignore what a router has passed on.
const HOP_LIMIT: u32 = 255;

/// Sends one announcement of `address` from an Ethernet interface that has it.
pub fn announce(link: &Link, address: IpAddr) -> io::Result<()> {
    let hardware: [u8; 6] = link.hardware.as_slice().try_into().map_err(|_| {
        io::Error::other(format!("a hardware address of {} bytes is not Ethernet's", link.hardware.len()))
    })?;
    match address {
        IpAddr::V4(address) => send_arp(link.index, &arp(hardware, address)),
        IpAddr::V6(address) => send_advertisement(link.index, address, &advertisement(hardware, address)),
    }
}

/// A frame that says "who has ADDRESS? tell ADDRESS", which whoever remembers it takes as news.
fn arp(hardware: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend(ETHERNET_BROADCAST);
    frame.extend(hardware);
    frame.extend(ETHERTYPE_ARP.to_be_bytes());
    frame.extend(1u16.to_be_bytes());
    frame.extend(ETHERTYPE_IPV4.to_be_bytes());
    frame.extend([6, 4]);
    frame.extend(ARP_REQUEST.to_be_bytes());
    frame.extend(hardware);
    frame.extend(address.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame
}

/// Sends a whole frame. The packet socket's address of the interface comes from the system's own list,
/// since there is no safe way to make one.
fn send_arp(index: u32, frame: &[u8]) -> io::Result<()> {
    let interface = interface(index)?;
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    sendto(socket.as_raw_fd(), frame, &interface, MsgFlags::empty())?;
    Ok(())
}

fn interface(index: u32) -> io::Result<LinkAddr> {
    let mut addresses = getifaddrs()?.filter_map(|entry| entry.address);
    addresses
        .find_map(|address| {
            let link = address.as_link_addr().filter(|_| address.family() == Some(AddressFamily::Packet))?;
            (link.ifindex() == index as usize).then_some(*link)
        })
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no interface {index}")))
}

/// An ICMPv6 message; the kernel fills its checksum.
fn advertisement(hardware: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
    message.extend(address.octets());
    // Length in units of eight bytes.
    message.extend([OPTION_TARGET_LINK, 1]);
    message.extend(hardware);
    message
}

fn send_advertisement(index: u32, address: Ipv6Addr, message: &[u8]) -> io::Result<()> {
    let family = rustix::net::AddressFamily::INET6;
    let socket = rustix::net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::ICMPV6))?;
    sockopt::set_ipv6_multicast_hops(&socket, HOP_LIMIT)?;
    rustix::net::bind(&socket, &SocketAddrV6::new(address, 0, 0, 0))?;
    rustix::net::sendto(&socket, message, SendFlags::empty(), &SocketAddrV6::new(ALL_NODES, 0, 0, index))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::link_address;
    use crate::netlink::tests::in_a_namespace;
    use nix::sys::socket::{SockProtocol, recv};
    use std::time::{Duration, Instant};

    #[test]
    fn an_arp_announcement_has_the_address_as_sender_and_target() {
        let frame = arp([2, 0, 0, 0, 0, 1], Ipv4Addr::new(192, 0, 2, 100));
        let expected =
            "ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 c0000264 000000000000 c0000264";
        let text: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, expected.replace(' ', ""));
    }

    /// Frames as they arrive at the other end of the wire.
    #[test]
    fn neighbours_receive_both_kinds() {
        if !in_a_namespace("announce::tests::neighbours_receive_both_kinds") {
            return;
        }
        let link = link_address::find("up0").unwrap();
        let hardware: [u8; 6] = link.hardware.clone().try_into().unwrap();
        let receiver =
            socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll).unwrap();
        // Again until it arrives: the kernel may still be bringing the new link up.
        let arrives = |address: IpAddr, wanted: &dyn Fn(&[u8]) -> bool| {
            link_address::add_for(link.index, address, 600).unwrap();
            let end = Instant::now() + Duration::from_secs(30);
            let mut buffer = [0u8; 2048];
            loop {
                assert!(Instant::now() < end, "{address}: it does not arrive");
                announce(&link, address).unwrap();
                while let Ok(length) = recv(receiver.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                    if wanted(&buffer[..length]) {
                        return;
                    }
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        let v4 = Ipv4Addr::new(192, 0, 2, 100);
        arrives(v4.into(), &|frame| frame == arp(hardware, v4));
        let v6: Ipv6Addr = "fd00::100".parse().unwrap();
        // Behind the Ethernet and IPv6 headers, but for the checksum.
        let message = advertisement(hardware, v6);
        arrives(v6.into(), &|frame| frame.len() == 54 + 32 && frame[21] == 255 && frame[58..] == message[4..]);
    }
}
