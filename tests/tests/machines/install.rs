//! A machine puts itself from a stick or a CD image onto its own disk, and starts from there.

use images::oracle;
use qemu::{Bus, Disk, Firmware};
use spec::layout::Partition;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use stories::{
    Failure, ImageDir, Lab, MASTER, NODE, RACK_MASTER, Recording, Result, StoryCluster, expect, starts_whole, story,
};

const STICK_SIZE: u64 = 8 << 30;
const DISK_SIZE: u64 = 12 << 30;
const INSTALLED_SECONDS: u64 = 300;
const UP_SECONDS: u64 = 300;
/// Of a machine that starts with its root in memory.
const MEMORY_FOR_A_ROOT_MIB: u32 = 2048;
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
        let own = empty_disk(lab, "own.img")?;
        let hardware = machine.hardware();
        hardware.disks[0].bus = Bus::UsbStorage;
        hardware.disks.push(disk(own));
        Ok(Rack { lab, machine })
    }

    /// A machine whose BMC lends it a CD drive, which it starts from.
    fn with_cd(lab: &'lab Lab) -> Result<Rack<'lab>> {
        let image = lab.image(MASTER)?;
        let definition = "[[machine]]\nname = \"m1\"\nrole = \"master\"\ninstall = { transport = \"virtio\" }\n";
        let cluster = StoryCluster::new(lab, definition)?;
        let (build, iso) = (image.beside(""), lab.folder().join("m1.iso"));
        cluster.imgbuild(&format!("iso {} --cluster lab --machine m1 --to {}", build.display(), iso.display()))?;
        let mut machine = lab.machine("m1", &image)?;
        let hardware = machine.hardware();
        hardware.memory_mib = MEMORY_FOR_A_ROOT_MIB;
        hardware.disks = vec![Disk { bus: Bus::UsbCd, ..Disk::new(iso) }, empty_disk(lab, "own.img")?];
        Ok(Rack { lab, machine })
    }

    /// By UEFI, which is told what comes next: what it was installed from stays in.
    fn installs_itself_and_goes_on(&mut self) -> Result {
        self.machine.power_on()?;
        self.machine.wait_for_console("install      done", INSTALLED_SECONDS)?;
        self.machine.wait_for_console("making the state file system", UP_SECONDS)?;
        self.machine.power_cut()?;
        self.starts_from_its_disk()
    }

    /// Without what it was installed from; it is off.
    fn starts_from_its_disk(&mut self) -> Result {
        self.machine.hardware().disks.remove(0);
        let wrong = |error: images::tools::ToolsError| Failure::Unexpected(error.to_string());
        oracle::partition_table(self.lab.tools(), self.machine.disk()).map_err(wrong)?;
        self.machine.power_on()?;
        self.machine.wait_for_console(format!("service {:<24} ready", "etcd"), UP_SECONDS)?;
        self.machine.power_cut()
    }
}

fn empty_disk(lab: &Lab, name: &str) -> Result<Disk> {
    let path = lab.folder().join(name);
    let made = std::fs::File::create(&path).and_then(|file| file.set_len(DISK_SIZE));
    made.map_err(Failure::file(&path, "make"))?;
    Ok(Disk { ignore_flush: true, ..Disk::new(path) })
}

#[test]
fn from_a_cd_image_to_a_disk_by_uefi() {
    story("install-cd", |lab| Rack::with_cd(lab)?.installs_itself_and_goes_on());
}

#[test]
#[ignore = "told by UEFI in every run"]
fn from_a_cd_image_to_a_disk_by_bios() {
    story("install-cd-bios", |lab| {
        let mut rack = Rack::with_cd(lab)?;
        rack.machine.hardware().firmware = Firmware::Bios;
        rack.machine.power_on()?;
        rack.machine.wait_for_console("install      done", INSTALLED_SECONDS)?;
        rack.machine.wait_for_console("eject the medium", INSTALLED_SECONDS)?;
        rack.machine.power_cut()?;
        rack.starts_from_its_disk()
    });
}

#[test]
fn from_a_stick_to_a_disk_of_4k_sectors_by_uefi() {
    story("install-4k", |lab| {
        let nvme = |disk| Disk { bus: Bus::Nvme, sectors_4k: true, ..disk };
        Rack::new(lab, "transport = \"nvme\"", nvme)?.installs_itself_and_goes_on()
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
        rack.machine.power_cut()?;
        rack.starts_from_its_disk()
    });
}

#[test]
#[ignore = "one boot that chooses nothing; init's own tests have the rule"]
fn of_two_identical_disks_neither_is_taken() {
    story("install-twins", |lab| {
        let mut rack = Rack::new(lab, "transport = \"nvme\"", |disk| Disk { bus: Bus::Nvme, ..disk })?;
        let twin = Disk { bus: Bus::Nvme, ..empty_disk(lab, "twin.img")? };
        rack.machine.hardware().disks.push(twin);
        rack.machine.power_on()?;
        rack.machine.wait_for_console("fit alike", INSTALLED_SECONDS)?;
        rack.machine.power_cut()?;
        for Disk { path: disk, .. } in &rack.machine.hardware().disks[1..] {
            let blocks = std::fs::metadata(disk).map_err(Failure::file(disk, "look at"))?.blocks();
            expect(blocks == 0, "not one block written", format!("{}: {blocks}", disk.display()))?;
        }
        Ok(())
    });
}

#[test]
#[ignore = "three boots: a stick for one machine is told in every run"]
fn one_stick_puts_any_node_on_its_disk() {
    story("install-any", |lab| {
        let definition = "[any-node]\nprefix = \"r-\"\ninstall = { transport = \"virtio\" }\n\
             [[machine]]\nname = \"m1\"\nrole = \"master\"\nnetwork = { address = \"192.0.2.11/24\" }\n";
        let cluster = StoryCluster::new(lab, definition)?;
        let mut node = lab.machine("node", &lab.image(NODE)?)?;
        node.take_node_seed(&cluster, None)?;
        let own = lab.folder().join("own.img");
        let hardware = node.hardware();
        hardware.disks[0].bus = Bus::Nvme;
        hardware.disks.push(Disk { ignore_flush: true, ..Disk::new(own.clone()) });
        for number in 1..=2 {
            // Another machine: another card, and an empty disk.
            let made = std::fs::File::create(&own).and_then(|file| file.set_len(DISK_SIZE));
            made.map_err(Failure::file(&own, "make"))?;
            node.hardware().nics[0].mac = Some(format!("52:54:00:09:00:0{number}"));
            node.power_on()?;
            node.wait_for_console("and the stick is ready for the next", INSTALLED_SECONDS)?;
            node.power_cut()?;
        }
        node.hardware().disks.remove(0);
        node.power_on()?;
        node.wait_for_console("making the state file system", UP_SECONDS)?;
        node.wait_for_console("r-525400090002", UP_SECONDS).map(drop)
    });
}

/// No firmware starts from a disk that is half written, and the stick, which is in again, begins again.
#[test]
#[ignore = "long: eight installations after fifty checks"]
fn power_cuts_in_an_installation_are_made_good_by_the_stick() {
    story("power-cuts-install", |lab| {
        let mut rack = Rack::new(lab, "transport = \"nvme\"", |disk| Disk { bus: Bus::Nvme, ..disk })?;
        let own = rack.machine.hardware().disks[1].path.clone();
        let (stick, kept) = (rack.machine.disk().to_owned(), lab.folder().join("stick.img"));
        qemu::disk::copy_sparse(&stick, &kept)?;
        let recording = Recording::start(lab, &mut rack.machine, 1)?;
        rack.machine.power_on()?;
        rack.machine.wait_for_console("install      done", INSTALLED_SECONDS)?;
        recording.end(&mut rack.machine)?;

        let image = lab.image(RACK_MASTER)?;
        recording.at_moments(0, 50, |disk| is_whole_if_firmware_starts_it(disk, &image))?;
        for sample in recording.samples(0, 8)? {
            qemu::disk::copy_sparse(&kept, &stick)?;
            let cut = recording.replay(&sample)?;
            std::fs::rename(&cut, &own).map_err(Failure::file(&cut, "move"))?;
            rack.machine.power_on()?;
            rack.machine.wait_for_console(format!("service {:<24} ready", "etcd"), INSTALLED_SECONDS + UP_SECONDS)?;
            rack.machine.power_cut()?;
        }
        rack.starts_from_its_disk()
    });
}

fn is_whole_if_firmware_starts_it(disk: &Path, image: &ImageDir) -> Result {
    let Ok(table) = gpt::GptConfig::new().open(disk) else { return Ok(()) };
    let esp = table.partitions().get(&Partition::Esp.number());
    match esp.is_some_and(|esp| esp.part_type_guid == gpt::partition_types::EFI) {
        true => starts_whole(disk, &[image]),
        false => Ok(()),
    }
}
