//! Container images and manifests that the machine carries.

use super::{Error, Ingredients, check};
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
                let mut root = root_of(programs)?;
                add_files(&mut root, tree, reference, &image.files)?;
                let origin: Arc<str> = "profile".into();
                for (path, target) in &image.links {
                    root.insert(path, Node::symlink(target, &origin))?;
                }
                let image = oci::Image {
                    reference,
                    root: &root,
                    entrypoint: &image.entrypoint,
                    arguments: &image.arguments,
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

/// Files of the machine's root in a container image, and at the same places as on the machine what they are loaded
/// with.
fn add_files(root: &mut Tree, machine: &Tree, reference: &str, files: &BTreeMap<String, String>) -> Result<(), Error> {
    let mut waiting: Vec<(String, String)> = files.iter().map(|(to, from)| (to.clone(), from.clone())).collect();
    while let Some((to, from)) = waiting.pop() {
        let missing = || Error::RootFile { reference: reference.to_owned(), path: from.clone() };
        let from = machine.resolve(&from).ok_or_else(missing)?;
        let node = machine.get(&from).ok_or_else(missing)?;
        let content = node.content().ok_or_else(missing)?;
        root.insert(&to, node.clone())?;
        // The last check of the root speaks of what is not there.
        let needed = check::needed(machine, &from, content)?.into_iter().filter_map(|needed| needed.path);
        waiting.extend(needed.filter(|path| root.get(path).is_none()).map(|path| (path.clone(), path)));
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Tree {
        let (mut tree, origin) = (Tree::new(), "deb:test".into());
        let program = std::fs::read("/proc/self/exe").unwrap();
        tree.insert("/usr/lib64/ld-linux-x86-64.so.2", Node::file("loader", 0o755, &origin)).unwrap();
        tree.insert("/lib64", Node::symlink("usr/lib64", &origin)).unwrap();
        for library in ["libc.so.6", "libm.so.6", "libgcc_s.so.1"] {
            tree.insert(&format!("/usr/lib/{library}"), Node::file(library, 0o644, &origin)).unwrap();
        }
        tree.insert("/usr/bin/real", Node::file(program, 0o755, &origin)).unwrap();
        tree.insert("/usr/bin/tool", Node::symlink("real", &origin)).unwrap();
        tree
    }

    fn made_of(from: &str) -> Result<Tree, Error> {
        let mut root = Tree::new();
        let files = BTreeMap::from([("/bin/tool".to_owned(), from.to_owned())]);
        add_files(&mut root, &machine(), "site/tool:1", &files).map(|()| root)
    }

    #[test]
    fn a_program_of_the_root_comes_with_what_loads_it() {
        let root = made_of("/usr/bin/tool").unwrap();
        for path in ["/bin/tool", "/lib64/ld-linux-x86-64.so.2", "/usr/lib/libc.so.6"] {
            assert!(root.get(path).is_some_and(|node| node.content().is_some()), "{path}");
        }
        assert!(root.get("/usr/bin").is_none(), "nothing else comes along");
    }

    #[test]
    fn a_file_that_the_root_lacks_is_named() {
        let error = made_of("/usr/bin/dig").unwrap_err().to_string();
        assert!(error.contains("site/tool:1") && error.contains("no file /usr/bin/dig"), "{error}");
    }
}
