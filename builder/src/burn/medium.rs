//! A disk while it becomes a stick: marked unusable first, the partition table last.

use super::source::{Buffer, CHUNK, Image};
use crate::error::{Error, Result};
use gpt::disk::LogicalBlockSize;
use images::gpt::{IMAGE_PARTITIONS, Identity};
use rustix::fs::{Mode, OFlags};
use spec::layout::{ALIGNMENT, BACKUP_GPT_RESERVE, Partition, image_size};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Stands in the first sector until the stick is whole.
const MARK: &[u8] = b"imgbuild: the writing of this medium was not finished; burn it again.\n";

/// A disk that nobody else uses meanwhile.
pub struct Medium {
    path: PathBuf,
    /// Bytes.
    size: u64,
    /// Opened exclusively: what mounts it is refused as long as this lives.
    file: File,
    /// Past the page cache.
    direct: File,
}

impl Medium {
    /// # Errors
    /// A failure when it cannot be opened, or somebody uses it.
    pub fn open(path: &Path, size: u64) -> Result<Medium> {
        let open = |flags: OFlags| {
            let opened = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC | flags, Mode::empty());
            opened.map(File::from).map_err(|error| Error::io("open", path, error.into()))
        };
        Ok(Medium { path: path.to_owned(), size, file: open(OFlags::EXCL)?, direct: open(OFlags::DIRECT)? })
    }

    fn failed(&self, verb: &'static str) -> impl Fn(io::Error) -> Error + '_ {
        move |error| Error::io(verb, &self.path, error)
    }

    /// Takes away the partition tables, so that whatever ends this leaves a disk that nothing boots from, and what an
    /// earlier image may have left where this one has nothing: the other slot's root, a machine's secrets.
    ///
    /// # Errors
    /// As the disk answers.
    pub fn mark_unusable(&self) -> Result<()> {
        let mut megabyte = Buffer::new(ALIGNMENT as usize);
        megabyte.bytes()[..MARK.len()].copy_from_slice(MARK);
        self.direct.write_all_at(megabyte.bytes(), 0).map_err(self.failed("write"))?;
        megabyte.bytes().fill(0);
        let last = (self.size - 1) / ALIGNMENT * ALIGNMENT;
        let seed = (Partition::Seed.offset()..Partition::RootB.offset()).step_by(ALIGNMENT as usize);
        for offset in seed.chain([Partition::RootB.offset(), last - ALIGNMENT, last]) {
            let length = (self.size - offset).min(ALIGNMENT) as usize;
            self.direct.write_all_at(&megabyte.bytes()[..length], offset).map_err(self.failed("write"))?;
        }
        self.direct.sync_all().map_err(self.failed("write"))
    }

    /// Writes what the image holds between its partition tables; `done` is told how far it is.
    ///
    /// # Errors
    /// As the image and the disk answer.
    pub fn write(&self, image: &Image, done: impl FnMut(u64)) -> Result<()> {
        let put = |offset: u64, bytes: &[u8]| self.direct.write_all_at(bytes, offset).map_err(self.failed("write"));
        let end = each(image, put, done)?;
        if end != image_size() {
            let message = format!("{} ends after {end} bytes, an image has {}", image.path.display(), image_size());
            return Err(Error::failure(message).help("it was cut off: copy or build it again"));
        }
        self.direct.sync_all().map_err(self.failed("write"))
    }

    /// Reads it back and compares.
    ///
    /// # Errors
    /// A failure that says where they differ.
    pub fn compare(&self, image: &Image, done: impl FnMut(u64)) -> Result<()> {
        let mut found = Buffer::new(CHUNK);
        let check = |offset: u64, bytes: &[u8]| {
            let found = &mut found.bytes()[..bytes.len()];
            self.direct.read_exact_at(found, offset).map_err(self.failed("read"))?;
            if found == bytes {
                return Ok(());
            }
            match found.iter().zip(bytes).position(|(found, wanted)| found != wanted) {
                None => Ok(()),
                Some(place) => Err(Error::failure(format!(
                    "{} does not keep what is written to it: byte {} is {:#04x}, {:#04x} was written",
                    self.path.display(),
                    offset + place as u64,
                    found[place],
                    bytes[place]
                ))
                .help("the stick is worn out or is smaller than it says: take another")),
            }
        };
        each(image, check, done).map(drop)
    }

    /// The seed's partition, before there is a table that names it.
    pub fn seed(&mut self) -> &mut File {
        &mut self.file
    }

    /// Makes it whole: the partition table for the whole disk, with GUIDs of its own, so that two sticks of one image
    /// in one machine are told apart; and before it the image's code for a BIOS.
    ///
    /// # Errors
    /// As image and disk answer, or the table does not read back.
    pub fn finish(mut self, image: &Image) -> Result<()> {
        let boot_code = image.boot_code()?;
        let broken = |error: &dyn std::fmt::Display, path: &Path| {
            Error::failure(format!("the partition table of {}: {error}", path.display()))
        };
        let written = images::gpt::write(&mut self.file, self.size, &IMAGE_PARTITIONS, Identity::Drawn);
        written.map_err(|error| broken(&error, &self.path))?;
        self.file.write_all_at(&boot_code, 0).map_err(self.failed("write"))?;
        self.file.sync_all().map_err(self.failed("write"))?;
        let config =
            gpt::GptConfig::new().writable(false).only_valid_headers(true).logical_block_size(LogicalBlockSize::Lb512);
        config.open_from_device(&self.file).map_err(|error| broken(&error, &self.path)).map(drop)
    }
}

/// Calls `act` with every piece of the image that has to be on the disk, in order, the image's own partition tables
/// left out: what it holds, and zeros where something else there would be taken for content. What lies behind the
/// content of a partition is left out. Gives the image's length.
fn each(image: &Image, mut act: impl FnMut(u64, &[u8]) -> Result<()>, mut done: impl FnMut(u64)) -> Result<u64> {
    let (mut zeros, mut end, mut length) = (Buffer::new(CHUNK), ALIGNMENT, 0);
    let last = image_size() - BACKUP_GPT_RESERVE;
    let mut fill = |from: u64, to: u64, act: &mut dyn FnMut(u64, &[u8]) -> Result<()>| {
        zeros_between(from, to)
            .into_iter()
            .flat_map(pieces)
            .try_for_each(|(offset, length)| act(offset, &zeros.bytes()[..length]))
    };
    let take = |offset: u64, bytes: &[u8]| {
        let first = ALIGNMENT.saturating_sub(offset).min(bytes.len() as u64);
        let behind = last.saturating_sub(offset).min(bytes.len() as u64);
        if first >= behind {
            return Ok(());
        }
        fill(end, offset + first, &mut act)?;
        act(offset + first, &bytes[first as usize..behind as usize])?;
        end = offset + behind;
        Ok(())
    };
    let tell = |offset| {
        length = offset;
        done(offset);
    };
    image.chunks(CHUNK, take, tell)?;
    fill(end, last, &mut act)?;
    Ok(length)
}

/// Where there must be zeros between what ends at `end` and what begins at `next`: all of it within one partition; one
/// chunk behind the end of a partition's content, which may share a cluster with it; all before the next one's.
fn zeros_between(end: u64, next: u64) -> [Range<u64>; 2] {
    let start = Partition::ON_DISK.map(Partition::offset).into_iter().filter(|start| *start <= next).max();
    match start {
        Some(start) if start > end => [end..(end + CHUNK as u64).min(start), start..next],
        _ => [end..next, next..next],
    }
}

/// A range in pieces of at most a chunk: offset and length.
fn pieces(range: Range<u64>) -> impl Iterator<Item = (u64, usize)> {
    let Range { start, end } = range;
    (start..end).step_by(CHUNK).map(move |offset| (offset, (end - offset).min(CHUNK as u64) as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_written_within_a_partition_and_not_behind_its_content() {
        let (esp, root) = (Partition::Esp.offset(), Partition::RootA.offset());
        let chunk = CHUNK as u64;
        assert_eq!(zeros_between(esp + chunk, esp + 9 * chunk)[0], esp + chunk..esp + 9 * chunk);
        assert_eq!(
            zeros_between(esp + chunk, root + 2 * chunk),
            [esp + chunk..esp + 2 * chunk, root..root + 2 * chunk]
        );
        assert_eq!(zeros_between(root - 512, root), [root - 512..root, root..root]);
        let parts: Vec<_> = pieces(5..2 * chunk).collect();
        assert_eq!(parts, [(5, CHUNK), (5 + chunk, CHUNK - 5)]);
    }
}
