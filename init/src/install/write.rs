//! A disk is written: the image's partitions as they lie on the stick, the ESP afresh in the disk's own sectors.
//!
//! Architecture invariant: the disk says "installing" before anything else is written and until everything was read
//! back, first in one sector, then in its table; a disk that says so is written over by the next attempt, and no firmware
//! starts from it.

use super::choose::Candidate;
use crate::console::say;
use crate::disk::block::Disk;
use crate::disk::table::{self, Table};
use crate::random;
use crate::sys;
use fatfs::{Dir, FileSystem, FsOptions};
use rustix::fs::{Advice, fadvise};
use seed::Files;
use spec::layout::{Partition, Slot};
use spec::netboot::BOOT_CODE;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use uuid::Uuid;

const BUFFER: usize = 1 << 20;
/// Begins the first sector until GRUB's code does: `int 18h`, by which a BIOS goes on to its next disk, then a halt.
const NEXT_DISK: [u8; 5] = [0xcd, 0x18, 0xf4, 0xeb, 0xfd];
/// In the first sector until there is a table: what lies behind is half of one, and nobody's data.
const MARK: &[u8] = b"imgbuild: being installed";
const MARK_OFFSET: usize = 8;

/// What a machine brings from its stick.
pub struct Source<'a> {
    pub disk: &'a Disk,
    /// Bytes of slot A that hold the root and its hash tree.
    pub root: u64,
    pub seed: &'a Files,
}

/// Writes all of it; gives the new ESP's partition GUID. `seed` is what the disk's seed shall hold beside the note.
///
/// # Errors
/// With what was done in the text. The disk says "installing" then.
pub fn write(
    source: &Source<'_>,
    target: &Candidate,
    note: impl FnOnce(Uuid) -> io::Result<Files>,
) -> io::Result<Uuid> {
    let (from, to) = (source.disk, &target.disk);
    let unfinished = table::being_installed(to.sector_size(), random::uuid);
    let mut device = named("open it", to.open(true))?;
    let sector = to.sector_size().as_usize();
    named("its first sector", mark(&mut device, sector))?;
    named("its partition table", lay(&mut device, &unfinished))?;
    named("its first sector", unmark(&mut device, sector))?;
    named("its partitions", sys::read_partitions_again(&device))?;
    drop(device);

    if unfinished.partitions.contains_key(&Partition::Bios.number()) {
        let size = Partition::Bios.size().unwrap_or(0);
        named("GRUB", copy(from, to, Partition::Bios, size).and_then(|()| boot_code(from, to)))?;
    }
    say(format!("install      {} MiB of root to {}", source.root >> 20, to.name));
    named("the root", copy(from, to, Partition::RootA, source.root))?;
    named("the root, read back", compare(from, to, Partition::RootA, source.root))?;
    named("the ESP", esp(from, to))?;
    let guid = unfinished.partitions.get(&Partition::Esp.number()).map(|esp| esp.part_guid).unwrap_or_default();
    let mut files = source.seed.clone();
    files.append(&mut note(guid)?);
    let place = to.partition_device(Partition::Seed.number());
    named("the seed", zero(&place, Partition::Seed.size().unwrap_or(0)))?;
    named("the seed", seed::write_path(&place, 0, &files).map_err(io::Error::other))?;

    let mut device = named("open it", to.open(true))?;
    named("its partition table", lay(&mut device, &table::finished(&unfinished)))?;
    named("its partitions", sys::read_partitions_again(&device))?;
    Ok(guid)
}

fn named<T>(what: &str, done: io::Result<T>) -> io::Result<T> {
    done.map_err(|error| io::Error::new(error.kind(), format!("{what}: {error}")))
}

/// Makes the first sector a new one.
fn mark(device: &mut File, sector: usize) -> io::Result<()> {
    let mut bytes = vec![0; sector];
    bytes[..NEXT_DISK.len()].copy_from_slice(&NEXT_DISK);
    bytes[MARK_OFFSET..MARK_OFFSET + MARK.len()].copy_from_slice(MARK);
    table::protect(&mut bytes);
    write_first(device, &bytes)
}

/// From here on the table says it.
fn unmark(device: &mut File, sector: usize) -> io::Result<()> {
    let mut bytes = vec![0; sector];
    device.rewind()?;
    device.read_exact(&mut bytes)?;
    bytes[MARK_OFFSET..MARK_OFFSET + MARK.len()].fill(0);
    write_first(device, &bytes)
}

fn write_first(device: &mut File, bytes: &[u8]) -> io::Result<()> {
    device.rewind()?;
    device.write_all(bytes)?;
    device.sync_all()
}

/// Whether a disk without a table was about to get one.
pub fn is_marked(device: &mut File) -> io::Result<bool> {
    let mut found = [0; MARK_OFFSET + MARK.len()];
    device.rewind()?;
    device.read_exact(&mut found)?;
    Ok(found.starts_with(&NEXT_DISK) && found.ends_with(MARK))
}

fn lay(device: &mut File, table: &Table) -> io::Result<()> {
    let epochs = table::plan_write(device, table).map_err(io::Error::other)?;
    table::execute(device, &epochs)
}

fn open(disk: &Disk, partition: Partition, write: bool) -> io::Result<File> {
    let path = disk.partition_device(partition.number());
    File::options().read(true).write(write).open(&path).map_err(crate::files::at(&path))
}

fn copy(from: &Disk, to: &Disk, partition: Partition, bytes: u64) -> io::Result<()> {
    let source = open(from, partition, false)?;
    let mut target = open(to, partition, true)?;
    let copied = io::copy(&mut BufReader::with_capacity(BUFFER, source.take(bytes)), &mut target)?;
    if copied != bytes {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{copied} of {bytes} bytes came")));
    }
    target.sync_all()
}

/// What the disk itself holds, not what the kernel remembers of it.
fn compare(from: &Disk, to: &Disk, partition: Partition, bytes: u64) -> io::Result<()> {
    let (mut wanted, mut found) = (open(from, partition, false)?, open(to, partition, false)?);
    fadvise(&found, 0, None, Advice::DontNeed)?;
    let (mut left, mut offset) = (vec![0; BUFFER], 0);
    let mut right = left.clone();
    while offset < bytes {
        let count = usize::try_from(bytes - offset).unwrap_or(usize::MAX).min(BUFFER);
        wanted.read_exact(&mut left[..count])?;
        found.read_exact(&mut right[..count])?;
        if left[..count] != right[..count] {
            return Err(io::Error::other(format!(
                "the disk gives other bytes than were written, from byte {offset} on"
            )));
        }
        offset += count as u64;
    }
    Ok(())
}

/// GRUB's first sector; it finds the rest in the partition, which lies where it lay.
fn boot_code(from: &Disk, to: &Disk) -> io::Result<()> {
    let mut code = [0; BOOT_CODE];
    from.open(false)?.read_exact(&mut code)?;
    let mut target = to.open(true)?;
    let mut sector = [0; 512];
    target.read_exact(&mut sector)?;
    sector[..BOOT_CODE].copy_from_slice(&code);
    write_first(&mut target, &sector)
}

/// A file system of its own with the same files.
fn esp(from: &Disk, to: &Disk) -> io::Result<()> {
    let source = FileSystem::new(open(from, Partition::Esp, true)?, FsOptions::new().update_accessed_date(false))?;
    let mut target = open(to, Partition::Esp, true)?;
    let sector = u16::try_from(to.sector_size().as_u64()).map_err(io::Error::other)?;
    slots::make(&mut target, random::uuid().as_fields().0, sector, |volume| {
        copy_folder(&source.root_dir(), &volume.root_dir())
    })?;
    // A machine that starts from the network has it only where `serve` sent it.
    slots::entry(&mut target, Slot::A).map_err(io::Error::other)?;
    target.sync_all()
}

fn copy_folder<S, T>(from: &Dir<'_, S>, to: &Dir<'_, T>) -> io::Result<()>
where
    S: Read + Write + Seek,
    T: Read + Write + Seek,
{
    for entry in from.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name == "." || name == ".." {
            continue;
        }
        if entry.is_dir() {
            copy_folder(&entry.to_dir(), &to.create_dir(&name)?)?;
        } else {
            let mut file = to.create_file(&name)?;
            io::copy(&mut BufReader::with_capacity(BUFFER, entry.to_file()), &mut file)?;
            file.flush()?;
        }
    }
    Ok(())
}

/// Nothing of what a partition held stays.
pub fn zero(device: &std::path::Path, bytes: u64) -> io::Result<()> {
    let mut file = File::options().write(true).open(device).map_err(crate::files::at(device))?;
    io::copy(&mut io::repeat(0).take(bytes), &mut file)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpt::disk::LogicalBlockSize;
    use std::os::unix::fs::FileExt;

    const SIZE: u64 = 8 << 30;

    /// Wherever the power goes while a disk with a boot sector of others gets its table, the next attempt knows whose
    /// the disk is, and a BIOS passes it over.
    #[test]
    fn from_its_first_write_on_a_disk_is_being_installed() {
        let mut disk = tempfile::tempfile().unwrap();
        disk.set_len(SIZE).unwrap();
        disk.write_all_at(&[0xfa; 512], 0).unwrap();
        assert!(!is_marked(&mut disk).unwrap());
        mark(&mut disk, 512).unwrap();
        let mut number = 0;
        let table = table::being_installed(LogicalBlockSize::Lb512, || {
            number += 1;
            Uuid::from_u128(number)
        });
        for writes in table::plan_write(&mut disk, &table).unwrap() {
            for write in writes {
                let known = |disk: &mut File| match table::read(disk, LogicalBlockSize::Lb512) {
                    Ok(table) => table::is_being_installed(&table),
                    Err(_) => is_marked(disk).unwrap(),
                };
                assert!(known(&mut disk));
                disk.write_all_at(&write.bytes, write.offset).unwrap();
                assert!(known(&mut disk));
            }
        }
        unmark(&mut disk, 512).unwrap();
        assert!(!is_marked(&mut disk).unwrap());
        let mut first = [0; 512];
        disk.read_exact_at(&mut first, 0).unwrap();
        assert_eq!((&first[..5], first[450], &first[510..]), (&NEXT_DISK[..], 0xee, &[0x55, 0xaa][..]));
        // All of the disk, or as much as four bytes tell.
        assert_eq!(first[458..462], u32::try_from(SIZE / 512 - 1).unwrap().to_le_bytes());
    }
}
