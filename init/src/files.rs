//! Small files, written so that a power cut leaves the old or the new content, and read with a name
//! in the error.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Bytes of the longest file that is wanted whole.
const READ_AT_ONCE: usize = 64 * 1024;

/// Puts the path in front of an I/O error's text.
pub fn at(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.as_ref().display()))
}

/// Replaces `path` as a whole: temporary beside it, fsync, rename, fsync of the folder. Missing
/// folders are made.
///
/// # Errors
/// With the path in the text.
pub fn replace(path: impl AsRef<Path>, content: &[u8], mode: u32) -> io::Result<()> {
    replace_with(path.as_ref(), content, mode, true)
}

/// [`replace`] for a tmpfs, where nothing survives a power cut: atomic, but without fsync.
///
/// # Errors
/// With the path in the text.
pub fn replace_volatile(path: impl AsRef<Path>, content: &[u8], mode: u32) -> io::Result<()> {
    replace_with(path.as_ref(), content, mode, false)
}

fn replace_with(path: &Path, content: &[u8], mode: u32, durable: bool) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(folder).map_err(at(folder))?;
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".new");
    let temporary = folder.join(name);
    let _ = std::fs::remove_file(&temporary);
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary).map_err(at(&temporary))?;
    file.write_all(content).map_err(at(&temporary))?;
    if durable {
        file.sync_all().map_err(at(&temporary))?;
    }
    std::fs::rename(&temporary, path).map_err(at(path))?;
    if durable {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))?;
    }
    Ok(())
}

/// A file's text without the white space around it; `None` where it cannot be read.
///
/// One read with room for everything: some files of /proc/sys give their beginning and nothing more to
/// a reader that comes in pieces (proc_do_large_bitmap), as std's own does.
pub fn trimmed(path: impl AsRef<Path>) -> Option<String> {
    let mut file = std::fs::File::open(path).ok()?;
    let mut text = vec![0; READ_AT_ONCE];
    let length = file.read(&mut text).ok()?;
    text.truncate(length);
    if length == READ_AT_ONCE {
        file.read_to_end(&mut text).ok()?;
    }
    String::from_utf8(text).ok().map(|text| text.trim().to_owned())
}

/// Writes to a file of the kernel (/proc, /sys), which must exist.
///
/// # Errors
/// With the path in the text.
pub fn poke(path: impl AsRef<Path>, text: &str) -> io::Result<()> {
    let path = path.as_ref();
    OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(text.as_bytes())).map_err(at(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_folders_are_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/c");
        replace(&path, b"one", 0o600).unwrap();
        std::fs::write(folder.path().join("a/b/c.new"), b"left by a power cut").unwrap();
        replace(&path, b"two", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert!(!folder.path().join("a/b/c.new").exists());
    }
}
