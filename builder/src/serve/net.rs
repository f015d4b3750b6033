//! The host's side: the address that machines see, and the sockets.

use crate::error::{Error, Problem, Result};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{setsockopt, sockopt};
use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};

/// An interface with an IPv4 address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub address: Ipv4Addr,
}

/// All but lo.
fn interfaces() -> Result<Vec<Interface>> {
    let all = getifaddrs().map_err(|error| Error::because("the host's interfaces cannot be listed", error))?;
    let found = all.filter_map(|interface| {
        let address = interface.address?.as_sockaddr_in()?.ip();
        (!address.is_loopback()).then_some(Interface { name: interface.interface_name, address })
    });
    Ok(found.collect())
}

/// The interface with this address or name; without one, the only one there is.
///
/// # Errors
/// Bad input that lists what there is.
pub fn choose(wanted: Option<&str>) -> Result<Interface> {
    pick(wanted, interfaces()?)
}

fn pick(wanted: Option<&str>, there: Vec<Interface>) -> Result<Interface> {
    let list: Vec<String> = there.iter().map(|found| format!("{} on {}", found.address, found.name)).collect();
    let list = if list.is_empty() { "none".to_owned() } else { list.join(", ") };
    let fits =
        |found: &Interface| wanted.is_none_or(|wanted| wanted == found.name || wanted.parse() == Ok(found.address));
    let mut fitting = there.into_iter().filter(fits);
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(match wanted {
            Some(wanted) => Error::bad_input(format!("this host has no IPv4 address or interface {wanted}")),
            None => Error::bad_input("this host has no IPv4 address that a machine could reach"),
        }
        .help(format!("it has {list}"))),
        _ => Err(Problem::new("which of this host's networks are the machines on?")
            .help(format!("--on ADDRESS or --on INTERFACE; it has {list}"))
            .into()),
    }
}

/// A UDP socket on every address of one interface, which hears broadcasts and may send them.
///
/// # Errors
/// As [`refused`].
pub fn broadcast_socket(interface: &Interface, port: u16) -> Result<UdpSocket> {
    let open = || -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))?;
        setsockopt(&socket, sockopt::BindToDevice, &OsString::from(&interface.name))?;
        socket.set_broadcast(true)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    open().map_err(|error| refused("UDP", port, &error))
}

/// # Errors
/// As [`refused`].
pub fn datagram_socket(interface: &Interface, port: u16) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(SocketAddrV4::new(interface.address, port));
    let socket = socket.and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
    socket.map_err(|error| refused("UDP", port, &error))
}

/// # Errors
/// As [`refused`].
pub fn listener(interface: &Interface, port: u16) -> Result<TcpListener> {
    let listener = TcpListener::bind((IpAddr::V4(interface.address), port));
    let listener = listener.and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
    listener.map_err(|error| refused("TCP", port, &error))
}

/// Which permission is missing, or who has the port.
fn refused(protocol: &str, port: u16, error: &io::Error) -> Error {
    let problem = Error::bad_input(format!("{protocol} port {port} cannot be opened: {error}"));
    match error.kind() {
        io::ErrorKind::PermissionDenied => problem.help(format!(
            "ports below 1024 are for root, or for a program with this capability: sudo setcap cap_net_bind_service=+ep {}",
            std::env::current_exe().unwrap_or_default().display()
        )),
        io::ErrorKind::AddrInUse => {
            problem.help(format!("another program has it: ss -lpn 'sport = :{port}' names it; end that first"))
        }
        _ => problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, last: u8) -> Interface {
        Interface { name: name.into(), address: Ipv4Addr::new(192, 0, 2, last) }
    }

    #[test]
    fn the_network_is_the_only_one_or_the_one_that_is_named() {
        let two = || vec![interface("eth0", 1), interface("eth1", 2)];
        assert_eq!(pick(None, vec![interface("eth0", 1)]).unwrap().name, "eth0");
        assert_eq!(pick(Some("eth1"), two()).unwrap().address, Ipv4Addr::new(192, 0, 2, 2));
        assert_eq!(pick(Some("192.0.2.1"), two()).unwrap().name, "eth0");
        let several = pick(None, two()).unwrap_err();
        assert_eq!(several.status(), 2);
        assert!(several.problem().help.as_deref().unwrap().ends_with("192.0.2.1 on eth0, 192.0.2.2 on eth1"));
        assert!(pick(Some("192.0.2.9"), two()).unwrap_err().to_string().contains("192.0.2.9"));
        assert!(pick(None, Vec::new()).unwrap_err().to_string().contains("no IPv4 address"));
    }

    #[test]
    fn a_port_that_is_taken_is_said_with_what_finds_its_owner() {
        let lo = Interface { name: "lo".into(), address: Ipv4Addr::LOCALHOST };
        let first = datagram_socket(&lo, 0).unwrap();
        let port = first.local_addr().unwrap().port();
        let error = datagram_socket(&lo, port).unwrap_err();
        assert_eq!(error.status(), 2);
        assert!(error.to_string().contains(&format!("UDP port {port}")));
        assert!(error.problem().help.as_deref().unwrap().contains("ss -lpn"));
    }
}
