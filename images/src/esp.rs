//! The EFI system partition: FAT32 in memory, the same bytes for the same files.

use crate::sparse::SparseDisk;
use crate::tree::Content;
use fatfs::{Dir, FileSystem, FsOptions};
use spec::layout::SECTOR_SIZE;
use std::collections::BTreeMap;
use std::io::{self, Read, Seek, Write};
use thiserror::Error;

/// Files of the ESP: relative path with slashes, and content.
pub type Files = BTreeMap<String, Content>;

/// The loader's places: as every firmware finds it, and as an installed one is called.
pub const LOADER_PATHS: [&str; 2] = ["EFI/BOOT/BOOTX64.EFI", "EFI/systemd/systemd-bootx64.efi"];
/// Configuration of systemd-boot.
pub const LOADER_CONFIG: &str = "loader/loader.conf";

#[derive(Debug, Error)]
pub enum EspError {
    #[error("ESP: {path}: {source}")]
    File { path: String, source: io::Error },
    #[error("ESP: {0}")]
    Format(#[from] io::Error),
    #[error("ESP: `{0}` is no path for it: wanted a relative path without empty, `.` or `..` parts")]
    Path(String),
}

/// A FAT32 volume of `size` bytes with these files, in the order of their names, dated 1980-01-01.
/// `serial` is the volume's serial number.
///
/// # Errors
/// A bad path, content that cannot be read, a volume that is too small, each by name.
pub fn build(size: u64, serial: u32, files: &Files) -> Result<SparseDisk, EspError> {
    let mut disk = SparseDisk::new(size);
    slots::make(&mut disk, serial, SECTOR_SIZE as u16, |volume| {
        files.iter().try_for_each(|(path, content)| place(volume, path, content))
    })?;
    Ok(disk)
}

pub(crate) fn place(volume: &FileSystem<&mut SparseDisk>, path: &str, content: &Content) -> Result<(), EspError> {
    let named = |source| EspError::File { path: path.to_owned(), source };
    let parts: Vec<&str> = path.split('/').collect();
    if parts.iter().any(|part| part.is_empty() || *part == "." || *part == "..") {
        return Err(EspError::Path(path.to_owned()));
    }
    let mut folder = volume.root_dir();
    for part in &parts[..parts.len() - 1] {
        // Opens it where it exists.
        folder = folder.create_dir(part).map_err(named)?;
    }
    let mut file = folder.create_file(parts[parts.len() - 1]).map_err(named)?;
    let mut reader = content.reader().map_err(named)?;
    let copied = io::copy(&mut io::BufReader::with_capacity(1 << 16, &mut reader), &mut file).map_err(named)?;
    if copied != content.len() {
        let message = format!("only {copied} of {} bytes could be read", content.len());
        return Err(named(io::Error::new(io::ErrorKind::UnexpectedEof, message)));
    }
    file.flush().map_err(named)
}

/// Shows every file of an ESP to `see`: relative path, size in bytes, content.
///
/// # Errors
/// The device's, or those of `see`.
pub fn visit<D: Read + Write + Seek>(
    device: &mut D,
    mut see: impl FnMut(&str, u64, &mut dyn Read) -> io::Result<()>,
) -> io::Result<()> {
    let volume = FileSystem::new(device, FsOptions::new().update_accessed_date(false))?;
    visit_folder(&volume.root_dir(), "", &mut see)
}

fn visit_folder<D: Read + Write + Seek>(
    folder: &Dir<'_, &mut D>,
    path: &str,
    see: &mut impl FnMut(&str, u64, &mut dyn Read) -> io::Result<()>,
) -> io::Result<()> {
    for entry in folder.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name == "." || name == ".." {
            continue;
        }
        let place = if path.is_empty() { name } else { format!("{path}/{name}") };
        if entry.is_dir() {
            visit_folder(&entry.to_dir(), &place, see)?;
        } else {
            see(&place, entry.len(), &mut io::BufReader::with_capacity(1 << 18, entry.to_file()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fatfs::{FatType, FsOptions};
    use spec::boot::UKI_FOLDER;
    use spec::layout::ESP_VOLUME_LABEL;
    use std::io::{Read, Seek, SeekFrom};

    const SIZE: u64 = 40 * 1024 * 1024;

    fn files() -> Files {
        Files::from([
            (LOADER_PATHS[0].to_owned(), Content::from(vec![1; 100_000])),
            (LOADER_CONFIG.to_owned(), Content::from("timeout 0\n")),
            (format!("{UKI_FOLDER}/imgbuild-a.efi"), Content::from(vec![2; 3_000_000])),
        ])
    }

    fn bytes(disk: &mut SparseDisk) -> Vec<u8> {
        let mut bytes = Vec::new();
        disk.rewind().unwrap();
        disk.read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn it_is_fat32_with_our_label_serial_and_files_and_repeats() {
        let mut disk = build(SIZE, 0x1234_5678, &files()).unwrap();
        let first = bytes(&mut disk);
        assert!(first == bytes(&mut build(SIZE, 0x1234_5678, &files()).unwrap()), "the same bytes");
        assert_eq!(first[..512], first[6 * 512..7 * 512]);
        disk.rewind().unwrap();
        let volume = FileSystem::new(disk, FsOptions::new()).unwrap();
        assert_eq!((volume.fat_type(), volume.volume_id()), (FatType::Fat32, 0x1234_5678));
        assert_eq!(volume.volume_label(), ESP_VOLUME_LABEL);
        assert_eq!(volume.read_volume_label_from_root_dir().unwrap().unwrap(), ESP_VOLUME_LABEL);
        let mut content = Vec::new();
        volume.root_dir().open_file("EFI/Linux/imgbuild-a.efi").unwrap().read_to_end(&mut content).unwrap();
        assert!(content == vec![2; 3_000_000]);
    }

    #[test]
    fn what_was_put_there_is_seen_again() {
        let mut disk = build(SIZE, 1, &files()).unwrap();
        disk.rewind().unwrap();
        let mut seen = BTreeMap::new();
        visit(&mut disk, |path, size, reader| {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes)?;
            assert_eq!(bytes.len() as u64, size);
            seen.insert(path.to_owned(), bytes);
            Ok(())
        })
        .unwrap();
        let wanted: BTreeMap<String, Vec<u8>> =
            files().iter().map(|(path, content)| (path.clone(), content.read().unwrap().to_vec())).collect();
        assert!(seen == wanted, "{:?}", seen.keys());
    }

    #[test]
    fn free_space_is_told_as_it_is() {
        let mut disk = build(SIZE, 1, &files()).unwrap();
        let mut told = [0; 4];
        disk.seek(SeekFrom::Start(512 + 488)).unwrap();
        disk.read_exact(&mut told).unwrap();
        let told = u32::from_le_bytes(told);
        disk.rewind().unwrap();
        let volume = FileSystem::new(disk, FsOptions::new()).unwrap();
        let first_fat_free = volume.stats().unwrap().free_clusters();
        assert_eq!(told, first_fat_free);
        assert!(told > 0 && told < volume.stats().unwrap().total_clusters());
    }

    #[test]
    fn what_does_not_fit_and_bad_paths_are_named() {
        let large = Files::from([("EFI/Linux/large.efi".to_owned(), Content::from(vec![3; SIZE as usize]))]);
        let message = build(SIZE, 1, &large).unwrap_err().to_string();
        assert!(message.contains("EFI/Linux/large.efi"), "{message}");
        for path in ["/EFI/x", "EFI//x", "EFI/../x", ""] {
            assert!(matches!(
                build(SIZE, 1, &Files::from([(path.to_owned(), Content::from("x"))])),
                Err(EspError::Path(_))
            ));
        }
    }
}
