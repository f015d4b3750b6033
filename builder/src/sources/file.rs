//! A file of the operator's own, taken as it is: hashed into the cache, so that an artifact is made
//! from what was read once.

use crate::cache::{Cache, Digest, Error, io_error};
use images::tree::{Content, Node};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Reads `path` into the cache; gives a node of root with that content and `mode` (permission bits).
///
/// # Errors
/// The file cannot be read, or the cache not written.
pub fn node(cache: &Cache, path: &Path, mode: u32, origin: &Arc<str>) -> Result<(Node, Digest), Error> {
    let mut file = File::open(path).map_err(io_error(path))?;
    let (digest, stored) = cache.insert(&mut file, &path.display().to_string(), None)?;
    let content = Content::of_file(&stored).map_err(io_error(&stored))?;
    Ok((Node::file(content, mode, origin), digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_stays_what_it_was_when_read() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(&folder.path().join("cache"))).unwrap();
        let path = folder.path().join("motd");
        std::fs::write(&path, b"hello").unwrap();
        let (node, digest) = node(&cache, &path, 0o644, &"file".into()).unwrap();
        std::fs::write(&path, b"other").unwrap();
        assert_eq!(&*node.content().unwrap().read().unwrap(), b"hello");
        assert_eq!(digest, Digest::of(b"hello"));
        let missing = super::node(&cache, &folder.path().join("none"), 0o644, &"file".into()).unwrap_err();
        assert!(missing.to_string().contains("none"), "{missing}");
    }
}
