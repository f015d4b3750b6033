//! The builds that are served: files of an output folder, and two small archives that are made here.

use crate::artifacts::{Artifact, Manifest};
use crate::cache::Digest;
use crate::error::{Error, Result};
use images::partition::PartitionFile;
use images::tree::{Node, Tree};
use spec::cluster::Role;
use spec::layout::Partition;
use spec::netboot::{BIOS_FILE, BOOT_CODE, BOOT_CODE_FILE, ESP_FOLDER, START_FILE, Start};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What `serve` hands out of one build.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// Name of the folder.
    pub name: String,
    pub version: String,
    pub role: Option<Role>,
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
    const DISK: &str = "disk.img";
    const MANIFEST: &str = "manifest.json";
    /// Where the seed comes from.
    pub const START: &str = "start.img";
    /// The same with the loaders of a disk.
    pub const START_AND_INSTALL: &str = "install.img";

    /// Reads a build.
    ///
    /// # Errors
    /// Bad input: a folder that holds no build, or one of an older builder.
    pub fn open(folder: &Path, start: &Start) -> Result<Image> {
        let manifest = folder.join(Image::MANIFEST);
        let missing = |error: &dyn std::fmt::Display| {
            Error::bad_input(format!("{}: {error}", manifest.display()))
                .help("the folder of a build is wanted, such as out/master: imgbuild --profile master makes it")
        };
        let text = std::fs::read_to_string(&manifest).map_err(|error| missing(&error))?;
        let manifest: Manifest = serde_json::from_str(&text).map_err(|error| missing(&error))?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let travels = |artifact: &&Artifact| bundle::PAYLOAD.contains(&artifact.name.as_str());
        let payload = manifest.artifacts.iter().filter(travels);
        let payload = payload.map(|artifact| (artifact.sha256.to_string(), folder.join(&artifact.name))).collect();
        let mut image = Image {
            name,
            payload,
            version: manifest.image.version.clone(),
            role: [Role::Master, Role::Node].into_iter().find(|role| role.name() == manifest.image.role),
            command_line: manifest.command_line.clone(),
            folder: folder.to_owned(),
            ..Image::default()
        };
        let start = toml::to_string(start).map_err(|error| Error::because("start.toml cannot be written", error))?;
        let mut tree = Tree::new();
        let node = Node::file(start.into_bytes(), 0o400, &"serve".into());
        tree.insert(START_FILE, node).map_err(Error::from_failure)?;
        let epoch = u32::try_from(manifest.image.epoch).unwrap_or(u32::MAX);
        image.pack(Image::START, &tree, epoch)?;
        image.add_loaders(&manifest, &mut tree)?;
        image.pack(Image::START_AND_INSTALL, &tree, epoch)?;
        Ok(image)
    }

    fn pack(&mut self, name: &'static str, tree: &Tree, epoch: u32) -> Result<()> {
        let archive = images::cpio::encode(tree, epoch).map_err(Error::from_failure)?;
        self.archives.insert(name, archive.into());
        Ok(())
    }

    /// What a disk has besides the root, out of the build's own disk image.
    fn add_loaders(&mut self, manifest: &Manifest, tree: &mut Tree) -> Result<()> {
        let disk = self.folder.join(Image::DISK);
        let failed = |error: std::io::Error| Error::io("read", &disk, error);
        let mut code = vec![0; BOOT_CODE];
        File::open(&disk).and_then(|mut file| file.read_exact(&mut code)).map_err(failed)?;
        let mut bios = Vec::new();
        PartitionFile::open(&disk, Partition::Bios, false)
            .and_then(|mut file| file.read_to_end(&mut bios))
            .map_err(failed)?;
        let mut place = |path: &str, bytes: Vec<u8>| {
            tree.insert(path, Node::file(bytes, 0o400, &"serve".into())).map(drop).map_err(io::Error::other)
        };
        place(BOOT_CODE_FILE, code).and_then(|()| place(BIOS_FILE, bios)).map_err(failed)?;
        let mut on_esp = BTreeMap::new();
        let mut esp = PartitionFile::open(&disk, Partition::Esp, false).map_err(failed)?;
        let mut see = |path: &str, size: u64, content: &mut dyn Read| {
            let at = format!("{ESP_FOLDER}/{path}");
            let same_size: Vec<&Artifact> =
                manifest.artifacts.iter().filter(|artifact| artifact.size == size).collect();
            if !same_size.is_empty() {
                let (digest, _) = Digest::of_reader(content)?;
                let same = same_size.iter().find(|artifact| artifact.sha256 == digest);
                let same = same.ok_or_else(|| io::Error::other(format!("{path} is of another build")))?;
                on_esp.insert(path.to_owned(), same.name.clone());
                // iPXE's own archive of a file has no folders; they have to be there before.
                let folder = at.rsplit_once('/').map_or(ESP_FOLDER, |(folder, _)| folder);
                return tree.make_directory(folder, &"serve".into()).map(drop).map_err(io::Error::other);
            }
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes)?;
            tree.insert(&at, Node::file(bytes, 0o400, &"serve".into())).map(drop).map_err(io::Error::other)
        };
        images::esp::visit(&mut esp, &mut see).map_err(failed)?;
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
