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

/// Seconds after the image's or seed's time in which a clock is believed: no authority of a cluster
/// lives longer, and firmware takes a dead clock's 1970 for 2070.
const HORIZON: u64 = 20 * 365 * 24 * 3600;

/// The time to set, where the clock stands before one of the times known to have been, or so far after
/// `made`, when image and seed were, that it cannot be true. A time saved from such a clock counts as none.
fn correction(now: u64, made: u64, saved: Option<u64>) -> Option<u64> {
    let believable = |time: &u64| *time <= made.saturating_add(HORIZON);
    let latest = saved.filter(believable).unwrap_or(0).max(made);
    (now < latest || !believable(&now)).then_some(latest)
}

/// Sets the clock where it cannot be right: `made` is when image and seed were, `saved` the last time
/// known on this machine (seconds since the epoch).
pub fn make_believable(made: u64, saved: Option<u64>) {
    let now = now();
    if let Some(latest) = correction(now, made, saved) {
        say(format!("the clock says {now} seconds since 1970, which cannot be; set to {latest}, the latest known"));
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
        assert_eq!(correction(0, 200, Some(300)), Some(300));
        assert_eq!(correction(0, 200, None), Some(200));
        assert_eq!(correction(250, 200, Some(300)), Some(300));
        assert_eq!(correction(300, 200, Some(300)), None);
    }

    #[test]
    fn a_clock_beyond_the_horizon_is_not_believed_nor_what_it_saved() {
        let (made, far) = (1_795_000_000, 3_155_760_000);
        assert_eq!(correction(far, made, None), Some(made));
        assert_eq!(correction(far + 60, made, Some(far)), Some(made));
        assert_eq!(correction(far, made, Some(made + 60)), Some(made + 60));
        assert_eq!(correction(made + HORIZON, made, None), None);
    }
}
