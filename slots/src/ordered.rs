//! A FAT volume whose directories are written last: what a change reads of the data region are its directories (and
//! files that it overwrites where they lie), and these sectors wait until everything else is on the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

/// Bytes of the smallest sector.
const SMALLEST_SECTOR: usize = 512;

/// A partition.
pub trait Device: Read + Write + Seek {
    /// Everything that was written is on the disk.
    ///
    /// # Errors
    /// As the device says.
    fn sync(&mut self) -> io::Result<()>;
}

impl Device for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

#[derive(Debug)]
pub(crate) struct Ordered<'d, D> {
    device: &'d mut D,
    position: u64,
    length: u64,
    /// Bytes of a sector, which a disk writes whole or not at all.
    sector: u64,
    /// Where the data region begins (Microsoft FAT specification, section 3).
    data: u64,
    held: BTreeMap<u64, Vec<u8>>,
    changed: BTreeSet<u64>,
}

impl<'d, D: Device> Ordered<'d, D> {
    pub fn new(device: &'d mut D) -> io::Result<Self> {
        let length = device.seek(SeekFrom::End(0))?;
        let mut boot = [0; SMALLEST_SECTOR];
        device.rewind()?;
        device.read_exact(&mut boot)?;
        let word = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
        let fat_sectors = u32::from_le_bytes([boot[36], boot[37], boot[38], boot[39]]);
        let sector = word(11);
        if ![512, 4096].contains(&sector) || word(510) != 0xaa55 || fat_sectors == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "no FAT32 file system with sectors of 512 or 4096 bytes",
            ));
        }
        let data = (word(14) + u64::from(boot[16]) * u64::from(fat_sectors)) * sector;
        Ok(Ordered { device, position: 0, length, sector, data, held: BTreeMap::new(), changed: BTreeSet::new() })
    }

    /// Writes what was held back; the volume is as it shall be when this returns.
    pub fn finish(self) -> io::Result<()> {
        self.device.sync()?;
        for number in &self.changed {
            if let Some(sector) = self.held.get(number) {
                self.device.seek(SeekFrom::Start(number * self.sector))?;
                self.device.write_all(sector)?;
            }
        }
        self.device.sync()
    }

    /// Number of the sector at the position, and where in it the position is.
    fn place(&self) -> (u64, usize) {
        (self.position / self.sector, (self.position % self.sector) as usize)
    }
}

impl<D: Device> Read for Ordered<'_, D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.position >= self.length {
            return Ok(0);
        }
        let (number, within) = self.place();
        let count = buffer.len().min(self.sector as usize - within);
        let sector = match self.held.get(&number) {
            Some(sector) => sector.clone(),
            None => {
                let mut sector = vec![0; self.sector as usize];
                self.device.seek(SeekFrom::Start(number * self.sector))?;
                self.device.read_exact(&mut sector)?;
                if number * self.sector >= self.data {
                    self.held.insert(number, sector.clone());
                }
                sector
            }
        };
        buffer[..count].copy_from_slice(&sector[within..within + count]);
        self.position += count as u64;
        Ok(count)
    }
}

impl<D: Device> Write for Ordered<'_, D> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (number, within) = self.place();
        if let Some(sector) = self.held.get_mut(&number) {
            let count = bytes.len().min(self.sector as usize - within);
            sector[within..within + count].copy_from_slice(&bytes[..count]);
            self.changed.insert(number);
            self.position += count as u64;
            return Ok(count);
        }
        // Up to the next sector that is held.
        let end = self.held.range(number..).next().map_or(u64::MAX, |(next, _)| next * self.sector);
        let count = bytes.len().min(usize::try_from(end - self.position).unwrap_or(usize::MAX));
        self.device.seek(SeekFrom::Start(self.position))?;
        self.device.write_all(&bytes[..count])?;
        self.position += count as u64;
        Ok(count)
    }

    /// The order is made by [`Ordered::finish`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<D: Device> Seek for Ordered<'_, D> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let wanted = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.length.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = wanted.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
