//! SIGINT, SIGTERM and SIGHUP: the programs that we started end, the temporaries go, and the exit
//! status is 128 and the signal's number, as shells expect it.

use crate::error::{Error, Result};
use crate::scratch;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long programs that we started may take to end.
const PATIENCE: Duration = Duration::from_secs(3);

/// Starts the thread that waits for these signals. Call it once, first thing.
///
/// # Errors
/// A failure when the system takes no handlers.
pub fn install() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(|error| Error::because("no handlers for signals can be set", error))?;
    let wait = move || {
        if let Some(signal) = signals.forever().next() {
            stop_children();
            scratch::clear();
            std::process::exit(128 + signal);
        }
    };
    let thread = std::thread::Builder::new().name("signals".into()).spawn(wait);
    thread.map(drop).map_err(|error| Error::because("no thread for signals can be started", error))
}

/// Ends every process below ours: politely, then by force.
fn stop_children() {
    let ending: Vec<OwnedFd> =
        descendants().into_iter().filter_map(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()).collect();
    signal_all(Signal::TERM);
    wait_for_all(ending, Instant::now() + PATIENCE);
    signal_all(Signal::KILL);
}

/// Waits until all have ended: a process's descriptor becomes readable then, pidfd_open(2).
fn wait_for_all(mut ending: Vec<OwnedFd>, deadline: Instant) {
    while !ending.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(timeout) = Timespec::try_from(left) else { return };
        let mut polled: Vec<PollFd> = ending.iter().map(|process| PollFd::new(process, PollFlags::IN)).collect();
        if !matches!(poll(&mut polled, Some(&timeout)), Ok(count) if count > 0) {
            return;
        }
        let ended: Vec<bool> = polled.iter().map(|process| !process.revents().is_empty()).collect();
        let mut ended = ended.into_iter();
        ending.retain(|_| !ended.next().unwrap_or(false));
    }
}

fn signal_all(signal: Signal) {
    for pid in descendants() {
        // Ended in between: nothing to do.
        let _ = kill_process(pid, signal);
    }
}

/// Living processes whose chain of parents leads to ours, from /proc.
fn descendants() -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        if let Some(parent) = living_parent(&stat) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![std::process::id().cast_signed()];
    while let Some(pid) = open.pop() {
        for child in children.remove(&pid).unwrap_or_default() {
            open.push(child);
            found.extend(Pid::from_raw(child));
        }
    }
    found
}

/// Parent of a process that is no zombie, from /proc/PID/stat (proc(5)): the name in parentheses may
/// hold anything.
fn living_parent(stat: &str) -> Option<i32> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    (state != "Z" && state != "X").then_some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_stands_behind_the_name_whatever_it_is() {
        assert_eq!(living_parent("12 (a) b (c)) S 7 12 12"), Some(7));
        assert_eq!(living_parent("12 (a) Z 7 12 12"), None);
        assert_eq!(living_parent(""), None);
    }

    #[test]
    fn a_child_is_a_descendant() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_child(&child);
        assert!(descendants().contains(&pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!descendants().contains(&pid));
    }
}
