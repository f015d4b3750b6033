//! A network of a story's own, 10.0.2.0/24: machines with static addresses on one switch, which can be
//! cut and made slow, and the host that reaches any port of them through a gateway.

use crate::{Computer, Failure, ImageDir, Lab, Result};
use qemu::{Gateway, Line, Nic, Switch};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Port of the switch that the gateway is plugged into, with the host behind it.
const GATEWAY_PORT: &str = "gateway";

/// A network. Its switch ends with it.
#[derive(Debug)]
pub struct Network<'lab> {
    lab: &'lab Lab,
    /// Machines keep it, so that their ports stay known.
    gateway: Arc<Gateway>,
    switch: Switch,
}

impl<'lab> Network<'lab> {
    pub(crate) fn new(lab: &'lab Lab) -> Result<Network<'lab>> {
        let folder = lab.folder().join(GATEWAY_PORT);
        std::fs::create_dir_all(&folder).map_err(Failure::file(&folder, "make"))?;
        let switch = Switch::start()?;
        let gateway = Gateway::start(&switch.plug(GATEWAY_PORT)?, &|name| lab.program(name), &folder)?;
        Ok(Network { lab, gateway: Arc::new(gateway), switch })
    }

    /// A machine that is off, with one processor and one card, which is plugged in here. The address is
    /// where the host looks for it; that it has it is the seed's business.
    pub fn machine(&self, name: &str, image: &ImageDir, address: Ipv4Addr) -> Result<Computer<'lab>> {
        let mut computer = self.lab.machine(name, image)?;
        computer.plug_in(Nic::new(self.switch.plug(name)?), address, Arc::clone(&self.gateway));
        Ok(computer)
    }

    /// Pulls a machine's cable out: neither the others nor the host reach it.
    pub fn cut(&self, name: &str) -> Result {
        Ok(self.switch.cut(name)?)
    }

    /// Cuts two machines off from each other; others and the host reach both.
    pub fn cut_between(&self, one: &str, other: &str) -> Result {
        Ok(self.switch.cut_between(one, other)?)
    }

    /// Neither the host nor anything behind it reaches this machine, and the other way round.
    pub fn cut_from_host(&self, name: &str) -> Result {
        self.cut_between(name, GATEWAY_PORT)
    }

    /// Mends every cut of this machine.
    pub fn heal(&self, name: &str) -> Result {
        Ok(self.switch.heal(name)?)
    }

    /// Loses and delays frames between all of them from now on.
    pub fn set_line(&self, line: Line) {
        self.switch.set_line(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qemu::NicLink;
    use std::os::unix::net::UnixDatagram;

    /// Ethernet's destination and source, IPv4's protocol and UDP's ports.
    const SOURCE: std::ops::Range<usize> = 6..12;
    const UDP_PORTS: std::ops::Range<usize> = 34..38;
    const FROM_DHCP_CLIENT: [u8; 4] = [0, 68, 0, 67];

    #[test]
    #[ignore = "needs the tools root"]
    fn a_machines_frames_reach_the_others_and_the_host_its_ports() {
        let folder = tempfile::tempdir().unwrap();
        let lab = Lab::new(folder.path()).unwrap();
        let network = lab.network().unwrap();
        let empty = folder.path().join("empty.img");
        std::fs::write(&empty, [0; 512]).unwrap();
        let image = ImageDir { disk: empty.clone(), manifest: empty, cluster_dir: folder.path().into(), kernel: None };
        let mut computer = network.machine("m1", &image, Ipv4Addr::new(10, 0, 2, 11)).unwrap();
        let NicLink::Datagram { local, .. } = network.switch.plug("ear").unwrap() else { panic!() };
        let ear = UnixDatagram::bind(local).unwrap();
        ear.set_read_timeout(Some(lab.host_patience().seconds(120))).unwrap();

        // With nothing on its disk the firmware asks the network for something to boot.
        computer.hardware().nics[0].boot_index = Some(1);
        assert!(computer.host_port(spec::ports::AGENT).unwrap_err().to_string().contains("m1 is off"));
        computer.power_on().unwrap();
        let port = computer.host_port(spec::ports::AGENT).unwrap();
        assert_eq!(computer.host_port(spec::ports::AGENT).unwrap(), port);
        let mut frame = [0; 2048];
        while frame[UDP_PORTS] != FROM_DHCP_CLIENT {
            ear.recv(&mut frame).unwrap();
        }
        let source: Vec<String> = frame[SOURCE].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(source.join(":"), qemu::network::default_mac("m1", 0));
    }
}
