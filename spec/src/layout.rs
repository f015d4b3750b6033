//! The disk as every program sees it: partitions, their labels, type GUIDs and sizes.
//! Types follow the Discoverable Partitions Specification where it has one.

use uuid::{Uuid, uuid};

/// Bytes in a logical sector of an image as built. Disks with 4096-byte sectors are an install target.
pub const SECTOR_SIZE: u64 = 512;
/// Every partition starts on a multiple of this many bytes.
pub const ALIGNMENT: u64 = 1024 * 1024;
/// Bytes in a data block and in a hash block of the dm-verity tree, and in an EROFS block.
pub const VERITY_BLOCK_SIZE: u32 = 4096;
/// GUID of the disk of an image as built; burning and installing draw a new one.
pub const IMAGE_DISK_GUID: Uuid = uuid!("5d1f7c62-0d3e-4b55-9a60-1f2f4f2b9e01");
/// FAT volume serial of the ESP of an image as built.
pub const IMAGE_ESP_SERIAL: u32 = 0x1B5D_0E5F;
/// FAT volume label of the ESP.
pub const ESP_VOLUME_LABEL: &str = "ESP";
/// Label that init gives to the file system of the state partition.
pub const STATE_FILE_SYSTEM_LABEL: &str = "state";
/// Attribute of the state partition's GPT entry until its file system is complete: what is there may be
/// made again. One of the bits that the specification leaves to the type's owner (UEFI 2.10 section 5.3.3).
pub const STATE_BEING_MADE: u64 = 1 << 48;
/// Label of the ESP while a machine puts itself on the disk: what is there may be written over.
pub const BEING_INSTALLED: &str = "installing";
/// Version of the layout of the state partition; an image refuses a newer one before it writes.
pub const STATE_FORMAT: u32 = 1;

/// The partitions of a machine's disk, in the order of their numbers on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Partition {
    Bios,
    Esp,
    RootA,
    RootB,
    Seed,
    State,
}

impl Partition {
    pub const ALL: [Partition; 6] =
        [Partition::Bios, Partition::Esp, Partition::RootA, Partition::RootB, Partition::Seed, Partition::State];

    /// Entry number in the GPT, from 1. Fixed, whether or not the lower numbers exist yet.
    pub const fn number(self) -> u32 {
        match self {
            Partition::Bios => 1,
            Partition::Esp => 2,
            Partition::RootA => 3,
            Partition::RootB => 4,
            Partition::Seed => 5,
            Partition::State => 6,
        }
    }

    /// GPT partition name.
    pub const fn label(self) -> &'static str {
        match self {
            Partition::Bios => "bios",
            Partition::Esp => "esp",
            Partition::RootA => "root-a",
            Partition::RootB => "root-b",
            Partition::Seed => "seed",
            Partition::State => "state",
        }
    }

    /// GPT partition type.
    pub const fn type_guid(self) -> Uuid {
        match self {
            // BIOS boot partition (GRUB).
            Partition::Bios => uuid!("21686148-6449-6e6f-744e-656564454649"),
            // EFI system partition, UEFI 2.10 section 5.3.3.
            Partition::Esp => uuid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b"),
            // Root partition for x86-64 (the verity tree lies behind the data, in the same partition).
            Partition::RootA | Partition::RootB => uuid!("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"),
            // Ours: no specification has a type for a seed.
            Partition::Seed => uuid!("0e2bb7a3-6e0f-4a8c-8f3b-51a1c2a9d4e7"),
            // Variable data partition.
            Partition::State => uuid!("4d21b016-b534-45c2-a9fb-5c16e091fd2d"),
        }
    }

    /// Unique partition GUID in an image as built (bytes repeat); redrawn by burn and install.
    pub const fn image_guid(self) -> Uuid {
        match self {
            Partition::Bios => uuid!("5d1f7c62-0d3e-4b55-9a60-1f2f4f2b9e11"),
            Partition::Esp => uuid!("5d1f7c62-0d3e-4b55-9a60-1f2f4f2b9e12"),
            Partition::RootA => uuid!("5d1f7c62-0d3e-4b55-9a60-1f2f4f2b9e13"),
            Partition::RootB => uuid!("5d1f7c62-0d3e-4b55-9a60-1f2f4f2b9e14"),
            Partition::Seed => uuid!("5d1f7c62-0d3e-4b55-9a60-1f2f4f2b9e15"),
            Partition::State => uuid!("5d1f7c62-0d3e-4b55-9a60-1f2f4f2b9e16"),
        }
    }

    /// Size in bytes; `None` for the state partition, which takes the rest of the disk.
    pub const fn size(self) -> Option<u64> {
        const MIB: u64 = 1024 * 1024;
        match self {
            Partition::Bios => Some(MIB),
            // Two UKIs and one temporary, and for BIOS kernel and initramfs of both slots.
            Partition::Esp => Some(512 * MIB),
            Partition::RootA | Partition::RootB => Some(1536 * MIB),
            Partition::Seed => Some(16 * MIB),
            Partition::State => None,
        }
    }

    /// The partitions as they lie on the disk: what an image holds comes first, so that the image ends
    /// there; root-b and state are made by the machine.
    pub const ON_DISK: [Partition; 6] =
        [Partition::Bios, Partition::Esp, Partition::RootA, Partition::Seed, Partition::RootB, Partition::State];

    /// First byte on a disk of 512-byte sectors. All partitions, root-b included, have their place
    /// reserved from the start, so that a slot made later never has to move anything.
    pub const fn offset(self) -> u64 {
        let mut offset = ALIGNMENT;
        let mut index = 0;
        while index < Self::ON_DISK.len() {
            let candidate = Self::ON_DISK[index];
            if candidate.number() == self.number() {
                return offset;
            }
            offset += match candidate.size() {
                Some(bytes) => bytes,
                None => 0,
            };
            index += 1;
        }
        offset
    }
}

/// Bytes kept free behind the last partition for the backup GPT.
pub const BACKUP_GPT_RESERVE: u64 = ALIGNMENT;
/// Smallest state partition that init makes, in bytes; below it the machine says "no state disk".
pub const STATE_MINIMUM: u64 = 1024 * 1024 * 1024;

/// Bytes of an image as built: everything but root-b and state.
pub const fn image_size() -> u64 {
    Partition::RootB.offset() + BACKUP_GPT_RESERVE
}

/// One of the two places for a root image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    A,
    B,
}

impl Slot {
    pub const fn partition(self) -> Partition {
        match self {
            Slot::A => Partition::RootA,
            Slot::B => Partition::RootB,
        }
    }

    pub const fn other(self) -> Slot {
        match self {
            Slot::A => Slot::B,
            Slot::B => Slot::A,
        }
    }

    pub const fn letter(self) -> char {
        match self {
            Slot::A => 'a',
            Slot::B => 'b',
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_lie_in_order_aligned_and_apart() {
        let mut end = ALIGNMENT;
        for partition in Partition::ON_DISK {
            assert_eq!(partition.offset(), end);
            assert_eq!(partition.offset() % ALIGNMENT, 0);
            end += partition.size().unwrap_or(0);
        }
        let made_by_the_machine: u64 =
            [Partition::RootB, Partition::State].into_iter().filter_map(Partition::size).sum();
        assert_eq!(image_size(), end - made_by_the_machine + BACKUP_GPT_RESERVE);
    }
}
