//! Puts right what fatfs 0.3 writes into new directories: it gives `.` and `..` long names, which
//! take the first and the third slot, where FAT wants the two entries themselves in the first two.

use std::io::{self, Read, Seek, SeekFrom, Write};

const ENTRY: usize = 32;
const DIRECTORY: u8 = 0x10;
const LONG_NAME: u8 = 0x0f;
const FREE: u8 = 0xe5;
/// Cluster numbers from here on end a chain.
const END_OF_CHAIN: u32 = 0x0fff_fff8;

/// The figures of a FAT32 boot sector that lead to a cluster.
struct Geometry {
    fat: u64,
    data: u64,
    cluster_size: u64,
    root: u32,
}

/// Mends every directory of the volume.
pub fn mend(disk: &mut (impl Read + Write + Seek)) -> io::Result<()> {
    let geometry = Geometry::read(disk)?;
    let mut pending = vec![geometry.root];
    while let Some(directory) = pending.pop() {
        let clusters = geometry.chain(disk, directory)?;
        for cluster in clusters {
            pending.extend(geometry.mend_cluster(disk, cluster)?);
        }
    }
    Ok(())
}

impl Geometry {
    fn read(disk: &mut (impl Read + Seek)) -> io::Result<Self> {
        let boot = read_at(disk, 0, 512)?;
        let sector = u64::from(u16::from_le_bytes([boot[11], boot[12]]));
        let reserved = u64::from(u16::from_le_bytes([boot[14], boot[15]]));
        let fat_sectors = u64::from(number(&boot, 36));
        Ok(Geometry {
            fat: reserved * sector,
            data: (reserved + u64::from(boot[16]) * fat_sectors) * sector,
            cluster_size: u64::from(boot[13]) * sector,
            root: number(&boot, 44),
        })
    }

    fn offset(&self, cluster: u32) -> u64 {
        self.data + u64::from(cluster.saturating_sub(2)) * self.cluster_size
    }

    /// Clusters of a file or directory, in order.
    fn chain(&self, disk: &mut (impl Read + Seek), first: u32) -> io::Result<Vec<u32>> {
        let mut chain = Vec::new();
        let mut cluster = first;
        while (2..END_OF_CHAIN).contains(&cluster) {
            chain.push(cluster);
            let entry = read_at(disk, self.fat + u64::from(cluster) * 4, 4)?;
            cluster = number(&entry, 0) & 0x0fff_ffff;
        }
        Ok(chain)
    }

    /// Mends one cluster of a directory; gives the directories that it lists.
    fn mend_cluster(&self, disk: &mut (impl Read + Write + Seek), cluster: u32) -> io::Result<Vec<u32>> {
        let mut bytes = read_at(disk, self.offset(cluster), self.cluster_size as usize)?;
        if reorder(&mut bytes, self.root) {
            disk.seek(SeekFrom::Start(self.offset(cluster)))?;
            disk.write_all(&bytes)?;
        }
        let entries = bytes.chunks(ENTRY).take_while(|entry| entry[0] != 0);
        let folders = entries.filter(|entry| entry[0] != FREE && entry[0] != b'.' && entry[11] == DIRECTORY);
        Ok(folders.map(first_cluster).collect())
    }
}

/// Moves `.` and `..` of a directory's first cluster to the front; the slots of their long names
/// become free. A parent that is the root is told as cluster 0. Says whether there was something to
/// move.
fn reorder(bytes: &mut [u8], root: u32) -> bool {
    let is_dot = |entry: &[u8], name: &[u8; 11]| entry[..11] == *name && entry[11] == DIRECTORY;
    let slot = |index: usize| index * ENTRY..(index + 1) * ENTRY;
    let misplaced = bytes[11] == LONG_NAME
        && is_dot(&bytes[slot(1)], b".          ")
        && bytes[2 * ENTRY + 11] == LONG_NAME
        && is_dot(&bytes[slot(3)], b"..         ");
    if misplaced {
        bytes.copy_within(slot(1), 0);
        bytes.copy_within(slot(3), ENTRY);
        bytes[2 * ENTRY..4 * ENTRY].fill(0);
        bytes[2 * ENTRY] = FREE;
        bytes[3 * ENTRY] = FREE;
        if first_cluster(&bytes[slot(1)]) == root {
            bytes[ENTRY + 20..ENTRY + 22].fill(0);
            bytes[ENTRY + 26..ENTRY + 28].fill(0);
        }
    }
    misplaced
}

/// The high half lies at byte 20, the low half at byte 26.
fn first_cluster(entry: &[u8]) -> u32 {
    u32::from_le_bytes([entry[26], entry[27], entry[20], entry[21]])
}

fn read_at(disk: &mut (impl Read + Seek), offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    disk.seek(SeekFrom::Start(offset))?;
    disk.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn number(bytes: &[u8], offset: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(number)
}
