//! OCI image layouts (OCI Image Format Specification 1.1): made from a tree, or read from a disk and
//! verified. The machine's agent imports them into containerd before the first pod.
//!
//! Layers are uncompressed tar: the root image compresses them together with everything else, which
//! is smaller than gzip inside zstd, and containerd unpacks them without inflating.

use crate::tree::{ArchiveError, Node, Tree, TreeError};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const VERSION: &str = "1.0.0";
const INDEX_FILE: &str = "index.json";
const LAYOUT_FILE: &str = "oci-layout";
/// Annotations of the index that give the image's name; containerd reads the second.
const REFERENCE: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// Media types whose blobs name further blobs.
const NAMING: [&str; 4] = [
    INDEX,
    MANIFEST,
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

#[derive(Debug, Error)]
pub enum OciError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}: not JSON of an OCI layout: {source}")]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("{path}: {found}; wanted {wanted}")]
    Layout { path: PathBuf, found: String, wanted: &'static str },
    #[error("{layout}: blob {digest} has {found}; wanted {wanted}")]
    Blob { layout: PathBuf, digest: String, found: String, wanted: String },
    #[error(transparent)]
    Tree(#[from] ArchiveError),
    #[error("OCI archive: {0}")]
    Path(#[from] TreeError),
}

/// An image of one layer, for linux/amd64.
#[derive(Debug, Clone)]
pub struct Image<'a> {
    /// The name that pods use, `imgbuild.local/pause:1`.
    pub reference: &'a str,
    pub root: &'a Tree,
    pub entrypoint: &'a [String],
    /// Its arguments where a pod gives none (OCI image specification, "Cmd").
    pub arguments: &'a [String],
    /// `UID:GID`; `None`: root.
    pub user: Option<&'a str>,
    /// Seconds since the epoch for the layer's files.
    pub epoch: u64,
}

/// Files of a layout: path relative to its folder -> bytes.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Makes the layout of an image. The same image gives the same bytes.
///
/// # Errors
/// Content of the tree that cannot be read.
pub fn layout(image: &Image<'_>) -> Result<Files, OciError> {
    let mut files = Files::new();
    let layer = image.root.write_tar(Vec::new(), image.epoch)?;
    let layer = add_blob(&mut files, LAYER, layer);
    let mut config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "User": image.user.unwrap_or(""),
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Entrypoint": image.entrypoint,
            "WorkingDir": "/",
        },
        // An uncompressed layer's digest is its diff id.
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    });
    if !image.arguments.is_empty() {
        config["config"]["Cmd"] = json!(image.arguments);
    }
    let config = add_blob(&mut files, CONFIG, config.to_string().into_bytes());
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]});
    let mut manifest = add_blob(&mut files, MANIFEST, manifest.to_string().into_bytes());
    manifest["annotations"] = json!({REFERENCE: image.reference, CONTAINERD_NAME: image.reference});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest]});
    files.insert(INDEX_FILE.into(), index.to_string().into_bytes());
    files.insert(LAYOUT_FILE.into(), json!({"imageLayoutVersion": VERSION}).to_string().into_bytes());
    Ok(files)
}

/// Writes a layout as one tar archive, the form in which containerd imports an image; its members are
/// dated `epoch`, in seconds since 1970.
///
/// # Errors
/// The writer's, and a name of a file that is no path.
pub fn write_archive<W: io::Write>(files: &Files, writer: W, epoch: u64) -> Result<W, OciError> {
    let origin: Arc<str> = "oci".into();
    let mut tree = Tree::new();
    for (name, bytes) in files {
        tree.insert(&format!("/{name}"), Node::file(bytes.as_slice(), 0o644, &origin))?;
    }
    Ok(tree.write_tar(writer, epoch)?)
}

/// Stores a blob and returns its descriptor.
fn add_blob(files: &mut Files, media_type: &str, bytes: Vec<u8>) -> Value {
    let digest = hex_sha256(&bytes);
    let descriptor = json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len()});
    files.insert(format!("blobs/sha256/{digest}"), bytes);
    descriptor
}

/// Reads the layout in `folder`, verifies size and digest of everything that its index leads to, and
/// returns just that (a layout may hold blobs of other images), under the name `reference`.
///
/// # Errors
/// A file that is missing or is no JSON, a layout of another version, a blob whose size or digest is
/// not what its descriptor says, an index without exactly one image.
pub fn read_layout(folder: &Path, reference: &str) -> Result<Files, OciError> {
    let version = read_json(folder, LAYOUT_FILE)?;
    if version["imageLayoutVersion"] != VERSION {
        let found = format!("imageLayoutVersion {}", version["imageLayoutVersion"]);
        return Err(OciError::Layout { path: folder.join(LAYOUT_FILE), found, wanted: "1.0.0" });
    }
    let mut index = read_json(folder, INDEX_FILE)?;
    let manifests = index["manifests"].as_array_mut().map(std::mem::take).unwrap_or_default();
    let [mut manifest] = <[Value; 1]>::try_from(manifests).map_err(|manifests| OciError::Layout {
        path: folder.join(INDEX_FILE),
        found: format!("{} images", manifests.len()),
        wanted: "exactly one; copy the one that is meant into a layout of its own",
    })?;
    let mut files = Files::new();
    let mut open = vec![manifest.clone()];
    let mut seen = BTreeSet::new();
    while let Some(descriptor) = open.pop() {
        let digest = text(&descriptor, "digest");
        if !seen.insert(digest.clone()) {
            continue;
        }
        let bytes = read_blob(folder, &descriptor, &digest)?;
        if NAMING.contains(&text(&descriptor, "mediaType").as_str()) {
            open.extend(named_blobs(folder, &digest, &bytes)?);
        }
        files.insert(blob_path(&digest), bytes);
    }
    manifest["annotations"] = json!({REFERENCE: reference, CONTAINERD_NAME: reference});
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest]});
    files.insert(INDEX_FILE.into(), index.to_string().into_bytes());
    files.insert(LAYOUT_FILE.into(), version.to_string().into_bytes());
    Ok(files)
}

fn read_json(folder: &Path, name: &str) -> Result<Value, OciError> {
    let path = folder.join(name);
    let bytes = std::fs::read(&path).map_err(|source| OciError::Io { path: path.clone(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| OciError::Json { path, source })
}

/// Descriptors in a manifest (config, layers) or an index (manifests).
fn named_blobs(folder: &Path, digest: &str, bytes: &[u8]) -> Result<Vec<Value>, OciError> {
    let path = || folder.join(blob_path(digest));
    let value: Value = serde_json::from_slice(bytes).map_err(|source| OciError::Json { path: path(), source })?;
    let lists = ["layers", "manifests"].iter().filter_map(|name| value[*name].as_array()).flatten().cloned();
    let config = value.get("config").cloned();
    Ok(lists.chain(config).collect())
}

fn read_blob(folder: &Path, descriptor: &Value, digest: &str) -> Result<Vec<u8>, OciError> {
    let differs = |found: String, wanted: String| OciError::Blob {
        layout: folder.to_owned(),
        digest: digest.to_owned(),
        found,
        wanted,
    };
    let digits = digest
        .strip_prefix("sha256:")
        .filter(|digits| digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let Some(digits) = digits else {
        return Err(differs("no SHA-256 digest".into(), "sha256: and 64 hexadecimal digits".into()));
    };
    let path = folder.join(blob_path(digest));
    let bytes = std::fs::read(&path).map_err(|source| OciError::Io { path, source })?;
    let size = descriptor["size"].as_u64();
    if size != Some(bytes.len() as u64) {
        return Err(differs(format!("{} bytes", bytes.len()), format!("{} bytes", descriptor["size"])));
    }
    let found = hex_sha256(&bytes);
    match found.eq_ignore_ascii_case(digits) {
        true => Ok(bytes),
        false => Err(differs(format!("SHA-256 {found}"), format!("SHA-256 {digits}"))),
    }
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

fn hex_sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::tree::Node;
    use std::sync::Arc;

    const NAME: &str = "imgbuild.local/pause:1";

    fn made() -> Files {
        let mut root = Tree::new();
        let origin: Arc<str> = "test".into();
        root.insert("/pause", Node::file(b"program".to_vec(), 0o755, &origin)).unwrap();
        layout(&Image {
            reference: NAME,
            root: &root,
            entrypoint: &["/pause".into()],
            arguments: &["-v".into()],
            user: Some("65535:65535"),
            epoch: 7,
        })
        .unwrap()
    }

    fn on_disk(files: &Files) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        folder
    }

    #[test]
    fn a_layout_made_is_a_layout_read() {
        let files = made();
        assert_eq!(files.len(), 5);
        assert_eq!(read_layout(on_disk(&files).path(), NAME).unwrap(), files);
    }

    #[test]
    fn the_archive_holds_the_layout() {
        let files = made();
        let bytes = write_archive(&files, Vec::new(), 7).unwrap();
        let mut tree = Tree::new();
        tree.read_tar(bytes.as_slice(), &"test".into()).unwrap();
        for (name, content) in &files {
            assert!(*tree.get(&format!("/{name}")).unwrap().content().unwrap().read().unwrap() == **content, "{name}");
        }
        assert_eq!(write_archive(&files, Vec::new(), 7).unwrap(), bytes);
    }

    #[test]
    fn a_changed_blob_is_refused_by_digest() {
        let mut files = made();
        let (name, layer) = files.iter_mut().find(|(_, bytes)| bytes.len() > 2000).unwrap();
        layer[600] ^= 1;
        let name = name.clone();
        let error = read_layout(on_disk(&files).path(), NAME).unwrap_err().to_string();
        assert!(error.contains(name.trim_start_matches("blobs/sha256/")) && error.contains("SHA-256"), "{error}");
    }

    #[test]
    fn a_truncated_and_a_missing_blob_are_refused() {
        let mut files = made();
        let name = files.iter().find(|(_, bytes)| bytes.len() > 2000).unwrap().0.clone();
        files.get_mut(&name).unwrap().truncate(512);
        assert!(matches!(read_layout(on_disk(&files).path(), NAME), Err(OciError::Blob { .. })));
        files.remove(&name);
        assert!(matches!(read_layout(on_disk(&files).path(), NAME), Err(OciError::Io { .. })));
    }

    #[test]
    fn a_digest_that_leads_out_of_the_layout_is_refused() {
        let mut files = made();
        let index = String::from_utf8(files[INDEX_FILE].clone()).unwrap();
        let start = index.find("sha256:").unwrap();
        let broken = format!("{}sha256:../../../etc/passwd{}", &index[..start], &index[start + 71..]);
        files.insert(INDEX_FILE.into(), broken.into_bytes());
        assert!(matches!(read_layout(on_disk(&files).path(), NAME), Err(OciError::Blob { .. })));
    }
}
