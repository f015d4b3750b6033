//! Initramfs archives: cpio in the `newc` form that the kernel unpacks, from a tree, and a reader.
//!
//! The kernel takes several archives one after the other, each beginning on a multiple of four
//! bytes: an uncompressed one with CPU microcode stands in front of the compressed one. (Linux,
//! Documentation/driver-api/early-userspace/buffer-format.rst.)

use crate::tree::{Kind, Node, Tree, TreeError};
use std::io::{self, Write};
use std::sync::Arc;
use thiserror::Error;

const MAGIC: &[u8; 6] = b"070701";
const HEADER: usize = 110;
const TRAILER: &str = "TRAILER!!!";
/// Window of the compressed initramfs: 8 MiB, far below the kernel's 128 MiB and small enough that
/// decompression at boot needs little memory.
const WINDOW_LOG: u32 = 23;

#[derive(Debug, Error)]
pub enum CpioError {
    #[error("initramfs: {path}: {source}")]
    Content { path: String, source: io::Error },
    #[error("initramfs: {path} has {size} bytes; a cpio member holds at most 4294967295")]
    TooLarge { path: String, size: u64 },
    #[error("initramfs: compression: {0}")]
    Compress(io::Error),
    #[error("cpio at byte {offset}: {reason}")]
    Broken { offset: usize, reason: String },
    #[error("cpio: {0}")]
    Tree(#[from] TreeError),
}

/// The tree as one uncompressed archive, padded to four bytes. Inode numbers count from 1 in path
/// order; every time is `mtime`, in seconds since the epoch.
///
/// # Errors
/// Content on disk that cannot be read, or a file of 4 GiB or more.
pub fn encode(tree: &Tree, mtime: u32) -> Result<Vec<u8>, CpioError> {
    let mut archive = Vec::with_capacity(usize::try_from(tree.total_size()).unwrap_or(0) + 256 * tree.len());
    for (index, (path, node)) in tree.iter().enumerate() {
        append(&mut archive, index as u32 + 1, path, node, mtime)?;
    }
    let trailer = Node { kind: Kind::Fifo, mode: 0, uid: 0, gid: 0, origin: "".into() };
    header(&mut archive, &Member { inode: 0, node: &trailer, file_type: 0, size: 0, name: TRAILER, mtime: 0 });
    Ok(archive)
}

/// Concatenates archives, each on a multiple of four bytes.
pub fn concatenate(archives: &[Vec<u8>]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(archives.iter().map(|archive| archive.len() + 4).sum());
    for archive in archives {
        whole.extend_from_slice(archive);
        pad(&mut whole);
    }
    whole
}

/// Compresses an archive with zstd at `level` (1 to 22), by one thread, so that the bytes depend on
/// nothing else.
///
/// # Errors
/// The compressor's own.
pub fn compress(archive: &[u8], level: i32) -> Result<Vec<u8>, CpioError> {
    let run = || -> io::Result<Vec<u8>> {
        let mut encoder = zstd::Encoder::new(Vec::new(), level)?;
        encoder.window_log(WINDOW_LOG)?;
        encoder.set_pledged_src_size(Some(archive.len() as u64))?;
        encoder.write_all(archive)?;
        encoder.finish()
    };
    run().map_err(CpioError::Compress)
}

struct Member<'a> {
    inode: u32,
    node: &'a Node,
    file_type: u32,
    size: u32,
    name: &'a str,
    mtime: u32,
}

fn append(archive: &mut Vec<u8>, inode: u32, path: &str, node: &Node, mtime: u32) -> Result<(), CpioError> {
    let (file_type, content): (u32, Arc<[u8]>) = match &node.kind {
        Kind::Directory => (0o040_000, Arc::new([])),
        Kind::File(content) => {
            (0o100_000, content.read().map_err(|source| CpioError::Content { path: path.to_owned(), source })?)
        }
        Kind::Symlink(target) => (0o120_000, target.as_bytes().into()),
        Kind::CharDevice(..) => (0o020_000, Arc::new([])),
        Kind::BlockDevice(..) => (0o060_000, Arc::new([])),
        Kind::Fifo => (0o010_000, Arc::new([])),
    };
    let too_large = |_| CpioError::TooLarge { path: path.to_owned(), size: content.len() as u64 };
    let size = u32::try_from(content.len()).map_err(too_large)?;
    let name = if path == "/" { "." } else { path.trim_start_matches('/') };
    header(archive, &Member { inode, node, file_type, size, name, mtime });
    archive.extend_from_slice(&content);
    pad(archive);
    Ok(())
}

fn header(archive: &mut Vec<u8>, member: &Member<'_>) {
    let (major, minor) = match member.node.kind {
        Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) => (major, minor),
        _ => (0, 0),
    };
    let links = if member.node.is_directory() { 2 } else { 1 };
    let fields = [
        member.inode,
        member.file_type | member.node.mode,
        member.node.uid,
        member.node.gid,
        links,
        member.mtime,
        member.size,
        0, // device that holds the file
        0,
        major,
        minor,
        member.name.len() as u32 + 1,
        0, // check sum, unused in this form
    ];
    archive.extend_from_slice(MAGIC);
    for field in fields {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(member.name.as_bytes());
    archive.push(0);
    pad(archive);
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// Reads all uncompressed archives that stand one after the other at the start of `bytes`; gives the
/// tree and where the first byte that is no archive lies (the length, or a compressed part).
///
/// # Errors
/// A header that does not parse, a member that runs over the end, a name that leads out.
pub fn decode(bytes: &[u8], origin: &Arc<str>) -> Result<(Tree, usize), CpioError> {
    let mut tree = Tree::new();
    let mut offset = 0;
    loop {
        while bytes.get(offset..).is_some_and(|rest| rest.len() >= 4 && rest[..4] == [0; 4]) {
            offset += 4;
        }
        if !bytes.get(offset..).is_some_and(|rest| rest.starts_with(MAGIC)) {
            return Ok((tree, offset.min(bytes.len())));
        }
        offset = decode_one(bytes, offset, origin, &mut tree)?;
    }
}

fn decode_one(bytes: &[u8], mut offset: usize, origin: &Arc<str>, tree: &mut Tree) -> Result<usize, CpioError> {
    loop {
        let broken = |reason: &str| CpioError::Broken { offset, reason: reason.to_owned() };
        let head = bytes.get(offset..offset + HEADER).ok_or_else(|| broken("the header is cut short"))?;
        if !head.starts_with(MAGIC) {
            return Err(broken("no `070701` where a member should begin"));
        }
        let mut fields = [0u32; 13];
        for (index, field) in fields.iter_mut().enumerate() {
            let digits = std::str::from_utf8(&head[6 + 8 * index..][..8]).unwrap_or("");
            *field = u32::from_str_radix(digits, 16).map_err(|_| broken("a field is not hexadecimal"))?;
        }
        let name_start = offset + HEADER;
        let name_end = name_start + fields[11] as usize;
        let name = bytes.get(name_start..name_end).and_then(|name| name.strip_suffix(b"\0"));
        let name = name.ok_or_else(|| broken("the name is cut short"))?;
        let content_start = name_end.next_multiple_of(4);
        let content_end = content_start + fields[6] as usize;
        let content = bytes.get(content_start..content_end).ok_or_else(|| broken("the content is cut short"))?;
        if name == TRAILER.as_bytes() {
            return Ok(content_end.next_multiple_of(4));
        }
        let kind = match fields[1] & 0o170_000 {
            0o040_000 => Kind::Directory,
            0o100_000 => Kind::File(content.into()),
            0o120_000 => Kind::Symlink(String::from_utf8_lossy(content).into_owned()),
            0o020_000 => Kind::CharDevice(fields[9], fields[10]),
            0o060_000 => Kind::BlockDevice(fields[9], fields[10]),
            0o010_000 => Kind::Fifo,
            _ => return Err(broken("a file type that is not known")),
        };
        let node = Node { kind, mode: fields[1] & 0o7777, uid: fields[2], gid: fields[3], origin: origin.clone() };
        tree.insert(&crate::tree::path::from_member(name)?, node)?;
        offset = content_end.next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tests::{listing, trees};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_tree_comes_back(tree in trees(), early in trees()) {
            let bytes = encode(&tree, 1).unwrap();
            prop_assert_eq!(bytes.len() % 4, 0);
            let (back, end) = decode(&bytes, &"test".into()).unwrap();
            prop_assert_eq!(listing(&back), listing(&tree));
            prop_assert_eq!(end, bytes.len());

            let compressed = compress(&bytes, 3).unwrap();
            prop_assert_eq!(zstd::decode_all(compressed.as_slice()).unwrap(), bytes);
            let early_bytes = encode(&early, 1).unwrap();
            let whole = concatenate(&[early_bytes.clone(), compressed.clone()]);
            let (front, end) = decode(&whole, &"test".into()).unwrap();
            prop_assert_eq!(listing(&front), listing(&early));
            prop_assert!(whole[end..].starts_with(&compressed));
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), cut in 0..600usize) {
            let _ = decode(&bytes, &"test".into());
            let mut tree = Tree::new();
            tree.insert("/a/b", Node::file(bytes, 0o600, &"test".into())).unwrap();
            let archive = encode(&tree, 1).unwrap();
            let _ = decode(&archive[..cut.min(archive.len())], &"test".into());
        }
    }

    #[test]
    fn the_compressed_form_asks_for_a_small_window() {
        let bytes = vec![5; 10_000_000];
        let compressed = compress(&bytes, 19).unwrap();
        let mut decoder = zstd::Decoder::new(compressed.as_slice()).unwrap();
        decoder.window_log_max(WINDOW_LOG).unwrap();
        assert_eq!(io::copy(&mut decoder, &mut io::sink()).unwrap(), 10_000_000);
    }
}
