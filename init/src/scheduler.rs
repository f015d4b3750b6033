//! How long a program keeps the processor while others want it.

use crate::console::say;
use crate::files::{at, poke, trimmed};
use crate::mounts::NO_PROGRAMS;
use rustix::mount::{UnmountFlags, mount, unmount};
use std::io;
use std::path::Path;

/// Where the kernel shows its scheduler's settings.
const DEBUG_ROOT: &str = "/sys/kernel/debug";
/// kernel/sched/debug.c, `base_slice_ns`.
const BASE_SLICE: &str = "/sys/kernel/debug/sched/base_slice_ns";
/// Nanoseconds. The kernel gives 700,000 on one processor, and four times as many on eight and more.
const SLICE: u64 = 8_000_000;
/// From so many processors on the kernel's own slice stands.
const MANY_PROCESSORS: usize = 4;

/// A longer slice on a machine with few processors. There etcd, API server, kubelet and containerd run on the same one, and
/// each change between them empties an emulated processor's translations of addresses: such a machine had its API server 18 % sooner with
/// this slice (docs/benchmarks.md).
///
/// A kernel without that setting keeps its own slice; the console says so.
pub fn lengthen_slice() {
    if std::thread::available_parallelism().is_ok_and(|processors| processors.get() >= MANY_PROCESSORS) {
        return;
    }
    // Nothing else of this machine needs that file system, which shows and takes much more.
    let done = mount("debugfs", DEBUG_ROOT, "debugfs", NO_PROGRAMS, c"")
        .map_err(|error| at(DEBUG_ROOT)(error.into()))
        .and_then(|()| raise(Path::new(BASE_SLICE)));
    if let Err(error) = done {
        say(format!("{error}; programs take turns as the kernel has it"));
    }
    let _ = unmount(DEBUG_ROOT, UnmountFlags::DETACH);
}

/// Writes [`SLICE`] over what is less.
fn raise(file: &Path) -> io::Result<()> {
    let found = trimmed(file).and_then(|text| text.parse::<u64>().ok());
    if found.is_some_and(|slice| slice >= SLICE) { Ok(()) } else { poke(file, &SLICE.to_string()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_slice_is_made_longer_and_never_shorter() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("base_slice_ns");
        for (before, after) in [("700000\n", "8000000"), ("30000000\n", "30000000"), ("?", "8000000")] {
            std::fs::write(&file, before).unwrap();
            raise(&file).unwrap();
            assert_eq!(trimmed(&file).unwrap(), after, "{before}");
        }
        assert!(raise(&folder.path().join("none/base_slice_ns")).unwrap_err().to_string().contains("none"));
    }
}
