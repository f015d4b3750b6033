//! The GPT of a machine's disk: read with both headers judged, and changed in an order that a power
//! cut between any two sectors survives (UEFI 2.10 section 5.3).
//!
//! The `gpt` crate makes the bytes, into memory; this module decides the order in which they reach
//! the disk: backup table, sync, primary table, sync.

use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use gpt::header::{Header, HeaderBuilder};
use gpt::partition::Partition;
use spec::layout;
use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};
use thiserror::Error;
use uuid::Uuid;

/// A table as read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub disk_guid: Uuid,
    /// Entry number, from 1.
    pub partitions: BTreeMap<u32, Partition>,
    /// Bytes in a sector.
    pub sector: LogicalBlockSize,
    /// The primary header or its entries are damaged: this is the backup's content.
    pub primary_broken: bool,
    /// A valid backup lies in the disk's last sector.
    pub backup_in_place: bool,
}

#[derive(Debug, Error)]
pub enum TableError {
    #[error("no GPT: primary: {primary}; backup: {backup}")]
    None { primary: String, backup: String },
    #[error("partition {number} is named `{found}`; a disk of ours has `{wanted}` there")]
    Foreign { number: u32, found: String, wanted: &'static str },
    #[error("the partitions overlap or leave the disk: {0}")]
    Layout(String),
    #[error("partition table: {0}")]
    Io(#[from] io::Error),
    #[error("partition table: {0}")]
    Header(#[from] gpt::header::HeaderError),
}

/// A device with sectors laid over it in memory.
#[derive(Debug)]
struct Overlay<'a, D> {
    base: &'a mut D,
    sector: u64,
    length: u64,
    position: u64,
    written: BTreeMap<u64, Vec<u8>>,
}

impl<'a, D: Read + Seek> Overlay<'a, D> {
    fn new(base: &'a mut D, sector: LogicalBlockSize) -> io::Result<Self> {
        let length = base.seek(SeekFrom::End(0))?;
        Ok(Overlay { base, sector: sector.as_u64(), length, position: 0, written: BTreeMap::new() })
    }

    fn load(&mut self, number: u64) -> io::Result<Vec<u8>> {
        if let Some(bytes) = self.written.get(&number) {
            return Ok(bytes.clone());
        }
        let mut bytes = vec![0; self.sector as usize];
        self.base.seek(SeekFrom::Start(number * self.sector))?;
        self.base.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

impl<D: Read + Seek> Read for Overlay<'_, D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.position >= self.length {
            return Ok(0);
        }
        let sector = self.load(self.position / self.sector)?;
        let within = (self.position % self.sector) as usize;
        let count = buffer.len().min(sector.len() - within);
        buffer[..count].copy_from_slice(&sector[within..within + count]);
        self.position += count as u64;
        Ok(count)
    }
}

impl<D: Read + Seek> Write for Overlay<'_, D> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.position >= self.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let number = self.position / self.sector;
        let mut sector = self.load(number)?;
        let within = (self.position % self.sector) as usize;
        let count = buffer.len().min(sector.len() - within);
        sector[within..within + count].copy_from_slice(&buffer[..count]);
        self.written.insert(number, sector);
        self.position += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<D> Seek for Overlay<'_, D> {
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

/// Reads the table: the primary where it is whole, the backup otherwise.
///
/// # Errors
/// [`TableError::None`] with the reason of each half.
pub fn read<D: Read + Seek + std::fmt::Debug>(device: &mut D, sector: LogicalBlockSize) -> Result<Table, TableError> {
    let primary = read_half(device, sector, false);
    let backup = read_half(device, sector, true);
    let backup_in_place = backup.is_ok();
    let (disk_guid, partitions, primary_broken) = match (primary, backup) {
        (Ok((guid, partitions)), _) => (guid, partitions, false),
        (Err(_), Ok((guid, partitions))) => (guid, partitions, true),
        (Err(primary), Err(backup)) => return Err(TableError::None { primary, backup }),
    };
    Ok(Table { disk_guid, partitions, sector, primary_broken, backup_in_place })
}

type Half = (Uuid, BTreeMap<u32, Partition>);

/// One half alone: the other's header is hidden from the crate, which prefers the primary and does
/// not turn to the backup when only the primary's entries are torn.
fn read_half<D: Read + Seek + std::fmt::Debug>(
    device: &mut D,
    sector: LogicalBlockSize,
    backup: bool,
) -> Result<Half, String> {
    let words = |error: &dyn std::fmt::Display| error.to_string();
    let mut overlay = Overlay::new(device, sector).map_err(|error| words(&error))?;
    let sectors = overlay.length / overlay.sector;
    if sectors < 70 {
        return Err("the disk is too small".to_owned());
    }
    let (own, other) = if backup { (sectors - 1, 1) } else { (1, sectors - 1) };
    let header = overlay.load(own).map_err(|error| words(&error))?;
    // The crate asserts this instead of answering.
    if header[84..88] != 128u32.to_le_bytes() {
        return Err("no header with entries of 128 bytes".to_owned());
    }
    if u32::from_le_bytes([header[80], header[81], header[82], header[83]]) > 1024 {
        return Err("a header with more than 1024 entries".to_owned());
    }
    overlay.written.insert(other, vec![0; sector.as_usize()]);
    let disk = GptConfig::new().logical_block_size(sector).open_from_device(overlay).map_err(|error| words(&error))?;
    Ok((*disk.guid(), disk.partitions().clone()))
}

/// A write of whole sectors at a byte offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SectorWrite {
    pub offset: u64,
    pub bytes: Vec<u8>,
}

/// What a change writes: a sync belongs behind each group, and no group may begin before that.
pub type Epochs = Vec<Vec<SectorWrite>>;

/// The writes that put `table` on the device, its backup in the last sectors.
///
/// # Errors
/// A table that does not fit the disk, or a device that cannot be read.
pub fn plan_write<D: Read + Seek + std::fmt::Debug>(device: &mut D, table: &Table) -> Result<Epochs, TableError> {
    check(table)?;
    let mut overlay = Overlay::new(device, table.sector)?;
    let last = overlay.length / overlay.sector - 1;
    let mut builder = HeaderBuilder::from_header(&blank_header(table.disk_guid, last));
    let mut epochs = Epochs::new();
    for primary in [false, true] {
        let mut header = builder.primary(primary).build(table.sector)?;
        if let Some(partition) = table.partitions.values().find(|partition| partition.last_lba > header.last_usable) {
            return Err(TableError::Layout(format!("`{}` ends behind sector {}", partition.name, header.last_usable)));
        }
        Partition::write_zero_entries_to_device(
            &mut overlay,
            0,
            u64::from(header.num_parts),
            header.part_start,
            table.sector,
            header.part_size,
        )?;
        for (number, partition) in &table.partitions {
            let index = u64::from(*number) - 1;
            partition.write_to_device(&mut overlay, index, header.part_start, table.sector, header.part_size)?;
        }
        let written = if primary {
            header.write_primary(&mut overlay, table.sector)
        } else {
            header.write_backup(&mut overlay, table.sector)
        };
        written?;
        epochs.push(take_writes(&mut overlay));
    }
    epochs.extend(protective_record(&mut overlay, last)?);
    Ok(epochs)
}

/// A header for the builder to complete. The builder's own `new` draws a random GUID from a generator
/// that blocks for minutes on a machine without a random source.
fn blank_header(disk_guid: Uuid, backup_lba: u64) -> Header {
    Header {
        signature: String::new(),
        revision: (1, 0),
        header_size_le: 92,
        crc32: 0,
        reserved: 0,
        current_lba: 1,
        backup_lba,
        first_usable: 0,
        last_usable: 0,
        disk_guid,
        part_start: 2,
        num_parts: 128,
        part_size: 128,
        crc32_parts: 0,
    }
}

fn take_writes<D>(overlay: &mut Overlay<'_, D>) -> Vec<SectorWrite> {
    let sector = overlay.sector;
    std::mem::take(&mut overlay.written)
        .into_iter()
        .map(|(number, bytes)| SectorWrite { offset: number * sector, bytes })
        .collect()
}

/// The protective MBR's one record, made to cover the whole disk; the boot code stays.
fn protective_record<D: Read + Seek>(overlay: &mut Overlay<'_, D>, last: u64) -> io::Result<Option<Vec<SectorWrite>>> {
    let mut record = overlay.load(0)?;
    if record.iter().all(|byte| *byte == 0) {
        protect(&mut record);
    }
    let size = u32::try_from(last).unwrap_or(u32::MAX).to_le_bytes();
    if record[510..512] != [0x55, 0xaa] || record[450] != 0xee || record[458..462] == size {
        return Ok(None);
    }
    record[458..462].copy_from_slice(&size);
    Ok(Some(vec![SectorWrite { offset: 0, bytes: record }]))
}

/// Puts a protective MBR's one record into a first sector: type EE, from sector 1 on, of a size that comes with the table
/// (UEFI 2.10 table 5.4).
pub fn protect(sector: &mut [u8]) {
    sector[446..458].copy_from_slice(&[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
    sector[510..512].copy_from_slice(&[0x55, 0xaa]);
}

fn check(table: &Table) -> Result<(), TableError> {
    let mut sorted: Vec<&Partition> = table.partitions.values().collect();
    sorted.sort_by_key(|partition| partition.first_lba);
    for pair in sorted.windows(2) {
        if pair[0].last_lba >= pair[1].first_lba {
            return Err(TableError::Layout(format!("`{}` reaches into `{}`", pair[0].name, pair[1].name)));
        }
    }
    if table.partitions.contains_key(&0) || table.partitions.keys().any(|number| *number > 128) {
        return Err(TableError::Layout("entry numbers are 1 to 128".to_owned()));
    }
    Ok(())
}

/// Carries out a plan on an open disk.
///
/// # Errors
/// As the disk says; what was not yet written keeps its old content.
pub fn execute(device: &mut std::fs::File, epochs: &Epochs) -> io::Result<()> {
    for epoch in epochs {
        for write in epoch {
            device.seek(SeekFrom::Start(write.offset))?;
            device.write_all(&write.bytes)?;
        }
        device.sync_all()?;
    }
    Ok(())
}

/// The table that this disk shall have: `table` with root-b and the state partition where the disk has
/// room for them, the state grown when the disk grew. `length` is the disk's in bytes. Partition GUIDs
/// of new entries come from `draw`.
///
/// # Errors
/// An entry number of ours that holds something of another name.
pub fn complete(table: &Table, length: u64, mut draw: impl FnMut() -> Uuid) -> Result<Table, TableError> {
    let mut wanted = complete_slots(table, length, &mut draw)?;
    let state = layout::Partition::State;
    let end = usable_end(table, length);
    let place = place_of(&wanted, state);
    match (wanted.partitions.get_mut(&state.number()), place) {
        (Some(found), _) if found.last_lba + 1 < end => found.last_lba = end - 1,
        (None, Some(first)) if end > first && (end - first) * table.sector.as_u64() >= layout::STATE_MINIMUM => {
            wanted.partitions.insert(state.number(), entry(state, draw(), first, end - 1));
        }
        _ => {}
    }
    Ok(wanted)
}

/// The table of a boot disk whose state lies on another: both slots.
///
/// # Errors
/// As [`complete`].
pub fn complete_slots(table: &Table, length: u64, mut draw: impl FnMut() -> Uuid) -> Result<Table, TableError> {
    for kind in layout::Partition::ALL {
        let found = table.partitions.get(&kind.number());
        if let Some(found) = found.filter(|found| found.name != kind.label()) {
            return Err(TableError::Foreign { number: kind.number(), found: found.name.clone(), wanted: kind.label() });
        }
    }
    let mut wanted = Table { primary_broken: false, backup_in_place: true, ..table.clone() };
    let root_b = layout::Partition::RootB;
    let place = place_of(table, root_b).zip(root_b.size());
    if let (None, Some((first, size))) = (table.partitions.get(&root_b.number()), place) {
        let behind = first + size / table.sector.as_u64();
        if behind <= usable_end(table, length) {
            wanted.partitions.insert(root_b.number(), entry(root_b, draw(), first, behind - 1));
        }
    }
    Ok(wanted)
}

/// First sector for a partition: behind the one that lies before it on a disk of ours, wherever an
/// installer put that. `None` where that one is missing.
fn place_of(table: &Table, kind: layout::Partition) -> Option<u64> {
    let place = layout::Partition::ON_DISK.iter().position(|other| *other == kind)?;
    let before = layout::Partition::ON_DISK.get(place.checked_sub(1)?)?;
    let end = (table.partitions.get(&before.number())?.last_lba + 1) * table.sector.as_u64();
    Some(end.next_multiple_of(layout::ALIGNMENT) / table.sector.as_u64())
}

/// The sector behind the last that a partition may take.
fn usable_end(table: &Table, length: u64) -> u64 {
    length.saturating_sub(layout::BACKUP_GPT_RESERVE) / layout::ALIGNMENT * layout::ALIGNMENT / table.sector.as_u64()
}

/// The table of a disk that a machine puts itself on: what an image brings, in its places. GRUB has no place on sectors
/// of 4096 bytes. Until [`finished`] the ESP is none for firmware.
pub fn being_installed(sector: LogicalBlockSize, mut draw: impl FnMut() -> Uuid) -> Table {
    use layout::Partition::{Bios, Esp, RootA, Seed};
    let kinds = [Bios, Esp, RootA, Seed].into_iter().filter(|kind| *kind != Bios || sector == LogicalBlockSize::Lb512);
    let mut partitions = BTreeMap::new();
    for kind in kinds {
        let first = kind.offset() / sector.as_u64();
        let count = kind.size().unwrap_or(0) / sector.as_u64();
        partitions.insert(kind.number(), entry(kind, draw(), first, first + count - 1));
    }
    if let Some(esp) = partitions.get_mut(&Esp.number()) {
        esp.name = layout::BEING_INSTALLED.to_owned();
        esp.part_type_guid = Seed.type_guid().into();
    }
    Table { disk_guid: draw(), partitions, sector, primary_broken: false, backup_in_place: false }
}

/// The same once everything lies there.
pub fn finished(table: &Table) -> Table {
    let mut finished = table.clone();
    if let Some(esp) = finished.partitions.get_mut(&layout::Partition::Esp.number()) {
        esp.name = layout::Partition::Esp.label().to_owned();
        esp.part_type_guid = layout::Partition::Esp.type_guid().into();
    }
    finished
}

/// Whether a machine was cut off while it put itself on this disk.
pub fn is_being_installed(table: &Table) -> bool {
    table.partitions.get(&layout::Partition::Esp.number()).is_some_and(|esp| esp.name == layout::BEING_INSTALLED)
}

/// The table of a disk that holds nothing but the state.
///
/// # Errors
/// Partitions of anybody else.
pub fn complete_state_disk(table: &Table, length: u64, mut draw: impl FnMut() -> Uuid) -> Result<Table, TableError> {
    let state = layout::Partition::State;
    if let Some((number, found)) =
        table.partitions.iter().find(|(number, found)| **number != state.number() || found.name != state.label())
    {
        return Err(TableError::Foreign { number: *number, found: found.name.clone(), wanted: state.label() });
    }
    let sector = table.sector.as_u64();
    let end = usable_end(table, length);
    let first = layout::ALIGNMENT / sector;
    let mut wanted = Table { primary_broken: false, backup_in_place: true, ..table.clone() };
    match wanted.partitions.get_mut(&state.number()) {
        Some(found) => found.last_lba = found.last_lba.max(end.saturating_sub(1)),
        None if end > first && (end - first) * sector >= layout::STATE_MINIMUM => {
            wanted.partitions.insert(state.number(), entry(state, draw(), first, end - 1));
        }
        None => {}
    }
    Ok(wanted)
}

fn entry(kind: layout::Partition, guid: Uuid, first_lba: u64, last_lba: u64) -> Partition {
    Partition {
        part_type_guid: kind.type_guid().into(),
        part_guid: guid,
        first_lba,
        last_lba,
        flags: 0,
        name: kind.label().to_owned(),
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
