//! QEMU's own network as a device by itself: gateway 10.0.2.2, DNS 10.0.2.3 and a way out for all the
//! machines of a switch, and the host's way to their ports, whichever of them are on. It is a QEMU
//! without a machine.

use crate::arguments::{Arguments, escape};
use crate::network::parse_forwards;
use crate::process::{Process, connect_deadline, listen, socket_folder};
use crate::{Accelerator, Error, NicLink, Programs, Qmp, Result};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Addresses of QEMU's network, which its documentation promises.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
pub const PREFIX_LENGTH: u8 = 24;

const NAME: &str = "gateway";
/// Names of its two network devices, which a hub joins.
const USER: &str = "user";
const PORT: &str = "port";

/// A gateway that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Gateway {
    /// Held while a port is looked up and forwarded, so that it happens once.
    qmp: Mutex<Qmp>,
    _process: Process,
}

impl Gateway {
    /// Starts it with this end of a cable; `folder` gets its logs.
    ///
    /// # Errors
    /// [`Error::Start`], and [`Error::Died`] with what QEMU said.
    pub fn start(link: &NicLink, programs: Programs, folder: &Path) -> Result<Gateway> {
        let sockets = socket_folder()?;
        let path = sockets.path().join("monitor");
        let monitor = listen(&path)?;
        let mut process = Process::spawn(arguments(link, &path)?, programs, folder)?;
        // Connected, it needs the socket's file no more.
        let qmp = process.monitor(&monitor, connect_deadline(Accelerator::Tcg), folder)?;
        Ok(Gateway { qmp: Mutex::new(qmp), _process: process })
    }

    /// The host's port (on 127.0.0.1) that leads to this TCP port of a machine; forwarded from the
    /// first time on that somebody asks. The machine may be off.
    pub fn port(&self, address: Ipv4Addr, port: u16) -> Result<u16> {
        let qmp = self.qmp.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = forwarded(&qmp, address, port)? {
            return Ok(known);
        }
        let said = qmp.human(&format!("hostfwd_add {USER} tcp:127.0.0.1:0-{address}:{port}"))?;
        forwarded(&qmp, address, port)?.ok_or_else(|| Error::Configuration {
            machine: NAME.into(),
            problem: format!("port {port} of {address} is not forwarded: {}", said.trim()),
        })
    }
}

fn forwarded(qmp: &Qmp, address: Ipv4Addr, port: u16) -> Result<Option<u16>> {
    let mut all = parse_forwards(&qmp.human("info usernet")?).into_iter();
    let found = all.find(|forwarded| (forwarded.guest_address, forwarded.guest_port) == (address, port));
    Ok(found.map(|forwarded| forwarded.host_port))
}

/// QEMU's arguments. Pure.
fn arguments(link: &NicLink, monitor: &Path) -> Result<Vec<String>> {
    let mut arguments = Arguments::new(NAME);
    arguments.flag("-nodefaults");
    arguments.flag("-no-user-config");
    arguments.option("-name", NAME);
    arguments.option("-machine", "none");
    arguments.option("-display", "none");
    let monitor = escape(&arguments.path(monitor)?);
    arguments.option("-chardev", format!("socket,id=monitor,server=off,path={monitor}"));
    arguments.option("-mon", "chardev=monitor,mode=control");
    let user = NicLink::User { forwards: Vec::new(), isolated: false };
    for (id, link) in [(USER, &user), (PORT, link)] {
        arguments.option("-netdev", link.netdev(id, &arguments)?);
        arguments.option("-netdev", format!("hubport,id={id}-hub,hubid=0,netdev={id}"));
    }
    Ok(arguments.list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_joins_the_cable_and_the_way_out() {
        let link = NicLink::Datagram { local: "/n/gateway".into(), remote: "/n/switch".into() };
        let arguments = arguments(&link, Path::new("/s/monitor")).unwrap();
        insta::assert_snapshot!(arguments.join(" ").replace(" -", "\n-"), @r"
        -nodefaults
        -no-user-config
        -name gateway
        -machine none
        -display none
        -chardev socket,id=monitor,server=off,path=/s/monitor
        -mon chardev=monitor,mode=control
        -netdev user,id=user,ipv6=off
        -netdev hubport,id=user-hub,hubid=0,netdev=user
        -netdev dgram,id=port,local.type=unix,local.path=/n/gateway,remote.type=unix,remote.path=/n/switch
        -netdev hubport,id=port-hub,hubid=0,netdev=port
        ");
    }
}
