//! What the loaders of a disk would start, seen from outside.

use crate::{Failure, ImageDir, Result, expect};
use fatfs::{FileSystem, FsOptions};
use images::partition::PartitionFile;
use spec::boot::grub_files;
use spec::layout::{Partition, Slot};
use std::io::{Read, Seek};
use std::path::Path;

/// Whatever is started on this disk, by UEFI or by BIOS, is one of these images, from its first byte to its last; and a
/// slot is there that nobody has to try first. A file without content is none: no loader lists it.
pub fn starts_whole(disk: &Path, images: &[&ImageDir]) -> Result {
    let mut esp = PartitionFile::open(disk, Partition::Esp, false).map_err(Failure::file(disk, "open"))?;
    let failed = |error: slots::Error| Failure::Unexpected(error.to_string());
    let entries = slots::entries(&mut esp).map_err(failed)?;
    let mut good = 0;
    for entry in entries.iter().filter(|entry| !entry.is_bad()) {
        let mut uki = Vec::new();
        slots::read_uki(&mut esp, entry.slot, &mut uki).map_err(failed)?;
        if uki.is_empty() {
            continue;
        }
        is_one_of(disk, entry.slot, &uki, "imgbuild.efi", images)?;
        good += usize::from(entry.tries.is_none());
    }
    expect(good > 0, "a slot that is good", format!("{entries:?}"))?;

    let first = slots::grub_environment(&mut esp).map_err(failed)?.first;
    let [kernel, initramfs, _] = grub_files(first);
    for (path, name) in [(kernel, "vmlinuz"), (initramfs, "initramfs.img")] {
        is_one_of(disk, first, &read(&mut esp, &path)?, name, images)?;
    }
    Ok(())
}

/// Of the images, the one with this very file is in the slot's root too.
fn is_one_of(disk: &Path, slot: Slot, file: &[u8], name: &str, images: &[&ImageDir]) -> Result {
    let mut parts = Vec::new();
    for image in images {
        let path = image.beside(name);
        let wanted = std::fs::read(&path).map_err(Failure::file(&path, "read"))?;
        // A section of a UKI ends with zeroes.
        if file.strip_prefix(&wanted[..]).is_some_and(|padding| padding.iter().all(|byte| *byte == 0)) {
            parts.push(image.beside("root.img"));
        }
    }
    expect(!parts.is_empty(), &format!("a whole {name} in slot {}", slot.letter()), format!("{} bytes", file.len()))?;
    for root in parts {
        if begins_with(disk, slot, &root)? {
            return Ok(());
        }
    }
    Err(Failure::Unexpected(format!("slot {} has another root than its {name}", slot.letter())))
}

fn begins_with(disk: &Path, slot: Slot, root: &Path) -> Result<bool> {
    const PIECE: usize = 1 << 20;
    let mut there = PartitionFile::open(disk, slot.partition(), false).map_err(Failure::file(disk, "open"))?;
    let mut wanted = std::fs::File::open(root).map_err(Failure::file(root, "open"))?;
    let (mut left, mut right) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let count = wanted.read(&mut left).map_err(Failure::file(root, "read"))?;
        there.read_exact(&mut right[..count]).map_err(Failure::file(disk, "read"))?;
        if count == 0 || left[..count] != right[..count] {
            return Ok(count == 0);
        }
    }
}

fn read(esp: &mut PartitionFile, path: &str) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let done = esp.rewind().and_then(|()| {
        let volume = FileSystem::new(esp, FsOptions::new().update_accessed_date(false))?;
        std::io::BufReader::with_capacity(1 << 18, volume.root_dir().open_file(path)?).read_to_end(&mut content)
    });
    done.map_err(Failure::file(path, "read")).map(|_| content)
}
