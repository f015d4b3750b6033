//! `disk.img`: the plan of a disk as a value, and its writing as a sparse file.

use crate::bios;
use crate::esp::{self, EspError};
use crate::gpt::{self, GptError, IMAGE_PARTITIONS, Identity};
use crate::sparse::is_zero;
use crate::tree::Content;
use crate::{atomic, sparse};
use spec::boot::{Entry, FIRST_GENERATION, UKI_FOLDER};
use spec::layout::{IMAGE_ESP_SERIAL, Partition, Slot, image_size};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use thiserror::Error;

/// Bytes that compression looks back for what was there before, as a power of two: more than an ESP's files have.
/// Whoever decompresses needs as much memory.
const WINDOW_LOG: u32 = 26;

#[derive(Debug, Error)]
pub enum DiskError {
    #[error(transparent)]
    Esp(#[from] EspError),
    #[error(transparent)]
    Gpt(#[from] GptError),
    #[error("seed: {0}")]
    Seed(#[from] seed::Error),
    #[error("disk image: {0}")]
    Io(#[from] io::Error),
    #[error("the root image has {size} bytes; the slot {partition} holds {room}: trim the profile")]
    RootTooLarge { size: u64, room: u64, partition: &'static str },
}

/// Everything on a disk image as built: slot A filled, slot B and state left for the machine.
#[derive(Debug, Clone)]
pub struct DiskPlan {
    pub esp: esp::Files,
    /// EROFS and verity tree.
    pub root: Content,
    /// The machine's seed; without it the partition is zero.
    pub seed: Option<seed::Files>,
    /// What a BIOS starts, beside its files on the ESP.
    pub bios: Option<bios::Loader>,
}

impl DiskPlan {
    /// The plan of an image that boots `uki` by `loader` (systemd-bootx64.efi).
    pub fn new(loader: Content, loader_config: &str, uki: Content, root: Content, seed: Option<seed::Files>) -> Self {
        let mut esp: esp::Files = esp::LOADER_PATHS.iter().map(|path| ((*path).to_owned(), loader.clone())).collect();
        esp.insert(esp::LOADER_CONFIG.to_owned(), Content::from(loader_config));
        let entry = Entry { generation: FIRST_GENERATION, slot: Slot::A, tries: None };
        esp.insert(format!("{UKI_FOLDER}/{entry}"), uki);
        DiskPlan { esp, root, seed, bios: None }
    }

    /// The same disk boots by BIOS too: `files` come to the ESP's.
    pub fn with_bios(mut self, loader: bios::Loader, files: esp::Files) -> Self {
        self.esp.extend(files);
        self.bios = Some(loader);
        self
    }

    /// Writes the image to a temporary beside `path` and renames it when it is whole.
    ///
    /// # Errors
    /// Content that cannot be read or does not fit, or the disk's I/O.
    pub fn write(&self, path: &Path) -> Result<(), DiskError> {
        let (root_offset, room) = gpt::extent(Partition::RootA);
        if self.root.len() > room {
            let partition = Partition::RootA.label();
            return Err(DiskError::RootTooLarge { size: self.root.len(), room, partition });
        }
        let (esp_offset, esp_size) = gpt::extent(Partition::Esp);
        let esp = esp::build(esp_size, IMAGE_ESP_SERIAL, &self.esp)?;
        atomic::write_file(path, |file| {
            file.set_len(image_size())?;
            gpt::write(file, image_size(), &IMAGE_PARTITIONS, Identity::OfImage)?;
            if let Some(loader) = &self.bios {
                loader.write(file)?;
            }
            for (offset, chunk) in esp.chunks() {
                file.write_all_at(chunk, esp_offset + offset)?;
            }
            copy_sparse(&self.root, file, root_offset)?;
            if let Some(files) = &self.seed {
                seed::write(file, Partition::Seed.offset(), files)?;
            }
            Ok(())
        })
    }
}

/// Copies content into a file of zeros, leaving holes where it is zero.
fn copy_sparse(content: &Content, file: &mut File, offset: u64) -> io::Result<()> {
    let mut reader = content.reader()?;
    let mut buffer = vec![0; 16 * sparse::CHUNK];
    let mut done = 0;
    while done < content.len() {
        let wanted = (content.len() - done).min(buffer.len() as u64) as usize;
        reader.read_exact(&mut buffer[..wanted])?;
        for (index, chunk) in buffer[..wanted].chunks(sparse::CHUNK).enumerate() {
            if !is_zero(chunk) {
                file.write_all_at(chunk, offset + done + (index * sparse::CHUNK) as u64)?;
            }
        }
        done += wanted as u64;
    }
    Ok(())
}

/// Compresses an image to `target` with zstd at `level`; holes are not read. `threads` workers, at
/// least one: the bytes are the same for every such number.
///
/// # Errors
/// The image or the target, by path.
pub fn compress(image: &Path, target: &Path, level: i32, threads: u32) -> io::Result<u64> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", image.display()));
    let mut source = File::open(image).map_err(named)?;
    let length = source.metadata().map_err(named)?.len();
    atomic::write_file(target, |file| {
        let mut encoder = zstd::Encoder::new(file, level)?;
        encoder.multithread(threads.max(1))?;
        encoder.include_checksum(true)?;
        // Kernel and initramfs are on the ESP twice, in the UKI and for BIOS.
        encoder.long_distance_matching(true)?;
        encoder.window_log(WINDOW_LOG)?;
        encoder.set_pledged_src_size(Some(length))?;
        let mut position = 0;
        while position < length {
            let (data, hole) = next_data(&source, position, length).map_err(named)?;
            write_zeros(&mut encoder, data - position)?;
            source.seek(SeekFrom::Start(data)).map_err(named)?;
            let copied =
                io::copy(&mut io::BufReader::with_capacity(1 << 20, (&mut source).take(hole - data)), &mut encoder)?;
            if copied != hole - data {
                return Err(named(io::Error::new(io::ErrorKind::UnexpectedEof, "became shorter while it was read")));
            }
            position = hole;
        }
        let file = encoder.finish()?;
        file.stream_position()
    })
}

fn write_zeros(writer: &mut impl Write, mut count: u64) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    while count > 0 {
        let part = count.min(zeros.len() as u64) as usize;
        writer.write_all(&zeros[..part])?;
        count -= part as u64;
    }
    Ok(())
}

/// Where the next data of a file of `length` bytes begins and ends, from `position` on; both are the length where
/// nothing but a hole is left. The file's own position is moved.
///
/// # Errors
/// As lseek(2) answers.
pub fn next_data(file: &File, position: u64, length: u64) -> io::Result<(u64, u64)> {
    use rustix::fs::SeekFrom::{Data, Hole};
    let start = match rustix::fs::seek(file, Data(position)) {
        Ok(start) => start.min(length),
        // Nothing but a hole up to the end.
        Err(rustix::io::Errno::NXIO) => return Ok((length, length)),
        // A file system without holes.
        Err(rustix::io::Errno::INVAL) => return Ok((position, length)),
        Err(error) => return Err(error.into()),
    };
    let end = rustix::fs::seek(file, Hole(start))?;
    Ok((start, end.min(length)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn plan() -> DiskPlan {
        let root: Vec<u8> = (0..3_000_000u32).flat_map(|number| (number / 70_000 % 3 * number).to_le_bytes()).collect();
        let seed = seed::Files::from([("machine.toml".to_owned(), b"version = 1\n".to_vec())]);
        DiskPlan::new(vec![7; 5000].into(), "timeout 0\n", vec![9; 70_000].into(), root.into(), Some(seed))
    }

    /// The stretches of a file that are no holes.
    fn data(path: &Path) -> Vec<(u64, Vec<u8>)> {
        let file = File::open(path).unwrap();
        let length = file.metadata().unwrap().len();
        let (mut position, mut found) = (0, Vec::new());
        while position < length {
            let (start, end) = next_data(&file, position, length).unwrap();
            let mut bytes = vec![0; (end - start) as usize];
            file.read_exact_at(&mut bytes, start).unwrap();
            found.push((start, bytes));
            position = end;
        }
        found
    }

    #[test]
    fn an_image_is_sparse_repeats_and_holds_its_parts() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("a.img"), folder.path().join("b.img"));
        plan().write(&first).unwrap();
        plan().write(&second).unwrap();
        let metadata = first.metadata().unwrap();
        assert_eq!(metadata.len(), image_size());
        assert!(metadata.blocks() * 512 < 40 << 20, "{} blocks", metadata.blocks());
        assert!(data(&first) == data(&second));
        let mut root = vec![0; 12_000_000];
        File::open(&first).unwrap().read_exact_at(&mut root, Partition::RootA.offset()).unwrap();
        assert!(*root == *plan().root.read().unwrap());
        assert_eq!(seed::read_path(&first, Partition::Seed.offset()).unwrap().files, plan().seed.unwrap());
    }

    #[test]
    fn compression_keeps_every_byte_and_repeats_whatever_the_threads() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        let file = File::create(&image).unwrap();
        file.set_len(30_000_001).unwrap();
        let noise: Vec<u8> =
            (0..2_000_000u32).flat_map(|number| (number / 900).wrapping_mul(number).to_le_bytes()).collect();
        file.write_all_at(&noise, 5_000_000).unwrap();
        file.write_all_at(b"end", 29_000_000).unwrap();
        let compressed: Vec<Vec<u8>> = [1, 2, 3]
            .map(|threads| {
                let target = folder.path().join(format!("{threads}.zst"));
                let size = compress(&image, &target, 3, threads).unwrap();
                assert_eq!(target.metadata().unwrap().len(), size);
                std::fs::read(&target).unwrap()
            })
            .into();
        assert!(compressed.iter().all(|bytes| *bytes == compressed[0]), "thread count changes nothing");
        assert!(zstd::decode_all(compressed[0].as_slice()).unwrap() == std::fs::read(&image).unwrap());
    }

    #[test]
    fn a_root_that_does_not_fit_is_refused_before_writing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.img");
        let large = Content::Disk { path: path.as_path().into(), offset: 0, length: 4 << 30 };
        let message = DiskPlan { root: large, ..plan() }.write(&path).unwrap_err().to_string();
        assert!(message.contains("root-a holds"), "{message}");
        assert!(!path.exists());
    }
}
