//! Temporary files and folders that are gone after every end of the program: success, error, panic
//! (by dropping) and SIGINT, SIGTERM, SIGHUP (by the register that [`crate::interrupt`] clears).

use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

static REGISTER: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
/// Folders that are one build's own, where other crates make temporaries with our prefix.
static SWEPT: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Names of temporaries start with this.
const PREFIX: &str = ".imgbuild-";

/// A temporary file or folder, registered for removal.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// A new folder (0700) in `parent`, beside what will be made of it so that a rename can move it.
    ///
    /// # Errors
    /// What the system says.
    pub fn folder(parent: &Path) -> io::Result<Scratch> {
        Scratch::folder_with_prefix(parent, PREFIX)
    }

    /// A new folder for the parts of a file that takes its place by [`Scratch::place`].
    ///
    /// # Errors
    /// Bad input: at `target` there is a device, a folder or anything else that is no file.
    pub fn beside(target: &Path) -> Result<Scratch> {
        if target.metadata().is_ok_and(|found| !found.is_file()) {
            return Err(Error::bad_input(format!("{} is there and is no file", target.display()))
                .help("name a file to write; sticks and disks are written by `imgbuild burn`"));
        }
        Scratch::folder(parent_of(target)).map_err(|error| Error::io("write", target, error))
    }

    fn folder_with_prefix(parent: &Path, prefix: &str) -> io::Result<Scratch> {
        // Registered and made under one lock: an interruption sees both or none.
        let mut register = register();
        let folder =
            tempfile::Builder::new().prefix(prefix).permissions(Permissions::from_mode(0o700)).tempdir_in(parent)?;
        let path = folder.keep();
        register.insert(path.clone());
        Ok(Scratch { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the folder to its place; nothing may be there.
    ///
    /// # Errors
    /// What the system says; the scratch is removed then.
    pub fn persist(self, target: &Path) -> io::Result<()> {
        let mut register = register();
        // rename(2) would replace an empty folder.
        if target.symlink_metadata().is_ok() {
            drop(register);
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        std::fs::rename(&self.path, target)?;
        register.remove(&self.path);
        drop(register);
        sync_parent(target)
    }

    /// Moves one of the folder's files to its place, where another is replaced; the rest is removed.
    ///
    /// # Errors
    /// What the system says; the place has what it had then.
    pub fn place(self, file: &Path, target: &Path) -> Result<()> {
        let moved = File::open(file).and_then(|file| file.sync_all()).and_then(|()| std::fs::rename(file, target));
        moved.and_then(|()| sync_parent(target)).map_err(|error| Error::io("write", target, error))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut register = register();
        if register.remove(&self.path) {
            remove(&self.path);
        }
    }
}

/// A new folder (0700) in `parent` whose name starts with `prefix`.
///
/// # Errors
/// A failure that names the parent.
pub fn folder(parent: &Path, prefix: &str) -> Result<Scratch> {
    Scratch::folder_with_prefix(parent, prefix).map_err(|error| Error::io("make a folder in", parent, error))
}

/// Registers a temporary that another library made and removes by itself: only a signal needs us.
#[must_use = "the path is registered until the guard is dropped"]
pub fn watch(path: &Path) -> Watch {
    register().insert(path.to_owned());
    Watch(path.to_owned())
}

/// Keeps a path registered.
#[derive(Debug)]
pub struct Watch(PathBuf);

impl Drop for Watch {
    fn drop(&mut self) {
        register().remove(&self.0);
    }
}

/// On a signal, entries of `folder` with our prefix are removed. Only for a folder that no other
/// build writes to at the same time, such as that of the artifacts.
pub fn sweep_when_interrupted(folder: &Path) {
    SWEPT.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_owned());
}

/// Writes a whole file or nothing: a temporary beside it, fsync, rename, fsync of the folder.
/// `mode` is exact, whatever the umask.
///
/// # Errors
/// What the system says.
pub fn write_file(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let parent = parent_of(path);
    let mut register = register();
    let file =
        tempfile::Builder::new().prefix(PREFIX).permissions(Permissions::from_mode(0o600)).tempfile_in(parent)?;
    register.insert(file.path().to_owned());
    drop(register);
    let temporary = file.path().to_owned();
    let result = fill(file, path, content, mode);
    self::register().remove(&temporary);
    result.and_then(|()| sync_parent(path))
}

fn fill(mut file: tempfile::NamedTempFile, path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    file.write_all(content)?;
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

/// Makes a new file of a folder that is still scratch: no rename is needed there.
///
/// # Errors
/// What the system says; an existing file is one.
pub fn create_file(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()
}

fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(parent_of(path))?.sync_all()
}

fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Removes everything that is registered; the program is about to end. The register stays locked,
/// so that no other thread makes or persists anything after that.
pub(crate) fn clear() {
    let mut register = register();
    for path in std::mem::take(&mut *register) {
        remove(&path);
    }
    for folder in &*SWEPT.lock().unwrap_or_else(PoisonError::into_inner) {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let ours = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX));
        ours.for_each(|entry| remove(&entry.path()));
    }
    std::mem::forget(register);
}

fn remove(path: &Path) {
    // What is gone already, or belongs to a full or broken disk, stays as it is: we are leaving.
    let _ = match path.symlink_metadata() {
        Ok(data) if data.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(_) => Ok(()),
    };
}

fn register() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    REGISTER.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_scratch_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::folder(parent.path()).unwrap();
        create_file(&scratch.path().join("a"), b"x", 0o600).unwrap();
        drop(scratch);
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_takes_another_files_place_and_no_devices() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("a.iso");
        std::fs::write(&target, "old").unwrap();
        let scratch = Scratch::beside(&target).unwrap();
        let part = scratch.path().join("part");
        std::fs::write(&part, "new").unwrap();
        scratch.place(&part, &target).unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        for other in [Path::new("/dev/null"), folder.path()] {
            let error = Scratch::beside(other).unwrap_err();
            assert!(error.status() == 2 && error.to_string().contains("is there and is no file"), "{error}");
        }
    }

    #[test]
    fn a_persisted_scratch_is_whole_and_never_replaces() {
        let parent = tempfile::tempdir().unwrap();
        let target = parent.path().join("target");
        let scratch = Scratch::folder(parent.path()).unwrap();
        create_file(&scratch.path().join("a"), b"x", 0o600).unwrap();
        scratch.persist(&target).unwrap();
        assert_eq!(std::fs::read(target.join("a")).unwrap(), b"x");
        let second = Scratch::folder(parent.path()).unwrap();
        assert_eq!(second.persist(&target).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_is_replaced_with_the_exact_mode() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("f");
        write_file(&path, b"one", 0o644).unwrap();
        write_file(&path, b"two", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 1);
    }
}
