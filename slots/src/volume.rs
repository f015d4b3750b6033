//! An ESP made afresh: FAT32 as the Microsoft FAT specification wants it, which takes more than fatfs does.

use crate::{FirstDay, dots};
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use spec::layout::ESP_VOLUME_LABEL;
use std::io::{self, Read, Seek, SeekFrom, Write};

/// Sectors of the FSInfo structure and of its copy behind the backup boot sector.
const FS_INFO_SECTORS: [u64; 2] = [1, 7];
/// The backup boot sector.
const BACKUP_BOOT_SECTOR: u64 = 6;

/// Makes the file system on all of a device and has it filled; every file is dated 1980-01-01. `serial` is the volume's
/// serial number, `sector` the bytes of a sector.
///
/// # Errors
/// The device's, or those of `fill`.
pub fn make<D, E>(
    device: &mut D,
    serial: u32,
    sector: u16,
    fill: impl FnOnce(&FileSystem<&mut D>) -> Result<(), E>,
) -> Result<(), E>
where
    D: Read + Write + Seek,
    E: From<io::Error>,
{
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .bytes_per_sector(sector)
        .volume_id(serial)
        .volume_label(padded_label());
    device.rewind()?;
    fatfs::format_volume(&mut *device, options)?;
    device.rewind()?;
    let options = FsOptions::new().update_accessed_date(false).time_provider(&FirstDay);
    let volume = FileSystem::new(&mut *device, options)?;
    fill(&volume)?;
    let statistics = volume.stats()?;
    volume.unmount()?;
    dots::mend(device)?;
    Ok(finish(device, u64::from(sector), statistics.free_clusters())?)
}

fn padded_label() -> [u8; 11] {
    let mut label = [b' '; 11];
    for (place, byte) in label.iter_mut().zip(ESP_VOLUME_LABEL.bytes()) {
        *place = byte;
    }
    label
}

/// Says in FSInfo how much is free, in the copy too, and makes the backup boot sector equal to the
/// first: fsck.fat wants no repair then.
fn finish(device: &mut (impl Read + Write + Seek), sector: u64, free_clusters: u32) -> io::Result<()> {
    let mut information = read_sector(device, sector, FS_INFO_SECTORS[0])?;
    information[488..492].copy_from_slice(&free_clusters.to_le_bytes());
    for number in FS_INFO_SECTORS {
        write_sector(device, sector, number, &information)?;
    }
    let boot = read_sector(device, sector, 0)?;
    write_sector(device, sector, BACKUP_BOOT_SECTOR, &boot)
}

fn read_sector(device: &mut (impl Read + Seek), sector: u64, number: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; sector as usize];
    device.seek(SeekFrom::Start(number * sector))?;
    device.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn write_sector(device: &mut (impl Write + Seek), sector: u64, number: u64, bytes: &[u8]) -> io::Result<()> {
    device.seek(SeekFrom::Start(number * sector))?;
    device.write_all(bytes)
}
