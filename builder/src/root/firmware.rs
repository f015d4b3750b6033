//! Firmware files: of the packages only those stay that a kept module may ask for. Microcode is not
//! loaded from the root at all, but by the kernel itself, out of the initramfs.

use crate::kernel::Selection;
use ::images::tree::{Kind, Node, Tree, TreeError};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use std::collections::BTreeSet;
use std::sync::Arc;

const FIRMWARE: &str = "/usr/lib/firmware";
/// Folder of a processor's maker -> name in the early initramfs (kernel documentation, x86/microcode.rst).
const MICROCODE: [(&str, &str); 2] = [("amd-ucode", "AuthenticAMD.bin"), ("intel-ucode", "GenuineIntel.bin")];
const EARLY_FOLDER: &str = "/kernel/x86/microcode";
/// The kernel finds these compressed files by the name without the ending.
const COMPRESSED: [&str; 2] = [".xz", ".zst"];

/// Removes every firmware file that no module of the selection names, and the microcode.
pub(super) fn trim(tree: &mut Tree, modules: &Selection) {
    let wanted = modules.firmware();
    let globs = globs(&wanted);
    let names = |path: &str| {
        let name = path.strip_prefix(FIRMWARE)?.strip_prefix('/')?.to_owned();
        let plain = COMPRESSED.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(&name).to_owned();
        Some(plain)
    };
    let mut kept = BTreeSet::new();
    for (path, node) in tree.below(FIRMWARE).filter(|(_, node)| !node.is_directory()) {
        if names(path).is_some_and(|name| wanted.contains(name.as_str()) || globs.is_match(&name)) {
            kept.insert(path.to_owned());
            keep_targets(tree, path, node, &mut kept);
        }
    }
    let doomed: Vec<String> = tree
        .below(FIRMWARE)
        .filter(|(path, node)| !node.is_directory() && !kept.contains(*path))
        .map(|(path, _)| path.to_owned())
        .collect();
    for path in doomed {
        tree.remove(&path);
    }
    remove_empty_folders(tree);
}

/// A link stays with everything that it leads over.
fn keep_targets(tree: &Tree, path: &str, node: &Node, kept: &mut BTreeSet<String>) {
    if matches!(node.kind, Kind::Symlink(_))
        && let Some(target) = tree.resolve(path)
    {
        // Links in between lead into the same folder of firmware or are folders.
        kept.insert(target);
    }
}

fn globs(wanted: &BTreeSet<&str>) -> GlobSet {
    let mut set = GlobSetBuilder::new();
    for name in wanted.iter().filter(|name| name.contains(['*', '?', '['])) {
        // A module's text that is no glob cannot match a file either.
        if let Ok(glob) = GlobBuilder::new(name).literal_separator(true).build() {
            set.add(glob);
        }
    }
    set.build().unwrap_or_else(|_| GlobSet::empty())
}

fn remove_empty_folders(tree: &mut Tree) {
    let folders: Vec<String> =
        tree.below(FIRMWARE).filter(|(_, node)| node.is_directory()).map(|(path, _)| path.to_owned()).collect();
    for folder in folders.iter().rev().chain([&FIRMWARE.to_owned()]) {
        if tree.get(folder).is_some() && tree.below(folder).next().is_none() {
            tree.remove(folder);
        }
    }
}

/// The tree of the early initramfs (uncompressed, before the other one) out of the packages' microcode:
/// one file a maker, the parts in the order of their names. `None` where there is no microcode.
///
/// # Errors
/// Content that cannot be read.
pub fn microcode<'a>(packages: impl IntoIterator<Item = &'a Tree>) -> Result<Option<Tree>, TreeError> {
    let origin: Arc<str> = "microcode".into();
    let mut early = Tree::new();
    let packages: Vec<&Tree> = packages.into_iter().collect();
    for (folder, name) in MICROCODE {
        let mut whole = Vec::new();
        for tree in &packages {
            for (path, node) in tree.below(&format!("{FIRMWARE}/{folder}")) {
                // Signatures and documentation of the makers are no microcode.
                if let (false, Some(content)) = (path.ends_with(".asc") || path.ends_with("README"), node.content()) {
                    let bytes = content.read().map_err(|source| TreeError::Read { path: path.to_owned(), source })?;
                    whole.extend_from_slice(&bytes);
                }
            }
        }
        if !whole.is_empty() {
            early.insert(&format!("{EARLY_FOLDER}/{name}"), Node::file(whole, 0o644, &origin))?;
        }
    }
    Ok(Some(early).filter(|tree| !tree.is_empty()))
}
