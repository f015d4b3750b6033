//! Files written whole: temporary, flush, rename, so that a reader or a power cut sees the old file
//! or the new one. Owners are looked up in /etc/passwd, since getpwnam needs a C library's plugins.

use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Why a file of ours could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}: {reason}")]
    Content { path: PathBuf, reason: String },
    #[error("/etc/passwd has no user {0:?}: the profile must list it under [users]")]
    NoUser(String),
}

/// Result of a file operation.
pub type Result<T> = std::result::Result<T, FileError>;

/// A file to be written.
#[derive(Clone, PartialEq, Eq)]
pub struct NewFile {
    pub path: PathBuf,
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Root when absent.
    pub owner: Option<Owner>,
}

/// User and group ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> FileError + '_ {
    move |source| FileError::Io { path: path.into(), source }
}

/// Writes all of them: every temporary first, one flush, then the renames, and another flush for the names.
/// `durable`: the files must outlive a power cut (not wanted on a tmpfs).
pub fn write_all(files: &[NewFile], durable: bool) -> Result<()> {
    let mut waiting = Vec::with_capacity(files.len());
    for file in files {
        let temporary = temporary_name(&file.path);
        waiting.push((write_temporary(file, &temporary)?, temporary, &file.path));
    }
    let flush = || if durable { flush(&waiting) } else { Ok(()) };
    flush()?;
    for (_, temporary, path) in &waiting {
        std::fs::rename(temporary, path).map_err(at(path))?;
    }
    // The names too: without it a power cut may bring the old files back.
    flush()
}

/// Flushes the file systems of these files, each once: a flush of each file would be a commit of each.
fn flush(files: &[(std::fs::File, PathBuf, &PathBuf)]) -> Result<()> {
    let mut flushed = std::collections::BTreeSet::new();
    for (handle, temporary, _) in files {
        if flushed.insert(handle.metadata().map_err(at(temporary))?.dev()) {
            rustix::fs::syncfs(handle).map_err(|error| at(temporary)(error.into()))?;
        }
    }
    Ok(())
}

/// Writes one file.
pub fn write(path: &Path, content: impl Into<Vec<u8>>, mode: u32, durable: bool) -> Result<()> {
    write_all(&[NewFile { path: path.into(), content: content.into(), mode, owner: None }], durable)
}

fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn write_temporary(file: &NewFile, temporary: &Path) -> Result<std::fs::File> {
    remove_if_there(temporary)?;
    let mut handle =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary).map_err(at(temporary))?;
    handle.write_all(&file.content).map_err(at(temporary))?;
    if let Some(owner) = file.owner {
        std::os::unix::fs::fchown(&handle, Some(owner.uid), Some(owner.gid)).map_err(at(temporary))?;
    }
    handle.set_permissions(std::fs::Permissions::from_mode(file.mode)).map_err(at(temporary))?;
    Ok(handle)
}

/// Removes a file.
pub fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path)(error)),
        _ => Ok(()),
    }
}

/// Makes a folder (and its parents) with this mode and owner, or sets them on the one there.
pub fn make_directory(path: &Path, mode: u32, owner: Option<Owner>) -> Result<()> {
    std::fs::create_dir_all(path).map_err(at(path))?;
    if let Some(owner) = owner {
        std::os::unix::fs::chown(path, Some(owner.uid), Some(owner.gid)).map_err(at(path))?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(at(path))
}

/// Reads a file as text.
pub fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(at(path))
}

/// The same; `None` when it does not exist.
pub fn read_if_there(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path)(error)),
    }
}

/// Regular files below `folder`, sorted, as paths relative to it. Empty when the folder is missing.
pub fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(relative) = folders.pop() {
        let here = folder.join(&relative);
        let entries = match std::fs::read_dir(&here) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound && relative.as_os_str().is_empty() => break,
            Err(error) => return Err(at(&here)(error)),
        };
        for entry in entries {
            let entry = entry.map_err(at(&here))?;
            let path = relative.join(entry.file_name());
            match entry.file_type().map_err(at(&here))? {
                kind if kind.is_dir() => folders.push(path),
                kind if kind.is_file() => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    Ok(found)
}

/// User and primary group of a name in a passwd(5) text.
pub fn find_user(passwd: &str, name: &str) -> Option<Owner> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then_some(())?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Owner { uid, gid })
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn users_are_found_by_their_whole_name() {
        let passwd = "root:x:0:0::/root:/\netcd2:x:9:9::/:/\netcd:x:200:201::/var/lib/etcd:/\nbad:x:y:1::/:/\n";
        assert_eq!(find_user(passwd, "etcd"), Some(Owner { uid: 200, gid: 201 }));
        assert_eq!(find_user(passwd, "etc"), None);
        assert_eq!(find_user(passwd, "bad"), None);
    }

    #[test]
    fn a_file_is_replaced_with_mode_and_no_temporary_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write(&path, "old", 0o644, true).unwrap();
        std::fs::write(folder.path().join("key.new"), "left by a power cut").unwrap();
        write(&path, "new", 0o600, true).unwrap();
        assert_eq!(read(&path).unwrap(), "new");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(list(folder.path()).unwrap(), [PathBuf::from("key")]);
    }
}
