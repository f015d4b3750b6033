//! A partition of a disk image, as a device of its own.

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
    /// For reading, and for writing where that is asked for.
    ///
    /// # Errors
    /// The image cannot be opened; `InvalidInput` for the state partition, whose size is the disk's affair.
    pub fn open(disk: &Path, partition: Partition, write: bool) -> io::Result<PartitionFile> {
        let length = partition.size().ok_or(io::ErrorKind::InvalidInput)?;
        let file = OpenOptions::new().read(true).write(write).open(disk)?;
        let mut found = PartitionFile { disk: file, offset: partition.offset(), length };
        found.rewind()?;
        Ok(found)
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
