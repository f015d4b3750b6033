//! The hardware watchdog: a main loop that hangs does not feed it, and the machine resets.

use std::fs::{File, OpenOptions};
use std::io::Write;

/// Seconds until the hardware resets the machine, and between two feedings.
const TIMEOUT: i32 = 60;
pub const FEED_EVERY_MS: u64 = 15_000;

#[derive(Debug)]
pub struct Watchdog {
    device: File,
}

impl Watchdog {
    /// Opens (and with that arms) the first watchdog. `None`: there is none yet.
    pub fn open() -> Option<Watchdog> {
        let device = OpenOptions::new()
            .write(true)
            .open("/dev/watchdog0")
            .or_else(|_| OpenOptions::new().write(true).open("/dev/watchdog"))
            .ok()?;
        let timeout = crate::sys::watchdog_timeout(&device, TIMEOUT);
        let name = crate::files::trimmed("/sys/class/watchdog/watchdog0/identity").unwrap_or_default();
        match timeout {
            Ok(seconds) => crate::console::say(format!("watchdog {name} armed with {seconds} seconds")),
            Err(error) => crate::console::say(format!("watchdog {name} armed with its own time-out: {error}")),
        }
        Some(Watchdog { device })
    }

    pub fn feed(&mut self) {
        let _ = self.device.write_all(b"\0");
    }

    /// Disarms it: the magic character, then close.
    pub fn close(mut self) {
        let _ = self.device.write_all(b"V");
    }
}
