//! The disk in memory: the same partitions as on a stick, on a loop device over a file of a tmpfs.

use crate::disk::block::Disk;
use crate::disk::table;
use crate::files::at;
use crate::{random, sys};
use fatfs::Dir;
use gpt::disk::LogicalBlockSize;
use rustix::mount::{MountFlags, mount};
use spec::layout::{BACKUP_GPT_RESERVE, Partition, SECTOR_SIZE, STATE_MINIMUM};
use spec::netboot::{BIOS_FILE, BOOT_CODE, BOOT_CODE_FILE, ESP_FOLDER, ROOT_FILE, SEED_FILE};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Beside the initramfs, whose file system is emptied when the root is entered.
const FOLDER: &str = "/netboot-disk";
/// Free loop devices are asked for here.
const CONTROL: &str = "/dev/loop-control";

/// Makes the disk out of what came with the kernel.
///
/// # Errors
/// With the step or path in the text.
pub fn make() -> io::Result<Disk> {
    std::fs::create_dir(FOLDER).map_err(at(FOLDER))?;
    // Root and state share it; what is not written takes no memory.
    mount("tmpfs", FOLDER, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0700,size=75%")
        .map_err(step("tmpfs"))?;
    let path = Path::new(FOLDER).join("disk.img");
    let mut file = File::options().read(true).write(true).create_new(true).open(&path).map_err(at(&path))?;
    file.set_len(Partition::State.offset() + state_bytes(memory()) + BACKUP_GPT_RESERVE).map_err(at(&path))?;
    let table = table::finished(&table::being_installed(LogicalBlockSize::Lb512, random::uuid));
    let epochs = table::plan_write(&mut file, &table).map_err(io::Error::other)?;
    table::execute(&mut file, &epochs)?;
    place(&mut file, ROOT_FILE, Partition::RootA.offset(), u64::MAX)?;
    if Path::new(SEED_FILE).exists() {
        place(&mut file, SEED_FILE, Partition::Seed.offset(), Partition::Seed.size().unwrap_or(0))?;
    }
    if Path::new(BOOT_CODE_FILE).exists() {
        place(&mut file, BOOT_CODE_FILE, 0, BOOT_CODE as u64)?;
        place(&mut file, BIOS_FILE, Partition::Bios.offset(), Partition::Bios.size().unwrap_or(0))?;
    }
    let control = File::options().read(true).write(true).open(CONTROL).map_err(at(CONTROL))?;
    let disk = Disk { name: format!("loop{}", sys::free_loop(&control).map_err(at(CONTROL))?) };
    // The kernel has read the table when this returns, and its partitions are there.
    sys::configure_loop(&disk.open(true)?, &file).map_err(step("the loop device"))?;
    let esp = disk.partition_device(Partition::Esp.number());
    let mut esp = File::options().read(true).write(true).open(&esp).map_err(at(&esp))?;
    let serial = random::uuid().as_fields().0;
    slots::make(&mut esp, serial, SECTOR_SIZE as u16, |volume| fill(Path::new(ESP_FOLDER), &volume.root_dir()))
        .map_err(step("the ESP"))?;
    Ok(disk)
}

fn step<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> io::Error {
    move |error| {
        let error = error.into();
        io::Error::new(error.kind(), format!("{what}: {error}"))
    }
}

/// Bytes of the state partition: half of the memory, and never less than a state disk must have.
fn state_bytes(memory: u64) -> u64 {
    (memory / 2).max(STATE_MINIMUM).next_multiple_of(spec::layout::ALIGNMENT)
}

fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

/// Moves a file that came with the kernel to its place on the disk.
fn place(disk: &mut File, path: &str, offset: u64, limit: u64) -> io::Result<()> {
    let mut source = File::open(path).map_err(at(path))?.take(limit);
    disk.seek(SeekFrom::Start(offset))?;
    io::copy(&mut source, disk).map_err(at(path))?;
    std::fs::remove_file(path).map_err(at(path))
}

/// Copies what lies below a folder, where there is one.
fn fill<T: Read + Write + Seek>(from: &Path, to: &Dir<'_, T>) -> io::Result<()> {
    let Ok(entries) = std::fs::read_dir(from) else { return Ok(()) };
    let mut entries: Vec<_> = entries.collect::<Result<_, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if path.is_dir() {
            fill(&path, &to.create_dir(&name)?)?;
        } else {
            let mut file = to.create_file(&name)?;
            io::copy(&mut io::BufReader::with_capacity(1 << 20, File::open(&path)?), &mut file).map_err(at(&path))?;
            file.flush()?;
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_has_half_of_the_memory_and_what_it_needs() {
        assert_eq!(state_bytes(64 << 30), 32 << 30);
        assert_eq!(state_bytes(1 << 30), STATE_MINIMUM);
        assert_eq!(state_bytes((16 << 30) + 4096) % spec::layout::ALIGNMENT, 0);
    }
}
