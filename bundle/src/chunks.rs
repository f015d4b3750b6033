//! Files cut by their content (FastCDC, Xia et al. 2016): where bytes were put in or taken away, the chunks around them
//! change and no others do.

use crate::{Error, Payload, hex};
use fastcdc::v2020::StreamCDC;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use std::io::Read;

/// Bytes of a chunk: at least (but for a file's last), on average, at most. Written once: other figures cut elsewhere,
/// and nothing would be found again.
const SMALLEST: u32 = 16 << 10;
const AVERAGE: u32 = 64 << 10;
pub const LARGEST: u32 = 192 << 10;

/// Bytes that belong together, by their SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Chunk {
    pub size: u32,
    pub sha256: [u8; 32],
}

impl Chunk {
    pub fn of(bytes: &[u8]) -> Chunk {
        Chunk { size: bytes.len() as u32, sha256: Sha256::digest(bytes).into() }
    }
}

/// As text: `65536:` and the hash in hexadecimal.
impl Serialize for Chunk {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{}:{}", self.size, hex(&self.sha256)))
    }
}

impl<'de> Deserialize<'de> for Chunk {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Chunk, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || serde::de::Error::custom(format!("{text:?} is no chunk: SIZE:SHA256 is wanted"));
        let (size, digits) = text.split_once(':').ok_or_else(wrong)?;
        let size = size.parse().map_err(|_| wrong())?;
        if digits.len() != 64 || !digits.is_ascii() {
            return Err(wrong());
        }
        let mut sha256 = [0; 32];
        for (byte, place) in sha256.iter_mut().zip(0..) {
            *byte = u8::from_str_radix(&digits[place * 2..place * 2 + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Chunk { size, sha256 })
    }
}

/// The chunks of a file with their bytes, one after the other; little more memory than one of them.
pub struct Cutter<R: Read>(StreamCDC<R>);

impl<R: Read> Cutter<R> {
    pub fn new(file: R) -> Cutter<R> {
        Cutter(StreamCDC::new(file, SMALLEST as _, AVERAGE as _, LARGEST as _))
    }
}

impl<R: Read> Iterator for Cutter<R> {
    type Item = std::io::Result<(Chunk, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        let piece = self.0.next()?;
        Some(piece.map(|piece| (Chunk::of(&piece.data), piece.data)).map_err(std::io::Error::from))
    }
}

/// A file of a payload.
///
/// # Errors
/// [`Error::Io`] with `what`.
pub fn chunks_of(what: &'static str, file: impl Read) -> Result<Payload, Error> {
    let (mut hash, mut chunks, mut size) = (Sha256::new(), Vec::new(), 0);
    for piece in Cutter::new(file) {
        let (chunk, bytes) = piece.map_err(|source| Error::Io { what, source })?;
        hash.update(&bytes);
        size += u64::from(chunk.size);
        chunks.push(chunk);
    }
    Ok(Payload { size, sha256: hex(&hash.finalize()), chunks })
}
