//! Archives of which init makes its disk in memory (`spec::netboot`): for `imgbuild serve` and `imgbuild iso`.

use crate::artifacts::Manifest;
use crate::error::{Error, Result};
use crate::pipeline::DISK_FILE;
use images::partition::PartitionFile;
use images::tree::{Content, Node, Tree};
use spec::layout::Partition;
use spec::netboot::{BIOS_FILE, BOOT_CODE, BOOT_CODE_FILE, ESP_FOLDER};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Times in an archive of this build: cpio's newc has 32 bits.
pub fn epoch(manifest: &Manifest) -> u32 {
    u32::try_from(manifest.image.epoch).unwrap_or(u32::MAX)
}

/// A file that root alone reads.
///
/// # Errors
/// No path for it.
pub fn place(tree: &mut Tree, path: &str, content: impl Into<Content>) -> io::Result<()> {
    tree.insert(path, Node::file(content, 0o400, &"memory disk".into())).map(drop).map_err(io::Error::other)
}

/// What a disk has besides the root, out of the build's own disk image: boot code, BIOS boot partition, and the files of
/// the ESP of which `is_elsewhere` (path on the ESP, bytes, content) does not say that they come in another way; their
/// folders are there then.
///
/// # Errors
/// The disk image cannot be read; those of `is_elsewhere`.
pub fn add_loaders(
    folder: &Path,
    tree: &mut Tree,
    mut is_elsewhere: impl FnMut(&str, u64, &mut dyn Read) -> io::Result<bool>,
) -> Result<()> {
    let disk = folder.join(DISK_FILE);
    let failed = |error: io::Error| Error::io("read", &disk, error);
    let mut code = vec![0; BOOT_CODE];
    File::open(&disk).and_then(|mut file| file.read_exact(&mut code)).map_err(failed)?;
    let mut bios = Vec::new();
    PartitionFile::open(&disk, Partition::Bios, false)
        .and_then(|mut file| file.read_to_end(&mut bios))
        .map_err(failed)?;
    place(tree, BOOT_CODE_FILE, code).and_then(|()| place(tree, BIOS_FILE, bios)).map_err(failed)?;
    let mut esp = PartitionFile::open(&disk, Partition::Esp, false).map_err(failed)?;
    let mut see = |path: &str, size: u64, content: &mut dyn Read| {
        let at = format!("{ESP_FOLDER}/{path}");
        if is_elsewhere(path, size, content)? {
            let folder = at.rsplit_once('/').map_or(ESP_FOLDER, |(folder, _)| folder);
            return tree.make_directory(folder, &"memory disk".into()).map(drop).map_err(io::Error::other);
        }
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes)?;
        place(tree, &at, bytes)
    };
    images::esp::visit(&mut esp, &mut see).map_err(failed)
}
