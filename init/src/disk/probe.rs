//! Which file system a partition holds: type, label and UUID, for /dev/disk/by-* and for the question
//! whether the state partition may be formatted.

use std::io::{Read, Seek, SeekFrom};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    pub kind: &'static str,
    pub label: String,
    pub uuid: String,
}

/// Looks at the first 128 KiB. `None`: nothing that we know.
pub fn probe(device: &mut (impl Read + Seek)) -> Option<FileSystem> {
    let mut head = Vec::new();
    device.seek(SeekFrom::Start(0)).ok()?;
    device.take(128 * 1024).read_to_end(&mut head).ok()?;
    recognise(&head)
}

/// All of the first 128 KiB is zero.
pub fn blank(device: &mut (impl Read + Seek)) -> bool {
    let mut head = Vec::new();
    device.seek(SeekFrom::Start(0)).is_ok()
        && device.take(128 * 1024).read_to_end(&mut head).is_ok()
        && head.iter().all(|byte| *byte == 0)
}

fn recognise(head: &[u8]) -> Option<FileSystem> {
    let text = |from: usize, length: usize| {
        let bytes = head.get(from..from + length).unwrap_or_default();
        String::from_utf8_lossy(bytes).trim_end_matches(['\0', ' ']).to_owned()
    };
    let guid = |from: usize| {
        head.get(from..from + 16).and_then(|bytes| uuid::Uuid::from_slice(bytes).ok()).unwrap_or_default().to_string()
    };
    let has = |at: usize, magic: &[u8]| head.get(at..at + magic.len()) == Some(magic);
    if has(1024 + 56, &[0x53, 0xef]) {
        return Some(FileSystem { kind: "ext4", label: text(1024 + 120, 16), uuid: guid(1024 + 104) });
    }
    if has(0, b"XFSB") {
        return Some(FileSystem { kind: "xfs", label: text(108, 12), uuid: guid(32) });
    }
    if has(1024, &0xE0F5_E1E2u32.to_le_bytes()) {
        return Some(FileSystem { kind: "erofs", label: text(1024 + 64, 16), uuid: guid(1024 + 48) });
    }
    if has(82, b"FAT32") {
        let serial = u32::from_le_bytes(head.get(67..71)?.try_into().ok()?);
        let uuid = format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff);
        return Some(FileSystem { kind: "vfat", label: text(71, 11), uuid });
    }
    for (kind, at, magic) in [
        ("btrfs", 0x10040, &b"_BHRfS_M"[..]),
        ("ntfs", 3, b"NTFS    "),
        ("swap", 4086, b"SWAPSPACE2"),
        ("LUKS", 0, b"LUKS\xba\xbe"),
        ("LVM", 536, b"LVM2 001"),
        ("squashfs", 0, b"hsqs"),
    ] {
        if has(at, magic) {
            return Some(FileSystem { kind, label: String::new(), uuid: String::new() });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mke2fs_is_recognised() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        std::fs::File::create(&path).unwrap().set_len(8 << 20).unwrap();
        let mut file = std::fs::File::open(&path).unwrap();
        assert!(blank(&mut file) && probe(&mut file).is_none());
        let made = std::process::Command::new("/usr/sbin/mke2fs")
            .args(["-q", "-t", "ext4", "-L", "state", "-U", "5d1f7c62-0d3e-4b55-9a60-1f2f4f2b9e16"])
            .arg(&path)
            .status();
        if !made.is_ok_and(|status| status.success()) {
            return; // no mke2fs on this machine: the boot stories cover it
        }
        let found = probe(&mut file).unwrap();
        assert_eq!((found.kind, found.label.as_str()), ("ext4", "state"));
        assert_eq!(found.uuid, "5d1f7c62-0d3e-4b55-9a60-1f2f4f2b9e16");
        assert!(!blank(&mut file));
    }

    #[test]
    fn swap_and_a_short_disk() {
        let mut head = vec![0u8; 8192];
        head[4086..4096].copy_from_slice(b"SWAPSPACE2");
        assert_eq!(recognise(&head).unwrap().kind, "swap");
        assert_eq!(recognise(&[0; 10]), None);
    }
}
