//! The table's first boot, growth, repair, and every power cut.

use super::*;
use proptest::prelude::*;
use std::io::Cursor;

const MIB: u64 = 1024 * 1024;
/// Bytes of a disk with both slots and no state.
const ROOM: u64 = layout::Partition::State.offset() + layout::BACKUP_GPT_RESERVE;

/// Room for the table's arithmetic without gigabytes of memory: reads zeros where nothing was written.
#[derive(Debug, Clone, Default)]
struct Sparse {
    length: u64,
    position: u64,
    sectors: BTreeMap<u64, Vec<u8>>,
}

impl Sparse {
    fn apply(&mut self, write: &SectorWrite) {
        for (index, sector) in write.bytes.chunks(512).enumerate() {
            self.sectors.insert(write.offset / 512 + index as u64, sector.to_vec());
        }
    }
}

impl Read for Sparse {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.length {
            return Ok(0);
        }
        let within = (self.position % 512) as usize;
        let count = buffer.len().min(512 - within);
        match self.sectors.get(&(self.position / 512)) {
            Some(sector) => buffer[..count].copy_from_slice(&sector[within..within + count]),
            None => buffer[..count].fill(0),
        }
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for Sparse {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = match to {
            SeekFrom::Start(offset) => offset,
            SeekFrom::End(offset) => self.length.checked_add_signed(offset).unwrap(),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset).unwrap(),
        };
        Ok(self.position)
    }
}

/// A disk of `length` bytes with the image as the builder makes it, backup at the image's end.
fn burned(length: u64) -> Sparse {
    let sector = LogicalBlockSize::Lb512;
    let mut partitions = BTreeMap::new();
    for kind in layout::Partition::ALL {
        if matches!(kind, layout::Partition::RootB | layout::Partition::State) {
            continue;
        }
        let (first, size) = (kind.offset() / 512, kind.size().unwrap() / 512);
        partitions.insert(kind.number(), entry(kind, kind.image_guid(), first, first + size - 1));
    }
    let table =
        Table { disk_guid: layout::IMAGE_DISK_GUID, partitions, sector, primary_broken: false, backup_in_place: true };
    let mut image = Sparse { length: layout::image_size(), ..Sparse::default() };
    let epochs = plan_write(&mut image, &table).unwrap();
    for write in epochs.iter().flatten() {
        image.apply(write);
    }
    let mut boot_record = vec![0; 512];
    (boot_record[0], boot_record[450], boot_record[510], boot_record[511]) = (0xeb, 0xee, 0x55, 0xaa);
    image.sectors.insert(0, boot_record);
    image.length = length;
    image
}

fn names(table: &Table) -> Vec<(u32, String)> {
    table.partitions.iter().map(|(number, partition)| (*number, partition.name.clone())).collect()
}

fn first_boot(disk: &mut Sparse) -> (Table, Table, Epochs) {
    let before = read(disk, LogicalBlockSize::Lb512).unwrap();
    let mut drawn = 0;
    let wanted = complete(&before, disk.length, || {
        drawn += 1;
        Uuid::from_u128(drawn)
    })
    .unwrap();
    let epochs = plan_write(disk, &wanted).unwrap();
    (before, wanted, epochs)
}

#[test]
fn the_first_boot_makes_root_b_and_state_with_their_numbers() {
    let mut disk = burned(ROOM + 4096 * MIB);
    let (before, wanted, epochs) = first_boot(&mut disk);
    assert!(!before.backup_in_place && !before.primary_broken);
    epochs.iter().flatten().for_each(|write| disk.apply(write));
    let after = read(&mut disk, LogicalBlockSize::Lb512).unwrap();
    assert_eq!(after, wanted);
    let wanted: Vec<(u32, String)> =
        layout::Partition::ALL.iter().map(|kind| (kind.number(), kind.label().to_owned())).collect();
    assert_eq!(names(&after), wanted);
    assert_eq!(after.partitions[&4].first_lba * 512, layout::Partition::RootB.offset());
    assert_eq!(after.partitions[&6].first_lba * 512, layout::Partition::State.offset());
    assert_eq!((after.partitions[&6].last_lba + 1) * 512, disk.length - layout::BACKUP_GPT_RESERVE);
    let record = &disk.sectors[&0];
    assert_eq!(
        (record[0], u32::from_le_bytes(record[458..462].try_into().unwrap())),
        (0xeb, (disk.length / 512 - 1) as u32)
    );
}

#[test]
fn a_disk_gets_what_it_has_room_for() {
    let made = |length| {
        let wanted = first_boot(&mut burned(length)).1;
        (wanted.partitions.contains_key(&4), wanted.partitions.contains_key(&6))
    };
    assert_eq!(made(layout::image_size()), (false, false));
    assert_eq!(made(ROOM - 1), (false, false));
    assert_eq!(made(ROOM), (true, false));
    assert_eq!(made(ROOM + layout::STATE_MINIMUM), (true, true));
}

#[test]
fn a_grown_disk_grows_the_state_and_nothing_else() {
    let mut disk = burned(ROOM + 2048 * MIB);
    let (_, first, epochs) = first_boot(&mut disk);
    epochs.iter().flatten().for_each(|write| disk.apply(write));
    disk.length += 1024 * MIB;
    let (_, second, epochs) = first_boot(&mut disk);
    assert_eq!(second.partitions[&6].last_lba - first.partitions[&6].last_lba, 1024 * MIB / 512);
    assert_eq!(second.partitions[&6].part_guid, first.partitions[&6].part_guid);
    epochs.iter().flatten().for_each(|write| disk.apply(write));
    assert_eq!(read(&mut disk, LogicalBlockSize::Lb512).unwrap(), second);
    let third = first_boot(&mut disk);
    assert_eq!(third.0, third.1, "nothing left to change");
}

#[test]
fn a_foreign_entry_is_refused_by_name() {
    let mut disk = burned(ROOM + 2048 * MIB);
    let mut table = read(&mut disk, LogicalBlockSize::Lb512).unwrap();
    table.partitions.get_mut(&5).unwrap().name = "windows".into();
    let message = complete(&table, disk.length, Uuid::nil).unwrap_err().to_string();
    assert!(message.contains("windows") && message.contains("seed"), "{message}");
}

#[test]
fn a_broken_primary_is_read_from_the_backup() {
    let mut disk = burned(ROOM + 2048 * MIB);
    let (_, wanted, epochs) = first_boot(&mut disk);
    epochs.iter().flatten().for_each(|write| disk.apply(write));
    for broken in [1, 2] {
        let mut damaged = disk.clone();
        damaged.sectors.get_mut(&broken).unwrap()[60] ^= 1;
        let found = read(&mut damaged, LogicalBlockSize::Lb512).unwrap();
        assert!(found.primary_broken, "sector {broken}");
        assert_eq!(found.partitions, wanted.partitions);
    }
}

#[test]
fn no_table_says_so() {
    let mut disk = Cursor::new(vec![0u8; 1 << 20]);
    assert!(matches!(read(&mut disk, LogicalBlockSize::Lb512), Err(TableError::None { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Of the epoch in which the power fails any subset of sectors may have reached the disk; earlier
    /// epochs are there as a whole. The table is then the old or the new one, and the next boot mends it.
    #[test]
    fn a_power_cut_leaves_the_old_or_the_new_table(broken_epoch in 0usize..4, kept in proptest::collection::vec(any::<bool>(), 80)) {
        let mut disk = burned(ROOM + 2048 * MIB);
        let (before, wanted, epochs) = first_boot(&mut disk);
        for (number, epoch) in epochs.iter().enumerate() {
            for (index, write) in epoch.iter().enumerate() {
                if number < broken_epoch || (number == broken_epoch && kept[index % kept.len()]) {
                    disk.apply(write);
                }
            }
        }
        let found = read(&mut disk, LogicalBlockSize::Lb512).unwrap();
        prop_assert!(found.partitions == before.partitions || found.partitions == wanted.partitions);
        let (_, mended, epochs) = first_boot(&mut disk);
        epochs.iter().flatten().for_each(|write| disk.apply(write));
        let found = read(&mut disk, LogicalBlockSize::Lb512).unwrap();
        prop_assert_eq!(&found, &mended);
        prop_assert!(!found.primary_broken && found.backup_in_place);
    }

    #[test]
    fn foreign_sectors_never_panic(head in proptest::collection::vec(any::<u8>(), 2048)) {
        let mut bytes = vec![0u8; 1 << 20];
        bytes[512..2560].copy_from_slice(&head);
        bytes[512..520].copy_from_slice(b"EFI PART");
        let _ = read(&mut Cursor::new(bytes), LogicalBlockSize::Lb512);
    }
}

/// Firmware finds no ESP until everything lies there; then the first boot adds the rest, as on a stick.
#[test]
fn a_disk_that_is_installed_to_has_the_images_places_and_no_esp_until_the_end() {
    for sector in [LogicalBlockSize::Lb512, LogicalBlockSize::Lb4096] {
        let mut next = 0u128;
        let draw = || {
            next += 1;
            Uuid::from_u128(next)
        };
        let unfinished = being_installed(sector, draw);
        assert!(is_being_installed(&unfinished));
        let esp_type = gpt::partition_types::Type::from(layout::Partition::Esp.type_guid());
        assert!(unfinished.partitions.values().all(|partition| partition.part_type_guid != esp_type));
        let finished = finished(&unfinished);
        assert!(!is_being_installed(&finished));
        assert_eq!(finished.partitions.contains_key(&1), sector == LogicalBlockSize::Lb512);
        let length = 16 << 30;
        let whole = complete(&finished, length, || Uuid::from_u128(99)).unwrap();
        for kind in
            layout::Partition::ALL.into_iter().filter(|kind| finished.partitions.contains_key(&1) || kind.number() > 1)
        {
            assert_eq!(whole.partitions[&kind.number()].first_lba * sector.as_u64(), kind.offset(), "{kind:?}");
        }
    }
}
