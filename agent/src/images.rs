//! Imports the image's OCI layouts (OCI image specification, image layout) into containerd before
//! the first pod: blobs into the content store, then the image's name. What is there is left alone.

use crate::containerd::*;
use crate::facts::under;
use crate::files::{self, FileError};
use crate::grpc::{self, GrpcError};
use crate::http::Connection;
use serde::Deserialize;
use spec::paths;
use std::collections::HashMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why an image could not be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Grpc(#[from] GrpcError),
    #[error(transparent)]
    Http(#[from] crate::http::HttpError),
    #[error("{path}: {reason}")]
    Layout { path: PathBuf, reason: String },
}

/// containerd 2's (plugins/content/local): a layout's `blobs`, below its root.
const CONTENT_STORE: &str = "/var/lib/containerd/io.containerd.content.v1.content";
/// Beside its garbage collection, which does not run twice in a row.
const TRIES: u32 = 3;
const LIMIT: Duration = Duration::from_secs(120);
const NAME_ANNOTATION: &str = "org.opencontainers.image.ref.name";
const FULL_NAME_ANNOTATION: &str = "io.containerd.image.name";

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OciDescriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: HashMap<String, String>,
}

/// An index or a manifest; which one, its fields say.
#[derive(Debug, Clone, Deserialize)]
struct Node {
    #[serde(default)]
    manifests: Vec<OciDescriptor>,
    config: Option<OciDescriptor>,
    #[serde(default)]
    layers: Vec<OciDescriptor>,
}

/// A blob with the labels that keep its children from containerd's garbage collection.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Blob {
    path: PathBuf,
    digest: String,
    size: u64,
    labels: HashMap<String, String>,
}

/// An image of a layout, children before parents.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Layout {
    name: String,
    media_type: String,
    digest: String,
    size: u64,
    blobs: Vec<Blob>,
}

/// Imports every layout below OCI_DIR; gives the names of those that were new. `pinned`: the image
/// that kubelet's image collection must never remove.
pub async fn import_all(root: &Path, pinned: &str) -> Result<Vec<String>, ImportError> {
    let folder = under(root, paths::OCI_DIR);
    let layouts = layouts(&folder)?;
    if layouts.is_empty() {
        return Ok(Vec::new());
    }
    let connection = Connection::unix(SOCKET).await?;
    let mut imported = Vec::new();
    for layout in layouts {
        if import(root, &connection, &layout, layout.name == pinned).await? {
            imported.push(layout.name);
        }
    }
    Ok(imported)
}

fn layouts(folder: &Path) -> Result<Vec<Layout>, ImportError> {
    let mut folders: Vec<PathBuf> = match std::fs::read_dir(folder) {
        Ok(entries) => entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(FileError::Io { path: folder.into(), source }.into()),
    };
    folders.sort();
    let mut found = Vec::new();
    for folder in folders {
        found.extend(read_layout(&folder)?);
    }
    Ok(found)
}

fn read_layout(folder: &Path) -> Result<Vec<Layout>, ImportError> {
    let index: Node = parse(&folder.join("index.json"))?;
    let mut found = Vec::new();
    for descriptor in index.manifests {
        let name = [FULL_NAME_ANNOTATION, NAME_ANNOTATION].iter().find_map(|key| descriptor.annotations.get(*key));
        let name = name.cloned().ok_or_else(|| ImportError::Layout {
            path: folder.join("index.json"),
            reason: format!("{} has no annotation {NAME_ANNOTATION}", descriptor.digest),
        })?;
        let mut blobs = Vec::new();
        collect(folder, &descriptor, &mut blobs)?;
        let OciDescriptor { media_type, digest, size, .. } = descriptor;
        found.push(Layout { name, media_type, digest, size, blobs });
    }
    Ok(found)
}

/// Adds the blob and, before it, everything that it names.
fn collect(folder: &Path, descriptor: &OciDescriptor, blobs: &mut Vec<Blob>) -> Result<(), ImportError> {
    let path = blob_path(folder, &descriptor.digest)?;
    let mut labels = HashMap::new();
    if is_node(&descriptor.media_type) {
        let node: Node = parse(&path)?;
        let children = node.manifests.iter().chain(&node.config).chain(&node.layers);
        for (number, child) in children.enumerate() {
            // An index may name platforms that the layout does not hold.
            if !node.manifests.is_empty() && !blob_path(folder, &child.digest)?.exists() {
                continue;
            }
            labels.insert(format!("containerd.io/gc.ref.content.{number}"), child.digest.clone());
            collect(folder, child, blobs)?;
        }
    }
    blobs.push(Blob { path, digest: descriptor.digest.clone(), size: descriptor.size, labels });
    Ok(())
}

fn is_node(media_type: &str) -> bool {
    ["image.index.", "image.manifest.", "manifest.list.", "manifest.v2+"].iter().any(|part| media_type.contains(part))
}

fn blob_path(folder: &Path, digest: &str) -> Result<PathBuf, ImportError> {
    let hexadecimal = digest
        .strip_prefix("sha256:")
        .filter(|digits| digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let digits = hexadecimal.ok_or_else(|| ImportError::Layout {
        path: folder.into(),
        reason: format!("the digest {digest:?}: sha256: and 64 hexadecimal digits are wanted"),
    })?;
    Ok(folder.join("blobs/sha256").join(digits))
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, ImportError> {
    serde_json::from_str(&files::read(path)?)
        .map_err(|error| ImportError::Layout { path: path.into(), reason: error.to_string() })
}

/// Whether it had to be imported.
async fn import(root: &Path, connection: &Connection, layout: &Layout, pinned: bool) -> Result<bool, ImportError> {
    let image = image(layout, pinned);
    let name = ImageName { name: layout.name.clone() };
    let there = grpc::call::<_, OneImage>(connection, IMAGES_GET, &[NAMESPACE], &name, LIMIT).await;
    let there = match there {
        Ok(answer) => answer.image,
        Err(error) if error.code() == Some(grpc::NOT_FOUND) => None,
        Err(error) => return Err(error.into()),
    };
    if there.as_ref() == Some(&image) {
        return Ok(false);
    }
    // The lease keeps the blobs from garbage collection until the image names them.
    let lease = Lease { id: format!("imgbuild-{}", layout.digest), labels: expiry() };
    let created = grpc::call::<_, Empty>(connection, LEASES_CREATE, &[NAMESPACE], &lease, LIMIT).await;
    if let Err(error) = created
        && error.code() != Some(grpc::ALREADY_EXISTS)
    {
        return Err(error.into());
    }
    for blob in &layout.blobs {
        take(root, connection, blob, &lease.id).await?;
    }
    let method = if there.is_some() { IMAGES_UPDATE } else { IMAGES_CREATE };
    grpc::call::<_, OneImage>(connection, method, &[NAMESPACE], &OneImage { image: Some(image) }, LIMIT).await?;
    grpc::call::<_, Empty>(connection, LEASES_DELETE, &[NAMESPACE], &LeaseId { id: lease.id }, LIMIT).await?;
    Ok(true)
}

fn expiry() -> HashMap<String, String> {
    // Should we die in between: containerd drops the lease itself once this moment has passed.
    let moment = time::OffsetDateTime::now_utc() + time::Duration::hours(1);
    let text = moment.format(&time::format_description::well_known::Rfc3339).unwrap_or_default();
    HashMap::from([("containerd.io/gc.expire".into(), text)])
}

fn image(layout: &Layout, pinned: bool) -> Image {
    let mut labels = HashMap::from([("io.cri-containerd.image".into(), "managed".into())]);
    if pinned {
        labels.insert("io.cri-containerd.pinned".into(), "pinned".into());
    }
    let target =
        Descriptor { media_type: layout.media_type.clone(), digest: layout.digest.clone(), size: layout.size as i64 };
    Image { name: layout.name.clone(), labels, target: Some(target) }
}

/// Puts a blob to where containerd's content store keeps it, and has containerd take note of it: megabytes
/// through its socket would pass through three memories, to be hashed once more after verity.
async fn take(root: &Path, connection: &Connection, blob: &Blob, lease: &str) -> Result<(), ImportError> {
    let metadata = [NAMESPACE, ("containerd-lease", lease)];
    let reference = format!("imgbuild-{}", blob.digest);
    // What a run that was cut off had begun.
    let abort = Reference { reference: reference.clone() };
    let _ = grpc::call::<_, Empty>(connection, CONTENT_ABORT, &metadata, &abort, LIMIT).await;
    let mut tries = 0..TRIES;
    loop {
        place(root, blob)?;
        let note = note(blob, &reference);
        match grpc::stream::<_, Written>(connection, CONTENT_WRITE, &metadata, &[note], LIMIT).await {
            Ok(_) => return Ok(()),
            Err(error) if error.code() == Some(grpc::ALREADY_EXISTS) => return Ok(()),
            Err(error) if tries.next().is_none() => return Err(error.into()),
            // Its garbage collection has found a file that nobody had named yet.
            Err(_) => {}
        }
    }
}

/// Nothing to write, for it is there: the size is where the writing has come to.
fn note(blob: &Blob, reference: &str) -> Write {
    Write {
        action: COMMIT,
        reference: reference.into(),
        total: blob.size as i64,
        offset: blob.size as i64,
        expected: blob.digest.clone(),
        labels: blob.labels.clone(),
        ..Write::default()
    }
}

/// As containerd would have written it: whole or not at all.
fn place(root: &Path, blob: &Blob) -> Result<(), ImportError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| ImportError::from(FileError::Io { path, source })
    };
    let size = std::fs::metadata(&blob.path).map_err(io(&blob.path))?.len();
    if size != blob.size {
        let reason = format!("{size} bytes, its descriptor says {}", blob.size);
        return Err(ImportError::Layout { path: blob.path.clone(), reason });
    }
    let store = under(root, CONTENT_STORE);
    let target = blob_path(&store, &blob.digest)?;
    if std::fs::metadata(&target).is_ok_and(|found| found.len() == size) {
        return Ok(());
    }
    let folder = target.parent().unwrap_or(&store);
    std::fs::create_dir_all(folder).map_err(io(folder))?;
    let new = target.with_extension("new");
    std::fs::copy(&blob.path, &new).map_err(io(&new))?;
    let file = std::fs::File::open(&new).map_err(io(&new))?;
    file.sync_all().map_err(io(&new))?;
    std::fs::set_permissions(&new, Permissions::from_mode(0o444)).map_err(io(&new))?;
    std::fs::rename(&new, &target).map_err(io(&target))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn put(folder: &Path, text: &str) -> (String, usize) {
        let digits = crate::hex::sha256(text);
        let path = folder.join("blobs/sha256");
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join(&digits), text).unwrap();
        (format!("sha256:{digits}"), text.len())
    }

    fn example(folder: &Path) -> String {
        let (config, config_size) = put(folder, "{}");
        let (layer, layer_size) = put(folder, "layer");
        let manifest = format!(
            r#"{{"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":{config_size}}},
            "layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{layer}","size":{layer_size}}}]}}"#
        );
        let (digest, size) = put(folder, &manifest);
        let index = format!(
            r#"{{"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":{size},
            "annotations":{{"{NAME_ANNOTATION}":"imgbuild.local/pause:1"}}}}]}}"#
        );
        std::fs::write(folder.join("index.json"), index).unwrap();
        digest
    }

    #[test]
    fn children_come_before_parents_and_parents_hold_them() {
        let folder = tempfile::tempdir().unwrap();
        let digest = example(&folder.path().join(""));
        let layouts = read_layout(folder.path()).unwrap();
        assert_eq!((layouts[0].name.as_str(), layouts[0].digest.as_str()), ("imgbuild.local/pause:1", digest.as_str()));
        let blobs = &layouts[0].blobs;
        assert_eq!(blobs.len(), 3);
        assert_eq!(blobs[2].digest, digest);
        assert_eq!(blobs[2].labels["containerd.io/gc.ref.content.1"], blobs[1].digest);
    }

    #[test]
    fn a_digest_that_leads_out_of_the_layout_is_refused() {
        for bad in ["sha256:../../etc/passwd", "md5:00", "sha256:00", ""] {
            assert!(blob_path(Path::new("/x"), bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_blob_lies_where_containerd_looks_for_it_before_it_is_told() {
        let root = tempfile::tempdir().unwrap();
        let layout = root.path().join("layout");
        std::fs::create_dir(&layout).unwrap();
        let (digest, size) = put(&layout, "layer");
        let path = blob_path(&layout, &digest).unwrap();
        let labels = HashMap::from([("a".into(), "b".into())]);
        let blob = Blob { path, digest: digest.clone(), size: size as u64, labels };
        place(root.path(), &blob).unwrap();
        place(root.path(), &blob).unwrap();
        let target = blob_path(&under(root.path(), CONTENT_STORE), &digest).unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "layer");
        assert_eq!(std::fs::read_dir(target.parent().unwrap()).unwrap().count(), 1);
        let note = note(&blob, "r");
        assert_eq!((note.action, note.offset, note.data.len(), note.labels.len()), (COMMIT, 5, 0, 1));
        let cut = Blob { size: 6, ..blob };
        assert!(place(root.path(), &cut).unwrap_err().to_string().contains("5 bytes, its descriptor says 6"));
    }

    #[test]
    fn without_a_folder_there_is_nothing_to_import() {
        assert!(layouts(Path::new("/nonexistent")).unwrap().is_empty());
    }
}
