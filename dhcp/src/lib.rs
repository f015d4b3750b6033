//! DHCP messages of strangers, for init's client and the netboot crate's server.

use dhcproto::v4::Message;
use dhcproto::{Decodable, Decoder};
use std::net::Ipv4Addr;

/// Bytes before the options (RFC 2131 section 2, with the magic cookie).
const FIXED_SIZE: usize = 240;

/// A message as it came from the network, with these of its options and without server name and file. Others never
/// reach the crate's decoder, which asserts where it should refuse (option 81 of one byte ends the program). `None` for
/// anything that is no DHCP message.
pub fn read_message(bytes: &[u8], wanted: &[u8]) -> Option<Message> {
    let (fixed, mut options) = bytes.split_at_checked(FIXED_SIZE)?;
    // The crate believes a hardware address of any length, and ends the program when asked for it.
    if fixed[2] > 16 {
        return None;
    }
    let mut kept = fixed.to_vec();
    kept[44..236].fill(0);
    while let Some((code, rest)) = options.split_first() {
        match code {
            0 => options = rest,
            255 => break,
            code => {
                let (length, rest) = rest.split_first()?;
                let (value, rest) = rest.split_at_checked(usize::from(*length))?;
                if wanted.contains(code) {
                    kept.extend([*code, *length]);
                    kept.extend_from_slice(value);
                }
                options = rest;
            }
        }
    }
    kept.push(255);
    Message::decode(&mut Decoder::new(&kept)).ok()
}

/// Whether one machine may have it.
pub fn usable(address: Ipv4Addr) -> bool {
    !address.is_unspecified() && !address.is_broadcast() && !address.is_loopback() && !address.is_multicast()
}
