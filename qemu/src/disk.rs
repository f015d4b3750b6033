//! Image files: sparse copies, growing, overlays.

use crate::machine::Format;
use crate::{Error, Programs, Result};
use rustix::fs::{SeekFrom, ioctl_ficlone, seek};
use rustix::io::Errno;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes copied at a time.
const PIECE: usize = 1024 * 1024;

/// Copies an image, its holes staying holes; shares the blocks where the file system can. The copy
/// appears whole or not at all.
///
/// # Errors
/// [`Error::File`] with the path that could not be read or written.
pub fn copy_sparse(from: &Path, to: &Path) -> Result<()> {
    copy_grown(from, to, 0)
}

/// Like [`copy_sparse`], the copy being at least `size` bytes long (zeroes behind).
pub fn copy_grown(from: &Path, to: &Path, size: u64) -> Result<()> {
    let source = File::open(from).map_err(Error::file(from, "open"))?;
    let length = source.metadata().map_err(Error::file(from, "look at"))?.len();
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let target = tempfile::NamedTempFile::new_in(folder).map_err(Error::file(folder, "write in"))?;
    if ioctl_ficlone(target.as_file(), &source).is_err() {
        copy_data(&source, from, 0..length, target.as_file(), to)?;
    }
    target.as_file().set_len(length.max(size)).map_err(Error::file(to, "set the size of"))?;
    target.persist(to).map_err(|error| Error::File { path: to.into(), action: "replace", source: error.error })?;
    Ok(())
}

/// Copies a range of bytes of an image, a partition for example, to a file of its own, sparse.
///
/// # Errors
/// [`Error::File`]; a range that reaches behind the image's end is zeroes there.
pub fn copy_range(from: &Path, range: Range<u64>, to: &Path) -> Result<()> {
    let source = File::open(from).map_err(Error::file(from, "open"))?;
    let target = File::create(to).map_err(Error::file(to, "create"))?;
    target.set_len(range.end - range.start).map_err(Error::file(to, "set the size of"))?;
    copy_data(&source, from, range, &target, to)
}

/// Copies what SEEK_DATA finds in the range to the start of the target.
fn copy_data(source: &File, from: &Path, range: Range<u64>, target: &File, to: &Path) -> Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut position = range.start;
    while let Some((start, end)) = next_data(source, position).map_err(Error::file(from, "seek in"))? {
        let end = end.min(range.end);
        position = start;
        while position < end {
            let wanted = usize::try_from(end - position).unwrap_or(PIECE).min(PIECE);
            let piece = &mut buffer[..wanted];
            source.read_exact_at(piece, position).map_err(Error::file(from, "read"))?;
            target.write_all_at(piece, position - range.start).map_err(Error::file(to, "write"))?;
            position += wanted as u64;
        }
        if position >= range.end {
            break;
        }
    }
    Ok(())
}

/// Start and end of the next region that is not a hole.
fn next_data(file: &File, position: u64) -> std::io::Result<Option<(u64, u64)>> {
    match seek(file, SeekFrom::Data(position)) {
        Ok(start) => Ok(Some((start, seek(file, SeekFrom::Hole(start))?))),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Makes a qcow2 image whose unwritten parts are `backing`'s; `backing` must not change while it lives.
///
/// # Errors
/// [`Error::Start`] without qemu-img, [`Error::Tool`] with its words.
pub fn overlay(backing: &Path, backing_format: Format, to: &Path, programs: Programs) -> Result<()> {
    let backing = backing.canonicalize().map_err(Error::file(backing, "find"))?;
    let mut command = programs("qemu-img");
    command.args(["create", "-q", "-f", "qcow2", "-F", backing_format.name(), "-b"]).arg(&backing).arg(to);
    let output = command.output().map_err(|source| Error::Start { program: "qemu-img".into(), source })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::Tool { program: "qemu-img create".into(), status: output.status.to_string(), said });
    }
    Ok(())
}

/// Turns over one bit.
///
/// # Errors
/// [`Error::File`], also when the file ends before that byte.
pub fn flip_bit(path: &Path, byte: u64, bit: u8) -> Result<()> {
    let file = File::options().read(true).write(true).open(path).map_err(Error::file(path, "open"))?;
    let mut value = [0];
    file.read_exact_at(&mut value, byte).map_err(Error::file(path, "read"))?;
    value[0] ^= 1 << (bit % 8);
    file.write_all_at(&value, byte).map_err(Error::file(path, "write"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_copy_keeps_bytes_holes_and_grows() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let file = File::create(&from).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"start", 0).unwrap();
        file.write_all_at(&[7; 3000], (40 << 20) + 5).unwrap();
        copy_grown(&from, &to, 96 << 20).unwrap();
        let copy = File::open(&to).unwrap();
        assert_eq!(copy.metadata().unwrap().len(), 96 << 20);
        assert!(copy.metadata().unwrap().blocks() * 512 < 1 << 20, "the copy is not sparse");
        let (mut start, mut middle) = ([0; 6], [0; 3002]);
        copy.read_exact_at(&mut start, 0).unwrap();
        copy.read_exact_at(&mut middle, (40 << 20) + 4).unwrap();
        assert_eq!(&start, b"start\0");
        assert_eq!((middle[0], middle[1], middle[3000], middle[3001]), (0, 7, 7, 0));
    }

    #[test]
    fn a_range_is_copied_to_the_start_of_its_own_file() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let file = File::create(&from).unwrap();
        file.write_all_at(&[1; 10_000], 0).unwrap();
        file.write_all_at(&[2; 10_000], 5 << 20).unwrap();
        file.set_len(8 << 20).unwrap();
        copy_range(&from, 9_999..(5 << 20) + 2, &to).unwrap();
        let bytes = std::fs::read(&to).unwrap();
        assert_eq!(bytes.len(), (5 << 20) + 2 - 9_999);
        assert_eq!((bytes[0], bytes[1]), (1, 0));
        assert_eq!(bytes[bytes.len() - 3..], [0, 2, 2]);
    }

    #[test]
    fn a_smaller_size_does_not_cut_the_copy() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        std::fs::write(&from, [1; 5000]).unwrap();
        copy_grown(&from, &to, 10).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), [1; 5000]);
    }

    #[test]
    fn a_missing_image_is_named_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let error = copy_sparse(Path::new("/nowhere/disk.img"), &folder.path().join("to")).unwrap_err();
        assert!(error.to_string().starts_with("/nowhere/disk.img: cannot open"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn one_bit_turns_over_and_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, [0, 0b1000, 0]).unwrap();
        flip_bit(&path, 1, 3).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [0, 0, 0]);
        flip_bit(&path, 1, 3).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [0, 0b1000, 0]);
        assert!(flip_bit(&path, 3, 0).is_err());
    }
}
