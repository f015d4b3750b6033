//! Container images and manifests that the machine carries.

use super::{Error, Ingredients};
use crate::sources::go::Built;
use ::images::oci;
use ::images::tree::{Content, Node, Tree};
use spec::paths;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the content of an image comes from.
#[derive(Debug, Clone)]
pub enum OciSource {
    /// A layout on disk.
    Layout(PathBuf),
    /// Path in the image -> program of ours.
    Programs(BTreeMap<String, Built>),
}

pub(super) fn place(tree: &mut Tree, ingredients: &Ingredients) -> Result<(), Error> {
    for (reference, image) in &ingredients.profile.images {
        let missing = || Error::Binary { reference: reference.clone(), binary: "its content".into() };
        let files = match ingredients.images.get(reference).ok_or_else(missing)? {
            OciSource::Layout(folder) => oci::read_layout(folder, reference)?,
            OciSource::Programs(programs) => {
                let root = root_of(programs)?;
                let image = oci::Image {
                    reference,
                    root: &root,
                    entrypoint: &image.entrypoint,
                    user: image.user.as_deref(),
                    epoch: ingredients.image.epoch,
                };
                oci::layout(&image)?
            }
        };
        let origin: Arc<str> = format!("oci:{reference}").into();
        let folder = format!("{}/{}", paths::OCI_DIR, folder_name(reference));
        for (name, bytes) in files {
            tree.insert(&format!("{folder}/{name}"), Node::file(bytes, 0o644, &origin))?;
        }
    }
    place_manifests(tree, &ingredients.profile.manifests)
}

fn root_of(programs: &BTreeMap<String, Built>) -> Result<Tree, Error> {
    let mut root = Tree::new();
    for (path, built) in programs {
        let origin: Arc<str> = format!("go:{}", built.component).into();
        let content =
            Content::of_file(&built.path).map_err(|source| Error::Read { path: built.path.clone(), source })?;
        root.insert(path, Node::file(content, 0o755, &origin))?;
    }
    Ok(root)
}

/// A reference as a folder's name: `imgbuild.local/pause:1` is `imgbuild.local_pause_1`.
fn folder_name(reference: &str) -> String {
    reference
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() || ".-".contains(letter) { letter } else { '_' })
        .collect()
}

/// Manifests by the order of the profile: the number before the name keeps it.
fn place_manifests(tree: &mut Tree, manifests: &[String]) -> Result<(), Error> {
    let origin: Arc<str> = "manifests".into();
    for (place, source) in manifests.iter().enumerate() {
        let path = Path::new(source);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let bytes = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        tree.insert(&format!("{}/{place:03}-{name}", paths::MANIFESTS_DIR), Node::file(bytes, 0o644, &origin))?;
    }
    Ok(())
}
