//! The power button: the kernel's button driver makes it a key of an input device.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// EV_KEY, and the keys that mean power off (<linux/input-event-codes.h>).
const KEY_EVENT: u16 = 1;
const POWER_KEYS: [u16; 2] = [116, 356];

/// Bytes of `struct input_event` on a 64-bit kernel.
const EVENT_SIZE: usize = 24;

/// Opens an input device that has a power key; others are left alone.
pub fn open(path: &Path) -> Option<File> {
    let name = path.file_name()?.to_str()?;
    let bits = crate::files::trimmed(format!("/sys/class/input/{name}/device/capabilities/key"))?;
    if !POWER_KEYS.iter().any(|key| has_bit(&bits, *key)) {
        return None;
    }
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()
}

/// A bitmap as /sys prints it: 64-bit words in hexadecimal, the highest first.
fn has_bit(bits: &str, number: u16) -> bool {
    let word = bits.split_whitespace().rev().nth(usize::from(number / 64));
    word.and_then(|word| u64::from_str_radix(word, 16).ok()).is_some_and(|word| word >> (number % 64) & 1 == 1)
}

/// Reads what came; `None` when the device has gone, otherwise whether power was pressed.
pub fn pressed(device: &mut File) -> Option<bool> {
    let mut buffer = [0u8; EVENT_SIZE * 16];
    match device.read(&mut buffer) {
        Ok(length) => Some(buffer[..length].chunks_exact(EVENT_SIZE).any(is_power_press)),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Some(false),
        Err(_) => None,
    }
}

fn is_power_press(event: &[u8]) -> bool {
    let half = |at: usize| u16::from_ne_bytes([event[at], event[at + 1]]);
    half(16) == KEY_EVENT && POWER_KEYS.contains(&half(18)) && event[20..24] == [1, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitmaps_and_events() {
        // What QEMU's ACPI power button shows: bit 116.
        assert!(has_bit("10000000000000 0", 116));
        assert!(!has_bit("10000000000000 0", 52));
        let mut event = [0u8; 24];
        event[16] = 1;
        event[18] = 116;
        event[20] = 1;
        assert!(is_power_press(&event));
        event[20] = 0;
        assert!(!is_power_press(&event), "a release is no press");
    }
}
