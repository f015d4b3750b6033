//! A service's log: its last lines, from both files of init's ring, and with `follow` what is written
//! from then on, across the ring's turns.

use crate::facts::under;
use crate::server::Answer;
use bytes::Bytes;
use hyper::StatusCode;
use spec::paths;
use spec::status::InitStatus;
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc::{self, Sender};

const LINES: usize = 100;
const MOST_LINES: usize = 100_000;
/// Bytes that are read and sent at once, and chunks that wait for a slow caller.
const CHUNK: usize = 16 * 1024;
const WAITING: usize = 4;
/// Between two looks at a log that is followed.
const LOOK: Duration = Duration::from_millis(250);

/// The log of a service that init lists: a name that it does not list leads to no file.
pub fn answer(root: &Path, init: &InitStatus, name: &str, query: &str) -> Answer {
    if !init.services.iter().any(|service| service.name == name) {
        let names: Vec<&str> = init.services.iter().map(|service| service.name.as_str()).collect();
        let reason = format!("there is no service {name}: this machine has {}", names.join(", "));
        return Answer::refusal(StatusCode::NOT_FOUND, reason);
    }
    let wanted = match Wanted::of(query) {
        Ok(wanted) => wanted,
        Err(reason) => return Answer::refusal(StatusCode::BAD_REQUEST, reason),
    };
    let path = under(root, paths::LOG_DIR).join(format!("{name}.log"));
    let tail = match Tail::open(&path, wanted.lines) {
        Ok(tail) => tail,
        Err(error) => {
            let reason = format!("{}: {error}", path.display());
            return Answer::refusal(StatusCode::INTERNAL_SERVER_ERROR, reason);
        }
    };
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::task::spawn_local(tail.send(wanted.follow, sender));
    Answer::text(receiver)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wanted {
    lines: usize,
    follow: bool,
}

impl Wanted {
    fn of(query: &str) -> Result<Wanted, String> {
        let mut wanted = Wanted { lines: LINES, follow: false };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("lines", number)) => {
                    let number = number.parse().ok().filter(|number| *number <= MOST_LINES);
                    wanted.lines = number.ok_or_else(|| format!("{pair}: 0 to {MOST_LINES} is wanted"))?;
                }
                Some(("follow", "1")) => wanted.follow = true,
                Some(("follow", "0")) => wanted.follow = false,
                _ => return Err(format!("{pair}: lines=NUMBER and follow=1 are known")),
            }
        }
        Ok(wanted)
    }
}

/// The end of a log, each file placed at the first byte that is wanted of it.
struct Tail {
    path: PathBuf,
    older: Option<File>,
    /// Absent until the service has said its first word.
    current: Option<File>,
}

impl Tail {
    fn open(path: &Path, lines: usize) -> io::Result<Tail> {
        let mut tail = Tail { path: path.to_owned(), older: None, current: open(path)? };
        let mut left = lines;
        if let Some(current) = &mut tail.current {
            left -= seek_to_tail(current, lines)?;
        }
        let mut older = path.as_os_str().to_owned();
        older.push(".1");
        if let Some(mut older) = open(Path::new(&older))?.filter(|_| left > 0) {
            // The ring may have turned since the other was opened: then it is the same file.
            let known = tail.current.as_ref().map(File::metadata).transpose()?;
            if !known.is_some_and(|known| older.metadata().is_ok_and(|found| is_same(&known, &found))) {
                seek_to_tail(&mut older, left)?;
                tail.older = Some(older);
            }
        }
        Ok(tail)
    }

    /// Ends when everything is sent, and with `follow` when the caller has hung up.
    async fn send(mut self, follow: bool, sender: Sender<Bytes>) {
        for file in self.older.iter_mut().chain(self.current.as_mut()) {
            if send_rest(file, &sender).await.is_none() {
                return;
            }
        }
        if !follow {
            return;
        }
        loop {
            tokio::select! {
                () = sender.closed() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            if self.send_new(&sender).await.is_none() {
                return;
            }
        }
    }

    /// `None` when there is nobody to send to, or nothing to read from.
    async fn send_new(&mut self, sender: &Sender<Bytes>) -> Option<()> {
        let there = std::fs::metadata(&self.path).ok();
        // Looked at first, so that all that went into the old file before the ring turned is read.
        if let Some(current) = &mut self.current {
            send_rest(current, sender).await?;
            let own = current.metadata().ok()?;
            if there.is_none_or(|there| is_same(&own, &there)) {
                return Some(());
            }
        }
        self.current = open(&self.path).ok()?;
        if let Some(current) = &mut self.current {
            send_rest(current, sender).await?;
        }
        Some(())
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// To the file's end; `None` when the caller has hung up or the file cannot be read.
async fn send_rest(file: &mut File, sender: &Sender<Bytes>) -> Option<()> {
    loop {
        let mut chunk = vec![0; CHUNK];
        let length = file.read(&mut chunk).ok()?;
        if length == 0 {
            return Some(());
        }
        chunk.truncate(length);
        sender.send(chunk.into()).await.ok()?;
    }
}

/// Places the file at its last lines, `lines` or as many as it has; how many those are. A last line
/// without an end counts.
fn seek_to_tail(file: &mut File, lines: usize) -> io::Result<usize> {
    let length = file.metadata()?.len();
    let (mut start, mut found) = (length, 0);
    let mut block = vec![0; CHUNK];
    let mut end = length;
    while end > 0 && found < lines {
        let size = end.min(CHUNK as u64);
        let begin = end - size;
        let block = &mut block[..size as usize];
        file.read_exact_at(block, begin)?;
        for place in (0..size).rev() {
            // The end of the last line begins no other.
            if block[place as usize] == b'\n' && begin + place + 1 < length {
                found += 1;
                start = begin + place + 1;
                if found == lines {
                    break;
                }
            }
        }
        end = begin;
    }
    if found < lines && length > 0 {
        found += 1;
        start = 0;
    }
    file.seek(SeekFrom::Start(start))?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::server::Content;
    use crate::server::tests::body;
    use proptest::prelude::*;
    use spec::status::{ServiceState, ServiceStatus};
    use std::io::Write;

    fn init(names: &[&str]) -> InitStatus {
        let service = |name: &&str| ServiceStatus {
            name: (*name).into(),
            state: ServiceState::Ready,
            pid: None,
            restarts: 0,
            since_ms: 0,
            detail: None,
        };
        InitStatus { services: names.iter().map(service).collect(), ..InitStatus::default() }
    }

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("var/log")).unwrap();
        for (name, text) in files {
            std::fs::write(root.path().join("var/log").join(name), text).unwrap();
        }
        root
    }

    /// Runs in the frame that the server gives.
    fn local<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, work)
    }

    fn text(root: &Path, name: &str, query: &str) -> (u16, String) {
        local(async {
            let answer = answer(root, &init(&["etcd", "agent"]), name, query);
            (answer.code.as_u16(), String::from_utf8(body(answer).await).unwrap())
        })
    }

    #[test]
    fn the_last_lines_come_from_both_files() {
        let root = root(&[("etcd.log", "4\n5\n6"), ("etcd.log.1", "1\n2\n3\n")]);
        let lines = |query: &str| text(root.path(), "etcd", query);
        assert_eq!(lines("lines=2"), (200, "5\n6".into()));
        assert_eq!(lines("lines=3"), (200, "4\n5\n6".into()));
        assert_eq!(lines("lines=4"), (200, "3\n4\n5\n6".into()));
        assert_eq!(lines(""), (200, "1\n2\n3\n4\n5\n6".into()));
        assert_eq!(lines("lines=0&follow=0"), (200, String::new()));
        assert_eq!(text(root.path(), "agent", ""), (200, String::new()), "it has said nothing yet");
    }

    #[test]
    fn no_name_leads_out_and_nothing_unknown_is_taken() {
        let root = root(&[("etcd.log", "x\n"), ("secret.log", "y\n")]);
        for name in ["secret", "../log/etcd", "etcd.log", "%65tcd", "etcd\0"] {
            let (code, reason) = text(root.path(), name, "");
            assert_eq!(code, 404, "{name}");
            assert!(reason.contains("this machine has etcd, agent"), "{reason}");
        }
        for query in ["lines=-1", "lines=100001", "lines=", "follow=yes", "tail=3"] {
            assert_eq!(text(root.path(), "etcd", query).0, 400, "{query}");
        }
    }

    #[test]
    fn a_log_is_followed_through_the_rings_turn_until_the_caller_hangs_up() {
        let root = root(&[("etcd.log", "old\n")]);
        let path = root.path().join("var/log/etcd.log");
        local(async {
            let answer = answer(root.path(), &init(&["etcd"]), "etcd", "lines=1&follow=1");
            let Content::Chunks(mut chunks) = answer.content else { panic!("not streamed") };
            assert_eq!(chunks.recv().await.unwrap(), "old\n");
            let append = |text: &str| {
                File::options().append(true).create(true).open(&path).unwrap().write_all(text.as_bytes()).unwrap();
            };
            append("more\n");
            assert_eq!(chunks.recv().await.unwrap(), "more\n");
            append("last\n");
            std::fs::rename(&path, root.path().join("var/log/etcd.log.1")).unwrap();
            append("new\n");
            assert_eq!(chunks.recv().await.unwrap(), "last\n");
            assert_eq!(chunks.recv().await.unwrap(), "new\n");
            drop(chunks);
            tokio::time::sleep(LOOK * 2).await;
        });
    }

    proptest! {
        #[test]
        fn the_tail_is_what_lines_say(
            written in prop::collection::vec("[a-c]{0,9000}", 0..12), closed in any::<bool>(), lines in 0usize..14
        ) {
            let mut content = written.join("\n");
            if closed && !content.is_empty() {
                content.push('\n');
            }
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("x");
            std::fs::write(&path, &content).unwrap();
            let mut file = File::open(&path).unwrap();
            let found = seek_to_tail(&mut file, lines).unwrap();
            let mut rest = String::new();
            file.read_to_string(&mut rest).unwrap();
            let all: Vec<&str> = content.split_inclusive('\n').collect();
            let wanted = &all[all.len().saturating_sub(lines)..];
            prop_assert_eq!(found, wanted.len());
            prop_assert_eq!(rest, wanted.concat());
        }
    }
}
