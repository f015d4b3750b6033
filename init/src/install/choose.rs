//! Which disk a machine puts itself on: the only one of its own that has all that the definition says. Never the one that
//! it was started from, and nothing that is plugged in from outside.

use crate::devices::links;
use crate::disk::block::{self, Disk, disks};
use crate::files::trimmed;
use spec::cluster::{Install, Transport};
use std::fmt;
use std::path::{Path, PathBuf};

/// Bytes of a gigabyte as disks are sold.
const GIGABYTE: u64 = 1_000_000_000;

/// A disk as the rule sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub disk: Disk,
    /// Names below /dev/disk/by-id.
    ids: Vec<String>,
    model: String,
    pub serial: String,
    pub bytes: u64,
    transport: Option<Transport>,
}

impl fmt::Display for Candidate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Candidate { disk, model, serial, bytes, .. } = self;
        let word = |text: &str| if text.is_empty() { "unknown".to_owned() } else { text.to_owned() };
        let (gigabytes, tenth) = (bytes / GIGABYTE, bytes % GIGABYTE / (GIGABYTE / 10));
        write!(formatter, "{} ({gigabytes}.{tenth} GB, model {}, serial {})", disk.name, word(model), word(serial))
    }
}

/// The machine's own disks without the one that it was started from.
pub fn candidates(boot: &Disk) -> Vec<Candidate> {
    disks().into_iter().filter(|disk| disk != boot).filter_map(candidate).collect()
}

fn candidate(disk: Disk) -> Option<Candidate> {
    let folder = Path::new("/sys/class/block").join(&disk.name);
    let text = |name: &str| trimmed(folder.join(name)).unwrap_or_default();
    let place = std::fs::canonicalize(&folder).ok()?;
    let place = place.to_string_lossy();
    let bytes = block::size(&disk.name).filter(|bytes| *bytes > 0)?;
    if text("removable") == "1" || place.contains("/usb") {
        return None;
    }
    let serial = match text("serial") {
        serial if !serial.is_empty() => serial,
        _ => match text("device/serial") {
            serial if !serial.is_empty() => serial,
            _ => page_serial(&folder.join("device/vpd_pg80")).unwrap_or_default(),
        },
    };
    let (ids, model, transport) = (links::ids(&disk.name), text("device/model"), transport(&place));
    Some(Candidate { disk, ids, model, serial, bytes, transport })
}

/// SCSI's unit serial number: a page header of four bytes, then text (SPC-4 section 7.8.15).
fn page_serial(path: &PathBuf) -> Option<String> {
    let page = std::fs::read(path).ok()?;
    Some(String::from_utf8_lossy(page.get(4..)?).trim_matches(['\0', ' ']).to_owned())
}

/// By the device's place below /sys/devices.
fn transport(place: &str) -> Option<Transport> {
    let below = |mark: &str| place.split('/').any(|part| part.starts_with(mark));
    match () {
        () if below("nvme") => Some(Transport::Nvme),
        () if below("ata") => Some(Transport::Sata),
        () if below("end_device") => Some(Transport::Sas),
        () if below("host") => Some(Transport::Scsi),
        () if below("virtio") => Some(Transport::Virtio),
        () => None,
    }
}

/// How many fit.
#[derive(Debug, PartialEq, Eq)]
pub enum Choice<'a> {
    One(&'a Candidate),
    /// It may still come.
    None(String),
    /// Only a person can say which.
    Several(String),
}

/// `least`: bytes that a disk must have.
pub fn choose<'a>(rule: &Install, candidates: &'a [Candidate], least: u64) -> Choice<'a> {
    let fits = |candidate: &&Candidate| {
        let Candidate { ids, model, bytes, transport, .. } = candidate;
        let gigabytes = |limit: Option<u32>| limit.map(|limit| u64::from(limit) * GIGABYTE);
        rule.id.as_ref().is_none_or(|id| ids.contains(id))
            && rule.model.as_ref().is_none_or(|wanted| wanted == model)
            && rule.transport.is_none_or(|wanted| Some(wanted) == *transport)
            && gigabytes(rule.min_gb).is_none_or(|smallest| *bytes >= smallest)
            && gigabytes(rule.max_gb).is_none_or(|largest| *bytes <= largest)
            && *bytes >= least
    };
    let fitting: Vec<&Candidate> = candidates.iter().filter(fits).collect();
    let list = |all: &[&Candidate]| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match fitting.as_slice() {
        [one] => Choice::One(one),
        [] if candidates.is_empty() => Choice::None("this machine has no disk of its own".to_owned()),
        [] => Choice::None(format!("it has {}", list(&candidates.iter().collect::<Vec<_>>()))),
        several => Choice::Several(format!("{} fit alike", list(several))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(name: &str, serial: &str, gigabytes: u64, transport: Transport) -> Candidate {
        Candidate {
            disk: Disk { name: name.into() },
            ids: vec![format!("nvme-{serial}")],
            model: "QEMU".into(),
            serial: serial.into(),
            bytes: gigabytes * GIGABYTE,
            transport: Some(transport),
        }
    }

    #[test]
    fn the_only_disk_that_has_all_that_is_said_is_chosen() {
        let disks = [disk("nvme0n1", "A1", 480, Transport::Nvme), disk("sda", "B2", 4000, Transport::Sata)];
        let by = |rule: Install| match choose(&rule, &disks, 8 * GIGABYTE) {
            Choice::One(candidate) => candidate.disk.name.clone(),
            Choice::None(reason) | Choice::Several(reason) => reason,
        };
        let rule = Install::default;
        assert_eq!(by(Install { id: Some("nvme-A1".into()), ..rule() }), "nvme0n1");
        assert_eq!(by(Install { min_gb: Some(1000), ..rule() }), "sda");
        assert_eq!(by(Install { max_gb: Some(480), ..rule() }), "nvme0n1");
        assert_eq!(by(Install { transport: Some(Transport::Sata), model: Some("QEMU".into()), ..rule() }), "sda");
        let several = by(rule());
        assert!(several.starts_with("nvme0n1 (480.0 GB, model QEMU, serial A1), sda"), "{several}");
        assert!(several.ends_with("fit alike"), "{several}");
        assert!(by(Install { model: Some("other".into()), ..rule() }).starts_with("it has nvme0n1"));
        assert_eq!(choose(&rule(), &disks, 1000 * GIGABYTE), Choice::One(&disks[1]));
        assert!(matches!(choose(&rule(), &[], 0), Choice::None(reason) if reason.contains("no disk of its own")));
    }

    #[test]
    fn transports_by_their_place_below_sys() {
        for (place, wanted) in [
            ("/sys/devices/pci0000:00/0000:00:05.0/nvme/nvme0/nvme0n1", Some(Transport::Nvme)),
            ("/sys/devices/pci0000:00/0000:00:1f.2/ata3/host2/target2:0:0/2:0:0:0/block/sda", Some(Transport::Sata)),
            (
                "/sys/devices/pci0000:00/0000:03:00.0/host0/port-0:0/end_device-0:0/target0:0:0/0:0:0:0/block/sda",
                Some(Transport::Sas),
            ),
            ("/sys/devices/pci0000:00/0000:00:06.0/virtio3/host6/target6:0:1/6:0:1:0/block/sdb", Some(Transport::Scsi)),
            ("/sys/devices/pci0000:00/0000:00:04.0/virtio1/block/vda", Some(Transport::Virtio)),
            ("/sys/devices/platform/floppy.0/block/fd0", None),
        ] {
            assert_eq!(transport(place), wanted, "{place}");
        }
    }
}
