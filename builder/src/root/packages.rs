//! Packages laid over each other in the order of the lock.

use super::{Error, read_bytes};
use crate::sources::deb::Unpacked;
use ::images::tree::{Kind, Node, Tree};
use std::sync::Arc;

/// Folders that are links into /usr on a merged-usr system: made first, so that a package's /lib lands
/// in /usr/lib whatever the order.
const MERGED_USR: [(&str, &str); 4] =
    [("/bin", "usr/bin"), ("/lib", "usr/lib"), ("/lib64", "usr/lib64"), ("/sbin", "usr/sbin")];
/// Beginning of the path by which a kernel's package is known.
const KERNEL_IMAGE: &str = "/boot/vmlinuz-";

/// The package that holds the kernel.
pub fn kernel_of(packages: &[Unpacked]) -> Option<&Unpacked> {
    packages.iter().find(|package| is_kernel(&package.tree))
}

fn is_kernel(tree: &Tree) -> bool {
    tree.below("/boot").any(|(path, _)| path.starts_with(KERNEL_IMAGE))
}

/// All packages but the kernel's as one tree, and a line for each file that two of them bring with
/// different content (the later one wins). Everything belongs to root and nothing is setuid: the users
/// of a package do not exist here, and nobody on the machine needs to become root.
pub(super) fn merge(packages: &[Unpacked]) -> Result<(Tree, Vec<String>), Error> {
    let mut tree = Tree::new();
    let mut conflicts = Vec::new();
    let origin: Arc<str> = "merged /usr".into();
    for (link, target) in MERGED_USR {
        tree.insert(&format!("/{target}"), Node::directory(&origin))?;
        tree.insert(link, Node::symlink(target, &origin))?;
    }
    for package in packages.iter().filter(|package| !is_kernel(&package.tree)) {
        add(&mut tree, package, &mut conflicts)?;
    }
    Ok((tree, conflicts))
}

fn add(tree: &mut Tree, package: &Unpacked, conflicts: &mut Vec<String>) -> Result<(), Error> {
    let origin: Arc<str> = format!("deb:{}", package.control.name).into();
    for (path, node) in package.tree.iter() {
        let there = tree.find(path);
        if node.is_directory() && there.is_some_and(Node::is_directory) {
            continue;
        }
        if let Some(there) = there.filter(|there| there.origin.starts_with("deb:"))
            && differs(path, there, node)?
        {
            conflicts.push(format!("{path} of {} is replaced by that of {origin}", there.origin));
        }
        let mode = if matches!(node.kind, Kind::Symlink(_)) { node.mode } else { node.mode & 0o1777 };
        tree.insert(path, Node { mode, uid: 0, gid: 0, origin: origin.clone(), kind: node.kind.clone() })?;
    }
    Ok(())
}

fn differs(path: &str, there: &Node, node: &Node) -> Result<bool, Error> {
    Ok(match (&there.kind, &node.kind) {
        (Kind::File(one), Kind::File(two)) => {
            one.len() != two.len() || read_bytes(path, one)? != read_bytes(path, two)?
        }
        (Kind::Symlink(one), Kind::Symlink(two)) => one != two,
        (Kind::Directory, Kind::Directory) => false,
        // What a link leads to is compared only with what comes to lie on it.
        (_, Kind::Symlink(_)) => false,
        _ => true,
    })
}
