//! Files that services wait for: inotify on the nearest folder that exists.

use rustix::fd::OwnedFd;
use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags};
use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};

pub struct FileWatch {
    pub descriptor: OwnedFd,
    /// Folder -> the kernel's number of its watch.
    folders: BTreeMap<PathBuf, i32>,
}

impl FileWatch {
    /// # Errors
    /// As the kernel answers.
    pub fn open() -> io::Result<FileWatch> {
        let descriptor = rustix::fs::inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(FileWatch { descriptor, folders: BTreeMap::new() })
    }

    /// Watches what has to change before one of `paths` can exist, and nothing else. A file that
    /// exists is watched by its folder too: it is replaced by renaming.
    pub fn wait_for<'a>(&mut self, paths: impl IntoIterator<Item = &'a str>) {
        let wanted: Vec<PathBuf> = paths.into_iter().map(|path| nearest_folder(Path::new(path))).collect();
        let gone: Vec<PathBuf> = self.folders.keys().filter(|folder| !wanted.contains(folder)).cloned().collect();
        for folder in gone {
            if let Some(number) = self.folders.remove(&folder) {
                let _ = rustix::fs::inotify::remove_watch(&self.descriptor, number);
            }
        }
        let events = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::CLOSE_WRITE | WatchFlags::ONLYDIR;
        for folder in wanted {
            if !self.folders.contains_key(&folder)
                && let Ok(number) = rustix::fs::inotify::add_watch(&self.descriptor, &folder, events)
            {
                self.folders.insert(folder, number);
            }
        }
    }

    /// Empties the descriptor; whoever waits looks at the files themselves.
    pub fn drain(&mut self) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.descriptor, &mut buffer);
        while let Ok(event) = reader.next() {
            if event.events().contains(ReadFlags::IGNORED) {
                let number = event.wd();
                self.folders.retain(|_, known| *known != number);
            }
        }
    }
}

fn nearest_folder(path: &Path) -> PathBuf {
    path.ancestors().skip(1).find(|folder| folder.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_file_in_a_folder_that_is_not_there_yet_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = folder.path().join("a/b/file");
        let text = wanted.to_str().unwrap().to_owned();
        let mut watch = FileWatch::open().unwrap();
        let noticed = |watch: &mut FileWatch| {
            let found = crate::wait_readable(&watch.descriptor, Some(Duration::from_millis(500))).unwrap();
            watch.drain();
            watch.wait_for([text.as_str()]);
            found
        };
        watch.wait_for([text.as_str()]);
        std::fs::create_dir(folder.path().join("a")).unwrap();
        assert!(noticed(&mut watch));
        std::fs::create_dir(folder.path().join("a/b")).unwrap();
        assert!(noticed(&mut watch));
        std::fs::write(&wanted, "x").unwrap();
        assert!(noticed(&mut watch));
    }
}
