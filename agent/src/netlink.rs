//! rtnetlink(7) by hand: requests with their acknowledgement, dumps, attributes. The image has no `ip`
//! program. The kernel answers before `send` returns, so nothing here waits.

use rustix::fd::OwnedFd;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::io;
use std::net::IpAddr;

/// Makes what is not there.
pub const CREATE: u16 = 0x400;
/// Takes the place of what is there.
pub const REPLACE: u16 = 0x100;
const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const DUMP: u16 = 0x300;

const ERROR: u16 = 2;
const DONE: u16 = 3;
const HEADER: usize = 16;
/// The kernel fills at most this much of a dump at once.
const BUFFER: usize = 32 * 1024;

/// Address families as rtnetlink writes them.
pub const INTERNET: u8 = 2;
pub const INTERNET6: u8 = 10;

/// A message of the kernel: its type and what is behind the header.
pub type Message = (u16, Vec<u8>);

/// A connection for requests.
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub fn open() -> io::Result<Netlink> {
        // NETLINK_ROUTE is protocol 0, which is what `None` means.
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Netlink { socket, sequence: 0 })
    }

    /// Sends a request, and gives the kernel's errno where it refuses.
    pub fn request(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.send(kind, ACKNOWLEDGE | flags, body)?;
        self.receive(|_| {})
    }

    /// Everything of a kind: `body` is the request's fixed part.
    pub fn dump(&mut self, kind: u16, body: &[u8]) -> io::Result<Vec<Message>> {
        self.send(kind, DUMP, body)?;
        let mut messages = Vec::new();
        self.receive(|message| messages.push(message))?;
        Ok(messages)
    }

    fn send(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = message(kind, REQUEST | flags, self.sequence, body);
        rustix::net::sendto(&self.socket, &bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        Ok(())
    }

    /// Reads until the acknowledgement or the end of the dump.
    fn receive(&self, mut each: impl FnMut(Message)) -> io::Result<()> {
        let mut buffer = vec![0u8; BUFFER];
        loop {
            let (length, _) = rustix::net::recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty())?;
            for (kind, sequence, body) in messages(&buffer[..length]) {
                match kind {
                    // Of a request that was given up.
                    _ if sequence != self.sequence => {}
                    ERROR | DONE => return result(body),
                    _ => each((kind, body.to_vec())),
                }
            }
        }
    }
}

/// A message with its header.
fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend(0u32.to_ne_bytes());
    message.extend(body);
    message
}

/// The messages of a datagram: type, sequence number, body. Ends where a length is wrong.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let sequence = u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, sequence, body))
    })
}

/// An acknowledgement's or dump's end: a negative errno, or not.
fn result(body: &[u8]) -> io::Result<()> {
    let code = body.get(..4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match code {
        Some(code) if code < 0 => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        Some(_) => Ok(()),
        None => Err(io::Error::other(format!("rtnetlink answered {} bytes that are no acknowledgement", body.len()))),
    }
}

/// Adds an attribute.
pub fn put(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend((4 + value.len() as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// The attributes behind a message's fixed part. Ends where a length is wrong.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

pub fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { INTERNET } else { INTERNET6 }
}

pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// An address out of an attribute's value.
pub fn address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(Into::into),
        16 => <[u8; 16]>::try_from(value).ok().map(Into::into),
        _ => None,
    }
}

#[cfg(test)]
pub mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    const INSIDE: &str = "IMGBUILD_TEST_NAMESPACE";

    /// Runs the test `name` (its full path) again in a network namespace of its own with the veth pair
    /// `up0` and `up1`. Whether this is that run. Needs root and iproute2; without root it says so.
    pub fn in_a_namespace(name: &str) -> bool {
        if std::env::var_os(INSIDE).is_some() {
            return true;
        }
        if !rustix::process::geteuid().is_root() {
            eprintln!("{name}: skipped, it needs root for a network namespace");
            return false;
        }
        let script = "ip link add up0 type veth peer name up1 && ip link set lo up && \
                      ip link set up0 up && ip link set up1 up && exec \"$0\" --exact \"$1\" --nocapture";
        let output = Command::new("unshare")
            .args(["--net", "--", "sh", "-c", script])
            .arg(std::env::current_exe().unwrap())
            .arg(name)
            .env(INSIDE, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        false
    }

    /// The output of `ip` with these arguments.
    pub fn ip(arguments: &str) -> String {
        let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
        assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn an_acknowledgement_carries_an_error_or_zero() {
        assert!(result(&0i32.to_ne_bytes()).is_ok());
        assert_eq!(result(&(-17i32).to_ne_bytes()).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(result(&[0]).is_err());
    }

    #[test]
    fn the_kernel_answers_dumps_and_refuses_nonsense() {
        let mut netlink = Netlink::open().unwrap();
        let links = netlink.dump(18, &[0; 16]).unwrap();
        assert!(
            links.iter().any(|(_, body)| attributes(&body[16..]).any(|(kind, value)| (kind, value) == (3, b"lo\0")))
        );
        assert!(netlink.request(9999, 0, &[]).is_err());
        assert!(netlink.dump(18, &[0; 16]).is_ok(), "it goes on after an error");
    }

    proptest! {
        #[test]
        fn attributes_are_read_as_they_were_put(
            values in prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u8>(), 0..40)), 0..6)
        ) {
            let mut body = Vec::new();
            values.iter().for_each(|(kind, value)| put(&mut body, *kind, value));
            let found: Vec<_> = attributes(&body).map(|(kind, value)| (kind, value.to_vec())).collect();
            prop_assert_eq!(found, values);
        }

        #[test]
        fn messages_are_read_as_they_were_made(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6)) {
            let mut bytes = Vec::new();
            for body in &bodies {
                bytes.extend(message(24, 0, 7, body));
                bytes.resize(bytes.len().next_multiple_of(4), 0);
            }
            let found: Vec<_> = messages(&bytes).map(|(_, _, body)| body.to_vec()).collect();
            prop_assert_eq!(found, bodies);
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = messages(&bytes).count();
            let _ = attributes(&bytes).count();
            let _ = result(&bytes);
        }
    }
}
