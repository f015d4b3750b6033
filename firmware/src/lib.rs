//! The firmware's boot order (UEFI 2.10 sections 3.1.3, 3.3 and 10.3): entries for the loader of one disk, as many as a
//! slot on trial has tries. A UKI that does not load ends the loader, and the firmware goes on with its next entry, which
//! shall be the loader again until no tries are left.

use rustix::fs::{IFlags, Mode, OFlags};
use spec::boot::TRIES;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use uuid::Uuid;

const FOLDER: &str = "/sys/firmware/efi/efivars";
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
const LOADER_PARTITION: &str = "LoaderDevicePartUUID-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
/// Non-volatile, boot-service and run-time access.
const ATTRIBUTES: [u8; 4] = 7u32.to_le_bytes();
/// LOAD_OPTION_ACTIVE
const ACTIVE: [u8; 4] = 1u32.to_le_bytes();
const LOADER: &str = r"\EFI\systemd\systemd-bootx64.efi";
const NAME: &str = "imgbuild ";

/// A partition as a device path names it.
#[derive(Debug, Clone, Copy)]
struct Esp {
    number: u32,
    /// First sector and number of sectors.
    start: u64,
    size: u64,
    guid: Uuid,
}

/// Entries for the ESP (its device) that this machine was started from, behind the entry that it was started by; nothing
/// on a machine that was started by BIOS.
///
/// # Errors
/// With the variable or file in the text.
pub fn stay_with(esp: &Path) -> io::Result<()> {
    if !is_there() {
        return Ok(());
    }
    let esp = Esp::of(esp, loader_partition()?)?;
    let current = numbers(&read("BootCurrent")?.unwrap_or_default()).first().copied();
    enter(&esp, Place::Behind(current)).map(drop)
}

/// Entries for another disk's ESP (its device and its partition GUID), before all others; the next boot takes the first
/// of them in any case. Nothing on a machine that was started by BIOS.
///
/// # Errors
/// With the variable or file in the text.
pub fn turn_to(esp: &Path, guid: Uuid) -> io::Result<()> {
    if !is_there() {
        return Ok(());
    }
    let order = enter(&Esp::of(esp, guid)?, Place::First)?;
    match order.first() {
        Some(first) => write("BootNext", &first.to_le_bytes()),
        None => Ok(()),
    }
}

/// Whether the machine was started by UEFI.
pub fn is_there() -> bool {
    Path::new(FOLDER).is_dir()
}

/// The order that there is in the end.
fn enter(esp: &Esp, place: Place) -> io::Result<Vec<u16>> {
    let wanted: Vec<Vec<u8>> =
        (1..=TRIES).map(|number| load_option(&format!("{NAME}{number}"), esp)).collect::<io::Result<_>>()?;
    let existing = entries()?;
    let order = numbers(&read("BootOrder")?.unwrap_or_default());
    let change = change(&order, place, &existing, &wanted);
    for (number, option) in &change.written {
        write(&entry_name(*number), option)?;
    }
    if change.order != order {
        let bytes: Vec<u8> = change.order.iter().flat_map(|number| number.to_le_bytes()).collect();
        write("BootOrder", &bytes)?;
    }
    Ok(change.order)
}

/// Where entries stand among the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Behind the entry of this number; where it is one of ours or none, ours stay where the first of them is.
    Behind(Option<u16>),
    First,
}

/// What is written, and the order afterwards.
#[derive(Debug, PartialEq, Eq)]
struct Change {
    written: Vec<(u16, Vec<u8>)>,
    order: Vec<u16>,
}

fn change(order: &[u16], place: Place, existing: &BTreeMap<u16, Vec<u8>>, wanted: &[Vec<u8>]) -> Change {
    let of_ours: Vec<u16> = existing.iter().filter(|(_, option)| is_ours(option)).map(|(number, _)| *number).collect();
    let free = (0..=u16::MAX).filter(|number| !existing.contains_key(number));
    let places: Vec<u16> = of_ours.iter().copied().chain(free).take(wanted.len()).collect();
    let differs = |(number, option): &(u16, Vec<u8>)| existing.get(number) != Some(option);
    let written = places.iter().copied().zip(wanted.iter().cloned()).filter(differs).collect();
    let others: Vec<u16> =
        order.iter().copied().filter(|number| !of_ours.contains(number) && !places.contains(number)).collect();
    let behind = |current: Option<u16>| {
        let found = current.and_then(|current| others.iter().position(|number| *number == current));
        let ours = || order.iter().position(|number| of_ours.contains(number)).unwrap_or(0).min(others.len());
        found.map_or_else(ours, |found| found + 1)
    };
    let place = match place {
        Place::Behind(current) => behind(current),
        Place::First => 0,
    };
    let mut order = others;
    order.splice(place..place, places);
    Change { written, order }
}

fn is_ours(option: &[u8]) -> bool {
    let description: Vec<u16> = option
        .get(6..)
        .unwrap_or_default()
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .take_while(|unit| *unit != 0)
        .collect();
    String::from_utf16_lossy(&description).starts_with(NAME)
}

/// EFI_LOAD_OPTION (section 3.1.3).
fn load_option(name: &str, esp: &Esp) -> io::Result<Vec<u8>> {
    let text = |text: &str| -> Vec<u8> { text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect() };
    let file = text(LOADER);
    let mut path = vec![4, 1, 42, 0];
    path.extend(esp.number.to_le_bytes());
    path.extend(esp.start.to_le_bytes());
    path.extend(esp.size.to_le_bytes());
    path.extend(esp.guid.to_bytes_le());
    path.extend([2, 2]);
    path.extend([4, 4]);
    path.extend((4 + file.len() as u16).to_le_bytes());
    path.extend(file);
    path.extend([0x7f, 0xff, 4, 0]);
    let length = u16::try_from(path.len()).map_err(io::Error::other)?;
    Ok([&ACTIVE[..], &length.to_le_bytes(), &text(name), &path].concat())
}

impl Esp {
    fn of(device: &Path, guid: Uuid) -> io::Result<Esp> {
        let folder = Path::new("/sys/class/block").join(device.file_name().unwrap_or_default());
        let number = |file: PathBuf| -> io::Result<u64> {
            let text = std::fs::read_to_string(&file).map_err(at(&file))?;
            text.trim().parse().map_err(io::Error::other)
        };
        // The kernel counts in 512 bytes, a device path in the disk's own sectors.
        let sector = (number(folder.join("../queue/logical_block_size"))? / 512).max(1);
        Ok(Esp {
            number: number(folder.join("partition"))? as u32,
            start: number(folder.join("start"))? / sector,
            size: number(folder.join("size"))? / sector,
            guid,
        })
    }
}

fn loader_partition() -> io::Result<Uuid> {
    let variable = Path::new(FOLDER).join(LOADER_PARTITION);
    let bytes = std::fs::read(&variable).map_err(at(&variable))?;
    let units = bytes.get(4..).unwrap_or_default().chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
    let guid = String::from_utf16_lossy(&units.take_while(|unit| *unit != 0).collect::<Vec<_>>());
    Uuid::parse_str(&guid).map_err(|error| at(&variable)(io::Error::other(error)))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> io::Error + '_ {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn entry_name(number: u16) -> String {
    format!("Boot{number:04X}")
}

/// Boot#### by number.
fn entries() -> io::Result<BTreeMap<u16, Vec<u8>>> {
    let folder = Path::new(FOLDER);
    let mut entries = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(at(folder))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let digits = name.strip_suffix(&format!("-{GLOBAL}")).and_then(|name| name.strip_prefix("Boot"));
        if let Some(number) =
            digits.filter(|digits| digits.len() == 4).and_then(|digits| u16::from_str_radix(digits, 16).ok())
            && let Some(option) = read(&entry_name(number))?
        {
            entries.insert(number, option);
        }
    }
    Ok(entries)
}

fn path(name: &str) -> PathBuf {
    Path::new(FOLDER).join(format!("{name}-{GLOBAL}"))
}

/// A variable's value; `None` where it is not there.
fn read(name: &str) -> io::Result<Option<Vec<u8>>> {
    let path = path(name);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes.get(ATTRIBUTES.len()..).unwrap_or_default().to_vec())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(&path)(error)),
    }
}

/// One write call is one SetVariable.
fn write(name: &str, value: &[u8]) -> io::Result<()> {
    let path = path(name);
    if let Ok(file) = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        let flags = rustix::fs::ioctl_getflags(&file).unwrap_or(IFlags::empty());
        // Without it the write says what is wrong.
        let _ = rustix::fs::ioctl_setflags(&file, flags - IFlags::IMMUTABLE);
    }
    std::fs::write(&path, [&ATTRIBUTES[..], value].concat()).map_err(at(&path))
}

fn numbers(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn option(name: &str, start: u64) -> Vec<u8> {
        load_option(name, &Esp { number: 2, start, size: 1_048_576, guid: Uuid::from_u128(1) }).unwrap()
    }

    fn ours(start: u64) -> Vec<Vec<u8>> {
        (1..=3).map(|number| option(&format!("{NAME}{number}"), start)).collect()
    }

    #[test]
    fn the_entries_come_behind_the_one_that_works_and_stay_there() {
        let existing: BTreeMap<u16, Vec<u8>> =
            [(0, option("UiApp", 0)), (1, option("UEFI Misc Device", 0)), (3, option("PXE", 0))].into();
        let first = change(&[3, 1, 0], Place::Behind(Some(1)), &existing, &ours(4096));
        assert_eq!(first.order, [3, 1, 2, 4, 5, 0]);
        assert_eq!(first.written.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2, 4, 5]);

        let mut existing = existing;
        existing.extend(first.written.clone());
        for current in [Some(1), Some(4), None] {
            let again = change(&first.order, Place::Behind(current), &existing, &ours(4096));
            assert_eq!((again.order, again.written), (first.order.clone(), Vec::new()), "{current:?}");
        }
        // The disk was written anew.
        let moved = change(&first.order, Place::Behind(Some(1)), &existing, &ours(8192));
        assert_eq!((moved.order, moved.written.len()), (first.order.clone(), 3));
        let turned = change(&first.order, Place::First, &existing, &ours(8192));
        assert_eq!((turned.order, turned.written.len()), (vec![2, 4, 5, 3, 1, 0], 3));
    }

    #[test]
    fn a_firmware_without_an_order_gets_one() {
        let change = change(&[], Place::Behind(None), &BTreeMap::new(), &ours(1));
        assert_eq!((change.order, change.written.len()), (vec![0, 1, 2], 3));
    }

    /// As efibootmgr(8) writes it: `efibootmgr -c -d /dev/vda -p 2 -L x -l '\EFI\systemd\systemd-bootx64.efi'`.
    #[test]
    fn a_load_option_s_bytes() {
        let option = load_option(
            "x",
            &Esp {
                number: 2,
                start: 4096,
                size: 8192,
                guid: Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
            },
        )
        .unwrap();
        assert_eq!(option[..10], [1, 0, 0, 0, 116, 0, b'x', 0, 0, 0]);
        assert_eq!(option[10..18], [4, 1, 42, 0, 2, 0, 0, 0]);
        assert_eq!(option[34..50], [4, 3, 2, 1, 6, 5, 8, 7, 9, 10, 11, 12, 13, 14, 15, 16]);
        assert_eq!(option[50..56], [2, 2, 4, 4, 70, 0]);
        assert_eq!(option[option.len() - 4..], [0x7f, 0xff, 4, 0]);
        assert!(is_ours(
            &super::load_option("imgbuild 1", &Esp { number: 2, start: 0, size: 0, guid: Uuid::nil() }).unwrap()
        ));
        assert!(!is_ours(&option) && !is_ours(&[]));
    }
}
