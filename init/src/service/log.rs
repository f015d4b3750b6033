//! A service's log: NAME.log and NAME.log.1, together never more than twice the limit.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Bytes of one file before it becomes the older one.
pub const LIMIT: u64 = 4 * 1024 * 1024;

#[derive(Debug)]
pub struct RingLog {
    path: PathBuf,
    limit: u64,
    file: Option<File>,
    length: u64,
    /// The last line that came, for the console when the service fails.
    last_line: String,
    line: Vec<u8>,
}

impl RingLog {
    pub fn new(folder: &Path, name: &str, limit: u64) -> RingLog {
        RingLog {
            path: folder.join(format!("{name}.log")),
            limit,
            file: None,
            length: 0,
            last_line: String::new(),
            line: Vec::new(),
        }
    }

    /// Appends. A full or broken disk loses log lines, never the service.
    pub fn append(&mut self, bytes: &[u8]) {
        self.remember(bytes);
        if self.file.is_none() {
            self.open();
        }
        if self.length > 0 && self.length + bytes.len() as u64 > self.limit {
            self.rotate();
        }
        if let Some(file) = &mut self.file
            && let Ok(written) = file.write(bytes)
        {
            self.length += written as u64;
        }
    }

    pub fn last_line(&self) -> &str {
        &self.last_line
    }

    /// Lets go of the file, so that its file system can be unmounted.
    pub fn close(&mut self) {
        self.file = None;
    }

    fn open(&mut self) {
        self.file = OpenOptions::new().append(true).create(true).mode(0o640).open(&self.path).ok();
        self.length = self.file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |found| found.len());
    }

    fn rotate(&mut self) {
        self.file = None;
        let mut older = self.path.clone().into_os_string();
        older.push(".1");
        let _ = std::fs::rename(&self.path, older);
        self.open();
    }

    fn remember(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte == b'\n' {
                if !self.line.is_empty() {
                    self.last_line = String::from_utf8_lossy(&self.line).into_owned();
                }
                self.line.clear();
            } else if self.line.len() < 300 {
                self.line.push(*byte);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_log_turns_over_and_continues_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = RingLog::new(folder.path(), "x", 20);
        log.append(b"first line\n");
        log.close();
        let mut log = RingLog::new(folder.path(), "x", 20);
        log.append(b"second line\n");
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!((read("x.log.1").as_str(), read("x.log").as_str()), ("first line\n", "second line\n"));
        assert_eq!(log.last_line(), "second line");
    }

    proptest! {
        #[test]
        fn two_files_never_hold_more_than_twice_the_limit(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..90), 0..60)) {
            let folder = tempfile::tempdir().unwrap();
            let mut log = RingLog::new(folder.path(), "x", 100);
            for chunk in &chunks {
                log.append(chunk);
            }
            let total: u64 = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
            prop_assert!(total <= 200);
            prop_assert!(std::fs::read_dir(folder.path()).unwrap().count() <= 2);
        }
    }
}
