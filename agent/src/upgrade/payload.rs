//! The payload on its way to the other slot: the root image goes to the slot's partition at once, the UKI to a file on
//! state, from where the ESP is filled at the end.

use super::{UpgradeError, at, refused};
use bundle::{Chunk, Cutter, HashSink, Manifest, PAYLOAD, ROOT, UKI};
use spec::boot::Entry;
use spec::layout::Slot;
use spec::status::BootPlace;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The manifest of what the folder and the slot hold pieces of.
const RECORD: &str = "bundle.json";
/// The running slot's UKI, as long as it is looked at.
const OWN_UKI: &str = "running.efi";
const BUFFER: usize = 1 << 18;

/// Numbers of the chunks that are not there yet, by file of the payload.
#[derive(Debug, Clone, Default)]
pub struct Missing(BTreeMap<String, BTreeSet<u32>>);

impl Missing {
    pub fn count(&self) -> usize {
        self.0.values().map(BTreeSet::len).sum()
    }

    pub fn of(&self, file: &str) -> Option<&BTreeSet<u32>> {
        self.0.get(file)
    }

    pub fn remove(&mut self, file: &str, number: u32) {
        if let Some(numbers) = self.0.get_mut(file) {
            numbers.remove(&number);
        }
    }

    pub fn lists(&self) -> BTreeMap<String, Vec<u32>> {
        self.0.iter().map(|(file, numbers)| (file.clone(), numbers.iter().copied().collect())).collect()
    }
}

/// Where the payload comes from and goes to.
pub struct Files {
    place: BootPlace,
    folder: PathBuf,
}

impl Files {
    pub fn new(place: BootPlace, folder: PathBuf) -> Files {
        Files { place, folder }
    }

    /// Device of the ESP.
    pub fn esp(&self) -> &str {
        &self.place.esp
    }

    fn other(&self) -> Slot {
        self.place.slot.other()
    }

    fn target(&self, file: &str) -> PathBuf {
        match file {
            ROOT => self.place.root(self.other()).into(),
            _ => self.folder.join(file),
        }
    }

    fn open_esp(&self) -> Result<File, UpgradeError> {
        open_to_write(Path::new(&self.place.esp))
    }

    /// Takes the other slot's boot files away and copies what the running slot, or an attempt before this one, has of
    /// the payload; what is missing. `record` is the manifest as it came.
    pub fn copy(&self, manifest: &Manifest, record: &[u8]) -> Result<Missing, UpgradeError> {
        let failed = |error: crate::files::FileError| refused(error.to_string());
        crate::files::make_directory(&self.folder, 0o700, None).map_err(failed)?;
        slots::empty(&mut self.open_esp()?, self.other())?;
        let record_path = self.folder.join(RECORD);
        let known = std::fs::read(&record_path).is_ok_and(|before| before == record);
        crate::files::write(&record_path, record, 0o600, true).map_err(failed)?;
        self.check_room(manifest)?;
        let own_uki = self.folder.join(OWN_UKI);
        let mut copied = File::create(&own_uki).map_err(at(&own_uki))?;
        slots::read_uki(&mut self.open_esp()?, self.place.slot, &mut copied)?;
        drop(copied);
        let mut missing = Missing::default();
        for file in PAYLOAD {
            let source = if file == ROOT { PathBuf::from(self.place.root(self.place.slot)) } else { own_uki.clone() };
            let payload = manifest.payload(file)?;
            let absent = copy_chunks(&payload.chunks, &source, &self.target(file), payload.size, known)?;
            missing.0.insert(file.to_owned(), absent);
        }
        std::fs::remove_file(&own_uki).map_err(at(&own_uki))?;
        Ok(missing)
    }

    fn check_room(&self, manifest: &Manifest) -> Result<(), UpgradeError> {
        let target = self.target(ROOT);
        let mut partition = File::open(&target).map_err(at(&target))?;
        let room = partition.seek(SeekFrom::End(0)).map_err(at(&target))?;
        let size = manifest.payload(ROOT)?.size;
        if size > room {
            return Err(refused(format!(
                "the root image has {size} bytes; the slot {} holds {room}",
                target.display()
            )));
        }
        Ok(())
    }

    /// Writes one chunk at its place.
    pub fn put(&self, manifest: &Manifest, file: &str, number: u32, bytes: &[u8]) -> Result<(), UpgradeError> {
        let found = manifest.payload(file)?.chunk(number);
        let (offset, chunk) = found.ok_or_else(|| refused(format!("{file} has no chunk {number}")))?;
        if Chunk::of(bytes) != *chunk {
            return Err(UpgradeError::Damaged(format!("chunk {number} of {file}")));
        }
        let target = self.target(file);
        open_to_write(&target)?.write_all_at(bytes, offset).map_err(at(&target))
    }

    /// Reads back what was written and fills the ESP; the slot is on trial then.
    pub fn finish(&self, manifest: &Manifest) -> Result<Entry, UpgradeError> {
        for file in PAYLOAD {
            let (target, payload) = (self.target(file), manifest.payload(file)?);
            let written = open_to_write(&target)?;
            written.sync_all().map_err(at(&target))?;
            forget_cached(&written).map_err(at(&target))?;
            check(&target, &payload.sha256, BufReader::with_capacity(BUFFER, written.take(payload.size)))?;
        }
        let uki = self.target(UKI);
        let piece = |range: bundle::Range| -> Result<File, UpgradeError> {
            let mut file = File::open(&uki).map_err(at(&uki))?;
            file.seek(SeekFrom::Start(range.offset)).map_err(at(&uki))?;
            Ok(file)
        };
        let payload = manifest.payload(UKI)?;
        let mut esp = self.open_esp()?;
        let whole = bundle::Range { offset: 0, length: payload.size };
        let entry = slots::fill(
            &mut esp,
            self.other(),
            slots::Files {
                uki: (&mut piece(whole)?, whole.length),
                kernel: (&mut piece(manifest.kernel)?, manifest.kernel.length),
                initramfs: (&mut piece(manifest.initramfs)?, manifest.initramfs.length),
                command_line: &manifest.command_line,
            },
        )?;
        forget_cached(&esp).map_err(at(Path::new(&self.place.esp)))?;
        let mut hash = HashSink::default();
        slots::read_uki(&mut esp, self.other(), &mut hash)?;
        if hash.text() != payload.sha256 {
            slots::empty(&mut esp, self.other())?;
            return Err(UpgradeError::Damaged(format!("{entry} on the ESP")));
        }
        std::fs::remove_dir_all(&self.folder).map_err(at(&self.folder))?;
        Ok(entry)
    }
}

/// Copies from `source` what it has of the chunks to their places in `target`, a file or partition; the numbers of the
/// others, but those which are there already when `look` says that some may be.
fn copy_chunks(
    chunks: &[Chunk],
    source: &Path,
    target: &Path,
    size: u64,
    look: bool,
) -> Result<BTreeSet<u32>, UpgradeError> {
    let wanted: HashSet<&Chunk> = chunks.iter().collect();
    let mut places: HashMap<Chunk, u64> = HashMap::new();
    let mut offset = 0;
    let from = File::open(source).map_err(at(source))?;
    for piece in Cutter::new(BufReader::with_capacity(BUFFER, &from)) {
        let (chunk, _) = piece.map_err(at(source))?;
        if wanted.contains(&chunk) {
            places.insert(chunk, offset);
        }
        offset += u64::from(chunk.size);
        // A partition goes on behind its image.
        if places.len() == wanted.len() || offset > size.saturating_mul(2) {
            break;
        }
    }
    let to = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(target).map_err(at(target))?;
    let mut missing = BTreeSet::new();
    let mut buffer = Vec::new();
    let mut offset = 0;
    for (chunk, number) in chunks.iter().zip(0..) {
        buffer.resize(chunk.size as usize, 0);
        if let Some(place) = places.get(chunk) {
            from.read_exact_at(&mut buffer, *place).map_err(at(source))?;
            to.write_all_at(&buffer, offset).map_err(at(target))?;
        } else if !(look && to.read_exact_at(&mut buffer, offset).is_ok() && Chunk::of(&buffer) == *chunk) {
            missing.insert(number);
        }
        offset += u64::from(chunk.size);
    }
    Ok(missing)
}

fn open_to_write(path: &Path) -> Result<File, UpgradeError> {
    OpenOptions::new().read(true).write(true).open(path).map_err(at(path))
}

/// What is read next comes from the disk.
fn forget_cached(file: &File) -> std::io::Result<()> {
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).map_err(Into::into)
}

fn check(path: &Path, sha256: &str, mut content: impl Read) -> Result<(), UpgradeError> {
    let mut hash = HashSink::default();
    std::io::copy(&mut content, &mut hash).map_err(at(path))?;
    if hash.text() != sha256 {
        return Err(UpgradeError::Damaged(path.display().to_string()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bundle::chunks_of;

    fn noise(length: usize, seed: u64) -> Vec<u8> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        };
        std::iter::repeat_with(next).take(length).collect()
    }

    #[test]
    fn what_the_machine_has_is_copied_and_what_came_before_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let (source, target) = (folder.path().join("source"), folder.path().join("target"));
        let running = noise(2_000_000, 1);
        let mut next = running.clone();
        next.splice(500_000..500_010, noise(300_000, 2));
        // A partition is longer than the image in it.
        std::fs::write(&source, [running, vec![0; 9_000_000]].concat()).unwrap();
        let payload = chunks_of("test", &next[..]).unwrap();
        let missing = copy_chunks(&payload.chunks, &source, &target, payload.size, false).unwrap();
        assert!((2..=12).contains(&missing.len()), "{missing:?} of {}", payload.chunks.len());

        // Half of it comes, then the agent starts anew.
        let half: Vec<u32> = missing.iter().copied().take(missing.len() / 2).collect();
        let file = OpenOptions::new().write(true).open(&target).unwrap();
        let put = |number: u32| {
            let offset: usize = payload.chunks[..number as usize].iter().map(|chunk| chunk.size as usize).sum();
            let size = payload.chunks[number as usize].size as usize;
            file.write_all_at(&next[offset..offset + size], offset as u64).unwrap();
        };
        half.iter().for_each(|number| put(*number));
        let rest = copy_chunks(&payload.chunks, &source, &target, payload.size, true).unwrap();
        assert_eq!(rest, missing.iter().copied().filter(|number| !half.contains(number)).collect());
        rest.iter().for_each(|number| put(*number));
        check(&target, &payload.sha256, File::open(&target).unwrap()).unwrap();
        assert!(check(&target, &payload.sha256, &b"other"[..]).is_err());
    }
}
