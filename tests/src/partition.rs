//! A partition of a machine that is off, read and written on the host.

use crate::{Failure, Result};
use fatfs::{FileSystem, FsOptions};
use spec::layout::Partition;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Bytes of an image file from the partition's first one on.
#[derive(Debug)]
pub struct PartitionFile {
    disk: File,
    offset: u64,
    length: u64,
}

impl PartitionFile {
    /// # Errors
    /// The image cannot be opened; the partition has no fixed size.
    pub fn open(disk: &Path, partition: Partition) -> Result<PartitionFile> {
        let file = OpenOptions::new().read(true).write(true).open(disk).map_err(Failure::file(disk, "open"))?;
        let size = partition.size().ok_or_else(|| Failure::Unexpected(format!("{partition:?} has no size")))?;
        let mut found = PartitionFile { disk: file, offset: partition.offset(), length: size };
        found.rewind().map_err(Failure::file(disk, "seek in"))?;
        Ok(found)
    }

    /// Overwrites a piece of a file on the FAT file system.
    ///
    /// # Errors
    /// There is no such file.
    pub fn overwrite(&mut self, path: &str, offset: u64, bytes: &[u8]) -> Result {
        let mut change = || -> io::Result<()> {
            self.rewind()?;
            let volume = FileSystem::new(&mut *self, FsOptions::new().time_provider(&::slots::FirstDay))?;
            let mut file = volume.root_dir().open_file(path)?;
            file.seek(SeekFrom::Start(offset))?;
            file.write_all(bytes)?;
            file.flush()
        };
        change().map_err(Failure::file(path, "overwrite"))
    }
}

impl Read for PartitionFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = (self.offset + self.length).saturating_sub(self.disk.stream_position()?);
        let count = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.disk.read(&mut buffer[..count])
    }
}

impl Write for PartitionFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = (self.offset + self.length).saturating_sub(self.disk.stream_position()?);
        let count = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.disk.write(&bytes[..count])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.disk.flush()
    }
}

impl Seek for PartitionFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let wanted = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.length.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.stream_position()?.checked_add_signed(offset),
        };
        let wanted = wanted.ok_or(io::ErrorKind::InvalidInput)?;
        self.disk.seek(SeekFrom::Start(self.offset + wanted))?;
        Ok(wanted)
    }

    fn stream_position(&mut self) -> io::Result<u64> {
        Ok(self.disk.stream_position()?.saturating_sub(self.offset))
    }
}

impl ::slots::Device for PartitionFile {
    fn sync(&mut self) -> io::Result<()> {
        self.disk.sync_all()
    }
}
