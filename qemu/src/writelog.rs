//! Power cuts that lose writes. QEMU's blklogwrites driver records every write and flush in the
//! order in which the machine was told that they were done; this module reads that log (the format
//! of Linux's dm-log-writes, version 1) and makes the disk as a power cut after any entry may leave
//! it: what a flush covered is there, what came after the last flush may be lost.
//!
//! The log: one sector with a superblock, then for each entry one sector with its header and, unless
//! it is a discard or a mark, its data. All integers little-endian.

use crate::random::SplitMix;
use crate::{Error, Result};
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
/// Magic, version, number of entries (u64 each), sector size (u32).
const SUPERBLOCK_SIZE: usize = 28;
/// Sector, number of sectors, flags, data length (u64 each).
const HEADER_SIZE: usize = 32;
/// Bytes moved at a time.
const PIECE: u64 = 1024 * 1024;

const FLUSH: u64 = 1 << 0;
const FUA: u64 = 1 << 1;
const DISCARD: u64 = 1 << 2;
const MARK: u64 = 1 << 3;

/// One entry of a log. Offsets and lengths in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Where on the disk.
    pub offset: u64,
    pub length: u64,
    pub kind: Kind,
    /// Everything before this entry was made durable before it.
    pub flush: bool,
    /// This entry itself was durable when it was done.
    pub fua: bool,
    /// Where its data lie in the log.
    data: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Write,
    Discard,
    /// A note in the log, or a flush alone.
    Nothing,
}

/// What a power cut does to writes that no flush has covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unflushed {
    /// All are lost.
    Drop,
    /// All made it.
    Keep,
    /// Each is lost, kept, or cut at a sector within it, by this seed.
    Some { seed: u64 },
}

/// A log that was opened: its entries, the data still in the file.
#[derive(Debug)]
pub struct WriteLog {
    path: PathBuf,
    file: File,
    sector_size: u64,
    entries: Vec<Entry>,
}

impl WriteLog {
    /// Reads superblock and headers. A log whose last entries were cut short (QEMU was killed) is
    /// read up to there.
    ///
    /// # Errors
    /// [`Error::WriteLog`] for a file that is no log of this format.
    pub fn open(path: &Path) -> Result<WriteLog> {
        let file = File::open(path).map_err(Error::file(path, "open"))?;
        let size = file.metadata().map_err(Error::file(path, "look at"))?.len();
        let mut superblock = [0; SUPERBLOCK_SIZE];
        read_at(&file, path, &mut superblock, 0)?;
        let sector_size = check_superblock(path, &superblock)?;
        let mut log = WriteLog { path: path.into(), file, sector_size, entries: Vec::new() };
        log.read_entries(u64_at(&superblock, 16), size)?;
        Ok(log)
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Numbers of entries (counted from the start of the log) after which to cut the power, from `from` on: at most
    /// `count`, spread evenly, always the first and the last.
    pub fn cut_points(&self, from: usize, count: usize) -> Vec<usize> {
        let left = self.entries.len().saturating_sub(from);
        let steps = count.saturating_sub(1).clamp(1, left.max(1));
        let mut points: Vec<usize> = (0..=steps).map(|step| from + left * step / steps).collect();
        points.dedup();
        points
    }

    fn read_entries(&mut self, count: u64, size: u64) -> Result<()> {
        let mut position = self.sector_size;
        for _ in 0..count {
            let mut header = [0; HEADER_SIZE];
            if position + self.sector_size > size {
                break;
            }
            read_at(&self.file, &self.path, &mut header, position)?;
            let Some((entry, next)) = self.entry(&header, position, size) else { break };
            self.entries.push(entry);
            position = next;
        }
        Ok(())
    }

    /// The entry and where the next one begins; `None` where the log was cut short.
    fn entry(&self, header: &[u8; HEADER_SIZE], position: u64, size: u64) -> Option<(Entry, u64)> {
        let flags = u64_at(header, 16);
        let offset = u64_at(header, 0).checked_mul(self.sector_size)?;
        let length = u64_at(header, 8).checked_mul(self.sector_size)?;
        // Every entry of QEMU has a length or a flag: this sector was never written.
        if length == 0 && flags == 0 {
            return None;
        }
        let kind = match flags {
            _ if flags & MARK != 0 || length == 0 => Kind::Nothing,
            _ if flags & DISCARD != 0 => Kind::Discard,
            _ => Kind::Write,
        };
        let data = position + self.sector_size;
        let next = if kind == Kind::Write { data.checked_add(length)? } else { data };
        let entry = Entry { offset, length, kind, flush: flags & FLUSH != 0, fua: flags & FUA != 0, data };
        (next <= size).then_some((entry, next))
    }

    /// Applies the first `length` bytes of an entry to an image.
    fn apply(&self, entry: &Entry, length: u64, image: &Image) -> Result<()> {
        if entry.kind == Kind::Discard && length > 0 {
            // As zeroes, but without room on the host: mke2fs discards the whole partition.
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            return fallocate(&image.file, hole, entry.offset, length)
                .map_err(|error| Error::file(&image.path, "punch a hole in")(error.into()));
        }
        let mut buffer = vec![0; usize::try_from(PIECE.min(length)).unwrap_or(0)];
        let mut done = 0;
        while done < length {
            let piece =
                usize::try_from((length - done).min(PIECE)).map_or(&mut [] as &mut [u8], |size| &mut buffer[..size]);
            match entry.kind {
                Kind::Nothing | Kind::Discard => return Ok(()),
                Kind::Write => read_at(&self.file, &self.path, piece, entry.data + done)?,
            }
            image.file.write_all_at(piece, entry.offset + done).map_err(Error::file(&image.path, "write"))?;
            done += piece.len() as u64;
        }
        Ok(())
    }
}

fn check_superblock(path: &Path, superblock: &[u8; SUPERBLOCK_SIZE]) -> Result<u64> {
    let wrong = |problem, found: String, wanted: &str| Error::WriteLog {
        path: path.into(),
        problem,
        found,
        wanted: wanted.into(),
    };
    let (magic, version) = (u64_at(superblock, 0), u64_at(superblock, 8));
    let sector_size = u64::from(u32::from_le_bytes([superblock[24], superblock[25], superblock[26], superblock[27]]));
    if magic != MAGIC {
        return Err(wrong("magic", format!("{magic:#x}"), "0x6a736677736872"));
    }
    if version != VERSION {
        return Err(wrong("version", version.to_string(), "1"));
    }
    if !(512..=4096).contains(&sector_size) || !sector_size.is_power_of_two() {
        return Err(wrong("sector size", sector_size.to_string(), "512 to 4096, a power of two"));
    }
    Ok(sector_size)
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(value)
}

fn read_at(file: &File, path: &Path, buffer: &mut [u8], offset: u64) -> Result<()> {
    file.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => Error::WriteLog {
            path: path.into(),
            problem: "it ends too early",
            found: "the end of the file".into(),
            wanted: format!("{} bytes at {offset}", buffer.len()),
        },
        _ => Error::File { path: path.into(), action: "read", source: error },
    })
}

#[derive(Debug)]
struct Image {
    path: PathBuf,
    file: File,
}

impl Image {
    fn open(path: &Path) -> Result<Image> {
        let file = File::options().write(true).open(path).map_err(Error::file(path, "open"))?;
        Ok(Image { path: path.into(), file })
    }
}

/// Makes `to` the disk as a power cut after the first `entries` entries leaves it, from `base`, the
/// disk before the recording.
pub fn replay(base: &Path, log: &WriteLog, entries: usize, unflushed: Unflushed, to: &Path) -> Result<()> {
    crate::disk::copy_sparse(base, to)?;
    let image = Image::open(to)?;
    let mut random = match unflushed {
        Unflushed::Some { seed } => SplitMix(seed),
        Unflushed::Drop | Unflushed::Keep => SplitMix(0),
    };
    let recorded = &log.entries[..entries.min(log.entries.len())];
    let flushed = recorded.iter().rposition(|entry| entry.flush).unwrap_or(0);
    for (index, entry) in recorded.iter().enumerate() {
        let length = if index < flushed || entry.fua {
            entry.length
        } else {
            survivors(entry, log.sector_size, unflushed, &mut random)
        };
        log.apply(entry, length, &image)?;
    }
    Ok(())
}

/// Bytes of an entry that no flush covers which reach the disk.
fn survivors(entry: &Entry, sector_size: u64, unflushed: Unflushed, random: &mut SplitMix) -> u64 {
    match unflushed {
        Unflushed::Drop => 0,
        Unflushed::Keep => entry.length,
        Unflushed::Some { .. } => match random.next() % 3 {
            0 => 0,
            1 => entry.length,
            _ => random.next() % (entry.length / sector_size + 1) * sector_size,
        },
    }
}

/// Walks one image forward through a log, always showing the disk after a power cut that drops what
/// was not flushed. Reading the log once is what makes many cut points cheap; between two steps the
/// image may be read, not written.
#[derive(Debug)]
pub struct Walk<'a> {
    log: &'a WriteLog,
    image: Image,
    /// Entries looked at.
    position: usize,
    /// First entry that no flush has covered.
    pending: usize,
}

impl<'a> Walk<'a> {
    /// Starts with a copy of `base` at `image`.
    pub fn new(base: &Path, log: &'a WriteLog, image: &Path) -> Result<Walk<'a>> {
        crate::disk::copy_sparse(base, image)?;
        Ok(Walk { log, image: Image::open(image)?, position: 0, pending: 0 })
    }

    /// Steps on to the power cut after the first `entries` entries; never back.
    pub fn advance(&mut self, entries: usize) -> Result<()> {
        for index in self.position..entries.min(self.log.entries.len()) {
            let entry = &self.log.entries[index];
            if entry.flush {
                // All in order, those with FUA a second time: an older write may lie below one.
                for covered in &self.log.entries[self.pending..index] {
                    self.log.apply(covered, covered.length, &self.image)?;
                }
                self.pending = index;
            }
            if entry.fua {
                self.log.apply(entry, entry.length, &self.image)?;
            }
            self.position = index + 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECTORS: u64 = 16;

    /// An entry as the test writes it: sector, sectors, flags, the byte its data are made of.
    type Step = (u64, u64, u64, u8);

    fn encode(steps: &[Step]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut sector = |words: &[u64]| {
            let mut sector = [0; 512];
            for (place, word) in sector.chunks_exact_mut(8).zip(words) {
                place.copy_from_slice(&word.to_le_bytes());
            }
            bytes.extend(sector);
            bytes.len()
        };
        sector(&[MAGIC, VERSION, steps.len() as u64, 512]);
        for &(start, count, flags, fill) in steps {
            let end = sector(&[start, count, flags, 0]);
            if flags & (DISCARD | MARK) == 0 {
                for _ in 0..count {
                    sector(&[u64::from_ne_bytes([fill; 8]); 64]);
                }
            }
            assert!(end > 0);
        }
        bytes
    }

    struct Bench {
        folder: tempfile::TempDir,
        log: WriteLog,
    }

    impl Bench {
        fn new(steps: &[Step]) -> Bench {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("log");
            std::fs::write(&path, encode(steps)).unwrap();
            std::fs::write(folder.path().join("base"), vec![b'.'; (SECTORS * 512) as usize]).unwrap();
            Bench { log: WriteLog::open(&path).unwrap(), folder }
        }

        /// One character a sector.
        fn picture(path: &Path) -> String {
            let bytes = std::fs::read(path).unwrap();
            bytes.chunks(512).map(|sector| if sector[0] == 0 { '0' } else { char::from(sector[0]) }).collect()
        }

        fn replay(&self, entries: usize, unflushed: Unflushed) -> String {
            let to = self.folder.path().join("to");
            replay(&self.folder.path().join("base"), &self.log, entries, unflushed, &to).unwrap();
            Bench::picture(&to)
        }
    }

    #[test]
    fn what_a_flush_covered_stays_and_the_rest_is_lost() {
        let bench = Bench::new(&[(0, 2, 0, b'a'), (2, 1, 0, b'b'), (0, 0, FLUSH, 0), (3, 1, 0, b'c'), (0, 1, 0, b'd')]);
        let after = |entries| bench.replay(entries, Unflushed::Drop);
        assert_eq!(after(0), "................");
        assert_eq!(after(2), "................");
        assert_eq!(after(3), "aab.............");
        assert_eq!(after(5), "aab.............");
        assert_eq!(bench.replay(5, Unflushed::Keep), "dabc............");
    }

    #[test]
    fn a_flush_on_a_write_covers_those_before_it_and_fua_itself() {
        let bench = Bench::new(&[(0, 1, 0, b'a'), (1, 1, FLUSH, b'b'), (2, 1, FUA, b'c'), (3, 1, FLUSH | FUA, b'd')]);
        assert_eq!(bench.replay(2, Unflushed::Drop), "a...............");
        assert_eq!(bench.replay(3, Unflushed::Drop), "a.c.............");
        assert_eq!(bench.replay(4, Unflushed::Drop), "abcd............");
    }

    #[test]
    fn discards_are_zeroes_and_marks_are_nothing() {
        let bench =
            Bench::new(&[(0, 4, 0, b'a'), (1, 2, DISCARD, 0), (0, 0, MARK, 0), (5, 1, 0, b'b'), (0, 0, FLUSH, 0)]);
        assert_eq!(bench.log.entries().len(), 5);
        assert_eq!(bench.replay(5, Unflushed::Drop), "a00a.b..........");
    }

    #[test]
    fn a_log_that_was_cut_short_is_read_up_to_there() {
        let mut bytes = encode(&[(0, 1, 0, b'a'), (0, 0, FLUSH, 0), (1, 2, 0, b'b')]);
        bytes.truncate(bytes.len() - 100);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(WriteLog::open(&path).unwrap().entries().len(), 2);
        // A header that was counted but never written.
        bytes[3 * 512 + 16..3 * 512 + 24].fill(0);
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(WriteLog::open(&path).unwrap().entries().len(), 1);
    }

    #[test]
    fn a_file_that_is_no_log_is_refused_with_what_was_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let message = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = encode(&[]);
            change(&mut bytes);
            std::fs::write(&path, bytes).unwrap();
            WriteLog::open(&path).unwrap_err().to_string()
        };
        assert!(message(&|bytes| bytes[0] = 0).contains("magic (found 0x6a736677736800, wanted 0x6a736677736872)"));
        assert!(message(&|bytes| bytes[8] = 2).contains("version (found 2, wanted 1)"));
        assert!(message(&|bytes| bytes[25] = 3).contains("sector size (found 768"));
        assert!(message(&|bytes| bytes.truncate(20)).contains("it ends too early"));
    }

    #[test]
    fn cut_points_are_spread_from_first_to_last() {
        let bench = Bench::new(&[(0, 0, FLUSH, 0); 10]);
        assert_eq!(bench.log.cut_points(0, 5), [0, 2, 5, 7, 10]);
        assert_eq!(bench.log.cut_points(4, 4), [4, 6, 8, 10]);
        assert_eq!(bench.log.cut_points(0, 100).len(), 11);
        assert_eq!(Bench::new(&[]).log.cut_points(0, 50), [0]);
    }

    fn step() -> impl Strategy<Value = Step> {
        let flags =
            prop_oneof![4 => Just(0), 1 => Just(FUA), 1 => Just(FLUSH), 1 => Just(FLUSH | FUA), 1 => Just(DISCARD)];
        (0..SECTORS - 3, 0_u64..4, flags, b'a'..=b'z').prop_map(|(sector, count, flags, fill)| match (count, flags) {
            (0, _) => (0, 0, FLUSH, 0),
            _ => (sector, count, flags, fill),
        })
    }

    /// The disk by the definition, one character at a time: durable after `entries` entries.
    fn model(steps: &[Step], entries: usize) -> String {
        let mut disk = vec!['.'; SECTORS as usize];
        let flushed = steps[..entries].iter().rposition(|step| step.2 & FLUSH != 0).unwrap_or(0);
        for (index, &(sector, count, flags, fill)) in steps[..entries].iter().enumerate() {
            if index < flushed || flags & FUA != 0 {
                let value = if flags & DISCARD != 0 { '0' } else { char::from(fill) };
                disk[sector as usize..(sector + count) as usize].fill(value);
            }
        }
        disk.into_iter().collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn replay_and_walk_agree_with_the_definition(steps in prop::collection::vec(step(), 0..24)) {
            let bench = Bench::new(&steps);
            let image = bench.folder.path().join("walk");
            let mut walk = Walk::new(&bench.folder.path().join("base"), &bench.log, &image).unwrap();
            for entries in 0..=steps.len() {
                walk.advance(entries).unwrap();
                let expected = model(&steps, entries);
                prop_assert_eq!(Bench::picture(&image), expected.clone());
                prop_assert_eq!(bench.replay(entries, Unflushed::Drop), expected);
            }
        }

        #[test]
        fn a_seed_repeats_and_never_touches_what_was_flushed(steps in prop::collection::vec(step(), 0..24), seed: u64) {
            let bench = Bench::new(&steps);
            let first = bench.replay(steps.len(), Unflushed::Some { seed });
            prop_assert_eq!(&first, &bench.replay(steps.len(), Unflushed::Some { seed }));
            let flushed = steps.iter().rposition(|step| step.2 & FLUSH != 0).unwrap_or(0);
            let durable = model(&steps, steps.len());
            for (sector, (found, expected)) in first.chars().zip(durable.chars()).enumerate() {
                let unflushed = steps[flushed..].iter().any(|step| step.0 <= sector as u64 && (sector as u64) < step.0 + step.1);
                prop_assert!(found == expected || unflushed, "sector {} is {} instead of {}", sector, found, expected);
            }
        }
    }
}
