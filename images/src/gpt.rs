//! The partition table of an image as built, by the `gpt` crate, with every entry under its number.
//!
//! The crate writes used entries one after the other, so that a gap (root-b, number 4, does not exist
//! yet) would move the seed to number 4. The entries are put in their places afterwards, and the
//! check sums of both headers are made anew. (UEFI 2.10, section 5.3.)

use ::gpt::partition_types::{OperatingSystem, Type};
use ::gpt::{DiskDevice, GptConfig, disk::LogicalBlockSize, mbr::ProtectiveMBR, partition::Partition as Entry};
use spec::layout::{IMAGE_DISK_GUID, Partition, SECTOR_SIZE};
use std::collections::BTreeMap;
use std::io::{self, SeekFrom};
use thiserror::Error;
use uuid::Uuid;

const ENTRY: usize = 128;
const ENTRIES: usize = 128;
/// The primary header's block.
const PRIMARY_HEADER: u64 = 1;

#[derive(Debug, Error)]
pub enum GptError {
    #[error("partition table: {0}")]
    Table(#[from] ::gpt::GptError),
    #[error("partition table: protective MBR: {0}")]
    Mbr(#[from] ::gpt::mbr::MBRError),
    #[error("partition table: {0}")]
    Io(#[from] io::Error),
    #[error("partition table: the image has {size} bytes; wanted at least {wanted} for {partition}")]
    TooSmall { size: u64, wanted: u64, partition: &'static str },
}

/// The partitions that an image has as built; root-b and state are made by the machine.
pub const IMAGE_PARTITIONS: [Partition; 4] = [Partition::Bios, Partition::Esp, Partition::RootA, Partition::Seed];

/// First byte and length of a partition of an image. The state partition, where asked for, has none.
pub fn extent(partition: Partition) -> (u64, u64) {
    (partition.offset(), partition.size().unwrap_or(0))
}

/// Which GUIDs a table gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// Those of an image as built: bytes repeat.
    OfImage,
    /// New ones: a disk of its own.
    Drawn,
}

impl Identity {
    fn or_drawn(self, of_image: Uuid) -> Uuid {
        match self {
            Identity::OfImage => of_image,
            Identity::Drawn => Uuid::new_v4(),
        }
    }
}

/// Writes protective MBR, both headers and both entry arrays for these partitions to a device of
/// `size` bytes (512-byte sectors).
///
/// # Errors
/// A device that is too small, or its I/O.
pub fn write<D: DiskDevice>(
    device: &mut D,
    size: u64,
    partitions: &[Partition],
    identity: Identity,
) -> Result<(), GptError> {
    for partition in partitions {
        let (offset, length) = extent(*partition);
        let wanted = offset + length + spec::layout::BACKUP_GPT_RESERVE;
        if wanted > size {
            return Err(GptError::TooSmall { size, wanted, partition: partition.label() });
        }
    }
    let sectors = u32::try_from(size / SECTOR_SIZE - 1).unwrap_or(u32::MAX);
    ProtectiveMBR::with_lb_size(sectors).overwrite_lba0(device)?;
    let config = GptConfig::new().writable(true).logical_block_size(LogicalBlockSize::Lb512);
    let mut disk = config.create_from_device(&mut *device, Some(identity.or_drawn(IMAGE_DISK_GUID)))?;
    let entries = partitions.iter().map(|partition| (partition.number(), entry(*partition, identity)));
    disk.update_partitions(entries.collect())?;
    disk.write()?;
    renumber(device, partitions)
}

fn entry(partition: Partition, identity: Identity) -> Entry {
    let (offset, length) = extent(partition);
    Entry {
        part_type_guid: Type { guid: partition.type_guid(), os: OperatingSystem::None },
        part_guid: identity.or_drawn(partition.image_guid()),
        first_lba: offset / SECTOR_SIZE,
        last_lba: (offset + length) / SECTOR_SIZE - 1,
        flags: 0,
        name: partition.label().to_owned(),
    }
}

/// Moves the entries, which the crate has written in the order of their numbers without gaps, to
/// their places, in both arrays.
fn renumber<D: DiskDevice>(device: &mut D, partitions: &[Partition]) -> Result<(), GptError> {
    let numbers: Vec<usize> = {
        let ordered: BTreeMap<u32, ()> = partitions.iter().map(|partition| (partition.number(), ())).collect();
        ordered.keys().map(|number| *number as usize - 1).collect()
    };
    let primary = read_at(device, PRIMARY_HEADER, SECTOR_SIZE as usize)?;
    let backup_header = number_u64(&primary, 32);
    for header_block in [PRIMARY_HEADER, backup_header] {
        let mut header = read_at(device, header_block, SECTOR_SIZE as usize)?;
        let array_block = number_u64(&header, 72);
        let compact = read_at(device, array_block, ENTRIES * ENTRY)?;
        let mut array = vec![0; ENTRIES * ENTRY];
        for (from, to) in numbers.iter().enumerate() {
            array[to * ENTRY..][..ENTRY].copy_from_slice(&compact[from * ENTRY..][..ENTRY]);
        }
        write_at(device, array_block, &array)?;
        header[88..92].copy_from_slice(&crc32fast::hash(&array).to_le_bytes());
        header[16..20].fill(0);
        let checksum = crc32fast::hash(&header[..92]);
        header[16..20].copy_from_slice(&checksum.to_le_bytes());
        write_at(device, header_block, &header)?;
    }
    Ok(())
}

fn read_at<D: DiskDevice>(device: &mut D, block: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    device.seek(SeekFrom::Start(block * SECTOR_SIZE))?;
    device.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn write_at<D: DiskDevice>(device: &mut D, block: u64, bytes: &[u8]) -> io::Result<()> {
    device.seek(SeekFrom::Start(block * SECTOR_SIZE))?;
    device.write_all(bytes)
}

fn number_u64(bytes: &[u8], offset: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sparse::SparseDisk;
    use spec::layout::image_size;

    #[test]
    fn numbers_labels_and_guids_are_those_of_spec() {
        let mut disk = SparseDisk::new(image_size());
        write(&mut disk, image_size(), &IMAGE_PARTITIONS, Identity::OfImage).unwrap();
        let table = GptConfig::new().only_valid_headers(true).open_from_device(disk.clone()).unwrap();
        let mut dump = format!("disk {}\n", table.guid());
        for (number, entry) in table.partitions().iter().filter(|(_, entry)| entry.is_used()) {
            let line = format!(
                "{number} {} {}..={} {} {}\n",
                entry.name, entry.first_lba, entry.last_lba, entry.part_guid, entry.part_type_guid.guid
            );
            dump.push_str(&line);
        }
        insta::assert_snapshot!(dump);
        assert_eq!(table.primary_header().unwrap().crc32_parts, table.backup_header().unwrap().crc32_parts);
    }

    #[test]
    fn the_same_table_has_the_same_bytes() {
        let table = || {
            let mut disk = SparseDisk::new(image_size());
            write(&mut disk, image_size(), &IMAGE_PARTITIONS, Identity::OfImage).unwrap();
            disk.chunks().map(|(offset, bytes)| (offset, bytes.to_vec())).collect::<Vec<_>>()
        };
        assert!(table() == table());
    }

    #[test]
    fn a_device_that_is_too_small_is_refused_by_partition() {
        let mut disk = SparseDisk::new(1 << 30);
        let message = write(&mut disk, 1 << 30, &IMAGE_PARTITIONS, Identity::OfImage).unwrap_err().to_string();
        assert!(message.contains("root-a"), "{message}");
    }
}
