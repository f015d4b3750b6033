//! How long a program keeps a processor while others want it, and how late it may be woken.

use crate::console::say;
use crate::files::{at, poke};
use crate::mounts::NO_PROGRAMS;
use rustix::mount::{UnmountFlags, mount, unmount};
use std::io;
use std::num::NonZeroU64;

/// Where the kernel shows its scheduler's settings.
const DEBUG_ROOT: &str = "/sys/kernel/debug";
/// kernel/sched/debug.c, `base_slice_ns`.
const BASE_SLICE: &str = "/sys/kernel/debug/sched/base_slice_ns";

/// Sets the scheduler's base slice, microseconds.
///
/// A kernel without that setting keeps its own slice; the console says so.
pub fn set_slice(microseconds: u32) {
    if let Err(error) = set(u64::from(microseconds) * 1000) {
        say(format!("{error}; programs take turns as the kernel has it"));
    }
}

/// Sets the timer slack of this thread, and so of every program that it starts, microseconds (prctl(2),
/// PR_SET_TIMERSLACK; 0 changes nothing).
pub fn set_timer_slack(microseconds: u32) {
    let Some(nanoseconds) = NonZeroU64::new(u64::from(microseconds) * 1000) else { return };
    if let Err(error) = rustix::thread::set_current_timer_slack(Some(nanoseconds)) {
        say(format!("timer slack: {error}; programs are woken as the kernel has it"));
    }
}

fn set(nanoseconds: u64) -> io::Result<()> {
    // Nothing else of this machine needs that file system, which shows and takes much more.
    mount("debugfs", DEBUG_ROOT, "debugfs", NO_PROGRAMS, c"").map_err(|error| at(DEBUG_ROOT)(error.into()))?;
    let written = poke(BASE_SLICE, &nanoseconds.to_string());
    unmount(DEBUG_ROOT, UnmountFlags::DETACH).map_err(|error| at(DEBUG_ROOT)(error.into()))?;
    written
}
