//! An image's version: the project's, and a digest of what went in, so that two images that differ have two versions.

use crate::cache::Digest;
use bundle::HashSink;
use images::tree::{Kind, Tree};
use std::fmt::Write as _;
use std::io::{self, Write as _};

/// Of a version's digest, in hexadecimal digits.
const DIGITS: usize = 12;
/// Packages' files are what the lock's hashes say.
const FROM_PACKAGE: &str = "deb:";

/// The version of an image with this root (before the version is written into it), lock and kernel command line.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn of(lock: &Digest, tree: &Tree, command_line: &[String]) -> io::Result<String> {
    let mut hash = HashSink::default();
    let mut line = format!("{lock} {command_line:?}\n");
    for (path, node) in tree.iter() {
        // Writing to a String does not fail.
        let _ = write!(line, "{path:?} {:o} {} {} ", node.mode, node.uid, node.gid);
        let _ = match &node.kind {
            Kind::Directory => writeln!(line, "directory"),
            Kind::File(content) => writeln!(line, "file {}", content.len()),
            Kind::Symlink(target) => writeln!(line, "link {target:?}"),
            Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) => {
                writeln!(line, "device {major} {minor}")
            }
            Kind::Fifo => writeln!(line, "pipe"),
        };
        hash.write_all(line.as_bytes())?;
        line.clear();
        if let Some(content) = node.content().filter(|_| !node.origin.starts_with(FROM_PACKAGE)) {
            io::copy(&mut content.reader()?, &mut hash)?;
        }
    }
    Ok(format!("{}-{}", env!("CARGO_PKG_VERSION"), &hash.text()[..DIGITS]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use images::tree::Node;

    #[test]
    fn everything_that_differs_makes_another_version() {
        let lock = Digest::of(b"lock");
        let tree = |path: &str, text: &str, mode: u32, origin: &str| {
            let mut tree = Tree::new();
            tree.insert(path, Node::file(text, mode, &origin.into())).unwrap();
            of(&lock, &tree, &[]).unwrap()
        };
        let first = tree("/a", "text", 0o644, "overlay");
        assert_eq!(first, tree("/a", "text", 0o644, "profile"));
        for other in [
            tree("/b", "text", 0o644, "overlay"),
            tree("/a", "more", 0o644, "overlay"),
            tree("/a", "text", 0o600, "overlay"),
            of(&Digest::of(b"other"), &Tree::new(), &[]).unwrap(),
            of(&lock, &Tree::new(), &["quiet".to_owned()]).unwrap(),
            of(&lock, &Tree::new(), &[]).unwrap(),
        ] {
            assert_ne!(first, other);
        }
        // What a package holds is in the lock.
        assert_eq!(tree("/a", "text", 0o644, "deb:a"), tree("/a", "more", 0o644, "deb:a"));
    }
}
