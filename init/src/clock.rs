//! The wall clock never stands before the latest time that we know has been: image, seed, last saved.
//! Setting it right is the agent's work.

use crate::console::say;
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use spec::paths::CLOCK_FILE;
use std::fs::OpenOptions;

/// Seconds since the epoch.
pub fn now() -> u64 {
    clock_gettime(ClockId::Realtime).tv_sec.try_into().unwrap_or(0)
}

/// The time to set, where the clock stands before one of `known`.
fn correction(now: u64, known: &[u64]) -> Option<u64> {
    known.iter().copied().max().filter(|latest| now < *latest)
}

/// Moves the clock forward to the latest of `known` (seconds since the epoch) if it is behind.
pub fn not_before(known: &[u64]) {
    if let Some(latest) = correction(now(), known) {
        say(format!("the clock says {}, which is before this image or its data; set to {latest}", now()));
        if let Err(error) = set(latest, 0) {
            say(format!("the clock cannot be set: {error}"));
        }
    }
}

/// Sets the system's and the hardware's clock.
///
/// # Errors
/// As the kernel answers.
pub fn set(seconds: u64, nanoseconds: u32) -> std::io::Result<()> {
    let time = Timespec { tv_sec: seconds.try_into().unwrap_or(i64::MAX), tv_nsec: nanoseconds.into() };
    clock_settime(ClockId::Realtime, time)?;
    if let Ok(clock) = OpenOptions::new().read(true).open("/dev/rtc0") {
        let _ = crate::sys::set_hardware_clock(&clock, time.tv_sec);
    }
    Ok(())
}

/// The time saved on state.
pub fn saved() -> Option<u64> {
    crate::files::trimmed(CLOCK_FILE)?.parse().ok()
}

/// Saves the time. Failing is no matter: an older time is still a lower bound.
pub fn save() {
    let _ = crate::files::replace(CLOCK_FILE, format!("{}\n", now()).as_bytes(), 0o644);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_only_ever_moves_forward() {
        assert_eq!(correction(0, &[100, 300, 200]), Some(300));
        assert_eq!(correction(300, &[100, 300]), None);
        assert_eq!(correction(5, &[]), None);
    }
}
