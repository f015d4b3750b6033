//! A folder of overlays/ as a tree.

use super::Error;
use ::images::tree::{Content, Node, Tree};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

/// Keeps a folder in git that is otherwise empty; not part of the image.
const PLACEHOLDER: &str = ".gitkeep";

/// Reads a folder. Everything belongs to root; folders and executable files are 0755, other files 0644,
/// whatever the umask was under which they were checked out.
///
/// # Errors
/// A file that cannot be read, or that is neither file, folder nor link.
pub(super) fn read(folder: &Path) -> Result<Tree, Error> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let origin: Arc<str> = format!("overlay {name}").into();
    let mut tree = Tree::new();
    read_folder(folder, "", &origin, &mut tree)?;
    Ok(tree)
}

fn read_folder(folder: &Path, prefix: &str, origin: &Arc<str>, tree: &mut Tree) -> Result<(), Error> {
    let refuse = |source: io::Error| Error::Read { path: folder.to_owned(), source };
    for entry in std::fs::read_dir(folder).map_err(refuse)? {
        let entry = entry.map_err(refuse)?;
        let path = entry.path();
        let name = entry.file_name().into_string().map_err(|_| Error::Name(path.clone()))?;
        if name == PLACEHOLDER {
            continue;
        }
        let place = format!("{prefix}/{name}");
        let kind = entry.file_type().map_err(refuse)?;
        if kind.is_dir() {
            tree.insert(&place, Node::directory(origin))?;
            read_folder(&path, &place, origin, tree)?;
        } else {
            tree.insert(&place, read_node(&path, kind, origin)?)?;
        }
    }
    Ok(())
}

fn read_node(path: &Path, kind: std::fs::FileType, origin: &Arc<str>) -> Result<Node, Error> {
    let refuse = |source: io::Error| Error::Read { path: path.to_owned(), source };
    if kind.is_symlink() {
        let target = std::fs::read_link(path).map_err(refuse)?;
        let target = target.to_str().ok_or_else(|| Error::Name(path.to_owned()))?;
        return Ok(Node::symlink(target, origin));
    }
    if !kind.is_file() {
        return Err(Error::SpecialFile(path.to_owned()));
    }
    let executable = std::fs::metadata(path).map_err(refuse)?.permissions().mode() & 0o111 != 0;
    // In memory: a file that an editor saves while the build runs must not change half-way.
    let content = Content::from(std::fs::read(path).map_err(refuse)?);
    Ok(Node::file(content, if executable { 0o755 } else { 0o644 }, origin))
}
