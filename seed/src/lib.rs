//! The seed partition's bytes: `spec::seed` written and read, for builder, init and agent alike.
//!
//! Everything works on `Read + Write + Seek` positioned by a byte offset, so that a file, an image
//! and a block device are the same thing here. A write follows the order that a power cut at any
//! moment survives: payload, sync, header, sync, into the copy that is not the current one.

pub mod archive;
pub mod header;

use sha2::{Digest, Sha256};
use spec::seed::{HEADER_SIZE, Header, copy_offset, payload_maximum};
use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use thiserror::Error;

/// The seed's files: relative name (`spec::seed::files`) and content.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A valid seed as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    /// Grows by one with each write.
    pub generation: u64,
    pub files: Files,
}

/// What is wrong with the bytes of one copy, or with files that shall become one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Defect {
    #[error("starts with `{0}`, not with the seed's magic `imgbuild-seed-01`")]
    Magic(String),
    #[error("the header's checksum does not match")]
    HeaderChecksum,
    #[error("the header has bytes where the layout wants zeros")]
    Reserved,
    #[error("{0} bytes of payload; at most {maximum} fit", maximum = payload_maximum())]
    Length(u64),
    #[error("the payload's SHA-256 does not match the header: a write was cut short or the medium is damaged")]
    PayloadChecksum,
    #[error("the archive does not read: {0}")]
    Archive(String),
    #[error("file name `{0}`: wanted a relative name without `.`, `..` or empty parts that fits a ustar header")]
    Name(String),
    #[error("`{0}` is not a regular file")]
    NotAFile(String),
    #[error("`{0}` is in the archive twice")]
    Twice(String),
    #[error("cannot be read: {0}")]
    Unreadable(String),
}

/// Why there is no seed, or why it could not be written.
#[derive(Debug, Error)]
pub enum Error {
    #[error("the seed partition is empty: nothing was ever written to it, or it was erased")]
    Empty,
    #[error("no copy of the seed is valid: first copy: {first}; second copy: {second}")]
    Invalid { first: String, second: String },
    #[error("the seed cannot be written: {0}")]
    Encode(#[from] Defect),
    #[error("seed partition: {0}")]
    Io(#[from] io::Error),
    #[error("{path}: {source}")]
    File { path: String, source: io::Error },
}

/// A device that can be told to put what was written on the medium.
pub trait Sync {
    /// Returns when all earlier writes survive a power cut.
    ///
    /// # Errors
    /// As the device says.
    fn sync(&mut self) -> io::Result<()>;
}

impl Sync for std::fs::File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

impl Sync for io::Cursor<Vec<u8>> {
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Header block and payload of a copy.
///
/// # Errors
/// A bad name, or more bytes than a copy holds.
pub fn encode(generation: u64, files: &Files) -> Result<([u8; HEADER_SIZE], Vec<u8>), Defect> {
    let payload = archive::encode(files)?;
    let length = payload.len() as u64;
    if length > payload_maximum() {
        return Err(Defect::Length(length));
    }
    let payload_sha256 = Sha256::digest(&payload).into();
    Ok((header::encode(&Header { generation, length, payload_sha256 }), payload))
}

/// Reads the valid copy with the higher generation from the partition that begins at byte `start`.
///
/// # Errors
/// [`Error::Empty`] where neither copy was ever written, [`Error::Invalid`] with the reason of each
/// copy where none is valid.
pub fn read<D: Read + Seek>(device: &mut D, start: u64) -> Result<Seed, Error> {
    let copies = [read_copy(device, start), read_copy(device, start + copy_offset(1))];
    let reason = |copy: &Result<Option<Seed>, Defect>| match copy {
        Err(defect) => defect.to_string(),
        Ok(_) => "empty".to_owned(),
    };
    let reasons = (reason(&copies[0]), reason(&copies[1]));
    let blank = copies.iter().all(|copy| matches!(copy, Ok(None)));
    let newest = copies.into_iter().filter_map(|copy| copy.ok().flatten()).max_by_key(|seed| seed.generation);
    match newest {
        Some(seed) => Ok(seed),
        None if blank => Err(Error::Empty),
        None => Err(Error::Invalid { first: reasons.0, second: reasons.1 }),
    }
}

/// Writes `files` as the next generation into the copy that is not current; returns the generation.
/// Until the header is on the medium the old seed stays the valid one.
///
/// # Errors
/// A bad name, too many bytes, or the device.
pub fn write<D: Read + Write + Seek + Sync>(device: &mut D, start: u64, files: &Files) -> Result<u64, Error> {
    let generations = [0, 1].map(|copy| generation(device, start + copy_offset(copy)));
    let current = generations.iter().copied().flatten().max();
    // The copy with the lower generation (an invalid one counts as lowest) is overwritten.
    let target = u64::from(generations[0] > generations[1]);
    let next = current.map_or(1, |generation| generation.saturating_add(1));
    let (block, payload) = encode(next, files)?;
    let offset = start + copy_offset(target);
    // An older header of this copy must not name the payload that is about to change under it.
    write_at(device, offset, &[0; HEADER_SIZE])?;
    write_at(device, offset + HEADER_SIZE as u64, &payload)?;
    device.sync()?;
    write_at(device, offset, &block)?;
    device.sync()?;
    Ok(next)
}

/// Zeroes the whole of both copies, headers first: nothing secret stays on the medium.
///
/// # Errors
/// As the device says.
pub fn erase<D: Write + Seek + Sync>(device: &mut D, start: u64) -> Result<(), Error> {
    for copy in [0, 1] {
        write_at(device, start + copy_offset(copy), &[0; HEADER_SIZE])?;
    }
    device.sync()?;
    let zeros = vec![0; 1024 * 1024];
    for copy in [0, 1] {
        let mut done = HEADER_SIZE as u64;
        while done < copy_offset(1) {
            let length = zeros.len().min((copy_offset(1) - done) as usize);
            write_at(device, start + copy_offset(copy) + done, &zeros[..length])?;
            done += length as u64;
        }
    }
    device.sync()?;
    Ok(())
}

/// [`read`] of the file or block device `path`, the partition beginning at byte `start`.
///
/// # Errors
/// As [`read`], and [`Error::File`] where the path cannot be opened.
pub fn read_path(path: &Path, start: u64) -> Result<Seed, Error> {
    read(&mut open(path, false)?, start)
}

/// [`write`] to the file or block device `path`, the partition beginning at byte `start`.
///
/// # Errors
/// As [`write`], and [`Error::File`] where the path cannot be opened.
pub fn write_path(path: &Path, start: u64, files: &Files) -> Result<u64, Error> {
    write(&mut open(path, true)?, start, files)
}

fn open(path: &Path, write: bool) -> Result<std::fs::File, Error> {
    let opened = std::fs::OpenOptions::new().read(true).write(write).open(path);
    opened.map_err(|source| Error::File { path: path.display().to_string(), source })
}

fn write_at<D: Write + Seek>(device: &mut D, offset: u64, bytes: &[u8]) -> io::Result<()> {
    device.seek(SeekFrom::Start(offset))?;
    device.write_all(bytes)
}

/// One copy: `Ok(None)` when it was never written or was erased.
fn read_copy<D: Read + Seek>(device: &mut D, offset: u64) -> Result<Option<Seed>, Defect> {
    let unreadable = |error: io::Error| Defect::Unreadable(error.to_string());
    device.seek(SeekFrom::Start(offset)).map_err(unreadable)?;
    let mut block = [0u8; HEADER_SIZE];
    device.read_exact(&mut block).map_err(unreadable)?;
    let Some(header) = header::decode(&block)? else { return Ok(None) };
    let mut payload = Vec::new();
    device.take(header.length).read_to_end(&mut payload).map_err(unreadable)?;
    if payload.len() as u64 != header.length || header.payload_sha256 != *Sha256::digest(&payload) {
        return Err(Defect::PayloadChecksum);
    }
    Ok(Some(Seed { generation: header.generation, files: archive::decode(&payload)? }))
}

/// Generation of a copy that is valid as a whole.
fn generation<D: Read + Seek>(device: &mut D, offset: u64) -> Option<u64> {
    read_copy(device, offset).ok().flatten().map(|seed| seed.generation)
}

#[cfg(test)]
mod tests;
