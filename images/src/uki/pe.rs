//! PE32+ as far as a UKI needs it: find the headers, replace a section's content, add sections.
//! Field offsets are those of Microsoft's PE format, "COFF File Header" and "Optional Header".

use super::UkiError;

const COFF_HEADER: usize = 20;
const SECTION_HEADER: usize = 40;
const PE32_PLUS: u16 = 0x20b;
const MACHINE_X86_64: u16 = 0x8664;
const NX_COMPATIBLE: u16 = 0x0100;

// Offsets in the optional header.
const SIZE_OF_INITIALIZED_DATA: usize = 8;
const SECTION_ALIGNMENT: usize = 32;
const FILE_ALIGNMENT: usize = 36;
const SIZE_OF_IMAGE: usize = 56;
const SIZE_OF_HEADERS: usize = 60;
const CHECK_SUM: usize = 64;
const DLL_CHARACTERISTICS: usize = 70;
const SECURITY_DIRECTORY: usize = 112 + 4 * 8;
const OPTIONAL_HEADER_MINIMUM: usize = SECURITY_DIRECTORY + 8;

/// A section to add.
pub(super) struct NewSection {
    pub name: &'static str,
    pub content: Vec<u8>,
    /// Bytes in memory; at least the content's length.
    pub virtual_size: u32,
    pub characteristics: u32,
}

/// A section as it is in a file.
pub(super) struct Section {
    pub name: String,
    pub virtual_size: u32,
    pub content: Vec<u8>,
    header: usize,
    address: u32,
    raw_size: u32,
    pub raw_offset: u32,
}

/// A PE32+ program for x86-64 whose headers have been checked to lie within the file.
pub(super) struct Executable {
    bytes: Vec<u8>,
    coff: usize,
    optional: usize,
    table: usize,
    count: usize,
}

impl Executable {
    pub fn parse(what: &'static str, bytes: &[u8]) -> Result<Self, UkiError> {
        let not = |reason: &str| UkiError::NotAProgram { what, reason: reason.to_owned() };
        let short = || not("it is cut short");
        if !bytes.starts_with(b"MZ") {
            return Err(not("it does not begin with `MZ`"));
        }
        let signature = read_u32(bytes, 0x3c).ok_or_else(short)? as usize;
        if bytes.get(signature..signature.saturating_add(4)) != Some(b"PE\0\0") {
            return Err(not("no `PE` header where byte 0x3c says"));
        }
        let coff = signature + 4;
        let optional = coff + COFF_HEADER;
        let count = usize::from(read_u16(bytes, coff + 2).ok_or_else(short)?);
        let optional_size = usize::from(read_u16(bytes, coff + 16).ok_or_else(short)?);
        let table = optional + optional_size;
        if read_u16(bytes, coff) != Some(MACHINE_X86_64) {
            return Err(not("it is not for x86-64"));
        }
        if read_u16(bytes, optional) != Some(PE32_PLUS) || optional_size < OPTIONAL_HEADER_MINIMUM {
            return Err(not("its optional header is not that of PE32+"));
        }
        if bytes.len() < table + count * SECTION_HEADER {
            return Err(short());
        }
        let program = Executable { bytes: bytes.to_vec(), coff, optional, table, count };
        program.check(what)?;
        Ok(program)
    }

    /// Alignments are powers of two and every section's data lies within the file.
    fn check(&self, what: &'static str) -> Result<(), UkiError> {
        let not = |reason: String| UkiError::NotAProgram { what, reason };
        for (name, alignment) in [("file", self.u32(FILE_ALIGNMENT)), ("section", self.u32(SECTION_ALIGNMENT))] {
            if !alignment.is_power_of_two() || alignment > 1 << 21 {
                return Err(not(format!("its {name} alignment is {alignment}")));
            }
        }
        for index in 0..self.count {
            let header = self.table + index * SECTION_HEADER;
            let end = u64::from(self.at(header + 16)) + u64::from(self.at(header + 20));
            if end > self.bytes.len() as u64 {
                return Err(not(format!("its section {} runs over the end of the file", index + 1)));
            }
        }
        Ok(())
    }

    pub fn is_signed(&self) -> bool {
        self.u32(SECURITY_DIRECTORY) != 0 || self.u32(SECURITY_DIRECTORY + 4) != 0
    }

    pub fn size_of_image(&self) -> u32 {
        self.u32(SIZE_OF_IMAGE)
    }

    pub fn is_nx_compatible(&self) -> bool {
        self.dll_characteristics() & NX_COMPATIBLE != 0
    }

    pub fn clear_nx_compatible(&mut self) {
        let cleared = self.dll_characteristics() & !NX_COMPATIBLE;
        let place = self.optional + DLL_CHARACTERISTICS;
        self.bytes[place..place + 2].copy_from_slice(&cleared.to_le_bytes());
    }

    pub fn sections(&self) -> impl Iterator<Item = Section> {
        (0..self.count).map(|index| self.section(self.table + index * SECTION_HEADER))
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Puts `content` in the place of an existing section's, which must have room in the file.
    pub fn replace_section(&mut self, name: &'static str, content: &[u8]) -> Result<(), UkiError> {
        let Some(section) = self.sections().find(|section| section.name == name) else {
            let characteristics = super::SECTION_DATA;
            let virtual_size = content.len() as u32;
            return self.add_sections(&[NewSection { name, content: content.to_vec(), virtual_size, characteristics }]);
        };
        let room = section.raw_size as usize;
        if content.len() > room {
            return Err(UkiError::TooLarge { section: name, size: content.len(), room });
        }
        let start = section.raw_offset as usize;
        self.bytes[start..start + room].fill(0);
        self.bytes[start..start + content.len()].copy_from_slice(content);
        self.put(section.header + 8, content.len() as u32);
        Ok(())
    }

    /// Adds sections behind the last one, in the file and in memory, and mends the headers.
    pub fn add_sections(&mut self, sections: &[NewSection]) -> Result<(), UkiError> {
        self.make_header_room(sections.len())?;
        for section in sections {
            if self.sections().any(|present| present.name == section.name) {
                return Err(UkiError::SectionExists(section.name));
            }
            self.add_section(section)?;
        }
        self.put(self.optional + CHECK_SUM, 0);
        Ok(())
    }

    /// The headers' size may be rounded up to the file alignment: the first section's data begins at
    /// a multiple of it, so the bytes before that are free.
    fn make_header_room(&mut self, wanted: usize) -> Result<(), UkiError> {
        let rounded = self.u32(SIZE_OF_HEADERS).next_multiple_of(self.u32(FILE_ALIGNMENT));
        let first_data = self.sections().filter(|section| section.raw_size > 0).map(|section| section.raw_offset).min();
        let limit = first_data.map_or(rounded, |first| first.min(rounded)) as usize;
        let used = self.table + self.count * SECTION_HEADER;
        let room = limit.saturating_sub(used) / SECTION_HEADER;
        if room < wanted {
            return Err(UkiError::NoHeaderRoom { wanted, room });
        }
        self.bytes[used..used + wanted * SECTION_HEADER].fill(0);
        self.put(self.optional + SIZE_OF_HEADERS, rounded);
        Ok(())
    }

    fn add_section(&mut self, section: &NewSection) -> Result<(), UkiError> {
        let too_large =
            |room: u32| UkiError::TooLarge { section: section.name, size: section.content.len(), room: room as usize };
        let file_alignment = self.u32(FILE_ALIGNMENT) as usize;
        let section_alignment = self.u32(SECTION_ALIGNMENT);
        let end =
            self.sections().map(|present| present.address.saturating_add(present.virtual_size)).max().unwrap_or(0);
        let address = end.checked_next_multiple_of(section_alignment).ok_or_else(|| too_large(0))?;
        let virtual_size =
            section.virtual_size.max(u32::try_from(section.content.len()).map_err(|_| too_large(u32::MAX))?);
        let image_end =
            address.checked_add(virtual_size).and_then(|end| end.checked_next_multiple_of(section_alignment));
        let image_end = image_end.ok_or_else(|| too_large(u32::MAX - address))?;

        self.bytes.resize(self.bytes.len().next_multiple_of(file_alignment), 0);
        let raw_offset = u32::try_from(self.bytes.len()).map_err(|_| too_large(0))?;
        self.bytes.extend_from_slice(&section.content);
        self.bytes.resize(self.bytes.len().next_multiple_of(file_alignment), 0);
        let raw_end = u32::try_from(self.bytes.len()).map_err(|_| too_large(u32::MAX - raw_offset))?;

        let header = self.table + self.count * SECTION_HEADER;
        self.bytes[header..header + section.name.len()].copy_from_slice(section.name.as_bytes());
        self.put(header + 8, virtual_size);
        self.put(header + 12, address);
        self.put(header + 16, raw_end - raw_offset);
        self.put(header + 20, raw_offset);
        self.put(header + 36, section.characteristics);
        self.count += 1;
        let count = (self.count as u16).to_le_bytes();
        self.bytes[self.coff + 2..self.coff + 4].copy_from_slice(&count);
        let data = self.u32(SIZE_OF_INITIALIZED_DATA).saturating_add(raw_end - raw_offset);
        self.put(self.optional + SIZE_OF_INITIALIZED_DATA, data);
        self.put(self.optional + SIZE_OF_IMAGE, image_end);
        Ok(())
    }

    fn section(&self, header: usize) -> Section {
        let name = &self.bytes[header..header + 8];
        let (virtual_size, raw_size, raw_offset) = (self.at(header + 8), self.at(header + 16), self.at(header + 20));
        let length = virtual_size.min(raw_size) as usize;
        Section {
            name: String::from_utf8_lossy(name).trim_end_matches('\0').to_owned(),
            virtual_size,
            content: self.bytes[raw_offset as usize..][..length].to_vec(),
            header,
            address: self.at(header + 12),
            raw_size,
            raw_offset,
        }
    }

    fn dll_characteristics(&self) -> u16 {
        read_u16(&self.bytes, self.optional + DLL_CHARACTERISTICS).unwrap_or(0)
    }

    /// A field of the optional header.
    fn u32(&self, offset: usize) -> u32 {
        self.at(self.optional + offset)
    }

    /// A field within the headers, whose extent [`Executable::parse`] has checked.
    fn at(&self, offset: usize) -> u32 {
        read_u32(&self.bytes, offset).unwrap_or(0)
    }

    fn put(&mut self, offset: usize, value: u32) {
        self.bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }
}

fn read_u16(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..)?.first_chunk().map(|chunk| u16::from_le_bytes(*chunk))
}

fn read_u32(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk))
}
