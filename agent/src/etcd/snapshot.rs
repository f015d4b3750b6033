//! Snapshots of etcd's data: one for an operator who asks, and every few hours one that stays on the
//! state disk, a few of them at a time.

use crate::facts::under;
use crate::files::{self, FileError};
use crate::machine::say;
use bytes::Bytes;
use spec::paths;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::process::Command;
use tokio::sync::mpsc;

const PROGRAM: &str = "/usr/bin/etcdctl";
const FOLDER: &str = "/var/lib/imgbuild/snapshots";
/// Between two snapshots that stay, and how many stay.
pub const PERIOD: Duration = Duration::from_secs(6 * 3600);
const KEPT: usize = 4;
/// etcdctl writes what the disk takes; a stuck one is ended.
const LIMIT: Duration = Duration::from_secs(300);
const CHUNK: usize = 64 * 1024;
const WAITING: usize = 4;

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("etcdctl: {0}")]
    Program(String),
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> SnapshotError + '_ {
    move |source| SnapshotError::Io { path: path.into(), source }
}

/// A snapshot as it comes. It is taken whole first, so that what is sent is one moment's data; the
/// file has no name any more while it is sent.
pub async fn send(root: &Path) -> Result<mpsc::Receiver<Bytes>, SnapshotError> {
    let path = under(root, FOLDER).join("asked-for.db");
    save(root, &path).await?;
    let mut file = File::open(&path).map_err(at(&path))?;
    std::fs::remove_file(&path).map_err(at(&path))?;
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::task::spawn_blocking(move || {
        let mut buffer = vec![0; CHUNK];
        // A caller that hears less than the snapshot's end sees its checksum fail.
        while let Ok(count @ 1..) = file.read(&mut buffer) {
            if sender.blocking_send(Bytes::copy_from_slice(&buffer[..count])).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

/// Takes one that stays, and lets the oldest go.
pub async fn keep(root: &Path, now: OffsetDateTime) -> Result<(), SnapshotError> {
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    let name = now.format(format).unwrap_or_else(|_| now.unix_timestamp().to_string());
    save(root, &under(root, FOLDER).join(format!("{name}.db"))).await?;
    for old in surplus(&files::list(&under(root, FOLDER))?) {
        let path = under(root, FOLDER).join(old);
        std::fs::remove_file(&path).map_err(at(&path))?;
    }
    say(format!("etcd: snapshot {name} is kept"));
    Ok(())
}

/// Those of the kept ones that are too many: their names sort by age.
fn surplus(names: &[PathBuf]) -> Vec<PathBuf> {
    let kept = |name: &&PathBuf| name.to_string_lossy().starts_with(|first: char| first.is_ascii_digit());
    let mut snapshots: Vec<PathBuf> = names.iter().filter(kept).cloned().collect();
    snapshots.sort();
    snapshots.truncate(snapshots.len().saturating_sub(KEPT));
    snapshots
}

/// etcdctl checks what it wrote, and gives the file its name when it is whole.
async fn save(root: &Path, to: &Path) -> Result<(), SnapshotError> {
    files::make_directory(&under(root, FOLDER), 0o700, None)?;
    let pki = under(root, paths::PKI_DIR).join("kubernetes");
    let mut command = Command::new(PROGRAM);
    for (flag, file) in [("--cacert", "etcd-ca.crt"), ("--cert", "etcd-client.crt"), ("--key", "etcd-client.key")] {
        command.arg(flag).arg(pki.join(file));
    }
    command.arg(format!("--endpoints=https://127.0.0.1:{}", spec::ports::ETCD_CLIENT));
    command.args(["snapshot", "save"]).arg(to);
    let done = tokio::time::timeout(LIMIT, super::run(&mut command)).await;
    done.unwrap_or_else(|_| Err(format!("not done after {} s", LIMIT.as_secs()))).map_err(SnapshotError::Program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay() {
        let names: Vec<PathBuf> = (1..=6).map(|day| format!("2026110{day}T000000Z.db").into()).collect();
        assert_eq!(surplus(&names), names[..2]);
        assert!(surplus(&names[..4]).is_empty());
        assert!(surplus(&["asked-for.db".into()]).is_empty());
    }
}
