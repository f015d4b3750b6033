//! Disks out of /sys/block, and the file systems on them with the room that is left.

use spec::agent::{Disk, Disks, Mount};
use std::collections::BTreeSet;
use std::io;
use std::path::Path;

/// What /sys counts a disk's size in, whatever its sectors are.
const SECTOR: u64 = 512;

pub fn read() -> io::Result<Disks> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    Ok(Disks {
        disks: disks(Path::new("/sys/block"))?,
        mounts: parse(&mounts).into_iter().filter_map(with_room).collect(),
    })
}

/// Those with hardware, or a hypervisor, behind them.
fn disks(folder: &Path) -> io::Result<Vec<Disk>> {
    let mut disks = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if path.join("device").exists() {
            disks.push(disk(&path, name));
        }
    }
    disks.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(disks)
}

fn disk(path: &Path, name: &str) -> Disk {
    let text = |file: &str| std::fs::read_to_string(path.join(file)).ok().map(|text| text.trim().to_owned());
    let text = |file: &str| text(file).filter(|text| !text.is_empty());
    Disk {
        name: name.to_owned(),
        size: text("size").and_then(|sectors| sectors.parse::<u64>().ok()).unwrap_or(0) * SECTOR,
        model: text("device/model"),
        // virtio, NVMe, SCSI.
        serial: text("serial").or_else(|| text("device/serial")).or_else(|| scsi_serial(path)),
        removable: text("removable").is_some_and(|text| text == "1"),
    }
}

/// The unit serial number page: four bytes of header, then the number (SPC-4, 7.8.15).
fn scsi_serial(path: &Path) -> Option<String> {
    let page = std::fs::read(path.join("device/vpd_pg80")).ok()?;
    let serial = String::from_utf8_lossy(page.get(4..)?);
    let serial = serial.trim_matches(|character: char| character.is_whitespace() || character == '\0');
    (!serial.is_empty()).then(|| serial.to_owned())
}

/// Source, target and kind of the file systems on devices; further mounts of one are bind mounts.
fn parse(mounts: &str) -> Vec<[String; 3]> {
    let mut known = BTreeSet::new();
    let fields = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').map(unescape);
        Some([fields.next()?, fields.next()?, fields.next()?])
    });
    fields.filter(|[source, ..]| source.starts_with("/dev/") && known.insert(source.clone())).collect()
}

/// Spaces and the like stand as `\040` (fstab(5)).
fn unescape(field: &str) -> String {
    let mut parts = field.split('\\');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if byte.is_ascii() => {
                text.push(char::from(byte));
                text.push_str(&part[3..]);
            }
            _ => {
                text.push('\\');
                text.push_str(part);
            }
        }
    }
    text
}

fn with_room([source, target, file_system]: [String; 3]) -> Option<Mount> {
    let system = rustix::fs::statvfs(&target).ok()?;
    let (size, free) = (system.f_blocks * system.f_frsize, system.f_bavail * system.f_frsize);
    Some(Mount { source, target, file_system, size, free })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_disk_has_a_device_behind_it() {
        let folder = tempfile::tempdir().unwrap();
        let put = |path: &str, content: &[u8]| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        };
        put("vda/size", b"2048\n");
        put("vda/serial", b"SN-1\n");
        put("vda/device/vendor", b"");
        put("sda/size", b"4096\n");
        put("sda/removable", b"1\n");
        put("sda/device/model", b"Stick   \n");
        put("sda/device/vpd_pg80", b"\0\x80\0\x04  A7\0");
        put("loop0/size", b"8\n");
        let disk = |name: &str, size, model: Option<&str>, serial: &str, removable| Disk {
            name: name.into(),
            size,
            model: model.map(str::to_owned),
            serial: Some(serial.into()),
            removable,
        };
        let wanted = [disk("sda", 2 << 20, Some("Stick"), "A7", true), disk("vda", 1 << 20, None, "SN-1", false)];
        assert_eq!(disks(folder.path()).unwrap(), wanted);
    }

    #[test]
    fn a_file_system_is_told_once_and_by_its_real_name() {
        let mounts = "proc /proc proc rw 0 0\n/dev/vda6 /var ext4 rw 0 0\n/dev/vda6 /opt/cni ext4 rw 0 0\n\
                      /dev/sda1 /mnt/a\\040b\\134c vfat rw 0 0\nbad\n";
        let wanted = [["/dev/vda6", "/var", "ext4"], ["/dev/sda1", "/mnt/a b\\c", "vfat"]];
        assert_eq!(parse(mounts), wanted);
    }
}
