//! Network cards and what they are plugged into.

use crate::Result;
use crate::arguments::{Arguments, escape};
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// A network card of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    pub link: NicLink,
    pub model: NicModel,
    /// `None`: drawn from the machine's name and the card's number, so that it is the same each time.
    pub mac: Option<String>,
    /// Keep the card's boot ROM: needed to boot from the network by BIOS.
    pub boot_rom: bool,
    /// Place in the firmware's boot order, from 0.
    pub boot_index: Option<u32>,
}

/// What a card is plugged into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NicLink {
    /// QEMU's own network (10.0.2.0/24 with DHCP, DNS and a way out), TCP ports forwarded from the
    /// host's loopback. `isolated` cuts the way out, the host's loopback included.
    User { forwards: Vec<Forward>, isolated: bool },
    /// One end of a cable as a unix stream socket: one machine listens, the other connects.
    Stream { path: PathBuf, listen: bool },
    /// One end of a cable as a pair of unix datagram sockets, each end bound to its own path: either
    /// machine may start, stop and come back on its own.
    Datagram { local: PathBuf, remote: PathBuf },
    /// An interface of the host's, or of the network namespace that QEMU is started in (tun(4)): it is there already.
    Tap { name: String },
    /// A hub: every machine with the same multicast group and port, on the host's loopback only.
    Multicast { group: Ipv4Addr, port: u16 },
}

/// A TCP port of the guest that the host's loopback reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// 0: the system picks a free one when QEMU binds it, so that no other program can take it in
    /// between; [`crate::Running::forwarded_port`] tells which.
    pub host_port: u16,
    pub guest_port: u16,
}

/// The device that the guest sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NicModel {
    #[default]
    Virtio,
    E1000,
    E1000e,
    Igb,
    Rtl8139,
    Vmxnet3,
}

impl NicModel {
    /// QEMU's name of the device.
    pub const fn device(self) -> &'static str {
        match self {
            NicModel::Virtio => "virtio-net-pci",
            NicModel::E1000 => "e1000",
            NicModel::E1000e => "e1000e",
            NicModel::Igb => "igb",
            NicModel::Rtl8139 => "rtl8139",
            NicModel::Vmxnet3 => "vmxnet3",
        }
    }
}

impl NicLink {
    /// The value of `-netdev`.
    pub(crate) fn netdev(&self, id: &str, arguments: &Arguments) -> Result<String> {
        let path = |path| arguments.path(path).map(|path| escape(&path));
        Ok(match self {
            NicLink::User { forwards, isolated } => {
                let mut text = format!("user,id={id},ipv6=off");
                if *isolated {
                    text += ",restrict=on";
                }
                for forward in forwards {
                    text += &format!(",hostfwd=tcp:127.0.0.1:{}-:{}", forward.host_port, forward.guest_port);
                }
                text
            }
            NicLink::Stream { path: socket, listen } => {
                let server = if *listen { "on" } else { "off" };
                format!("stream,id={id},server={server},addr.type=unix,addr.path={}", path(socket)?)
            }
            NicLink::Datagram { local, remote } => {
                let (local, remote) = (path(local)?, path(remote)?);
                format!("dgram,id={id},local.type=unix,local.path={local},remote.type=unix,remote.path={remote}")
            }
            NicLink::Tap { name } => format!("tap,id={id},ifname={name},script=no,downscript=no"),
            NicLink::Multicast { group, port } => {
                format!(
                    "dgram,id={id},remote.type=inet,remote.host={group},remote.port={port},local.type=inet,local.host=127.0.0.1,local.port=0"
                )
            }
        })
    }
}

impl Nic {
    pub fn new(link: NicLink) -> Nic {
        Nic { link, model: NicModel::default(), mac: None, boot_rom: false, boot_index: None }
    }

    /// QEMU's own network with these guest ports reachable on free ports of the host's loopback.
    pub fn user(guest_ports: &[u16]) -> Nic {
        let forwards = guest_ports.iter().map(|&guest_port| Forward { host_port: 0, guest_port }).collect();
        Nic::new(NicLink::User { forwards, isolated: false })
    }
}

/// The MAC address of a card that was given none: QEMU's prefix and three bytes of FNV-1a over name
/// and number, so that two machines on one network differ.
pub fn default_mac(machine: &str, card: usize) -> String {
    let bytes = machine.bytes().chain([0, card.to_le_bytes()[0]]);
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let [a, b, c, ..] = hash.to_be_bytes();
    format!("52:54:00:{a:02x}:{b:02x}:{c:02x}")
}

/// A TCP forward of QEMU's own network, as the monitor tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forwarded {
    /// On the host's loopback.
    pub host_port: u16,
    pub guest_address: Ipv4Addr,
    pub guest_port: u16,
}

/// The forwards in the monitor's `info usernet`.
pub(crate) fn parse_forwards(listing: &str) -> Vec<Forwarded> {
    listing
        .lines()
        .filter(|line| line.trim_start().starts_with("TCP[HOST_FORWARD]"))
        .filter_map(|line| {
            let mut fields = line.split_whitespace().skip(2);
            let _host_address = fields.next()?;
            let host_port = fields.next()?.parse().ok()?;
            let guest_address = fields.next()?.parse().ok()?;
            Some(Forwarded { host_port, guest_address, guest_port: fields.next()?.parse().ok()? })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_and_cards_get_addresses_of_their_own() {
        assert_eq!(default_mac("m1", 0), default_mac("m1", 0));
        assert_ne!(default_mac("m1", 0), default_mac("m1", 1));
        assert_ne!(default_mac("m1", 0), default_mac("m2", 0));
        assert!(default_mac("m1", 0).starts_with("52:54:00:"));
    }

    #[test]
    fn the_monitors_listing_tells_the_forwarded_ports() {
        let listing = "Hub -1 (net0):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
                       TCP[HOST_FORWARD]  13       127.0.0.1 37645       10.0.2.15  6443     0     0\r\n  \
                       TCP[ESTABLISHED]   19       127.0.0.1 37645       10.0.2.15  6443     0     0\r\n  \
                       UDP[236 sec]       21       10.0.2.15 49563        10.0.2.3    53     0     0\r\n  \
                       TCP[HOST_FORWARD]  12       127.0.0.1 41139       10.0.2.15  9100     0     0\r\n";
        let forwarded = |host_port, guest_port| {
            let guest_address = Ipv4Addr::new(10, 0, 2, 15);
            Forwarded { host_port, guest_address, guest_port }
        };
        assert_eq!(parse_forwards(listing), [forwarded(37645, 6443), forwarded(41139, 9100)]);
    }
}
