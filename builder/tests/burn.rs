//! Images onto sticks: loop devices stand for them. Needs root, as burning does.

#![allow(clippy::unwrap_used)]

mod support;

use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use images::gpt::{IMAGE_PARTITIONS, Identity};
use spec::layout::{Partition, image_size};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{Project, says};

const MIB: u64 = 1 << 20;
/// Not a multiple of a megabyte: sticks are not.
const STICK: u64 = image_size() + 700 * MIB + 512;

/// A file as a disk.
struct Stick {
    device: String,
    file: PathBuf,
}

impl Stick {
    fn new(project: &Project, name: &str, size: u64) -> Stick {
        let file = project.path(name);
        File::create_new(&file).unwrap().set_len(size).unwrap();
        let output = Command::new("losetup").args(["--find", "--show"]).arg(&file).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        Stick { device: String::from_utf8(output.stdout).unwrap().trim().to_owned(), file }
    }

    /// By which a loop device is named, which has no serial number.
    fn name(&self) -> &str {
        self.device.rsplit('/').next().unwrap()
    }

    fn bytes(&self, offset: u64, length: u64) -> Vec<u8> {
        read(&self.file, offset, length)
    }

    fn put(&self, offset: u64, bytes: &[u8]) {
        File::options().write(true).open(&self.device).unwrap().write_all_at(bytes, offset).unwrap();
    }
}

impl Drop for Stick {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.device]).status();
    }
}

fn read(path: &Path, offset: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![0; length as usize];
    File::open(path).unwrap().read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

/// Places with something in them: across a chunk's end, and alone in their chunks.
const FILLED: [(u64, u64); 3] = [(3 * MIB, 3 * MIB), (400 * MIB + 4096, 8192), (1200 * MIB - 512, 1024)];

/// What a BIOS would run.
const BOOT_CODE: [u8; images::bios::CODE] = [0xf4; images::bios::CODE];

/// Where it has nothing, and must have nothing on the stick.
const STALE: [u64; 3] = [100 * MIB, 405 * MIB, 700 * MIB];

/// An image with its table, something in its ESP and root, and a master's seed.
fn image(project: &Project) -> PathBuf {
    let path = project.path("disk.img");
    let mut file = File::create_new(&path).unwrap();
    file.set_len(image_size()).unwrap();
    images::gpt::write(&mut file, image_size(), &IMAGE_PARTITIONS, Identity::OfImage).unwrap();
    file.write_all_at(&BOOT_CODE, 0).unwrap();
    for (offset, length) in FILLED {
        let bytes: Vec<u8> = (0..length).map(|byte| (byte.wrapping_mul(offset | 1) >> 3) as u8).collect();
        file.write_all_at(&bytes, offset).unwrap();
    }
    path
}

fn guids(path: &Path) -> (String, Vec<String>) {
    let config = GptConfig::new().writable(false).only_valid_headers(true).logical_block_size(LogicalBlockSize::Lb512);
    let table = config.open_from_device(File::open(path).unwrap()).unwrap();
    let last = table.backup_header().unwrap().current_lba;
    assert_eq!((last + 1) * 512, path.metadata().unwrap().len() / 512 * 512, "the backup stands at the end");
    let used = table.partitions().iter().filter(|(_, entry)| entry.is_used());
    (
        table.guid().to_string(),
        used.map(|(number, entry)| format!("{number} {} {}", entry.name, entry.part_guid)).collect(),
    )
}

#[test]
fn two_sticks_at_once_hold_the_image_and_are_told_apart() {
    let project = Project::new();
    let image = image(&project);
    let sticks = ["one", "two"].map(|name| Stick::new(&project, name, STICK));
    // What an earlier life left where the image has nothing.
    let (seed, slot) = (Partition::Seed.offset(), Partition::RootB.offset());
    sticks[0].put(seed + 5 * MIB, b"another machine's secret");
    sticks[0].put(slot, b"an older root");
    // Between two pieces of one partition, and right behind its last.
    for stale in STALE {
        sticks[0].put(stale, b"an older file");
    }
    let said = project.done(&[
        "burn",
        "disk.img",
        "--to",
        &sticks[0].device,
        "--to",
        &sticks[1].device,
        "--yes",
        "--yes-this-disk",
        sticks[0].name(),
        "--yes-this-disk",
        sticks[1].name(),
    ]);
    says(&said, &[&sticks[0].device, "can be pulled out"]);
    for stick in &sticks {
        assert_eq!(stick.bytes(0, BOOT_CODE.len() as u64), BOOT_CODE);
        for (offset, length) in FILLED {
            assert_eq!(stick.bytes(offset, length), read(&image, offset, length), "at {offset}");
        }
        assert!(stick.bytes(seed, 16 * MIB).iter().all(|byte| *byte == 0));
        assert!(stick.bytes(slot, MIB).iter().all(|byte| *byte == 0));
        for stale in STALE {
            assert!(stick.bytes(stale, 4096).iter().all(|byte| *byte == 0), "at {stale}");
        }
    }
    let ((one, parts), (two, others)) = (guids(&sticks[0].file), guids(&sticks[1].file));
    assert_eq!(parts.len(), IMAGE_PARTITIONS.len());
    assert!(one != two && parts.iter().all(|part| !others.contains(part)), "{parts:?}");
    assert_ne!(one, spec::layout::IMAGE_DISK_GUID.to_string());
}

#[test]
fn the_compressed_image_makes_the_same_stick_with_the_seed_of_a_machine() {
    let project = Project::new();
    project.done(&["cluster", "new", "lab", "--master", "master-1=192.0.2.11/24"]);
    let image = image(&project);
    images::disk::compress(&image, &project.path("disk.img.zst"), 1, 1).unwrap();
    let stick = Stick::new(&project, "stick", STICK);
    let to = ["--to", &stick.device, "--yes-this-disk", stick.name()];
    project.done(&[&["burn", "disk.img.zst", "--cluster", "lab", "--machine", "master-1"][..], &to].concat());
    for (offset, length) in FILLED {
        assert_eq!(stick.bytes(offset, length), read(&image, offset, length), "at {offset}");
    }
    assert_eq!(stick.bytes(0, BOOT_CODE.len() as u64), BOOT_CODE);
    let seed = seed::read_path(&stick.file, Partition::Seed.offset()).unwrap();
    says(&String::from_utf8_lossy(&seed.files[spec::seed::files::MACHINE]), &["master-1"]);
    guids(&stick.file);
}

#[test]
fn what_must_not_be_overwritten_is_refused_untouched() {
    let project = Project::new();
    image(&project);
    let stick = Stick::new(&project, "stick", STICK);
    let burn = |more: &[&str]| project.refused(&[&["burn", "disk.img", "--to", &stick.device][..], more].concat());
    says(&burn(&[]), &["it is no removable disk", "--yes-this-disk", stick.name()]);
    let named = ["--yes-this-disk", stick.name()];

    let made = Command::new("mkfs.ext4").args(["-q", "-L", "photos"]).arg(&stick.device).status().unwrap();
    assert!(made.success());
    let before = stick.bytes(0, MIB);
    says(&burn(&named), &["it holds", "ext4", "--yes"]);
    let mount = project.path("mount");
    std::fs::create_dir(&mount).unwrap();
    assert!(Command::new("mount").args(["-o", "ro", &stick.device]).arg(&mount).status().unwrap().success());
    let text = burn(&[&named[..], &["--yes"]].concat());
    assert!(Command::new("umount").arg(&mount).status().unwrap().success());
    says(&text, &["it is in use", "mount"]);
    assert!(stick.bytes(0, MIB) == before, "the file system is as it was");

    let small = Stick::new(&project, "small", 64 * MIB);
    let text = project.refused(&["burn", "disk.img", "--to", &small.device, "--yes-this-disk", small.name()]);
    says(&text, &["it has 67108864 bytes, the image has", "a stick of at least"]);
    says(&project.refused(&["burn", "disk.img", "--to", "disk.img"]), &["it is no block device"]);
    project.write("text.img", "a text");
    says(&project.refused(&["burn", "text.img", "--to", &stick.device]), &["text.img is no disk image of ours"]);
    says(&project.refused(&["burn", "none.img", "--to", &stick.device]), &["none.img: no such image"]);
    says(&project.refused(&["burn", "disk.img"]), &["to which disk?"]);
}

#[test]
fn a_stick_whose_writing_ended_early_says_so_and_boots_nowhere() {
    let project = Project::new();
    let image = image(&project);
    let stick = Stick::new(&project, "stick", STICK);
    // As an older image, whole.
    images::gpt::write(
        &mut File::options().read(true).write(true).open(&stick.device).unwrap(),
        STICK,
        &IMAGE_PARTITIONS,
        Identity::OfImage,
    )
    .unwrap();
    // An image that ends early stands for a cable that was pulled.
    File::options().write(true).open(&image).unwrap().set_len(500 * MIB).unwrap();
    let to = ["--to", &stick.device, "--yes-this-disk", stick.name(), "--yes"];
    says(&project.refused(&[&["burn", "disk.img"][..], &to].concat()), &["disk.img has 524288000 bytes"]);
    assert!(stick.bytes(512, 8) == b"EFI PART", "nothing was touched");
    images::disk::compress(&image, &project.path("disk.img.zst"), 1, 1).unwrap();
    let (_, text) = project.failed(&[&["burn", "disk.img.zst"][..], &to].concat());
    says(&text, &["disk.img.zst ends after 524288000 bytes"]);
    says(&String::from_utf8_lossy(&stick.bytes(0, 512)), &["the writing of this medium was not finished"]);
    let open = GptConfig::new().open(&stick.file);
    assert!(open.is_err(), "no table is left, neither at the beginning nor at the end");
}
