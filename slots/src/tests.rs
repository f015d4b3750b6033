use super::*;
use fatfs::{FatType, FormatVolumeOptions};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io::SeekFrom;

const SECTOR: u64 = 512;
type Sector = [u8; SECTOR as usize];
const SIZE: u64 = 40 << 20;

/// A disk in memory that remembers its writes, sector by sector, and its syncs.
#[derive(Clone, Default)]
struct Memory {
    sectors: BTreeMap<u64, Sector>,
    position: u64,
    /// `None`: a sync.
    log: Vec<Option<(u64, Sector)>>,
}

impl Read for Memory {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let within = (self.position % SECTOR) as usize;
        let count = buffer.len().min(SECTOR as usize - within).min((SIZE - self.position.min(SIZE)) as usize);
        let sector = self.sectors.get(&(self.position / SECTOR)).unwrap_or(&[0; 512]);
        buffer[..count].copy_from_slice(&sector[within..within + count]);
        self.position += count as u64;
        Ok(count)
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (number, within) = (self.position / SECTOR, (self.position % SECTOR) as usize);
        let count = bytes.len().min(SECTOR as usize - within);
        let sector = self.sectors.entry(number).or_insert([0; 512]);
        sector[within..within + count].copy_from_slice(&bytes[..count]);
        self.log.push(Some((number, *sector)));
        self.position += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Memory {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = match to {
            SeekFrom::Start(offset) => offset,
            SeekFrom::End(offset) => SIZE.checked_add_signed(offset).unwrap(),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset).unwrap(),
        };
        Ok(self.position)
    }
}

impl Device for Memory {
    fn sync(&mut self) -> io::Result<()> {
        self.log.push(None);
        Ok(())
    }
}

/// The ESP of an image as built, with slot A of this content.
fn esp() -> Memory {
    let mut disk = Memory::default();
    fatfs::format_volume(&mut disk, FormatVolumeOptions::new().fat_type(FatType::Fat32)).unwrap();
    disk.rewind().unwrap();
    {
        let volume = FileSystem::new(&mut disk, options()).unwrap();
        let root = volume.root_dir();
        for folder in ["EFI", UKI_FOLDER, GRUB_FOLDER] {
            root.create_dir(folder).unwrap();
        }
        let [kernel, initramfs, command_line] = grub_files(Slot::A);
        let uki = format!("{UKI_FOLDER}/imgbuild-00000001-a.efi");
        for (path, content) in
            [(&uki, "uki a"), (&kernel, "kernel a"), (&initramfs, "initramfs a"), (&command_line, "a")]
        {
            root.create_file(path).unwrap().write_all(content.as_bytes()).unwrap();
        }
        root.create_file(GRUB_ENVIRONMENT).unwrap().write_all(&GrubEnvironment::FIRST.encode()).unwrap();
        drop(root);
        volume.unmount().unwrap();
    }
    disk.log.clear();
    disk
}

/// Bytes that tell whose they are.
fn content(name: &str, length: usize) -> Vec<u8> {
    name.bytes().cycle().take(length).collect()
}

const UKI_LENGTH: usize = 70_001;

fn fill_with(disk: &mut Memory, slot: Slot, mark: &str) -> Result<Entry, Error> {
    let (uki, kernel) = (content(mark, UKI_LENGTH), content(&format!("kernel {mark}"), 30_000));
    fill(
        disk,
        slot,
        Files {
            uki: (&mut uki.as_slice(), uki.len() as u64),
            kernel: (&mut kernel.as_slice(), kernel.len() as u64),
            initramfs: (&mut kernel.as_slice(), kernel.len() as u64),
            command_line: mark,
        },
    )
}

fn uki(disk: &mut Memory, slot: Slot) -> Vec<u8> {
    let mut bytes = Vec::new();
    read_uki(disk, slot, &mut bytes).unwrap();
    bytes
}

#[test]
fn a_slot_is_filled_tried_and_called_good_or_bad() {
    let mut disk = esp();
    let first = "imgbuild-00000001-a.efi".parse().unwrap();
    assert_eq!(entries(&mut disk).unwrap(), [first]);
    assert!(matches!(entry(&mut disk, Slot::B), Err(Error::NoEntry(Slot::B))));

    empty(&mut disk, Slot::B).unwrap();
    let trial = fill_with(&mut disk, Slot::B, "second").unwrap();
    assert_eq!(trial.to_string(), "imgbuild-00000002-b+3.efi");
    assert_eq!(entries(&mut disk).unwrap(), [trial, first]);
    assert_eq!(grub_environment(&mut disk).unwrap(), GrubEnvironment { first: Slot::B, trial: Some(3), next: None });
    // Firmware renames nothing else.
    let dates = look(&mut disk, "", |volume| {
        let folder = volume.root_dir().open_dir(UKI_FOLDER)?;
        Ok(folder.iter().map(|entry| entry.unwrap().modified().date).collect::<Vec<_>>())
    });
    assert!(dates.unwrap().iter().all(|date| date.month >= 1 && date.day >= 1));
    assert_eq!(uki(&mut disk, Slot::B), content("second", UKI_LENGTH));

    let good = set_tries(&mut disk, Slot::B, None).unwrap();
    assert_eq!(good.to_string(), "imgbuild-00000002-b.efi");
    assert_eq!(grub_environment(&mut disk).unwrap(), GrubEnvironment { first: Slot::B, trial: None, next: None });
    set_grub_next(&mut disk, Slot::A).unwrap();
    assert_eq!(grub_environment(&mut disk).unwrap().next, Some(Slot::A));

    empty(&mut disk, Slot::A).unwrap();
    assert_eq!(entries(&mut disk).unwrap(), [good]);
    assert_eq!(fill_with(&mut disk, Slot::A, "third").unwrap().to_string(), "imgbuild-00000003-a+3.efi");
    let bad = set_tries(&mut disk, Slot::A, Some(Tries { left: 0, done: 3 })).unwrap();
    assert_eq!(entries(&mut disk).unwrap(), [good, bad]);
    assert_eq!(grub_environment(&mut disk).unwrap(), GrubEnvironment { first: Slot::B, trial: None, next: None });
    assert_eq!(uki(&mut disk, Slot::B), content("second", UKI_LENGTH));
}

#[test]
fn it_never_fills_up() {
    let mut disk = esp();
    let free = |disk: &mut Memory| look(disk, "", |volume| volume.stats().map(|found| found.free_clusters())).unwrap();
    fill_with(&mut disk, Slot::B, "one").unwrap();
    let before = free(&mut disk);
    for round in 0..5 {
        let slot = if round % 2 == 0 { Slot::A } else { Slot::B };
        empty(&mut disk, slot).unwrap();
        fill_with(&mut disk, slot, "more").unwrap();
    }
    // The first slot A was smaller than those that followed.
    let difference = before - free(&mut disk);
    empty(&mut disk, Slot::A).unwrap();
    fill_with(&mut disk, Slot::A, "more").unwrap();
    assert_eq!(before - free(&mut disk), difference);
}

#[test]
fn what_fsck_has_saved_goes_with_the_slot() {
    let mut disk = esp();
    disk.rewind().unwrap();
    {
        let volume = FileSystem::new(&mut disk, options()).unwrap();
        volume.root_dir().create_file("FSCK0000.REC").unwrap().write_all(&[1; 50_000]).unwrap();
    }
    empty(&mut disk, Slot::B).unwrap();
    disk.rewind().unwrap();
    let names = look(&mut disk, "", |volume| names(volume, "")).unwrap();
    assert!(names.contains(&"EFI".to_owned()) && !names.iter().any(|name| name.contains("FSCK")), "{names:?}");
    assert_eq!(entries(&mut disk).unwrap().len(), 1);
}

#[test]
fn what_has_no_room_is_refused_before_it_is_written() {
    let mut disk = esp();
    let wanted = 80 << 20;
    let files = Files {
        uki: (&mut io::repeat(1), wanted),
        kernel: (&mut io::empty(), 0),
        initramfs: (&mut io::empty(), 0),
        command_line: "",
    };
    assert!(matches!(fill(&mut disk, Slot::B, files), Err(Error::Full { .. })));
    assert_eq!(entries(&mut disk).unwrap().len(), 1);
    assert_eq!(grub_environment(&mut disk).unwrap(), GrubEnvironment::FIRST);
}

/// The disk after a power cut: what was synced, and of the rest what chance has let through.
fn after_cut(before: &Memory, log: &[Option<(u64, Sector)>], chance: &mut impl FnMut() -> bool) -> Memory {
    let synced = log.iter().rposition(Option::is_none).map_or(0, |place| place + 1);
    let mut disk = Memory { log: Vec::new(), position: 0, sectors: before.sectors.clone() };
    for (place, write) in log.iter().enumerate() {
        if let Some((number, sector)) = write
            && (place < synced || chance())
        {
            disk.sectors.insert(*number, *sector);
        }
    }
    disk
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_power_cut_leaves_the_slots_that_were_or_that_shall_be(cut in 0.0..1.0f64, seed in any::<u64>()) {
        let before = esp();
        let mut disk = before.clone();
        empty(&mut disk, Slot::B).unwrap();
        fill_with(&mut disk, Slot::B, "second").unwrap();
        set_tries(&mut disk, Slot::B, None).unwrap();
        let length = (cut * disk.log.len() as f64) as usize;
        let mut state = seed | 1;
        let mut chance = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % 2 == 0
        };
        let mut found = after_cut(&before, &disk.log[..length], &mut chance);
        prop_assert_eq!(uki(&mut found, Slot::A), b"uki a");
        let there = entries(&mut found).unwrap();
        prop_assert!(there.iter().any(|entry| entry.slot == Slot::A && entry.tries.is_none()));
        for entry in there.iter().filter(|entry| entry.slot == Slot::B) {
            let mut bytes = Vec::new();
            look(&mut found, "", |volume| volume.root_dir().open_file(&path_of(entry))?.read_to_end(&mut bytes)).unwrap();
            // Without a size the loader passes it over.
            prop_assert!(bytes.is_empty() || bytes == content("second", UKI_LENGTH), "{} bytes", bytes.len());
        }
        let environment = grub_environment(&mut found).unwrap();
        prop_assert!(environment.first == Slot::A || there.iter().any(|entry| entry.slot == Slot::B));

        // And the next attempt goes through.
        empty(&mut found, Slot::B).unwrap();
        fill_with(&mut found, Slot::B, "again").unwrap();
        prop_assert_eq!(uki(&mut found, Slot::B), content("again", UKI_LENGTH));
    }
}
