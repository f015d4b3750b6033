//! Every console of the kernel at once: lines, and a status page that is redrawn where a screen can.

use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::Write;
use std::sync::Mutex;
use std::time::Duration;

struct Console {
    path: String,
    device: File,
    /// A screen takes escape sequences; a serial line gets plain text.
    screen: bool,
}

static CONSOLES: Mutex<Vec<Console>> = Mutex::new(Vec::new());

/// Opens every console that the kernel names. Before /sys is mounted that is /dev/console alone.
/// Called again in the second life.
pub fn open() {
    let active = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    let mut names: Vec<&str> = active.split_whitespace().collect();
    if names.is_empty() {
        names.push("console");
    }
    let consoles = names.iter().filter_map(|name| {
        let path = format!("/dev/{name}");
        let device = open_device(&path)?;
        let screen = name.strip_prefix("tty").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
        Some(Console { path, device, screen })
    });
    let consoles: Vec<Console> = consoles.collect();
    *lock() = consoles;
}

fn open_device(path: &str) -> Option<File> {
    // Not waiting for a carrier or a stuck line: boot goes on whether or not somebody reads.
    let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).ok().map(File::from)
}

fn lock() -> std::sync::MutexGuard<'static, Vec<Console>> {
    CONSOLES.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Prints `imgbuild: TEXT` on every console; each line of a longer text gets the prefix.
pub fn say(text: impl AsRef<str>) {
    let mut output = String::new();
    for line in text.as_ref().lines() {
        output.push_str("imgbuild: ");
        output.push_str(line);
        output.push_str("\r\n");
    }
    write_all(&output, |_| true);
}

/// The status page: screens are cleared and redrawn, serial lines get it as a block.
pub fn page(text: &str, also_serial: bool) {
    let text = text.replace('\n', "\r\n");
    write_all(&format!("\x1b[2J\x1b[H{text}"), |console| console.screen);
    if also_serial {
        write_all(&text, |console| !console.screen);
    }
}

fn write_all(text: &str, wanted: impl Fn(&Console) -> bool) {
    for console in lock().iter_mut().filter(|console| wanted(console)) {
        // A terminal is hung up when the shell on it ends: our descriptor is dead then, the line is not.
        if write_patiently(&mut console.device, text.as_bytes()).is_err()
            && let Some(device) = open_device(&console.path)
        {
            console.device = device;
            let _ = write_patiently(&mut console.device, text.as_bytes());
        }
    }
}

/// Writes what the line takes; a line that takes nothing for a fifth of a second loses the rest.
fn write_patiently(device: &mut File, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match device.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                let mut wait = [rustix::event::PollFd::new(device, rustix::event::PollFlags::OUT)];
                let limit = rustix::event::Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
                if !matches!(rustix::event::poll(&mut wait, Some(&limit)), Ok(1..)) {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Time since the kernel started.
pub fn uptime() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0))
}

/// Milliseconds since the kernel started.
pub fn uptime_ms() -> u64 {
    uptime().as_millis().try_into().unwrap_or(u64::MAX)
}
