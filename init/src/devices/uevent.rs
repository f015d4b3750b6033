//! The kernel's device events: netlink KOBJECT_UEVENT, text of `KEY=VALUE` separated by zero bytes.

use rustix::fd::OwnedFd;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use std::collections::HashMap;
use std::io;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Uevent {
    /// `add`, `remove`, `change`, `bind`, ...
    pub action: String,
    /// Below /sys.
    pub path: String,
    pub values: HashMap<String, String>,
}

impl Uevent {
    pub fn value(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }
}

/// Parses a datagram of the kernel. `None` for anything that does not begin with `ACTION@PATH`.
pub fn parse(datagram: &[u8]) -> Option<Uevent> {
    let mut parts = datagram.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let head = parts.next()?;
    let (action, path) = head.split_once('@')?;
    let pairs = parts.filter_map(|part| part.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())));
    Some(Uevent { action: action.to_owned(), path: path.to_owned(), values: pairs.collect() })
}

/// A subscription; open it before looking at /sys, so that nothing falls between.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
}

impl Listener {
    /// # Errors
    /// As the kernel answers.
    pub fn open() -> io::Result<Listener> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            Some(KOBJECT_UEVENT),
        )?;
        // A coldplug of a big machine is a burst.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 4 * 1024 * 1024);
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 1))?;
        Ok(Listener { socket })
    }

    /// Waits for the next event; `None` when `limit` has passed, and for events lost in a burst
    /// (ENOBUFS) an empty event, upon which the caller looks at /sys itself.
    ///
    /// # Errors
    /// As the kernel answers.
    pub fn next(&self, limit: Option<std::time::Duration>) -> io::Result<Option<Uevent>> {
        let mut buffer = [0u8; 16 * 1024];
        loop {
            if !crate::wait_readable(&self.socket, limit)? {
                return Ok(None);
            }
            match rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    if let Some(event) = parse(&buffer[..length]) {
                        return Ok(Some(event));
                    }
                }
                Err(rustix::io::Errno::NOBUFS) => return Ok(Some(Uevent::default())),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_the_kernel() {
        let event =
            parse(b"add@/devices/pci0000:00/usb1\0ACTION=add\0MODALIAS=usb:v1D6Bp0002\0SUBSYSTEM=usb\0").unwrap();
        assert_eq!((event.action.as_str(), event.path.as_str()), ("add", "/devices/pci0000:00/usb1"));
        assert_eq!(event.value("MODALIAS"), Some("usb:v1D6Bp0002"));
        assert_eq!(parse(b"libudev\0\xfe\xed"), None);
    }
}
