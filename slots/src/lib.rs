//! The two slots of a machine's ESP: which entries are there, a slot emptied, filled, put on trial, called good or bad.
//!
//! Architecture invariant: the slot that runs is never written. Whatever a power cut leaves, the loader finds the
//! entries that were there before or those that shall be: a file's content and its clusters reach the disk before the
//! directory names its size, and a rename is one sector.

mod dots;
mod ordered;
mod volume;

use fatfs::{Date, DateTime, FileSystem, FsOptions, Time, TimeProvider};
pub use ordered::Device;
use ordered::Ordered;
use spec::boot::{
    Entry, FIRST_GENERATION, GRUB_ENVIRONMENT, GRUB_ENVIRONMENT_SIZE, GRUB_FOLDER, GrubEnvironment, TRIES, Tries,
    UKI_FOLDER, grub_command_line, grub_files,
};
use spec::layout::Slot;
use std::io::{self, Read, Seek, Write};
use thiserror::Error;
pub use volume::make;

#[derive(Debug, Error)]
pub enum Error {
    #[error("the ESP: {what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("the ESP has no entry of slot {}", .0.letter())]
    NoEntry(Slot),
    #[error("the ESP has {free} bytes free; the slot's files need {wanted}: nothing was written")]
    Full { free: u64, wanted: u64 },
}

/// What a slot boots by: readers with their lengths in bytes.
pub struct Files<'a> {
    pub uki: (&'a mut dyn Read, u64),
    pub kernel: (&'a mut dyn Read, u64),
    pub initramfs: (&'a mut dyn Read, u64),
    pub command_line: &'a str,
}

/// The first moment that FAT can tell, for every file: firmware renames no file that has no valid date.
#[derive(Debug)]
pub struct FirstDay;

impl TimeProvider for FirstDay {
    fn get_current_date(&self) -> Date {
        Date { year: 1980, month: 1, day: 1 }
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime { date: self.get_current_date(), time: Time { hour: 0, min: 0, sec: 0, millis: 0 } }
    }
}

fn options() -> FsOptions {
    FsOptions::new().update_accessed_date(false).time_provider(&FirstDay)
}

type Volume<'v, 'd, D> = FileSystem<&'v mut Ordered<'d, D>>;

/// One change of the volume, from its first write to the last sync.
fn change<D: Device, T>(
    device: &mut D,
    what: &str,
    work: impl FnOnce(&Volume<'_, '_, D>) -> io::Result<T>,
) -> Result<T, Error> {
    let named = |source| Error::Io { what: what.to_owned(), source };
    let mut ordered = Ordered::new(device).map_err(named)?;
    let volume = FileSystem::new(&mut ordered, options()).map_err(named)?;
    let done = work(&volume).map_err(named)?;
    volume.unmount().map_err(named)?;
    ordered.finish().map_err(named)?;
    Ok(done)
}

/// A look at the volume, as it lies.
fn look<D: Device, T>(
    device: &mut D,
    what: &str,
    work: impl FnOnce(&FileSystem<&mut D>) -> io::Result<T>,
) -> Result<T, Error> {
    let looked = device.rewind().and_then(|()| {
        let volume = FileSystem::new(device, options())?;
        work(&volume)
    });
    looked.map_err(|source| Error::Io { what: what.to_owned(), source })
}

/// The entries of our images, the one that the loader prefers first.
///
/// # Errors
/// No FAT file system, or the device's.
pub fn entries<D: Device>(device: &mut D) -> Result<Vec<Entry>, Error> {
    let names = look(device, UKI_FOLDER, |volume| names(volume, UKI_FOLDER))?;
    let mut entries: Vec<Entry> = names.iter().filter_map(|name| name.parse().ok()).collect();
    entries.sort_by_key(|entry| (entry.is_bad(), std::cmp::Reverse((entry.generation, entry.slot))));
    Ok(entries)
}

fn names<D: Read + Write + Seek>(volume: &FileSystem<D>, folder: &str) -> io::Result<Vec<String>> {
    let root = volume.root_dir();
    let folder = if folder.is_empty() { root } else { root.open_dir(folder)? };
    folder.iter().map(|entry| entry.map(|entry| entry.file_name())).collect()
}

/// The entry of a slot.
///
/// # Errors
/// As [`entries`]; there is none.
pub fn entry<D: Device>(device: &mut D, slot: Slot) -> Result<Entry, Error> {
    entries(device)?.into_iter().find(|entry| entry.slot == slot).ok_or(Error::NoEntry(slot))
}

/// Copies a slot's UKI.
///
/// # Errors
/// As [`entry`]; `target` cannot be written.
pub fn read_uki<D: Device>(device: &mut D, slot: Slot, target: &mut impl Write) -> Result<u64, Error> {
    let path = path_of(&entry(device, slot)?);
    look(device, &path, |volume| {
        let file = volume.root_dir().open_file(&path)?;
        io::copy(&mut io::BufReader::with_capacity(1 << 18, file), target)
    })
}

/// Takes a slot's files away, after GRUB was told to start the other.
///
/// # Errors
/// The device's.
pub fn empty<D: Device>(device: &mut D, slot: Slot) -> Result<(), Error> {
    tell_grub(device, |environment| *environment = GrubEnvironment { first: slot.other(), ..GrubEnvironment::FIRST })?;
    for entry in entries(device)?.iter().filter(|entry| entry.slot == slot) {
        let path = path_of(entry);
        change(device, &path, |volume| volume.root_dir().remove(&path))?;
    }
    let there = look(device, GRUB_FOLDER, |volume| names(volume, GRUB_FOLDER))?;
    // fsck.fat keeps the clusters that belonged to no file as files.
    let root = look(device, "/", |volume| names(volume, ""))?;
    for found in root.iter().filter(|name| name.starts_with("FSCK") && name.to_ascii_uppercase().ends_with(".REC")) {
        change(device, found, |volume| volume.root_dir().remove(found))?;
    }
    for path in grub_files(slot).iter().filter(|path| there.iter().any(|name| path.ends_with(&format!("/{name}")))) {
        change(device, path, |volume| volume.root_dir().remove(path))?;
    }
    Ok(())
}

/// Fills a slot that was emptied and puts it on trial, before the other in both loaders' order.
///
/// # Errors
/// [`Error::Full`] before anything was written; a reader's or the device's.
pub fn fill<D: Device>(device: &mut D, slot: Slot, files: Files<'_>) -> Result<Entry, Error> {
    let Files { uki, kernel, initramfs, command_line } = files;
    let generation = entries(device)?.iter().map(|entry| entry.generation).max().unwrap_or(0).max(FIRST_GENERATION) + 1;
    let entry = Entry { generation, slot, tries: Some(Tries { left: TRIES, done: 0 }) };
    let wanted = uki.1 + kernel.1 + initramfs.1 + command_line.len() as u64;
    let free = look(device, "free space", |volume| {
        let statistics = volume.stats()?;
        Ok(u64::from(statistics.free_clusters()) * u64::from(statistics.cluster_size()))
    })?;
    // A cluster of each file is filled in part.
    const SLACK: u64 = 4 << 16;
    if free < wanted + SLACK {
        return Err(Error::Full { free, wanted });
    }
    let [kernel_file, initramfs_file, command_line_file] = grub_files(slot);
    put(device, &kernel_file, kernel)?;
    put(device, &initramfs_file, initramfs)?;
    let text = grub_command_line(command_line);
    put(device, &command_line_file, (&mut text.as_bytes(), text.len() as u64))?;
    put(device, &path_of(&entry), uki)?;
    tell_grub(device, |environment| {
        *environment = GrubEnvironment { first: slot, trial: Some(TRIES), next: None };
    })?;
    Ok(entry)
}

/// Writes a file of `length` bytes that is not there: under its name without content, then, when the content is on the
/// disk, with its size.
fn put<D: Device>(device: &mut D, path: &str, (reader, length): (&mut dyn Read, u64)) -> Result<(), Error> {
    change(device, path, |volume| volume.root_dir().create_file(path).map(drop))?;
    change(device, path, |volume| {
        let mut file = volume.root_dir().open_file(path)?;
        let mut reader = io::BufReader::with_capacity(1 << 18, reader.take(length));
        let copied = io::copy(&mut reader, &mut file)?;
        if copied != length {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{copied} of {length} bytes came")));
        }
        file.flush()
    })
}

/// Changes a slot's counter in both loaders: `None` calls it good, no tries left call it bad.
///
/// # Errors
/// [`Error::NoEntry`], or the device's.
pub fn set_tries<D: Device>(device: &mut D, slot: Slot, tries: Option<Tries>) -> Result<Entry, Error> {
    let before = entry(device, slot)?;
    let entry = Entry { tries, ..before };
    if entry != before {
        let (from, to) = (path_of(&before), path_of(&entry));
        change(device, &from, |volume| volume.root_dir().rename(&from, &volume.root_dir(), &to))?;
    }
    tell_grub(device, |environment| {
        let first = if entry.is_bad() { slot.other() } else { slot };
        *environment =
            GrubEnvironment { first, trial: tries.map(|tries| tries.left).filter(|left| *left > 0), next: None };
    })?;
    Ok(entry)
}

/// What GRUB is told.
///
/// # Errors
/// The device's, or there is no environment block.
pub fn grub_environment<D: Device>(device: &mut D) -> Result<GrubEnvironment, Error> {
    look(device, GRUB_ENVIRONMENT, |volume| {
        let mut block = Vec::new();
        volume.root_dir().open_file(GRUB_ENVIRONMENT)?.take(GRUB_ENVIRONMENT_SIZE as u64).read_to_end(&mut block)?;
        Ok(GrubEnvironment::decode(&block))
    })
}

/// Makes the next boot by GRUB, and that one only, take a slot.
///
/// # Errors
/// As [`grub_environment`].
pub fn set_grub_next<D: Device>(device: &mut D, slot: Slot) -> Result<(), Error> {
    tell_grub(device, |environment| environment.next = Some(slot))
}

/// Overwrites the block where it lies.
fn tell_grub<D: Device>(device: &mut D, alter: impl FnOnce(&mut GrubEnvironment)) -> Result<(), Error> {
    let before = grub_environment(device)?;
    let mut environment = before.clone();
    alter(&mut environment);
    if environment == before {
        return Ok(());
    }
    change(device, GRUB_ENVIRONMENT, |volume| {
        let mut file = volume.root_dir().open_file(GRUB_ENVIRONMENT)?;
        file.write_all(&environment.encode())?;
        file.flush()
    })
}

fn path_of(entry: &Entry) -> String {
    format!("{UKI_FOLDER}/{entry}")
}

#[cfg(test)]
mod tests;
