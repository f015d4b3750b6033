//! A disk in memory that keeps only the chunks that were written with something other than zeros:
//! what the ESP is formatted on, and how an image file gets its holes.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

/// Bytes in a chunk.
pub const CHUNK: usize = 64 * 1024;

/// A device of a fixed size, all zero at first.
#[derive(Debug, Clone)]
pub struct SparseDisk {
    chunks: BTreeMap<u64, Box<[u8]>>,
    size: u64,
    position: u64,
}

impl SparseDisk {
    /// A device of `size` bytes.
    pub fn new(size: u64) -> Self {
        SparseDisk { chunks: BTreeMap::new(), size, position: 0 }
    }

    /// Offset and bytes of every chunk that holds something; a last chunk may be short.
    pub fn chunks(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.chunks.iter().map(|(index, chunk)| {
            let offset = index * CHUNK as u64;
            let length = (self.size - offset).min(CHUNK as u64) as usize;
            (offset, &chunk[..length])
        })
    }

    /// Chunk, offset in it and length of the next piece of a transfer of at most `length` bytes.
    fn piece(&self, length: usize) -> (u64, usize, usize) {
        let start = (self.position % CHUNK as u64) as usize;
        let left = usize::try_from(self.size.saturating_sub(self.position)).unwrap_or(usize::MAX);
        (self.position / CHUNK as u64, start, length.min(CHUNK - start).min(left))
    }
}

/// Whether there is nothing but zeros.
pub fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|part| part == &ZEROS[..part.len()])
}

impl Read for SparseDisk {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (index, start, length) = self.piece(buffer.len());
        match self.chunks.get(&index) {
            Some(chunk) => buffer[..length].copy_from_slice(&chunk[start..start + length]),
            None => buffer[..length].fill(0),
        }
        self.position += length as u64;
        Ok(length)
    }
}

impl Write for SparseDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (index, start, length) = self.piece(bytes.len());
        if length == 0 && !bytes.is_empty() {
            return Err(io::Error::new(io::ErrorKind::StorageFull, format!("the device has only {} bytes", self.size)));
        }
        if self.chunks.contains_key(&index) || !is_zero(&bytes[..length]) {
            let chunk = self.chunks.entry(index).or_insert_with(|| vec![0; CHUNK].into_boxed_slice());
            chunk[start..start + length].copy_from_slice(&bytes[..length]);
        }
        self.position += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for SparseDisk {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        let wanted = match position {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.size.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = wanted.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "seek before the start"))?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn it_behaves_like_a_vector(writes in proptest::collection::vec((0..200_000usize, proptest::collection::vec(0..3u8, 1..70_000)), 1..6)) {
            let mut disk = SparseDisk::new(200_000);
            let mut plain = vec![0u8; 200_000];
            for (offset, bytes) in &writes {
                let length = bytes.len().min(plain.len() - offset);
                plain[*offset..offset + length].copy_from_slice(&bytes[..length]);
                disk.seek(SeekFrom::Start(*offset as u64)).unwrap();
                disk.write_all(&bytes[..length]).unwrap();
            }
            let mut back = Vec::new();
            disk.seek(SeekFrom::Start(0)).unwrap();
            disk.read_to_end(&mut back).unwrap();
            prop_assert!(back == plain);
            let mut filled = vec![0u8; 200_000];
            for (offset, chunk) in disk.chunks() {
                filled[offset as usize..][..chunk.len()].copy_from_slice(chunk);
            }
            prop_assert!(filled == plain);
        }
    }

    #[test]
    fn zeros_take_no_room_and_the_end_is_an_end() {
        let mut disk = SparseDisk::new(1 << 40);
        disk.seek(SeekFrom::End(-4)).unwrap();
        disk.write_all(&[0; 4]).unwrap();
        assert_eq!(disk.chunks().count(), 0);
        assert_eq!(disk.write_all(b"x").unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
