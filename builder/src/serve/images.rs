//! The builds that are served: files of an output folder, and two small archives that are made here.

use crate::artifacts::{Artifact, Manifest};
use crate::cache::Digest;
use crate::error::{Error, Result};
use crate::memory_disk;
use images::tree::Tree;
use spec::cluster::Role;
use spec::netboot::{START_FILE, Start};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What `serve` hands out of one build.
#[derive(Debug, Clone)]
pub struct Image {
    /// Name of the folder.
    pub name: String,
    pub version: String,
    pub role: Role,
    pub command_line: String,
    folder: PathBuf,
    /// Path on the ESP -> the artifact of these bytes: they travel as they are.
    pub on_esp: BTreeMap<String, String>,
    /// Files of an upgrade's payload by their SHA-256.
    payload: BTreeMap<String, PathBuf>,
    /// Archives (cpio) in memory, by name.
    archives: BTreeMap<&'static str, Arc<[u8]>>,
}

/// Bytes that are served.
pub enum Served {
    Memory(Arc<[u8]>),
    File(PathBuf),
}

impl Image {
    pub const KERNEL: &str = "vmlinuz";
    pub const INITRAMFS: &str = "initramfs.img";
    pub const ROOT: &str = "root.img";
    const UKI: &str = "imgbuild.efi";
    /// Where the seed comes from.
    pub const START: &str = "start.img";
    /// The same with the loaders of a disk.
    pub const START_AND_INSTALL: &str = "install.img";

    /// Reads a build.
    ///
    /// # Errors
    /// Bad input: a folder that holds no build, or one of an older builder.
    pub fn open(folder: &Path, start: &Start) -> Result<Image> {
        let manifest = Manifest::of_build(folder)?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let travels = |artifact: &&Artifact| bundle::PAYLOAD.contains(&artifact.name.as_str());
        let payload = manifest.artifacts.iter().filter(travels);
        let payload = payload.map(|artifact| (artifact.sha256.to_string(), folder.join(&artifact.name))).collect();
        let mut image = Image {
            name,
            payload,
            version: manifest.image.version.clone(),
            role: manifest.role()?,
            command_line: manifest.command_line.clone(),
            folder: folder.to_owned(),
            on_esp: BTreeMap::new(),
            archives: BTreeMap::new(),
        };
        let start = toml::to_string(start).map_err(|error| Error::because("start.toml cannot be written", error))?;
        let mut tree = Tree::new();
        let failed = |error| Error::because("start.toml cannot be packed", error);
        memory_disk::place(&mut tree, START_FILE, start.into_bytes()).map_err(failed)?;
        let epoch = memory_disk::epoch(&manifest);
        image.pack(Image::START, &tree, epoch)?;
        image.add_loaders(&manifest, &mut tree)?;
        image.pack(Image::START_AND_INSTALL, &tree, epoch)?;
        Ok(image)
    }

    /// An image of which nothing but its script is wanted.
    #[cfg(test)]
    pub fn of_words(name: &str, version: &str, command_line: &str, on_esp: BTreeMap<String, String>) -> Image {
        Image {
            name: name.into(),
            version: version.into(),
            role: Role::Node,
            command_line: command_line.into(),
            folder: PathBuf::new(),
            on_esp,
            payload: BTreeMap::new(),
            archives: BTreeMap::new(),
        }
    }

    fn pack(&mut self, name: &'static str, tree: &Tree, epoch: u32) -> Result<()> {
        let archive = images::cpio::encode(tree, epoch).map_err(Error::from_failure)?;
        self.archives.insert(name, archive.into());
        Ok(())
    }

    /// What a disk has besides the root.
    fn add_loaders(&mut self, manifest: &Manifest, tree: &mut Tree) -> Result<()> {
        let mut on_esp = BTreeMap::new();
        memory_disk::add_loaders(&self.folder, tree, |path, size, content| {
            let same_size: Vec<&Artifact> =
                manifest.artifacts.iter().filter(|artifact| artifact.size == size).collect();
            if same_size.is_empty() {
                return Ok(false);
            }
            let (digest, _) = Digest::of_reader(content)?;
            let same = same_size.iter().find(|artifact| artifact.sha256 == digest);
            let same = same.ok_or_else(|| io::Error::other(format!("{path} is of another build")))?;
            // iPXE's own archive of a file has no folders; they have to be there before.
            on_esp.insert(path.to_owned(), same.name.clone());
            Ok(true)
        })?;
        self.on_esp = on_esp;
        Ok(())
    }

    /// A file of an upgrade to this image by its SHA-256 in hexadecimal.
    pub fn payload(&self, sha256: &str) -> Option<&Path> {
        self.payload.get(sha256).map(PathBuf::as_path)
    }

    /// A file of this image by its name in a URL.
    pub fn file(&self, name: &str) -> Option<Served> {
        if let Some(archive) = self.archives.get(name) {
            return Some(Served::Memory(archive.clone()));
        }
        let served = [Image::KERNEL, Image::INITRAMFS, Image::ROOT, Image::UKI];
        served.contains(&name).then(|| Served::File(self.folder.join(name)))
    }
}
