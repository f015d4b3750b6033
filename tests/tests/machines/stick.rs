//! An operator burns a stick; a machine with nothing but USB boots from it.

use images::oracle;
use qemu::Bus;
use stories::{Failure, RACK_MASTER, story};

const FIRST_SERVICES_SECONDS: u64 = 300;
const STICK_SIZE: u64 = 8 << 30;

#[test]
fn a_burned_stick_boots_by_usb_and_takes_the_state() {
    story("burned-stick", |lab| {
        let image = lab.image(RACK_MASTER)?;
        let mut master = lab.machine("m1", &image)?;
        stories::burn(&image.disk, master.disk(), STICK_SIZE)?;
        let wrong = |error: images::tools::ToolsError| Failure::Unexpected(error.to_string());
        oracle::partition_table(lab.tools(), master.disk()).map_err(wrong)?;

        master.hardware().disks[0].bus = Bus::UsbStorage;
        master.power_on()?;
        master.wait_for_console("making the state file system", FIRST_SERVICES_SECONDS)?;
        master.wait_for_console(format!("service {:<24} ready", "etcd"), FIRST_SERVICES_SECONDS)?;
        master.power_cut()
    });
}
