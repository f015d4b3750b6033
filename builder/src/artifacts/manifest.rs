//! `manifest.json`: what a build made, out of what, and where the bytes are.

use crate::cache::Digest;
use crate::error::{Error, Result};
use crate::pipeline::MANIFEST_FILE;
use images::tree::Tree;
use serde::{Deserialize, Serialize};
use spec::cluster::Role;
use spec::image::Image;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

/// A file of the build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Artifact {
    pub name: String,
    /// Bytes.
    pub size: u64,
    pub sha256: Digest,
}

/// Kind (`packages`, `components`, `folders`, `artifacts`) -> name -> bytes, before compression.
pub type Sizes = BTreeMap<String, BTreeMap<String, u64>>;

/// The manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Manifest {
    /// Version of this format.
    pub format: u32,
    pub image: Image,
    /// SHA-256 of the lock that it was built from.
    pub lock: Digest,
    /// Root hash of the dm-verity tree, hexadecimal.
    pub root_hash: String,
    /// Bytes of root data before the verity superblock.
    pub hash_offset: u64,
    /// Of the kernel, as in the UKI.
    pub command_line: String,
    /// Debian package or component -> version.
    pub versions: BTreeMap<String, String>,
    pub artifacts: Vec<Artifact>,
    pub sizes: Sizes,
}

impl Manifest {
    pub const FORMAT: u32 = 1;

    /// Reads that of a build's folder.
    ///
    /// # Errors
    /// Bad input: a folder that holds no build, or one of a builder that wrote other manifests.
    pub fn of_build(folder: &Path) -> Result<Manifest> {
        let path = folder.join(MANIFEST_FILE);
        let text = std::fs::read(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => {
                Error::bad_input(format!("{}: no build is there", folder.display()))
                    .help("the folder of a build is wanted: imgbuild --profile master makes out/master")
            }
            _ => Error::io("read", &path, error),
        })?;
        serde_json::from_slice(&text).map_err(|error| {
            Error::bad_input(format!("{}: {error}", path.display()))
                .help("this imgbuild does not know such a manifest: build the image with it again")
        })
    }

    /// The role of its machines.
    ///
    /// # Errors
    /// Bad input: an image of no role.
    pub fn role(&self) -> Result<Role> {
        let role = [Role::Master, Role::Node].into_iter().find(|role| role.name() == self.image.role);
        role.ok_or_else(|| Error::bad_input(format!("{} is an image of no role", self.image.profile)))
    }
}

/// Sums the sizes of the root's files by origin and by folder (two levels). An origin that names a
/// component starts with `go:` or `cargo:`, one of a package with `deb:`.
pub fn sizes_of(root: &Tree) -> Sizes {
    let mut sizes = Sizes::new();
    let mut add = |kind: &str, name: &str, bytes: u64| {
        *sizes.entry(kind.into()).or_default().entry(name.into()).or_default() += bytes;
    };
    for (path, node) in root.iter() {
        let bytes = node.size();
        if bytes == 0 {
            continue;
        }
        let (kind, name) = kind_of(&node.origin);
        add(kind, name, bytes);
        add("folders", &folder_of(path), bytes);
    }
    sizes
}

fn kind_of(origin: &str) -> (&str, &str) {
    match origin.split_once(':') {
        Some(("deb", name)) => ("packages", name),
        Some(("go" | "cargo", name)) => ("components", name),
        _ => ("generated", origin),
    }
}

/// `/usr/lib/modules/6.12/x` -> `/usr/lib/modules`.
fn folder_of(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let depth = parts.len().saturating_sub(1).min(3);
    parts[..depth].iter().fold(String::new(), |folder, part| folder + "/" + part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use images::tree::Node;
    use std::sync::Arc;

    #[test]
    fn sizes_are_summed_by_origin_and_by_folder() {
        let mut root = Tree::new();
        for (path, bytes, origin) in [
            ("/usr/bin/a", 3, "deb:a"),
            ("/usr/bin/b", 4, "go:b"),
            ("/etc/c", 5, "overlay x"),
            ("/usr/lib/modules/1/k.ko", 6, "deb:a"),
        ] {
            let origin: Arc<str> = origin.into();
            root.insert(path, Node::file(vec![0_u8; bytes], 0o644, &origin)).unwrap();
        }
        let sizes = sizes_of(&root);
        assert_eq!(sizes["packages"], BTreeMap::from([("a".into(), 9)]));
        assert_eq!(sizes["components"], BTreeMap::from([("b".into(), 4)]));
        assert_eq!(sizes["generated"], BTreeMap::from([("overlay x".into(), 5)]));
        assert_eq!(sizes["folders"]["/usr/bin"], 7);
        assert_eq!(sizes["folders"]["/usr/lib/modules"], 6);
        assert_eq!(sizes["folders"].values().sum::<u64>(), 18);
    }
}
