//! The image to burn: `disk.img` as built or compressed, read in chunks, zeros left out.

use crate::error::{Error, Result};
use images::bios::CODE;
use images::disk::next_data;
use images::sparse::is_zero;
use spec::layout::image_size;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel, sync_channel};

/// Bytes that are read and written at once; a multiple of every sector and page.
pub const CHUNK: usize = 4 << 20;
/// Chunks that are read before they are wanted.
const AHEAD: usize = 2;
/// Where O_DIRECT takes a buffer: a page.
const PAGE: usize = 4096;
/// zstd's frame begins with this (RFC 8878, section 3.1.1).
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

struct Signature {
    start: usize,
    bytes: &'static [u8],
}

/// Of the partition table's header, behind the protective MBR.
const TABLE_SIGNATURE: Signature = Signature { start: 512, bytes: b"EFI PART" };

/// An image file.
#[derive(Debug, Clone)]
pub struct Image {
    pub path: PathBuf,
    pub is_compressed: bool,
}

impl Image {
    /// The image at `path`, or `disk.img` in that folder.
    ///
    /// # Errors
    /// Bad input when there is none.
    pub fn find(path: &Path) -> Result<Image> {
        let path = if path.is_dir() { path.join("disk.img") } else { path.to_owned() };
        let mut file = File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::bad_input(format!("{}: no such image", path.display()))
                .help("build one: imgbuild --profile master"),
            _ => Error::io("read", &path, error),
        })?;
        let mut magic = [0; 4];
        let is_compressed = file.read_exact(&mut magic).is_ok() && magic == ZSTD_MAGIC;
        let image = Image { path, is_compressed };
        image.require_ours()?;
        Ok(image)
    }

    /// It begins with a partition table (UEFI 2.10, section 5.3.2), and is as long as an image is.
    fn require_ours(&self) -> Result<()> {
        let failed = |error| Error::io("read", &self.path, error);
        let help = "an image as built is wanted: out/NAME/disk.img, or its disk.img.zst";
        let mut head = vec![0; TABLE_SIGNATURE.start + TABLE_SIGNATURE.bytes.len()];
        let is_table = match self.reader(File::open(&self.path).map_err(failed)?)?.read_exact(&mut head) {
            Ok(()) => head.ends_with(TABLE_SIGNATURE.bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => false,
            Err(error) => return Err(failed(error)),
        };
        if !is_table {
            return Err(Error::bad_input(format!("{} is no disk image of ours", self.path.display())).help(help));
        }
        let length = self.path.metadata().map_err(failed)?.len();
        if !self.is_compressed && length != image_size() {
            let message = format!("{} has {length} bytes, an image has {}", self.path.display(), image_size());
            return Err(Error::bad_input(message).help(help));
        }
        Ok(())
    }

    /// What a BIOS runs: it stands in the first sector, beside a table that each disk has of its own.
    ///
    /// # Errors
    /// The image cannot be read.
    pub fn boot_code(&self) -> Result<[u8; CODE]> {
        let failed = |error| Error::io("read", &self.path, error);
        let mut code = [0; CODE];
        self.reader(File::open(&self.path).map_err(failed)?)?.read_exact(&mut code).map_err(failed)?;
        Ok(code)
    }

    fn reader(&self, file: File) -> Result<Box<dyn Read>> {
        match self.is_compressed {
            true => {
                let decoder = zstd::Decoder::new(file).map_err(|error| Error::io("read", &self.path, error))?;
                Ok(Box::new(decoder))
            }
            false => Ok(Box::new(file)),
        }
    }

    /// Calls `take` with offset and bytes of every chunk that holds something, in order; each begins at a multiple
    /// of `step`, and the last of the image may be short. `pass` is told how many bytes are behind, zeros included.
    /// A thread reads ahead, so that a disk need not wait for a decompressor, nor the other way round.
    ///
    /// # Errors
    /// What `take` says, or the image cannot be read.
    pub fn chunks(
        &self,
        step: usize,
        mut take: impl FnMut(u64, &[u8]) -> Result<()>,
        mut pass: impl FnMut(u64),
    ) -> Result<()> {
        std::thread::scope(|scope| {
            let (filled, full) = sync_channel::<Result<Chunk>>(AHEAD);
            let (emptied, empty) = channel();
            (0..AHEAD + 1).for_each(|_| drop(emptied.send(Buffer::new(step))));
            scope.spawn(move || {
                // Whoever takes has failed when nobody takes any more.
                if let Err(error) = self.read_chunks(step, &empty, |chunk| filled.send(Ok(chunk)).is_ok()) {
                    drop(filled.send(Err(error)));
                }
            });
            for chunk in full {
                let mut chunk = chunk?;
                let bytes = &chunk.buffer.bytes()[..chunk.count];
                if chunk.count > 0 && !is_zero(bytes) {
                    take(chunk.offset, bytes)?;
                }
                pass(chunk.offset + chunk.count as u64);
                drop(emptied.send(chunk.buffer));
            }
            Ok(())
        })
    }

    /// Fills what is empty, in order, as long as `give` says yes; the last is not filled to its end.
    fn read_chunks(&self, step: usize, empty: &Receiver<Buffer>, give: impl Fn(Chunk) -> bool) -> Result<()> {
        let failed = |error| Error::io("read", &self.path, error);
        let mut file = File::open(&self.path).map_err(failed)?;
        let mut reader = self.reader(file.try_clone().map_err(failed)?)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut offset = 0;
        while let Ok(mut buffer) = empty.recv() {
            if !self.is_compressed {
                // Both handles have one position.
                let (start, _) = next_data(&file, offset, length).map_err(failed)?;
                let start = start / step as u64 * step as u64;
                offset = file.seek(SeekFrom::Start(start.max(offset))).map_err(failed)?;
            }
            let count = fill(&mut reader, buffer.bytes()).map_err(failed)?;
            if !give(Chunk { offset, buffer, count }) || count < step {
                break;
            }
            offset += count as u64;
        }
        Ok(())
    }
}

/// A piece of the image.
struct Chunk {
    offset: u64,
    buffer: Buffer,
    /// Bytes of the buffer that are the image's.
    count: usize,
}

/// Bytes at a page's beginning.
pub struct Buffer {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Buffer {
    pub fn new(length: usize) -> Buffer {
        let memory = vec![0; length + PAGE];
        let start = memory.as_ptr().align_offset(PAGE);
        Buffer { memory, start, length }
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

/// Reads until the buffer is full or the source ends.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    const STEP: usize = 4096;

    fn chunks(image: &Image) -> (Vec<(u64, usize)>, u64) {
        let (mut found, mut behind) = (Vec::new(), 0);
        let take = |offset, bytes: &[u8]| {
            found.push((offset, bytes.len()));
            Ok(())
        };
        image.chunks(STEP, take, |offset| behind = offset).unwrap();
        (found, behind)
    }

    #[test]
    fn an_image_and_its_compressed_form_give_the_same_chunks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.img");
        let file = File::create_new(&path).unwrap();
        let length = 64 * STEP as u64 + 512;
        file.set_len(length).unwrap();
        for offset in [5 * STEP as u64 + 700, 40 * STEP as u64, length - 1] {
            file.write_all_at(b"x", offset).unwrap();
        }
        let wanted = [(5 * STEP as u64, STEP), (40 * STEP as u64, STEP), (64 * STEP as u64, 512)];
        let raw = Image { path: path.clone(), is_compressed: false };
        assert_eq!(chunks(&raw), (wanted.to_vec(), length));
        let target = folder.path().join("disk.img.zst");
        images::disk::compress(&path, &target, 3, 1).unwrap();
        let compressed = Image { path: target, is_compressed: true };
        assert_eq!(chunks(&compressed), (wanted.to_vec(), length));
    }
}
