//! The bundle of root certificates that ca-certificates' scripts would have made.

use super::{Error, read_bytes};
use ::images::tree::{Node, Tree};
use std::sync::Arc;

const SOURCES: &str = "/usr/share/ca-certificates";
const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Puts every certificate of the package into one file, in the order of their names, in place of the many.
pub(super) fn bundle(tree: &mut Tree) -> Result<(), Error> {
    let mut bundle = Vec::new();
    for (path, node) in tree.below(SOURCES) {
        if let (true, Some(content)) = (path.ends_with(".crt"), node.content()) {
            bundle.extend_from_slice(&read_bytes(path, content)?);
            if bundle.last() != Some(&b'\n') {
                bundle.push(b'\n');
            }
        }
    }
    if bundle.is_empty() {
        return Ok(());
    }
    tree.remove(SOURCES);
    let origin: Arc<str> = "deb:ca-certificates".into();
    tree.insert(BUNDLE, Node::file(bundle, 0o644, &origin))?;
    Ok(())
}
