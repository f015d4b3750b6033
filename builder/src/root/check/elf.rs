//! What an ELF file needs to run, read without loading the whole of it.

use ::images::tree::Content;
use object::read::elf::{Dyn, ElfFile64, ProgramHeader};
use object::{LittleEndian, ReadCache};
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};

const MAGIC: &[u8; 4] = b"\x7fELF";

/// Needs of a program or library.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    pub interpreter: Option<String>,
    /// Names of libraries (DT_NEEDED).
    pub libraries: Vec<String>,
    /// Folders that it wants searched first (DT_RUNPATH, DT_RPATH), possibly with `$ORIGIN`.
    pub search: Vec<String>,
}

/// `None` for what is no ELF file for this machine, or one that the loader does not run (an object file).
pub(super) fn read(content: &Content) -> io::Result<Option<Needs>> {
    let mut magic = Vec::new();
    content.reader()?.take(MAGIC.len() as u64).read_to_end(&mut magic)?;
    if magic != MAGIC {
        return Ok(None);
    }
    match content {
        Content::Memory(bytes) => Ok(parse(Cursor::new(bytes.clone()))),
        Content::Disk { path, offset, length } => {
            let file = File::open(path)?;
            Ok(parse(Stretch { file, offset: *offset, length: *length, position: 0 }))
        }
    }
}

fn parse(reader: impl Read + Seek) -> Option<Needs> {
    let cache = ReadCache::new(reader);
    let elf = ElfFile64::<LittleEndian, _>::parse(&cache).ok()?;
    let endian = elf.endian();
    let headers = elf.elf_program_headers();
    let mut needs = Needs::default();
    for header in headers {
        if let Ok(Some(interpreter)) = header.interpreter(endian, &cache) {
            needs.interpreter = Some(String::from_utf8_lossy(interpreter).into_owned());
        }
    }
    let entries = headers.iter().find_map(|header| header.dynamic(endian, &cache).ok().flatten());
    let entries: Vec<(object::elf::DynamicTag, u64)> =
        entries.into_iter().flatten().map(|entry| (entry.tag(endian), entry.val(endian))).collect();
    let strings = entries.iter().find(|(tag, _)| *tag == object::elf::DT_STRTAB).map(|(_, address)| *address)?;
    let offset = headers.iter().find_map(|header| {
        let start = header.p_vaddr(endian);
        let inside = header.p_type(endian) == object::elf::PT_LOAD
            && (start..start + header.p_filesz(endian)).contains(&strings);
        inside.then(|| strings - start + header.p_offset(endian))
    })?;
    let text = |place: u64| {
        let bytes = object::ReadRef::read_bytes_at_until(&cache, offset + place..offset + place + 4096, 0).ok()?;
        Some(String::from_utf8_lossy(bytes).into_owned())
    };
    for (tag, value) in entries {
        if tag == object::elf::DT_NEEDED {
            needs.libraries.extend(text(value));
        } else if tag == object::elf::DT_RUNPATH || tag == object::elf::DT_RPATH {
            needs.search.extend(text(value).iter().flat_map(|list| list.split(':')).map(str::to_owned));
        }
    }
    Some(needs)
}

/// A part of a file as if it were the whole.
struct Stretch {
    file: File,
    offset: u64,
    length: u64,
    position: u64,
}

impl Read for Stretch {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.length.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        self.file.seek(SeekFrom::Start(self.offset + self.position))?;
        let count = self.file.read(&mut buffer[..wanted])?;
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for Stretch {
    fn seek(&mut self, target: SeekFrom) -> io::Result<u64> {
        let position = match target {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(distance) => self.length.checked_add_signed(distance),
            SeekFrom::Current(distance) => self.position.checked_add_signed(distance),
        };
        self.position = position.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_tells_its_needs_from_disk_and_from_memory() {
        let own = std::env::current_exe().unwrap();
        let from_disk = read(&Content::of_file(&own).unwrap()).unwrap().unwrap();
        assert!(from_disk.interpreter.as_deref().is_some_and(|path| path.contains("ld-linux")), "{from_disk:?}");
        assert!(from_disk.libraries.iter().any(|name| name == "libc.so.6"), "{from_disk:?}");
        let in_memory = read(&Content::from(std::fs::read(&own).unwrap())).unwrap().unwrap();
        assert_eq!(in_memory, from_disk);
    }

    #[test]
    fn other_files_have_no_needs() {
        assert_eq!(read(&Content::from("#!/bin/sh")).unwrap(), None);
        assert_eq!(read(&Content::from("")).unwrap(), None);
        assert_eq!(read(&Content::from(&b"\x7fELFrubbish"[..])).unwrap(), None);
    }
}
