//! Files that are whole or not there: written to a temporary beside the target, synced, renamed.

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Lets `write` fill a temporary in the target's folder, then syncs it and renames it to `target`,
/// mode 0644 whatever the umask. When `write` fails, the target is as it was and the temporary is
/// gone.
///
/// # Errors
/// What `write` gave, or an I/O error with the path in its text, turned into the caller's error.
pub fn write_file<T, E: From<io::Error>>(target: &Path, write: impl FnOnce(&mut File) -> Result<T, E>) -> Result<T, E> {
    let folder = folder_of(target);
    let named = |error: io::Error| E::from(io::Error::new(error.kind(), format!("{}: {error}", target.display())));
    let mut temporary = tempfile::Builder::new().prefix(".imgbuild-").tempfile_in(&folder).map_err(named)?;
    let result = write(temporary.as_file_mut())?;
    temporary.as_file().set_permissions(std::fs::Permissions::from_mode(0o644)).map_err(named)?;
    temporary.as_file().sync_all().map_err(named)?;
    temporary.persist(target).map_err(|error| named(error.error))?;
    File::open(&folder).and_then(|folder| folder.sync_all()).map_err(named)?;
    Ok(result)
}

/// The folder that holds `path`; `.` for a bare name.
pub fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("file");
        write_file(&target, |file| file.write_all(b"old")).unwrap();
        let failed: io::Result<()> = write_file(&target, |file| {
            file.write_all(b"half")?;
            Err(io::Error::other("cut"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "cut");
        assert_eq!(std::fs::read(&target).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("none/file");
        let error = write_file(&target, |file| file.write_all(b"x")).unwrap_err();
        assert!(error.to_string().contains("none/file"), "{error}");
    }
}
