//! At most two machines compute at once on a host, across every test process: emulated CPUs that
//! share a core only make each other's deadlines pass.

use crate::{Failure, Result};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::mpsc;

/// Machines at once; a story that needs more takes them all.
const SLOTS: usize = 2;

/// Slots held: files locked until this is dropped, or the process ends.
#[derive(Debug)]
pub struct Slots {
    _locks: Vec<File>,
}

impl Slots {
    /// Waits its turn for room for this many machines.
    pub fn take(machines: usize) -> Result<Slots> {
        Slots::take_in(&std::env::temp_dir().join("imgbuild-machines"), machines)
    }

    fn take_in(folder: &Path, machines: usize) -> Result<Slots> {
        std::fs::create_dir_all(folder).map_err(Failure::file(folder, "make"))?;
        // One at a time chooses: who needs two never waits for one that holds one and needs another.
        let queue = open(&folder.join("queue"))?;
        queue.lock().map_err(Failure::file(folder, "wait in"))?;
        let mut locks: Vec<File> = Vec::new();
        let mut taken = Vec::new();
        for _ in 0..machines.clamp(1, SLOTS) {
            let free: Vec<usize> = (0..SLOTS).filter(|slot| !taken.contains(slot)).collect();
            let (slot, lock) = first_free(folder, &free)?;
            taken.push(slot);
            locks.push(lock);
        }
        Ok(Slots { _locks: locks })
    }
}

/// Waits until no other test program does the thing of this name, until what it returns is dropped.
pub(crate) fn turn(name: &str) -> Result<File> {
    let folder = std::env::temp_dir().join("imgbuild-machines");
    std::fs::create_dir_all(&folder).map_err(Failure::file(&folder, "make"))?;
    let path = folder.join(name);
    let file = open(&path)?;
    file.lock().map_err(Failure::file(path, "lock"))?;
    Ok(file)
}

fn open(path: &Path) -> Result<File> {
    File::options().create(true).write(true).truncate(false).open(path).map_err(Failure::file(path, "open"))
}

fn slot_file(folder: &Path, slot: usize) -> PathBuf {
    folder.join(format!("slot-{slot}"))
}

/// Takes a slot that is free, or waits for the first that becomes so: one thread a slot blocks on its
/// lock; the one that comes second lets go at once.
fn first_free(folder: &Path, slots: &[usize]) -> Result<(usize, File)> {
    for &slot in slots {
        let file = open(&slot_file(folder, slot))?;
        match file.try_lock() {
            Ok(()) => return Ok((slot, file)),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(source)) => return Err(Failure::file(slot_file(folder, slot), "lock")(source)),
        }
    }
    let (sender, receiver) = mpsc::sync_channel(0);
    for &slot in slots {
        let path = slot_file(folder, slot);
        let (file, sender) = (open(&path)?, sender.clone());
        std::thread::spawn(move || {
            let locked = file.lock().map(|()| (slot, file)).map_err(Failure::file(path, "lock"));
            // Nobody receives any more: the other slot came first, and this one is let go.
            drop(sender.send(locked));
        });
    }
    receiver.recv().map_err(|_| Failure::Unexpected("no thread waits for a slot".into()))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn never_more_than_two_at_once_and_everyone_gets_a_turn() {
        let folder = tempfile::tempdir().unwrap();
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let threads: Vec<_> = (0..12)
            .map(|number| {
                let (folder, now, most) = (folder.path().to_owned(), Arc::clone(&now), Arc::clone(&most));
                std::thread::spawn(move || {
                    let machines = 1 + number % 3;
                    let slots = Slots::take_in(&folder, machines).unwrap();
                    let count = now.fetch_add(machines.min(2), Ordering::SeqCst) + machines.min(2);
                    most.fetch_max(count, Ordering::SeqCst);
                    std::thread::yield_now();
                    now.fetch_sub(machines.min(2), Ordering::SeqCst);
                    drop(slots);
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(most.load(Ordering::SeqCst) <= 2);
    }
}
