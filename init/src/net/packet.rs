//! IPv4 and UDP headers around a DHCP message (RFC 791, RFC 768): before there is an address, and
//! whatever the firewall says, DHCP goes through a packet socket.

use std::net::Ipv4Addr;

pub const CLIENT_PORT: u16 = 68;
pub const SERVER_PORT: u16 = 67;

/// A broadcast from 0.0.0.0:68 to 255.255.255.255:67.
pub fn wrap(payload: &[u8]) -> Vec<u8> {
    let udp_length = 8 + payload.len();
    let mut packet = vec![0u8; 28];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&((20 + udp_length) as u16).to_be_bytes());
    packet[8] = 64;
    packet[9] = 17;
    packet[16..20].copy_from_slice(&Ipv4Addr::BROADCAST.octets());
    let sum = checksum(&packet[..20], 0);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet[20..22].copy_from_slice(&CLIENT_PORT.to_be_bytes());
    packet[22..24].copy_from_slice(&SERVER_PORT.to_be_bytes());
    packet[24..26].copy_from_slice(&(udp_length as u16).to_be_bytes());
    packet.extend_from_slice(payload);
    let pseudo_header = 17 + udp_length as u32 + 2 * 0xffff;
    let sum = match checksum(&packet[20..], pseudo_header) {
        0 => 0xffff,
        sum => sum,
    };
    packet[26..28].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// The payload of a UDP packet to the client's port; `None` for anything else or a broken header.
/// The UDP checksum is not judged: virtual cards deliver packets that carry none yet.
pub fn unwrap(packet: &[u8]) -> Option<&[u8]> {
    let header = usize::from(*packet.first()? & 0xf) * 4;
    let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    let packet = packet.get(..total)?;
    if packet.first()? >> 4 != 4 || header < 20 || *packet.get(9)? != 17 || checksum(packet.get(..header)?, 0) != 0 {
        return None;
    }
    // A fragment has no place in a DHCP answer.
    if packet[6] & 0x3f != 0 || packet[7] != 0 {
        return None;
    }
    let udp = packet.get(header..)?;
    if udp.get(2..4)? != CLIENT_PORT.to_be_bytes() {
        return None;
    }
    let length = usize::from(u16::from_be_bytes([*udp.get(4)?, *udp.get(5)?]));
    udp.get(8..length)
}

/// The Internet checksum (RFC 1071) of `bytes`, with a sum to start from.
fn checksum(bytes: &[u8], start: u32) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])));
    let mut sum: u32 = start + words.sum::<u32>();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_wrapped_comes_out(payload in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut packet = wrap(&payload);
            // As an answer would have the ports, with the frame's padding behind it.
            packet[22..24].copy_from_slice(&CLIENT_PORT.to_be_bytes());
            packet.extend_from_slice(&[0; 7]);
            prop_assert_eq!(unwrap(&packet), Some(payload.as_slice()));
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = unwrap(&bytes);
        }

        #[test]
        fn sums_are_right(payload in proptest::collection::vec(any::<u8>(), 0..100)) {
            let packet = wrap(&payload);
            prop_assert_eq!(checksum(&packet[..20], 0), 0);
            prop_assert_eq!(checksum(&packet[20..], 17 + (packet.len() as u32 - 20) + 2 * 0xffff), 0);
        }
    }
}
