//! The state partition of a machine that is off, seen from outside by e2fsprogs.

use crate::run::{Outcome, run};
use crate::{Failure, Lab, Result};
use spec::layout::{BACKUP_GPT_RESERVE, Partition, SECTOR_SIZE, STATE_BEING_MADE};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The state partition's entry in the first GPT, which begins in sector 2 with 128 bytes an entry: the
/// type GUID, and the attributes (UEFI 2.10 section 5.3.3).
const GPT_ENTRY_OFFSET: u64 = 2 * SECTOR_SIZE + (Partition::State.number() as u64 - 1) * 128;
const GPT_ATTRIBUTES: std::ops::Range<usize> = 48..56;
/// The ext4 superblock's magic number: place in the partition, and bytes.
const MAGIC_OFFSET: u64 = 1024 + 56;
const MAGIC: [u8; 2] = 0xef53_u16.to_le_bytes();
/// Superblock, group descriptors and more.
const DAMAGED_BYTES: usize = 64 * 1024;
const DAMAGE: u8 = 0xa5;
const TOOL_SECONDS: u64 = 600;

/// The state partition of a disk image.
#[derive(Debug)]
pub struct StatePartition<'lab> {
    lab: &'lab Lab,
    disk: PathBuf,
}

impl<'lab> StatePartition<'lab> {
    pub fn of(lab: &'lab Lab, disk: &Path) -> StatePartition<'lab> {
        StatePartition { lab, disk: disk.into() }
    }

    /// Whether a file system was made there, to its end: before that, init may make it again.
    pub fn is_made(&self) -> Result<bool> {
        let (mut entry, mut magic) = ([0; 128], [0; 2]);
        let read = File::open(&self.disk).and_then(|file| {
            file.read_exact_at(&mut entry, GPT_ENTRY_OFFSET)?;
            file.read_exact_at(&mut magic, Partition::State.offset() + MAGIC_OFFSET)
        });
        match read {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(Failure::file(&self.disk, "read")(error)),
            Ok(()) => Ok(is_complete(&entry) && magic == MAGIC),
        }
    }

    /// Checks the file system as a mount after a power cut would find it, on a copy: the journal is
    /// replayed and orphans are removed (e2fsck -p, which refuses anything worse), then nothing may
    /// be left to mend.
    pub fn check(&self) -> Result {
        let copy = self.lab.folder().join("state-to-check");
        let length = std::fs::metadata(&self.disk).map_err(Failure::file(&self.disk, "look at"))?.len();
        qemu::disk::copy_range(&self.disk, Partition::State.offset()..length - BACKUP_GPT_RESERVE, &copy)?;
        for (mode, good) in [("-fp", [0, 1]), ("-fn", [0, 0])] {
            let outcome = self.tool("e2fsck", &[mode], &copy, "")?;
            if !outcome.code.is_some_and(|code| good.contains(&code)) {
                return outcome
                    .ok()
                    .map(drop)
                    .and(Err(Failure::Unexpected(format!("e2fsck {mode} mended what is left"))));
            }
        }
        std::fs::remove_file(&copy).map_err(Failure::file(&copy, "remove"))
    }

    /// Overwrites superblock and group descriptors.
    pub fn damage(&self) -> Result {
        let file = File::options().write(true).open(&self.disk).map_err(Failure::file(&self.disk, "open"))?;
        let damage = [DAMAGE; DAMAGED_BYTES];
        file.write_all_at(&damage, Partition::State.offset()).map_err(Failure::file(&self.disk, "write"))
    }

    /// Whether the damage is still as it was made: nobody has "repaired" it into something empty.
    pub fn is_damaged(&self) -> Result<bool> {
        let file = File::open(&self.disk).map_err(Failure::file(&self.disk, "open"))?;
        let mut bytes = vec![0; DAMAGED_BYTES];
        file.read_exact_at(&mut bytes, Partition::State.offset()).map_err(Failure::file(&self.disk, "read"))?;
        Ok(bytes.iter().all(|&byte| byte == DAMAGE))
    }

    /// Takes every free block by a file of its own, the ones that are reserved for root too.
    pub fn fill(&self) -> Result {
        let free = self.free_blocks()?;
        // A few blocks go to the file's own extent tree.
        let last = free.saturating_sub(free / 8192 + 32);
        let commands = format!("write /dev/null filler\nfallocate filler 0 {last}\n");
        self.tool("debugfs", &["-w", "-f", "-"], &self.place(), &commands)?.ok().map(drop)
    }

    fn free_blocks(&self) -> Result<u64> {
        let header = self.tool("debugfs", &["-R", "stats -h"], &self.place(), "")?.ok()?;
        let free = header.lines().find_map(|line| line.strip_prefix("Free blocks:")?.trim().parse().ok());
        free.ok_or_else(|| Failure::Unexpected("debugfs tells no number of free blocks".into()))
    }

    /// As debugfs takes it. (dumpe2fs 1.47.2 does not: it sees a NAME=VALUE to look for.)
    fn place(&self) -> PathBuf {
        PathBuf::from(format!("{}?offset={}", self.disk.display(), Partition::State.offset()))
    }

    fn tool(&self, name: &str, options: &[&str], place: &Path, input: &str) -> Result<Outcome> {
        let mut command = self.lab.program(name);
        command.args(options).arg(place);
        run(command, input, self.lab.host_patience().seconds(TOOL_SECONDS))
    }
}

/// Whether a GPT entry is in use and its file system no longer being made.
fn is_complete(entry: &[u8; 128]) -> bool {
    let mut attributes = [0; 8];
    attributes.copy_from_slice(&entry[GPT_ATTRIBUTES]);
    entry[..16] != [0; 16] && u64::from_le_bytes(attributes) & STATE_BEING_MADE == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// A disk whose state partition is a small ext4 with a file in it.
    fn disk(lab: &Lab) -> PathBuf {
        let path = lab.folder().join("disk.img");
        let size = 64 << 20;
        File::create(&path).unwrap().set_len(Partition::State.offset() + size + BACKUP_GPT_RESERVE).unwrap();
        let mut command = Command::new("mke2fs");
        command.args(["-q", "-F", "-t", "ext4", "-E", &format!("offset={}", Partition::State.offset())]).arg(&path);
        command.arg(format!("{}k", size >> 10));
        run(command, "", std::time::Duration::from_secs(60)).unwrap().ok().unwrap();
        mark(&path, 0);
        path
    }

    /// Writes the partition's entry with these attributes.
    fn mark(disk: &Path, attributes: u64) {
        let mut entry = [0; 128];
        entry[..16].copy_from_slice(&Partition::State.type_guid().to_bytes_le());
        entry[GPT_ATTRIBUTES].copy_from_slice(&attributes.to_le_bytes());
        File::options().write(true).open(disk).unwrap().write_all_at(&entry, GPT_ENTRY_OFFSET).unwrap();
    }

    #[test]
    #[ignore = "needs e2fsprogs on the host"]
    fn a_state_partition_is_checked_filled_and_damaged_from_outside() {
        let folder = tempfile::tempdir().unwrap();
        let lab = Lab::new(folder.path()).unwrap();
        let disk = disk(&lab);
        let state = StatePartition::of(&lab, &disk);
        mark(&disk, STATE_BEING_MADE);
        assert!(!state.is_made().unwrap());
        mark(&disk, 0);
        assert!(state.is_made().unwrap());
        state.check().unwrap();
        state.fill().unwrap();
        state.check().unwrap();
        let free = state.free_blocks().unwrap();
        assert!(free < 100, "{free} blocks are still free");
        assert!(!state.is_damaged().unwrap());
        state.damage().unwrap();
        assert!(state.is_damaged().unwrap() && !state.is_made().unwrap());
        state.check().unwrap_err();
    }
}
