//! Data folders out of a snapshot: every founder of a forming that restores starts from the same file
//! (etcd's documentation, "Disaster recovery"). The files lie on the state disk under their SHA-256.

use super::{Flags, note};
use crate::facts::{Facts, under};
use crate::files::{self, FileError};
use crate::hex;
use sha2::{Digest, Sha256};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use tokio::process::Command;

const PROGRAM: &str = "/usr/bin/etcdutl";
const FOLDER: &str = "/var/lib/imgbuild/restore";
/// Clients that remember revisions from after the snapshot must see that they are gone: what was
/// written since has had fewer.
const BUMP: &str = "1000000000";

/// Why a snapshot is of no use here.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("no snapshot {0} is on this machine: `imgbuild etcd restore FILE` brings it")]
    Missing(String),
    #[error("the snapshot is {found}, wanted {wanted}: it was cut or changed on its way")]
    Digest { found: String, wanted: String },
    #[error("{0:?} is no SHA-256 in hexadecimal")]
    Name(String),
    #[error("etcdutl: {0}")]
    Program(String),
}

fn path(root: &Path, digest: &str) -> Result<PathBuf, RestoreError> {
    let is_digest = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    let name = || RestoreError::Name(digest.into());
    is_digest.then(|| under(root, FOLDER).join(format!("{digest}.db"))).ok_or_else(name)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> RestoreError + '_ {
    move |source| RestoreError::Io { path: path.into(), source }
}

/// Writes a piece of a snapshot at its offset. Pieces may come again.
pub fn write_piece(root: &Path, digest: &str, offset: u64, bytes: &[u8]) -> Result<(), RestoreError> {
    let path = path(root, digest)?.with_extension("part");
    files::make_directory(&under(root, FOLDER), 0o700, None)?;
    let mut options = std::fs::OpenOptions::new();
    let file = options.create(true).truncate(false).write(true).open(&path).map_err(at(&path))?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(at(&path))?;
    file.write_all_at(bytes, offset).map_err(at(&path))
}

/// The last piece has come: the whole is checked and kept.
pub fn finish(root: &Path, digest: &str) -> Result<(), RestoreError> {
    let whole = path(root, digest)?;
    let part = whole.with_extension("part");
    let mut file = std::fs::File::open(&part).map_err(at(&part))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer).map_err(at(&part))? {
            0 => break,
            count => hash.update(&buffer[..count]),
        }
    }
    let found = hex::text(&hash.finalize());
    if found != digest {
        std::fs::remove_file(&part).map_err(at(&part))?;
        return Err(RestoreError::Digest { found, wanted: digest.into() });
    }
    file.sync_all().map_err(at(&part))?;
    std::fs::rename(&part, &whole).map_err(at(&whole))
}

/// Makes the data folder of a founder, unless it is there: it appears whole or not at all.
pub async fn make_folder(
    facts: &Facts,
    root: &Path,
    digest: &str,
    flags: &Flags,
    peer_url: &str,
) -> Result<(), RestoreError> {
    let folder = under(root, note::DATA_DIR).join(&flags.data_folder);
    if folder.exists() {
        return Ok(());
    }
    let snapshot = path(root, digest)?;
    if !snapshot.exists() {
        return Err(RestoreError::Missing(digest.into()));
    }
    let owner = facts.owner(Some("etcd"))?;
    files::make_directory(&under(root, note::DATA_DIR), 0o700, owner)?;
    let new = folder.with_extension("new");
    match std::fs::remove_dir_all(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&new)(error)),
        _ => {}
    }
    let mut command = Command::new(PROGRAM);
    command
        .args(["snapshot", "restore"])
        .arg(&snapshot)
        .arg("--data-dir")
        .arg(&new)
        .args(["--name", &facts.identity.name, "--initial-cluster", &flags.initial_cluster()])
        .args(["--initial-cluster-token", &flags.token, "--initial-advertise-peer-urls", peer_url])
        .args(["--bump-revision", BUMP, "--mark-compacted"]);
    super::run(&mut command).await.map_err(RestoreError::Program)?;
    give_away(&new, owner)?;
    rustix::fs::syncfs(std::fs::File::open(&new).map_err(at(&new))?).map_err(|error| at(&new)(error.into()))?;
    std::fs::rename(&new, &folder).map_err(at(&folder))
}

/// The folder and everything in it to etcd's user.
fn give_away(path: &Path, owner: Option<files::Owner>) -> Result<(), RestoreError> {
    if let Some(owner) = owner {
        std::os::unix::fs::lchown(path, Some(owner.uid), Some(owner.gid)).map_err(at(path))?;
    }
    if path.is_dir() {
        for entry in std::fs::read_dir(path).map_err(at(path))? {
            give_away(&entry.map_err(at(path))?.path(), owner)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pieces_in_any_order_make_a_snapshot_and_a_wrong_one_is_thrown_away() {
        let root = tempfile::tempdir().unwrap();
        let name = hex::sha256(b"snapshot");
        write_piece(root.path(), &name, 4, b"shot").unwrap();
        write_piece(root.path(), &name, 0, b"snap").unwrap();
        assert!(!path(root.path(), &name).unwrap().exists());
        finish(root.path(), &name).unwrap();
        assert!(path(root.path(), &name).unwrap().exists());
        let other = hex::sha256(b"other");
        write_piece(root.path(), &other, 0, b"cut").unwrap();
        assert!(matches!(finish(root.path(), &other), Err(RestoreError::Digest { .. })));
        assert!(!path(root.path(), &other).is_ok_and(|path| path.exists()));
    }

    #[test]
    fn a_name_that_is_no_digest_leads_nowhere() {
        let root = tempfile::tempdir().unwrap();
        for name in ["../../etc/passwd", "", "abc"] {
            assert!(matches!(write_piece(root.path(), name, 0, b"x"), Err(RestoreError::Name(_))));
        }
    }
}
