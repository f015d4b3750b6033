//! Block devices as /sys shows them.

use crate::files::trimmed;
use gpt::disk::LogicalBlockSize;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// A whole disk.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Disk {
    /// Kernel name, `vda`.
    pub name: String,
}

impl Disk {
    pub fn device(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    /// Kernel name of a partition: `vda3`, `nvme0n1p3`.
    pub fn partition_name(&self, number: u32) -> String {
        let separator = if self.name.ends_with(|last: char| last.is_ascii_digit()) { "p" } else { "" };
        format!("{}{separator}{number}", self.name)
    }

    pub fn partition_device(&self, number: u32) -> PathBuf {
        Path::new("/dev").join(self.partition_name(number))
    }

    /// Bytes in a logical sector.
    pub fn sector_size(&self) -> LogicalBlockSize {
        let size = trimmed(format!("/sys/class/block/{}/queue/logical_block_size", self.name));
        match size.as_deref() {
            Some("4096") => LogicalBlockSize::Lb4096,
            _ => LogicalBlockSize::Lb512,
        }
    }

    /// # Errors
    /// With the device's path in the text.
    pub fn open(&self, write: bool) -> io::Result<File> {
        let path = self.device();
        OpenOptions::new().read(true).write(write).open(&path).map_err(crate::files::at(&path))
    }
}

/// Whole disks that can carry a partition table, sorted by name.
pub fn disks() -> Vec<Disk> {
    let entries = std::fs::read_dir("/sys/class/block").into_iter().flatten().flatten();
    let mut disks: Vec<Disk> = entries
        .filter(|entry| !entry.path().join("partition").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !["loop", "ram", "dm-", "md", "sr", "zram", "fd"].iter().any(|prefix| name.starts_with(prefix)))
        .map(|name| Disk { name })
        .collect();
    disks.sort_by(|a, b| a.name.cmp(&b.name));
    disks
}

/// Size of a disk or partition in bytes.
pub fn size(name: &str) -> Option<u64> {
    // The kernel counts in 512-byte units here, whatever the device's sectors are.
    trimmed(format!("/sys/class/block/{name}/size"))?.parse::<u64>().ok()?.checked_mul(512)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_named_as_the_kernel_names_them() {
        let name = |disk: &str| Disk { name: disk.into() }.partition_name(3);
        assert_eq!(
            [name("vda"), name("nvme0n1"), name("mmcblk0"), name("sdab")],
            ["vda3", "nvme0n1p3", "mmcblk0p3", "sdab3"]
        );
    }
}
