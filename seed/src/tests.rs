//! Writing, reading, and what a power cut at each step leaves.

use super::*;
use std::io::Cursor;

const START: u64 = 12_288;

fn partition() -> Cursor<Vec<u8>> {
    Cursor::new(vec![0; (START + 2 * copy_offset(1)) as usize])
}

fn files(text: &str) -> Files {
    Files::from([
        ("machine.toml".to_owned(), text.as_bytes().to_vec()),
        ("pki/kubernetes.key".to_owned(), vec![7; 300]),
    ])
}

/// A device that records writes and syncs, to be replayed with the unsynced ones in any state.
struct Recorder {
    image: Cursor<Vec<u8>>,
    epochs: Vec<Vec<(u64, Vec<u8>)>>,
}

impl Read for Recorder {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.image.read(buffer)
    }
}

impl Seek for Recorder {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.image.seek(position)
    }
}

impl Write for Recorder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let offset = self.image.position();
        let epoch = self.epochs.last_mut().unwrap();
        // 512-byte sectors are what a disk writes whole.
        for (index, sector) in bytes.chunks(512).enumerate() {
            epoch.push((offset + index as u64 * 512, sector.to_vec()));
        }
        self.image.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sync for Recorder {
    fn sync(&mut self) -> io::Result<()> {
        self.epochs.push(Vec::new());
        Ok(())
    }
}

#[test]
fn the_newest_write_is_read_and_copies_alternate() {
    let mut device = partition();
    assert!(matches!(read(&mut device, START), Err(Error::Empty)));
    for round in 1..6u64 {
        assert_eq!(write(&mut device, START, &files(&format!("round {round}"))).unwrap(), round);
        let seed = read(&mut device, START).unwrap();
        assert_eq!((seed.generation, seed.files), (round, files(&format!("round {round}"))));
        let first = generation(&mut device, START);
        let second = generation(&mut device, START + copy_offset(1));
        assert_eq!(first.max(second), Some(round));
        assert_eq!(first.min(second).unwrap_or(0), round - 1, "the older copy stays");
    }
}

#[test]
fn a_damaged_newest_copy_leaves_the_older_one() {
    let mut device = partition();
    write(&mut device, START, &files("old")).unwrap();
    write(&mut device, START, &files("new")).unwrap();
    let newest = START + if generation(&mut device, START) == Some(2) { 0 } else { copy_offset(1) };
    device.get_mut()[newest as usize + HEADER_SIZE + 700] ^= 1;
    assert_eq!(read(&mut device, START).unwrap().files, files("old"));
    assert_eq!(write(&mut device, START, &files("third")).unwrap(), 2, "the damaged copy is the one replaced");
    assert_eq!(read(&mut device, START).unwrap().files, files("third"));
}

#[test]
fn no_valid_copy_is_said_with_both_reasons() {
    let mut device = partition();
    device.get_mut()[START as usize] = b'X';
    let message = read(&mut device, START).unwrap_err().to_string();
    assert!(message.contains("first copy: starts with `X"), "{message}");
    assert!(message.contains("second copy: empty"), "{message}");
}

#[test]
fn erasing_leaves_only_zeros() {
    let mut device = partition();
    write(&mut device, START, &files("secret")).unwrap();
    write(&mut device, START, &files("secret")).unwrap();
    erase(&mut device, START).unwrap();
    assert!(device.get_ref().iter().all(|byte| *byte == 0));
    assert!(matches!(read(&mut device, START), Err(Error::Empty)));
}

#[test]
fn too_much_is_refused_before_anything_is_written() {
    let mut device = partition();
    write(&mut device, START, &files("kept")).unwrap();
    let huge = Files::from([("huge".to_owned(), vec![1; payload_maximum() as usize])]);
    assert!(matches!(write(&mut device, START, &huge), Err(Error::Encode(Defect::Length(_)))));
    assert_eq!(read(&mut device, START).unwrap().files, files("kept"));
}

/// Every cut between sectors, and for each also every single unsynced sector lost: old or new, never
/// nothing.
#[test]
fn a_power_cut_at_any_sector_leaves_the_old_or_the_new_seed() {
    for generations_before in 1..3 {
        let mut device = partition();
        for _ in 0..generations_before {
            write(&mut device, START, &files("old")).unwrap();
        }
        let before = device.get_ref().clone();
        let mut recorder = Recorder { image: device, epochs: vec![Vec::new()] };
        write(&mut recorder, START, &files("new")).unwrap();
        let mut durable = before;
        for epoch in &recorder.epochs {
            for cut in 0..=epoch.len() {
                for lost in 0..=cut {
                    let mut image = durable.clone();
                    for (index, (offset, sector)) in epoch[..cut].iter().enumerate() {
                        if index != lost || lost == cut {
                            image[*offset as usize..][..sector.len()].copy_from_slice(sector);
                        }
                    }
                    let found = read(&mut Cursor::new(image), START).unwrap().files;
                    assert!(found == files("old") || found == files("new"));
                }
            }
            for (offset, sector) in epoch {
                durable[*offset as usize..][..sector.len()].copy_from_slice(sector);
            }
        }
        assert_eq!(read(&mut Cursor::new(durable), START).unwrap().files, files("new"));
    }
}

#[test]
fn a_file_and_a_missing_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    std::fs::write(&path, partition().into_inner()).unwrap();
    assert_eq!(write_path(&path, START, &files("file")).unwrap(), 1);
    assert_eq!(read_path(&path, START).unwrap().files, files("file"));
    let message = read_path(&folder.path().join("none"), START).unwrap_err().to_string();
    assert!(message.contains("none"), "{message}");
}
