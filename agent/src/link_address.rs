//! Gives the loopback interface the node-local DNS cache's address, by one rtnetlink message
//! (rtnetlink(7), RTM_NEWADDR): the image has no `ip` program.

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType};
use std::io;
use std::net::Ipv4Addr;

const NEW_ADDRESS: u16 = 20;
const ERROR: u16 = 2;
const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const CREATE: u16 = 0x400;
const REPLACE: u16 = 0x100;
const INTERNET: u8 = 2;
const ATTRIBUTE_ADDRESS: u16 = 1;
const ATTRIBUTE_LOCAL: u16 = 2;
/// The loopback interface is always the first.
const LOOPBACK_INDEX: u32 = 1;

/// Adds ADDRESS/32 to lo; having it already is fine.
pub fn add_to_loopback(address: Ipv4Addr) -> io::Result<()> {
    let socket = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    let kernel = SocketAddrNetlink::new(0, 0);
    rustix::net::sendto(&socket, &message(address), SendFlags::empty(), &kernel)?;
    let mut answer = [0u8; 512];
    let (length, _) = rustix::net::recv(&socket, answer.as_mut_slice(), RecvFlags::empty())?;
    match error_code(&answer[..length]) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code)),
        None => Err(io::Error::other(format!("rtnetlink answered {length} bytes that are no acknowledgement"))),
    }
}

fn message(address: Ipv4Addr) -> Vec<u8> {
    let mut body = vec![INTERNET, 32, 0, 0];
    body.extend(LOOPBACK_INDEX.to_ne_bytes());
    for kind in [ATTRIBUTE_LOCAL, ATTRIBUTE_ADDRESS] {
        body.extend(8u16.to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(address.octets());
    }
    let mut message = Vec::with_capacity(16 + body.len());
    message.extend((16 + body.len() as u32).to_ne_bytes());
    message.extend(NEW_ADDRESS.to_ne_bytes());
    message.extend((REQUEST | ACKNOWLEDGE | CREATE | REPLACE).to_ne_bytes());
    message.extend(1u32.to_ne_bytes());
    message.extend(0u32.to_ne_bytes());
    message.extend(body);
    message
}

/// The errno (positive) of an acknowledgement; 0 is success.
fn error_code(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let code = i32::from_ne_bytes(answer.get(16..20)?.try_into().ok()?);
    (kind == ERROR).then(|| code.saturating_neg())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_has_the_length_it_says() {
        let message = message(Ipv4Addr::new(169, 254, 20, 10));
        assert_eq!(message.len(), 16 + 8 + 16);
        assert_eq!(message[..4], 40u32.to_ne_bytes());
        assert_eq!(message[28..32], [169, 254, 20, 10]);
    }

    #[test]
    fn acknowledgements_carry_an_error_or_zero() {
        let mut answer = vec![0u8; 36];
        answer[4..6].copy_from_slice(&ERROR.to_ne_bytes());
        assert_eq!(error_code(&answer), Some(0));
        answer[16..20].copy_from_slice(&(-1i32).to_ne_bytes());
        assert_eq!(error_code(&answer), Some(1));
        assert_eq!(error_code(&answer[..10]), None);
        answer[4] = 9;
        assert_eq!(error_code(&answer), None);
    }
}
