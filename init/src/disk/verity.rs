//! dm-verity: the superblock as veritysetup(8) writes it, and whether a slot's tree has our root hash.

use crate::cmdline::hex;
use sha2::{Digest, Sha256};
use spec::layout::VERITY_BLOCK_SIZE;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use thiserror::Error;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    pub data_blocks: u64,
    pub salt: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VerityError {
    #[error("no verity superblock at the hash offset")]
    NoSuperblock,
    #[error("verity superblock: {field} is {found}, wanted {wanted}")]
    Unsupported { field: &'static str, found: String, wanted: &'static str },
    #[error("root hash {found} instead of the {wanted} of the kernel command line")]
    RootHash { found: String, wanted: String },
    #[error("{data_blocks} data blocks reach behind the hash offset {hash_offset}")]
    TooLong { data_blocks: u64, hash_offset: u64 },
    #[error("cannot be read: {0}")]
    Io(String),
}

/// Reads a superblock (512 bytes, little-endian, cryptsetup's version 1). Only what the builder makes
/// is understood: sha256 and 4096-byte blocks.
///
/// # Errors
/// What is there instead.
pub fn parse(block: &[u8; 512]) -> Result<Superblock, VerityError> {
    if block[0..8] != *b"verity\0\0" {
        return Err(VerityError::NoSuperblock);
    }
    let word = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    for (field, at, wanted) in [
        ("version", 8, 1),
        ("hash type", 12, 1),
        ("data block size", 64, VERITY_BLOCK_SIZE),
        ("hash block size", 68, VERITY_BLOCK_SIZE),
    ] {
        if word(at) != wanted {
            let wanted = if wanted == 1 { "1" } else { "4096" };
            return Err(VerityError::Unsupported { field, found: word(at).to_string(), wanted });
        }
    }
    let algorithm = String::from_utf8_lossy(&block[32..64]).trim_end_matches('\0').to_owned();
    if algorithm != "sha256" {
        return Err(VerityError::Unsupported { field: "algorithm", found: algorithm, wanted: "sha256" });
    }
    let salt_size = usize::from(u16::from_le_bytes([block[80], block[81]]));
    let Some(salt) = block[88..344].get(..salt_size) else {
        return Err(VerityError::Unsupported {
            field: "salt size",
            found: salt_size.to_string(),
            wanted: "at most 256",
        });
    };
    let data_blocks =
        u64::from_le_bytes([block[72], block[73], block[74], block[75], block[76], block[77], block[78], block[79]]);
    Ok(Superblock { data_blocks, salt: salt.to_vec() })
}

/// Whether the image in `device` is the one of `root_hash`: superblock at `hash_offset`, and the
/// tree's top block behind it, which the kernel would check only at the first read.
///
/// # Errors
/// Why it is not.
pub fn check(
    device: &mut (impl Read + Seek),
    hash_offset: u64,
    root_hash: &[u8; 32],
) -> Result<Superblock, VerityError> {
    let failed = |error: std::io::Error| VerityError::Io(error.to_string());
    let mut head = [0; 512];
    device.seek(SeekFrom::Start(hash_offset)).map_err(failed)?;
    device.read_exact(&mut head).map_err(failed)?;
    let superblock = parse(&head)?;
    let reach = superblock.data_blocks.checked_mul(u64::from(VERITY_BLOCK_SIZE));
    if reach.is_none_or(|reach| reach > hash_offset) {
        return Err(VerityError::TooLong { data_blocks: superblock.data_blocks, hash_offset });
    }
    let mut top = vec![0; VERITY_BLOCK_SIZE as usize];
    device.seek(SeekFrom::Start(hash_offset + u64::from(VERITY_BLOCK_SIZE))).map_err(failed)?;
    device.read_exact(&mut top).map_err(failed)?;
    let found = Sha256::new().chain_update(&superblock.salt).chain_update(&top).finalize();
    if found.as_slice() != root_hash {
        return Err(VerityError::RootHash { found: hex(found.as_slice()), wanted: hex(root_hash) });
    }
    Ok(superblock)
}

/// Where root and tree end: behind the superblock's block a level of hashes for each 128 blocks of the one before.
pub fn reach(superblock: &Superblock, hash_offset: u64) -> u64 {
    const BLOCK: u64 = VERITY_BLOCK_SIZE as u64;
    const HASHES: u64 = BLOCK / 32;
    let levels = std::iter::successors(Some(superblock.data_blocks.div_ceil(HASHES)), |blocks| {
        (*blocks > 1).then(|| blocks.div_ceil(HASHES))
    });
    hash_offset + BLOCK * (1 + levels.sum::<u64>())
}

/// The target's parameters for device mapper (the kernel's verity.rst). A flipped bit anywhere in the
/// root stops the machine: no program may see it.
pub fn target_parameters(device: &Path, hash_offset: u64, root_hash: &[u8; 32], superblock: &Superblock) -> String {
    let block = VERITY_BLOCK_SIZE;
    let salt = if superblock.salt.is_empty() { "-".to_owned() } else { hex(&superblock.salt) };
    format!(
        "1 {device} {device} {block} {block} {data_blocks} {hash_start} sha256 {root} {salt} 1 panic_on_corruption",
        device = device.display(),
        data_blocks = superblock.data_blocks,
        hash_start = hash_offset / u64::from(block) + 1,
        root = hex(root_hash),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn image(salt: &[u8]) -> (Vec<u8>, [u8; 32]) {
        let mut bytes = vec![0u8; 3 * 4096];
        let head = &mut bytes[4096..4096 + 512];
        head[0..8].copy_from_slice(b"verity\0\0");
        head[8] = 1;
        head[12] = 1;
        head[32..38].copy_from_slice(b"sha256");
        head[64..68].copy_from_slice(&4096u32.to_le_bytes());
        head[68..72].copy_from_slice(&4096u32.to_le_bytes());
        head[72] = 1;
        head[80] = salt.len() as u8;
        head[88..88 + salt.len()].copy_from_slice(salt);
        bytes[8192] = 7;
        let root = Sha256::new().chain_update(salt).chain_update(&bytes[8192..]).finalize();
        (bytes, root.into())
    }

    #[test]
    fn the_slot_with_the_right_tree_is_taken_and_no_other() {
        let (mut bytes, root) = image(&[1, 2, 3]);
        let superblock = check(&mut Cursor::new(&bytes), 4096, &root).unwrap();
        assert_eq!(superblock, Superblock { data_blocks: 1, salt: vec![1, 2, 3] });
        let parameters = target_parameters(Path::new("/dev/vda3"), 4096, &root, &superblock);
        assert_eq!(
            parameters,
            format!("1 /dev/vda3 /dev/vda3 4096 4096 1 2 sha256 {} 010203 1 panic_on_corruption", hex(&root))
        );
        bytes[9000] ^= 1;
        assert!(matches!(check(&mut Cursor::new(&bytes), 4096, &root), Err(VerityError::RootHash { .. })));
        assert_eq!(check(&mut Cursor::new(&bytes), 0, &root), Err(VerityError::NoSuperblock));
        assert!(matches!(check(&mut Cursor::new(&bytes[..5000]), 4096, &root), Err(VerityError::Io(_))));
    }

    /// 128 hashes of 32 bytes in a block, and one block for the superblock.
    #[test]
    fn the_tree_ends_where_its_levels_do() {
        for (data_blocks, tree) in [(1, 1), (128, 1), (129, 2 + 1), (128 * 128, 128 + 1), (128 * 128 + 1, 129 + 2 + 1)]
        {
            let superblock = Superblock { data_blocks, salt: Vec::new() };
            assert_eq!(reach(&superblock, 8192), 8192 + 4096 * (1 + tree), "{data_blocks}");
        }
    }

    proptest! {
        #[test]
        fn foreign_superblocks_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 512)) {
            bytes[0..8].copy_from_slice(b"verity\0\0");
            let _ = parse(bytes.as_slice().try_into().unwrap());
        }
    }
}
