//! The same image starts from every place where a rack's firmware finds it, by UEFI and by BIOS, with the kernel of
//! real racks.

use qemu::{Bus, Firmware};
use stories::{RACK_MASTER, story};

const UP_SECONDS: u64 = 300;
const STICK_SIZE: u64 = 8 << 30;

fn comes_up(name: &str, bios: bool, bus: Bus) {
    story(name, |lab| {
        let image = lab.image(RACK_MASTER)?;
        let mut master = lab.machine("m1", &image)?;
        if bus == Bus::UsbStorage {
            stories::burn(&image.disk, master.disk(), STICK_SIZE)?;
        }
        let hardware = master.hardware();
        hardware.disks[0].bus = bus;
        if bios {
            hardware.firmware = Firmware::Bios;
        }
        master.power_on()?;
        // State is made, the agent has the seed's authorities, and a service that is not ours runs.
        master.wait_for_console(format!("service {:<24} ready", "etcd"), UP_SECONDS)?;
        master.power_cut()
    });
}

#[test]
fn by_bios_from_a_usb_stick() {
    comes_up("bios-usb", true, Bus::UsbStorage);
}

#[test]
fn by_bios_from_nvme() {
    comes_up("bios-nvme", true, Bus::Nvme);
}

#[test]
#[ignore = "the rest of the matrix; what the loaders see differs in the two above"]
fn by_everything_else() {
    for (name, bios, bus) in [
        ("bios-virtio", true, Bus::Virtio),
        ("bios-ahci", true, Bus::Ahci),
        ("uefi-usb", false, Bus::UsbStorage),
        ("uefi-virtio", false, Bus::Virtio),
        ("uefi-ahci", false, Bus::Ahci),
        ("uefi-nvme", false, Bus::Nvme),
    ] {
        comes_up(name, bios, bus);
    }
}
