//! systemd-boot's EFI variables (the Boot Loader Interface): where it came from, and what it boots next.

use crate::files::at;
use rustix::fs::{IFlags, OFlags};
use spec::boot::Entry;
use spec::layout::Slot;
use std::io;

const FOLDER: &str = "/sys/firmware/efi/efivars";
const LOADER: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
/// Non-volatile, boot-service and run-time access (UEFI 2.10 section 8.2).
const ATTRIBUTES: u32 = 7;

fn path(name: &str) -> String {
    format!("{FOLDER}/{name}-{LOADER}")
}

/// Text of an efivarfs file: four bytes of attributes, then UTF-16LE with a zero at the end.
fn decode(bytes: &[u8]) -> Option<String> {
    let units: Vec<u16> = bytes.get(4..)?.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    let end = units.iter().position(|unit| *unit == 0).unwrap_or(units.len());
    String::from_utf16(&units[..end]).ok()
}

fn encode(text: &str) -> Vec<u8> {
    let units = text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes);
    ATTRIBUTES.to_le_bytes().into_iter().chain(units).collect()
}

/// GUID (lower case) of the partition that the loader was started from.
pub fn loader_partition() -> Option<String> {
    let text = decode(&std::fs::read(path("LoaderDevicePartUUID")).ok()?)?;
    uuid::Uuid::parse_str(&text).ok().map(|guid| guid.to_string())
}

/// The slot whose entry the loader started. Entry names come without a boot counter
/// (systemd's Automatic Boot Assessment).
pub fn booted_slot() -> Option<Slot> {
    let entry = decode(&std::fs::read(path("LoaderEntrySelected")).ok()?)?;
    slot_of_entry(&entry)
}

fn slot_of_entry(entry: &str) -> Option<Slot> {
    entry.parse().ok().map(|entry: Entry| entry.slot)
}

/// Whether the machine was started by UEFI.
pub fn is_there() -> bool {
    std::path::Path::new(FOLDER).exists()
}

/// Makes the next boot, and that one only, take the entry `name` (a UKI's file name).
///
/// # Errors
/// With the variable's path in the text.
pub fn set_one_shot(name: &str) -> io::Result<()> {
    let path = path("LoaderEntryOneShot");
    // The kernel marks variables that it does not know as immutable.
    if let Ok(file) = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, rustix::fs::Mode::empty()) {
        let flags = rustix::fs::ioctl_getflags(&file).unwrap_or(IFlags::empty());
        let _ = rustix::fs::ioctl_setflags(&file, flags - IFlags::IMMUTABLE);
    }
    // One write call is one SetVariable.
    std::fs::write(&path, encode(name)).map_err(at(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_name_slots() {
        for (entry, slot) in
            [("imgbuild-00000001-a.efi", Some(Slot::A)), ("imgbuild-00000002-b", Some(Slot::B)), ("windows.efi", None)]
        {
            assert_eq!(slot_of_entry(entry), slot, "{entry}");
        }
    }

    #[test]
    fn text_comes_back() {
        assert_eq!(decode(&encode("imgbuild-b.efi")).as_deref(), Some("imgbuild-b.efi"));
        assert_eq!(decode(&[7, 0, 0]), None);
        assert_eq!(decode(&[7, 0, 0, 0]).as_deref(), Some(""));
    }
}
