//! A machine puts itself from a stick onto its own disk, and starts from there.

use images::oracle;
use qemu::{Bus, Disk, Firmware};
use stories::{Failure, Lab, RACK_MASTER, Result, StoryCluster, story};

const STICK_SIZE: u64 = 8 << 30;
const DISK_SIZE: u64 = 12 << 30;
const INSTALLED_SECONDS: u64 = 300;
const UP_SECONDS: u64 = 300;
/// QEMU's serial number of a machine's second disk.
const SERIAL: &str = "disk1";

/// A machine with a burned stick, which it starts from, and a disk of its own.
struct Rack<'lab> {
    lab: &'lab Lab,
    machine: stories::Computer<'lab>,
}

impl<'lab> Rack<'lab> {
    fn new(lab: &'lab Lab, rule: &str, disk: impl FnOnce(Disk) -> Disk) -> Result<Rack<'lab>> {
        let image = lab.image(RACK_MASTER)?;
        let cluster = StoryCluster::new(
            lab,
            &format!("[[machine]]\nname = \"m1\"\nrole = \"master\"\ninstall = {{ {rule} }}\n"),
        )?;
        let mut machine = lab.machine("m1", &image)?;
        stories::burn(&image.disk, machine.disk(), STICK_SIZE)?;
        machine.take_seed(&cluster, Some("m1"))?;
        let path = lab.folder().join("own.img");
        let made = std::fs::File::create(&path).and_then(|file| file.set_len(DISK_SIZE));
        made.map_err(Failure::file(&path, "make"))?;
        let hardware = machine.hardware();
        hardware.disks[0].bus = Bus::UsbStorage;
        hardware.disks.push(disk(Disk { ignore_flush: true, ..Disk::new(path) }));
        Ok(Rack { lab, machine })
    }

    /// Without the stick.
    fn starts_from_its_disk(&mut self) -> Result {
        self.machine.power_cut()?;
        self.machine.hardware().disks.remove(0);
        let wrong = |error: images::tools::ToolsError| Failure::Unexpected(error.to_string());
        oracle::partition_table(self.lab.tools(), self.machine.disk()).map_err(wrong)?;
        self.machine.power_on()?;
        self.machine.wait_for_console(format!("service {:<24} ready", "etcd"), UP_SECONDS)?;
        self.machine.power_cut()
    }
}

#[test]
fn from_a_stick_to_a_disk_of_4k_sectors_by_uefi() {
    story("install-4k", |lab| {
        let nvme = |disk| Disk { bus: Bus::Nvme, sectors_4k: true, ..disk };
        let mut rack = Rack::new(lab, "transport = \"nvme\"", nvme)?;
        rack.machine.power_on()?;
        rack.machine.wait_for_console("install      done", INSTALLED_SECONDS)?;
        // The stick stays in, and the firmware has been told what comes next.
        rack.machine.wait_for_console("making the state file system", UP_SECONDS)?;
        rack.starts_from_its_disk()
    });
}

#[test]
#[ignore = "told by UEFI in every run"]
fn from_a_stick_to_a_disk_with_data_by_bios_once_its_serial_is_typed() {
    story("install-bios", |lab| {
        let mut rack = Rack::new(lab, "min-gb = 10", |disk| Disk { bus: Bus::Ahci, ..disk })?;
        rack.machine.hardware().firmware = Firmware::Bios;
        let own = rack.machine.hardware().disks[1].path.clone();
        std::fs::copy(lab.image(RACK_MASTER)?.disk, &own).map_err(Failure::file(&own, "fill"))?;
        let grown = std::fs::File::options().write(true).open(&own).and_then(|file| file.set_len(DISK_SIZE));
        grown.map_err(Failure::file(&own, "grow"))?;
        rack.machine.power_on()?;
        rack.machine.wait_for_console("the disk to install to is not empty", INSTALLED_SECONDS)?;
        rack.machine.type_on_console("another\n")?;
        rack.machine.wait_for_console("nothing was written", INSTALLED_SECONDS)?;
        rack.machine.type_on_console(&format!("{SERIAL}\n"))?;
        rack.machine.wait_for_console("reboots as soon as it is gone", INSTALLED_SECONDS)?;
        rack.starts_from_its_disk()
    });
}
