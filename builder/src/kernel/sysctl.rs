//! Which sysctls a kernel knows, read out of the kernel itself before it ever boots.
//!
//! Every sysctl is an entry of a table (`struct ctl_table`): a pointer to its name, a pointer to its
//! data, the data's length, its mode. In vmlinux the pointers are link-time addresses; in a module
//! they are relocations. An entry whose mode makes sense counts, so a mere word in some message does not. The
//! folder is checked by the texts of the paths; a name moved to another top folder is not noticed here
//! (init reads every key back).

use super::{Error, Selection};
use object::read::elf::{ElfFile64, ProgramHeader};
use object::{LittleEndian, Object, ObjectSection, ObjectSymbol, RelocationTarget};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Offset of `mode` (16 bits) within an entry: two pointers and an int come before it.
const MODE_OFFSET: usize = 20;
/// Offset of `maxlen` (32 bits).
const LENGTH_OFFSET: usize = 16;
const NAME_MAXIMUM: usize = 64;
/// Folders of /proc/sys that exist without a path of more than one part naming them.
const TOP_FOLDERS: [&str; 8] = ["abi", "crypto", "debug", "dev", "fs", "kernel", "net", "user"];
const MEMORY_FOLDER: &str = "vm";

/// Where a sysctl comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// The kernel itself.
    Kernel,
    /// This module of the selection (which must be loaded before the key exists).
    Module(String),
    No,
}

/// The sysctls of a kernel and of the modules of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SysctlNames {
    kernel: Part,
    modules: BTreeMap<String, Part>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    /// Last parts of keys.
    names: BTreeSet<String>,
    /// Folders as the source writes them, `net/ipv4/conf/%s`.
    folders: BTreeSet<String>,
}

impl SysctlNames {
    /// Reads the uncompressed kernel (see [`super::bzimage::decompress`]) and the modules.
    ///
    /// # Errors
    /// [`Error::BzImage`] or [`Error::Module`] when one of them is not the ELF file it should be.
    pub fn read(vmlinux: &[u8], selection: &Selection) -> Result<SysctlNames, Error> {
        let kernel = read_kernel(vmlinux).map_err(Error::BzImage)?;
        let mut modules = BTreeMap::new();
        for module in selection.modules.values() {
            let refuse = |error: object::Error| Error::Module { path: module.path.clone(), reason: error.to_string() };
            let part = read_module(&module.content).map_err(refuse)?;
            if !part.names.is_empty() {
                modules.insert(module.name.clone(), part);
            }
        }
        Ok(SysctlNames { kernel, modules })
    }

    /// Who brings the dotted `key` (`net.ipv4.conf.all.rp_filter`; `/` for `.` is fine too).
    pub fn lookup(&self, key: &str) -> Known {
        let parts: Vec<&str> = key.split(['.', '/']).collect();
        let Some((name, folder)) = parts.split_last() else { return Known::No };
        if self.kernel.has(name) && self.has_folder(folder, None) {
            return Known::Kernel;
        }
        let module = self.modules.iter().find(|(_, part)| part.has(name) && self.has_folder(folder, Some(part)));
        module.map_or(Known::No, |(module, _)| Known::Module(module.clone()))
    }

    /// Whether the kernel or a module brings `key`.
    pub fn knows(&self, key: &str) -> bool {
        self.lookup(key) != Known::No
    }

    /// A folder counts when the kernel or the module that has the key writes it, some parts possibly as `%s`.
    fn has_folder(&self, folder: &[&str], part: Option<&Part>) -> bool {
        let Some((top, below)) = folder.split_first() else { return false };
        if below.is_empty() && (TOP_FOLDERS.contains(top) || *top == MEMORY_FOLDER) {
            return true;
        }
        // More than six parts below the top would be no sysctl, and 2^n spellings.
        below.len() <= 6
            && (0..1u32 << below.len()).any(|mask| {
                let spelling = below.iter().enumerate().fold((*top).to_owned(), |text, (place, part)| {
                    text + "/" + if mask & (1 << place) == 0 { part } else { "%s" }
                });
                self.kernel.folders.contains(&spelling) || part.is_some_and(|part| part.folders.contains(&spelling))
            })
    }
}

impl Part {
    fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Adds every folder that is spelled in `data` as the end of a text: linkers keep one text for two
    /// when one ends like the other.
    fn add_folders(&mut self, data: &[u8]) {
        for text in data.split(|byte| *byte == 0) {
            let text = &text[text.len().saturating_sub(NAME_MAXIMUM)..];
            if !text.contains(&b'/') {
                continue;
            }
            let start =
                text.iter().rposition(|byte| !is_name(*byte) && !b"/%.".contains(byte)).map_or(0, |place| place + 1);
            let Ok(text) = std::str::from_utf8(&text[start..]) else { continue };
            let parts = text.match_indices('/').map(|(place, _)| place + 1);
            for start in std::iter::once(0).chain(parts) {
                let folder = &text[start..];
                // A text may end like a folder's name within a part: "foonet/ipv4" serves "net/ipv4".
                if let Some(top) = TOP_FOLDERS.iter().find(|top| first_part(folder).ends_with(**top)) {
                    let cut = first_part(folder).len() - top.len();
                    self.folders.insert(folder[cut..].to_owned());
                }
            }
        }
    }
}

fn first_part(path: &str) -> &str {
    path.split('/').next().unwrap_or(path)
}

/// A loaded stretch of the kernel: where it is in memory and its bytes.
struct Segment<'a> {
    address: u64,
    data: &'a [u8],
}

fn read_kernel(vmlinux: &[u8]) -> Result<Part, String> {
    let elf = ElfFile64::<LittleEndian>::parse(vmlinux).map_err(|error| error.to_string())?;
    let endian = elf.endian();
    let mut segments = Vec::new();
    for header in elf.elf_program_headers() {
        if header.p_type(endian) == object::elf::PT_LOAD {
            let data = header.data(endian, vmlinux).map_err(|()| "a segment lies outside the file".to_owned())?;
            segments.push(Segment { address: header.p_vaddr(endian), data });
        }
    }
    let mut part = Part::default();
    for segment in &segments {
        part.add_folders(segment.data);
        // Tables are aligned to eight bytes.
        for (place, word) in segment.data.chunks_exact(8).enumerate() {
            let Ok(word) = word.try_into() else { continue };
            if !is_entry(&segment.data[place * 8..]) {
                continue;
            }
            if let Some(name) = text_at(&segments, u64::from_le_bytes(word)) {
                part.names.insert(name);
            }
        }
    }
    if part.names.is_empty() {
        return Err("it has no sysctl table that this program can read".into());
    }
    Ok(part)
}

fn text_at(segments: &[Segment], address: u64) -> Option<String> {
    let segment = segments.iter().find(|segment| {
        address.checked_sub(segment.address).is_some_and(|offset| offset < segment.data.len() as u64)
    })?;
    name_in(segment.data.get((address - segment.address) as usize..)?)
}

fn read_module(module: &[u8]) -> Result<Part, object::Error> {
    let elf = object::File::parse(module)?;
    let mut part = Part::default();
    for section in elf.sections() {
        // Tables and texts are data; code has most of a module's relocations.
        if !section.name().is_ok_and(|name| name.starts_with(".rodata") || name.starts_with(".data")) {
            continue;
        }
        let data = section.data()?;
        part.add_folders(data);
        for (offset, relocation) in section.relocations() {
            // A pointer: 64 bits, absolute.
            let is_pointer = relocation.size() == 64 && relocation.kind() == object::RelocationKind::Absolute;
            let entry = usize::try_from(offset).ok().and_then(|offset| data.get(offset..));
            if !is_pointer || !entry.is_some_and(is_entry) {
                continue;
            }
            let RelocationTarget::Symbol(symbol) = relocation.target() else { continue };
            let Ok(symbol) = elf.symbol_by_index(symbol) else { continue };
            let Some(target) = symbol.section_index().and_then(|index| elf.section_by_index(index).ok()) else {
                continue;
            };
            let place = symbol.address().wrapping_add_signed(relocation.addend());
            let text = usize::try_from(place).ok().and_then(|place| target.data().ok()?.get(place..));
            part.names.extend(text.and_then(name_in));
        }
    }
    Ok(part)
}

/// Whether what stands here can be a table's entry: a mode that its owner may read or write, and a
/// length that a setting can have.
fn is_entry(bytes: &[u8]) -> bool {
    let (Some(length), Some(mode)) = (bytes.get(LENGTH_OFFSET..MODE_OFFSET), bytes.get(MODE_OFFSET..MODE_OFFSET + 2))
    else {
        return false;
    };
    let length = length.iter().rev().fold(0u32, |number, byte| number << 8 | u32::from(*byte));
    let mode = u16::from_le_bytes([mode[0], mode[1]]);
    // Padding behind the mode is zero in every static table.
    let padding = bytes.get(MODE_OFFSET + 2..MODE_OFFSET + 4) == Some(&[0, 0]);
    padding && length <= 1 << 20 && mode & !0o777 == 0 && mode & 0o600 != 0 && mode & 0o111 == 0
}

/// The NUL-terminated name at the start of `bytes`.
fn name_in(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().take(NAME_MAXIMUM).position(|byte| *byte == 0).filter(|end| *end > 0)?;
    let name = &bytes[..end];
    name.iter().all(|byte| is_name(*byte)).then(|| String::from_utf8_lossy(name).into_owned())
}

const fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(kernel: (&[&str], &[&str]), module: (&[&str], &[&str])) -> SysctlNames {
        let part = |(names, folders): (&[&str], &[&str])| Part {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            folders: folders.iter().map(|folder| (*folder).to_owned()).collect(),
        };
        SysctlNames { kernel: part(kernel), modules: BTreeMap::from([("nf_conntrack".to_owned(), part(module))]) }
    }

    #[test]
    fn a_key_needs_its_name_and_its_folder() {
        let names = names(
            (&["rp_filter", "swappiness"], &["net/ipv4", "net/ipv4/conf/%s", "net/netfilter"]),
            (&["nf_conntrack_max"], &[]),
        );
        assert_eq!(names.lookup("net.ipv4.conf.all.rp_filter"), Known::Kernel);
        assert_eq!(names.lookup("net/ipv4/conf/bond0.7/rp_filter"), Known::No, "a dot in a name is not supported");
        assert_eq!(names.lookup("vm.swappiness"), Known::Kernel);
        assert_eq!(names.lookup("net.netfilter.nf_conntrack_max"), Known::Module("nf_conntrack".into()));
        assert_eq!(names.lookup("net.ipv4.netfilter.nf_conntrack_max"), Known::No);
        assert_eq!(names.lookup("vm.swapiness"), Known::No);
        assert_eq!(names.lookup("swappiness"), Known::No);
    }

    #[test]
    fn an_entry_is_told_from_other_data_by_its_mode() {
        let mut entry = [0u8; 24];
        entry[16] = 4;
        entry[20..22].copy_from_slice(&0o644u16.to_le_bytes());
        assert!(is_entry(&entry));
        entry[20..22].copy_from_slice(&0o755u16.to_le_bytes());
        assert!(!is_entry(&entry));
        assert!(!is_entry(&entry[..20]));
    }

    #[test]
    fn a_folder_is_found_at_the_end_of_a_longer_text() {
        let mut part = Part::default();
        part.add_folders(b"x\0/proc/sys/net/ipv4\0net/%s/neigh/%s\0no folder\0");
        assert!(part.folders.contains("net/ipv4") && part.folders.contains("net/%s/neigh/%s"));
    }
}
