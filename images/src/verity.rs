//! dm-verity, hash format 1: superblock and SHA-256 hash tree, 4096-byte blocks, laid behind the
//! data of the same image, as `veritysetup format --hash-offset` would.
//!
//! Every hash is of the salt and then the block. The tree is stored from its top level down; the
//! superblock has a block of its own before it. (Linux, Documentation/admin-guide/device-mapper/
//! verity.rst; the superblock is cryptsetup's.)

use sha2::{Digest, Sha256};
use spec::layout::VERITY_BLOCK_SIZE;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use thiserror::Error;
use uuid::Uuid;

const BLOCK: usize = VERITY_BLOCK_SIZE as usize;
const HASH_SIZE: usize = 32;
const HASHES_PER_BLOCK: usize = BLOCK / HASH_SIZE;
/// Bytes that one thread hashes at a time.
const CHUNK: u64 = 4 * 1024 * 1024;

#[derive(Debug, Error)]
pub enum VerityError {
    #[error("{path}: {source}")]
    Io { path: String, source: io::Error },
    #[error("{path}: {length} bytes; wanted a multiple of {BLOCK}, and not 0")]
    Length { path: String, length: u64 },
}

/// What the command line of the machine must say, and what the superblock does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerityInfo {
    pub root_hash: [u8; 32],
    /// First byte of the superblock: the length of the data.
    pub hash_offset: u64,
    /// Number of 4096-byte data blocks.
    pub data_blocks: u64,
    /// Length of the image with superblock and tree, in bytes.
    pub total_size: u64,
}

impl VerityInfo {
    /// The root hash as 64 hexadecimal digits.
    pub fn root_hash_hex(&self) -> String {
        self.root_hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Appends superblock and hash tree to the image, whose length must be a multiple of 4096, and
/// syncs it. Uses two threads at most; the result does not depend on them.
///
/// # Errors
/// The file cannot be read or written, or has no such length.
pub fn append(image: &Path, salt: &[u8; 32], uuid: Uuid) -> Result<VerityInfo, VerityError> {
    let named = |source| VerityError::Io { path: image.display().to_string(), source };
    let file = File::options().read(true).write(true).open(image).map_err(named)?;
    let length = file.metadata().map_err(named)?.len();
    if length == 0 || length % BLOCK as u64 != 0 {
        return Err(VerityError::Length { path: image.display().to_string(), length });
    }
    let leaves = hash_file(&file, length, salt).map_err(named)?;
    let (tail, root_hash) = tail(leaves, length / BLOCK as u64, salt, uuid);
    file.write_all_at(&tail, length).map_err(named)?;
    file.sync_all().map_err(named)?;
    Ok(VerityInfo {
        root_hash,
        hash_offset: length,
        data_blocks: length / BLOCK as u64,
        total_size: length + tail.len() as u64,
    })
}

/// Superblock block and tree for data in memory (a multiple of 4096 bytes, and not none), and the
/// root hash.
pub fn tree_of(data: &[u8], salt: &[u8; 32], uuid: Uuid) -> (Vec<u8>, [u8; 32]) {
    tail(hash_blocks(data, salt), (data.len() / BLOCK) as u64, salt, uuid)
}

fn tail(leaves: Vec<u8>, data_blocks: u64, salt: &[u8; 32], uuid: Uuid) -> (Vec<u8>, [u8; 32]) {
    let (levels, root_hash) = levels(leaves, salt);
    let mut bytes = superblock(data_blocks, salt, uuid);
    for level in levels.iter().rev() {
        bytes.extend_from_slice(level);
    }
    (bytes, root_hash)
}

/// Pads a level's hashes to blocks and hashes those, until one block is left; lowest level first.
fn levels(mut hashes: Vec<u8>, salt: &[u8; 32]) -> (Vec<Vec<u8>>, [u8; 32]) {
    let mut levels = Vec::new();
    // A single data block has no tree: its own hash is the root hash.
    while hashes.len() > HASH_SIZE {
        hashes.resize(hashes.len().div_ceil(BLOCK) * BLOCK, 0);
        let above = hash_blocks(&hashes, salt);
        levels.push(hashes);
        hashes = above;
    }
    let mut root_hash = [0; HASH_SIZE];
    root_hash.copy_from_slice(&hashes[..HASH_SIZE]);
    (levels, root_hash)
}

fn hash_blocks(data: &[u8], salt: &[u8; 32]) -> Vec<u8> {
    let salted = Sha256::new_with_prefix(salt);
    let mut hashes = Vec::with_capacity(data.len() / HASHES_PER_BLOCK);
    for block in data.chunks(BLOCK) {
        hashes.extend_from_slice(&salted.clone().chain_update(block).finalize());
    }
    hashes
}

/// Hashes of all data blocks of a file, in order.
fn hash_file(file: &File, length: u64, salt: &[u8; 32]) -> io::Result<Vec<u8>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4) as u64;
    let share = length.div_ceil(CHUNK).div_ceil(threads) * CHUNK;
    let parts: Vec<io::Result<Vec<u8>>> = std::thread::scope(|scope| {
        let starts = (0..threads).map(|index| index * share).filter(|start| *start < length);
        let workers: Vec<_> =
            starts.map(|start| scope.spawn(move || hash_range(file, start, length.min(start + share), salt))).collect();
        let panicked = |_| Err(io::Error::other("a hashing thread panicked"));
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(panicked)).collect()
    });
    let mut hashes = Vec::with_capacity(length as usize / HASHES_PER_BLOCK);
    for part in parts {
        hashes.extend(part?);
    }
    Ok(hashes)
}

fn hash_range(file: &File, start: u64, end: u64, salt: &[u8; 32]) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; CHUNK.min(end - start) as usize];
    let mut hashes = Vec::with_capacity((end - start) as usize / HASHES_PER_BLOCK);
    let mut offset = start;
    while offset < end {
        let count = CHUNK.min(end - offset) as usize;
        file.read_exact_at(&mut buffer[..count], offset)?;
        hashes.extend(hash_blocks(&buffer[..count], salt));
        offset += count as u64;
    }
    Ok(hashes)
}

/// cryptsetup's superblock, 512 bytes, in a block of its own.
fn superblock(data_blocks: u64, salt: &[u8; 32], uuid: Uuid) -> Vec<u8> {
    let mut block = vec![0u8; BLOCK];
    block[0..8].copy_from_slice(b"verity\0\0");
    block[8..12].copy_from_slice(&1u32.to_le_bytes()); // superblock version
    block[12..16].copy_from_slice(&1u32.to_le_bytes()); // hash format: salt first
    block[16..32].copy_from_slice(uuid.as_bytes());
    block[32..38].copy_from_slice(b"sha256"); // 32 bytes of name
    block[64..68].copy_from_slice(&VERITY_BLOCK_SIZE.to_le_bytes()); // data block
    block[68..72].copy_from_slice(&VERITY_BLOCK_SIZE.to_le_bytes()); // hash block
    block[72..80].copy_from_slice(&data_blocks.to_le_bytes());
    block[80..82].copy_from_slice(&(salt.len() as u16).to_le_bytes());
    block[88..120].copy_from_slice(salt); // after 6 bytes of padding; room for 256
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, written the slow way: a hash of position (level, index) computed by recursion.
    fn slow_root(data: &[u8], salt: &[u8]) -> Vec<u8> {
        let hash = |block: &[u8]| {
            let mut padded = salt.to_vec();
            padded.extend_from_slice(block);
            padded.resize(salt.len() + 4096, 0);
            Sha256::digest(&padded).to_vec()
        };
        let mut blocks: Vec<Vec<u8>> = data.chunks(4096).map(<[u8]>::to_vec).collect();
        while blocks.len() > 1 {
            let hashes: Vec<Vec<u8>> = blocks.iter().map(|block| hash(block)).collect();
            blocks = hashes.chunks(128).map(|hashes| hashes.concat()).collect();
        }
        hash(&blocks[0])
    }

    /// Walks from the root hash down to one data block, as the kernel does.
    fn verify_block(data: &[u8], tail: &[u8], root_hash: &[u8; 32], salt: &[u8; 32], index: usize) -> bool {
        let mut level_blocks = Vec::new();
        let mut count = data.len() / BLOCK;
        while count > 1 {
            count = count.div_ceil(HASHES_PER_BLOCK);
            level_blocks.push(count);
        }
        let mut wanted = root_hash.to_vec();
        let mut position = BLOCK;
        for (level, blocks) in level_blocks.iter().enumerate().rev() {
            let slot = index / HASHES_PER_BLOCK.pow(level as u32);
            let block = &tail[position + slot / HASHES_PER_BLOCK * BLOCK..][..BLOCK];
            if hash_blocks(block, salt) != wanted {
                return false;
            }
            wanted = block[slot % HASHES_PER_BLOCK * HASH_SIZE..][..HASH_SIZE].to_vec();
            position += blocks * BLOCK;
        }
        hash_blocks(&data[index * BLOCK..][..BLOCK], salt) == wanted
    }

    fn data(blocks: usize, seed: u8) -> Vec<u8> {
        let block = |index: usize| (0..BLOCK).map(move |byte| (byte as u8) ^ (index as u8) ^ (index >> 8) as u8 ^ seed);
        (0..blocks).flat_map(block).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn the_tree_agrees_with_the_slow_definition(blocks in 1..300usize, seed: u8, salt: [u8; 32], pick: usize, flip: usize) {
            let data = data(blocks, seed);
            let (tail, root_hash) = tree_of(&data, &salt, Uuid::nil());
            prop_assert_eq!(root_hash.to_vec(), slow_root(&data, &salt));
            let index = pick % blocks;
            prop_assert!(verify_block(&data, &tail, &root_hash, &salt, index));
            let mut damaged = data.clone();
            damaged[index * BLOCK + flip % BLOCK] ^= 1;
            prop_assert!(!verify_block(&damaged, &tail, &root_hash, &salt, index));
        }
    }

    #[test]
    fn a_file_gets_the_same_tree_as_memory_across_threads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let data = data(3 * (CHUNK as usize / BLOCK) + 5, 9);
        std::fs::write(&path, &data).unwrap();
        let info = append(&path, &[7; 32], Uuid::from_u128(5)).unwrap();
        let (tail, root_hash) = tree_of(&data, &[7; 32], Uuid::from_u128(5));
        assert_eq!(info.root_hash, root_hash);
        assert_eq!((info.hash_offset, info.data_blocks), (data.len() as u64, data.len() as u64 / 4096));
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(info.total_size, whole.len() as u64);
        assert_eq!(whole, [data, tail].concat());
    }

    #[test]
    fn a_length_that_is_no_multiple_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        for length in [0, 4095, 5000] {
            std::fs::write(&path, vec![1; length]).unwrap();
            let message = append(&path, &[0; 32], Uuid::nil()).unwrap_err().to_string();
            assert!(message.contains(&format!("{length} bytes")), "{message}");
        }
    }
}
