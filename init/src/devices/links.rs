//! Stable names of disks below /dev/disk: by-id, by-path, by-partuuid, by-partlabel, by-uuid and
//! by-label, as udev's rules name them where we share a source for the name.

use crate::disk::block::{Disk, disks};
use crate::disk::{probe, table};
use crate::files::trimmed;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Device name -> links made for it.
static MADE: Mutex<BTreeMap<String, Vec<PathBuf>>> = Mutex::new(BTreeMap::new());

/// Links of every disk that is there.
pub fn update_all() {
    for disk in disks() {
        update(&disk.name, false);
    }
}

/// A disk or partition came, changed or went. A partition's event refreshes its whole disk.
pub fn update(name: &str, removed: bool) {
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if removed {
        for link in made.remove(name).unwrap_or_default() {
            let _ = std::fs::remove_file(link);
        }
        return;
    }
    let disk = disk_of(name);
    if !disks().contains(&disk) {
        return;
    }
    for (device, links) in links_of(&disk) {
        let previous = made.insert(device.clone(), links.clone()).unwrap_or_default();
        for gone in previous.iter().filter(|link| !links.contains(link)) {
            let _ = std::fs::remove_file(gone);
        }
        for link in &links {
            make(link, &device);
        }
    }
}

fn disk_of(name: &str) -> Disk {
    let path = Path::new("/sys/class/block").join(name);
    let parent = path.join("partition").exists().then(|| std::fs::canonicalize(&path).ok()).flatten();
    let parent = parent
        .as_deref()
        .and_then(Path::parent)
        .and_then(Path::file_name)
        .map(|name| name.to_string_lossy().into_owned());
    Disk { name: parent.unwrap_or_else(|| name.to_owned()) }
}

fn make(link: &Path, device: &str) {
    let target = format!("../../{device}");
    if std::fs::read_link(link).is_ok_and(|found| found == Path::new(&target)) {
        return;
    }
    if let Some(folder) = link.parent() {
        let _ = std::fs::create_dir_all(folder);
    }
    let _ = std::fs::remove_file(link);
    let _ = std::os::unix::fs::symlink(target, link);
}

fn links_of(disk: &Disk) -> Vec<(String, Vec<PathBuf>)> {
    let ids = ids(&disk.name);
    let path = path_name(&disk.name);
    let named = |suffix: &str| {
        let by_id = ids.iter().map(|id| format!("/dev/disk/by-id/{id}{suffix}"));
        let by_path = path.iter().map(|path| format!("/dev/disk/by-path/{path}{suffix}"));
        by_id.chain(by_path).map(PathBuf::from).collect::<Vec<_>>()
    };
    let mut all = vec![(disk.name.clone(), named(""))];
    let table = disk.open(false).ok().and_then(|mut device| table::read(&mut device, disk.sector_size()).ok());
    for (number, partition) in table.map(|table| table.partitions).unwrap_or_default() {
        let name = disk.partition_name(number);
        if !Path::new("/sys/class/block").join(&name).exists() {
            continue;
        }
        let mut links = named(&format!("-part{number}"));
        links.push(format!("/dev/disk/by-partuuid/{}", partition.part_guid).into());
        links.push(format!("/dev/disk/by-partlabel/{}", escape(&partition.name)).into());
        let system = File::open(disk.partition_device(number)).ok().and_then(|mut file| probe::probe(&mut file));
        if let Some(system) = system {
            links
                .extend((!system.uuid.is_empty()).then(|| PathBuf::from(format!("/dev/disk/by-uuid/{}", system.uuid))));
            links.extend(
                (!system.label.is_empty())
                    .then(|| PathBuf::from(format!("/dev/disk/by-label/{}", escape(&system.label)))),
            );
        }
        all.push((name, links));
    }
    all
}

/// Names by serial number and world-wide name.
pub fn ids(disk: &str) -> Vec<String> {
    let folder = Path::new("/sys/class/block").join(disk);
    let text = |name: &str| trimmed(folder.join(name)).filter(|text| !text.is_empty());
    let mut ids = Vec::new();
    if disk.starts_with("vd") {
        ids.extend(text("serial").map(|serial| format!("virtio-{serial}")));
    } else if disk.starts_with("nvme") {
        ids.extend(text("wwid").map(|wwid| format!("nvme-{wwid}")));
        let model = text("device/model").zip(text("device/serial"));
        ids.extend(model.map(|(model, serial)| format!("nvme-{model}_{serial}")));
    } else {
        let model = text("device/model").unwrap_or_default();
        match text("device/wwid") {
            Some(wwid) if wwid.starts_with("naa.") => ids.push(format!("wwn-0x{}", wwid.trim_start_matches("naa."))),
            // `t10.ATA     MODEL    SERIAL`
            Some(wwid) if wwid.starts_with("t10.ATA") => {
                let words: Vec<&str> = wwid.split_whitespace().skip(1).collect();
                ids.push(format!("ata-{}", words.join("_")));
            }
            Some(wwid) => ids.push(format!("scsi-{model}_{wwid}")),
            None => {}
        }
    }
    ids.iter().map(|id| escape(id)).collect()
}

/// Name by the place on the buses: `pci-0000:00:04.0`, with the disk's own number behind it where the
/// controller has several.
fn path_name(disk: &str) -> Option<String> {
    let path = std::fs::canonicalize(Path::new("/sys/class/block").join(disk)).ok()?;
    name_of_path(&path.to_string_lossy())
}

fn name_of_path(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').collect();
    let controller = parts.iter().rposition(|part| is_pci_address(part))?;
    let mut name = format!("pci-{}", parts[controller]);
    let below = &parts[controller + 1..];
    if let Some(port) = below.iter().find_map(|part| part.strip_prefix("ata")) {
        name.push_str(&format!("-ata-{port}"));
    } else if let Some(address) = below
        .iter()
        .find(|part| part.split(':').count() == 4 && part.bytes().all(|byte| byte.is_ascii_digit() || byte == b':'))
    {
        let usb = below
            .iter()
            .rev()
            .find(|part| part.contains(':') && part.contains('-'))
            .map(|part| format!("-usb-0:{}", part.split_once('-').map_or(*part, |(_, rest)| rest)));
        let mut address = (*address).to_owned();
        if usb.is_some() {
            // The host number of a stick is drawn anew at each plug.
            let rest: Vec<&str> = address.split(':').skip(1).collect();
            address = format!("0:{}", rest.join(":"));
        }
        name.push_str(&usb.unwrap_or_default());
        name.push_str(&format!("-scsi-{address}"));
    } else if let Some(namespace) =
        below.last().and_then(|last| last.strip_prefix("nvme")).and_then(|rest| rest.split_once('n'))
    {
        name.push_str(&format!("-nvme-{}", namespace.1));
    }
    Some(name)
}

fn is_pci_address(part: &str) -> bool {
    let bytes = part.as_bytes();
    bytes.len() == 12
        && bytes[4] == b':'
        && bytes[7] == b':'
        && bytes[10] == b'.'
        && bytes.iter().all(|byte| byte.is_ascii_hexdigit() || b":.".contains(byte))
}

/// What a foreign text may put into a file name.
fn escape(text: &str) -> String {
    let safe = |character: char| character.is_ascii_alphanumeric() || "#+-.:=@_".contains(character);
    text.chars().map(|character| if safe(character) { character } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_on_the_buses() {
        for (path, wanted) in [
            ("/sys/devices/pci0000:00/0000:00:04.0/virtio1/block/vda", "pci-0000:00:04.0"),
            ("/sys/devices/pci0000:00/0000:00:1f.2/ata3/host2/target2:0:0/2:0:0:0/block/sda", "pci-0000:00:1f.2-ata-3"),
            ("/sys/devices/pci0000:00/0000:00:05.0/nvme/nvme0/nvme0n1", "pci-0000:00:05.0-nvme-1"),
            (
                "/sys/devices/pci0000:00/0000:00:06.0/virtio3/host6/target6:0:1/6:0:1:0/block/sdb",
                "pci-0000:00:06.0-scsi-6:0:1:0",
            ),
            (
                "/sys/devices/pci0000:00/0000:00:07.0/usb1/1-2/1-2:1.0/host8/target8:0:0/8:0:0:0/block/sdc",
                "pci-0000:00:07.0-usb-0:2:1.0-scsi-0:0:0:0",
            ),
        ] {
            assert_eq!(name_of_path(path).as_deref(), Some(wanted), "{path}");
        }
        assert_eq!(name_of_path("/sys/devices/virtual/block/loop0"), None);
    }

    #[test]
    fn a_label_cannot_lead_out() {
        assert_eq!(escape("../../etc/passwd x"), ".._.._etc_passwd_x");
    }
}
