//! A .deb, deb(5): an ar archive of `debian-binary`, `control.tar.*` and `data.tar.*`. The data archive is
//! decompressed once into the cache; a tree then refers to stretches of that file, so that unpacking a
//! cached package reads its headers only. No root, no maintainer scripts.

use super::Error;
use super::control::paragraphs;
use crate::cache::{Cache, Digest, io_error};
use images::tree::{Content, Kind, Node, Tree, path};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Take};
use std::path::Path;
use std::sync::Arc;
use tar::EntryType;

const AR_MAGIC: &[u8; 8] = b"!<arch>\n";
/// Bytes of a member's header in an ar archive.
const AR_HEADER: usize = 60;
/// Changes when the layout of the cached entries does.
const CACHE_FORMAT: &[u8] = b"deb-data-1";
/// No control file is larger.
const CONTROL_MAXIMUM: u64 = 16 << 20;

/// What a package says about itself, for the SBOM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    pub name: String,
    pub version: String,
    pub architecture: String,
    /// Source package and its version.
    pub source: String,
    pub source_version: String,
    pub section: String,
    pub maintainer: String,
    pub homepage: Option<String>,
    /// First line of the description.
    pub summary: String,
}

/// A package's files and what it says about itself.
#[derive(Debug, Clone)]
pub struct Unpacked {
    pub control: Control,
    pub tree: Tree,
}

/// Unpacks a .deb of the cache. Its files' contents stay in the cache's copy of the data archive.
///
/// # Errors
/// Not a .deb, a compression that is unknown, damage, or a member that would lead out of the root, by name.
pub fn unpack(cache: &Cache, deb: &Path, digest: &Digest, package: &str) -> Result<Unpacked, Error> {
    let control = read_control(deb, package)?;
    let key = Digest::of_parts([CACHE_FORMAT, &digest.0[..]]);
    let data = cache.derived("deb", &key, |target| extract_data(deb, target, package))?;
    let tree = read_tree(&data, package)?;
    Ok(Unpacked { control, tree })
}

/// The members of an ar archive, in order.
struct Members<R> {
    reader: R,
    /// Where the next header starts.
    next: u64,
}

impl<R: Read + Seek> Members<R> {
    fn open(mut reader: R) -> Result<Self, String> {
        let mut magic = [0; 8];
        reader.read_exact(&mut magic).map_err(|error| format!("not a Debian package: {error}"))?;
        if &magic != AR_MAGIC {
            return Err(format!("not a Debian package: it begins with {:?}", String::from_utf8_lossy(&magic)));
        }
        Ok(Members { reader, next: AR_MAGIC.len() as u64 })
    }

    /// Name and content of the next member.
    fn next(&mut self) -> Result<Option<(String, Take<&mut R>)>, String> {
        self.reader.seek(SeekFrom::Start(self.next)).map_err(|error| error.to_string())?;
        let mut header = [0; AR_HEADER];
        let mut filled = 0;
        while filled < AR_HEADER {
            match self.reader.read(&mut header[filled..]).map_err(|error| error.to_string())? {
                0 if filled == 0 => return Ok(None),
                0 => return Err("cut short within a header".to_owned()),
                count => filled += count,
            }
        }
        if &header[58..60] != b"`\n" {
            return Err(format!("damaged: no header at byte {}", self.next));
        }
        let text = |from: usize, to: usize| String::from_utf8_lossy(&header[from..to]).trim_end().to_owned();
        let name = text(0, 16).trim_end_matches('/').to_owned();
        let size = text(48, 58);
        let size: u64 = size.parse().map_err(|_| format!("damaged: {name} has the size {size:?}"))?;
        // Members begin at even bytes. A size near the end of numbers would wrap.
        let end = self.next.checked_add(AR_HEADER as u64 + size + size % 2);
        self.next = end.ok_or_else(|| format!("damaged: {name} has the size {size}"))?;
        Ok(Some((name, (&mut self.reader).take(size))))
    }
}

/// Calls `action` with the decompressed stream of the member that begins with `prefix`.
fn with_member<T>(
    deb: &Path,
    package: &str,
    prefix: &str,
    action: impl FnOnce(&mut dyn Read) -> Result<T, Error>,
) -> Result<T, Error> {
    let wrong = |reason: String| Error::Archive { package: package.to_owned(), reason };
    let file = File::open(deb).map_err(io_error(deb))?;
    let mut members = Members::open(file).map_err(&wrong)?;
    let mut first = true;
    while let Some((name, mut content)) = members.next().map_err(&wrong)? {
        if first {
            let mut version = String::new();
            let _ = (&mut content).take(16).read_to_string(&mut version);
            if name != "debian-binary" || !version.starts_with("2.") {
                return Err(wrong(format!("not a Debian package of format 2: begins with {name} {version:?}")));
            }
            first = false;
        }
        if let Some(compression) = name.strip_prefix(prefix) {
            let mut reader = decompressor(compression, content).map_err(wrong)?;
            return action(&mut *reader);
        }
    }
    Err(wrong(format!("it has no {prefix}*")))
}

fn decompressor<'a, R: Read + 'a>(suffix: &str, content: R) -> Result<Box<dyn Read + 'a>, String> {
    Ok(match suffix {
        "" => Box::new(content),
        ".xz" => Box::new(liblzma::read::XzDecoder::new(content)),
        ".gz" => Box::new(flate2::read::GzDecoder::new(content)),
        ".zst" => Box::new(zstd::Decoder::new(content).map_err(|error| error.to_string())?),
        other => return Err(format!("compression {other} is not known; wanted .xz, .zst, .gz or none")),
    })
}

fn extract_data(deb: &Path, target: &Path, package: &str) -> Result<(), Error> {
    with_member(deb, package, "data.tar", |reader| {
        let mut output = File::create_new(target).map_err(io_error(target))?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let reason = format!("its data archive cannot be decompressed: {error}");
                    return Err(Error::Archive { package: package.to_owned(), reason });
                }
            };
            io::Write::write_all(&mut output, &buffer[..count]).map_err(io_error(target))?;
        }
    })
}

fn read_control(deb: &Path, package: &str) -> Result<Control, Error> {
    let wrong = |reason: String| Error::Archive { package: package.to_owned(), reason };
    let text = with_member(deb, package, "control.tar", |reader| {
        let broken = |error: io::Error| wrong(format!("its control archive cannot be read: {error}"));
        let mut archive = tar::Archive::new(reader);
        for entry in archive.entries().map_err(broken)? {
            let entry = entry.map_err(broken)?;
            if matches!(&*entry.path_bytes(), b"./control" | b"control") {
                let mut text = String::new();
                entry.take(CONTROL_MAXIMUM).read_to_string(&mut text).map_err(broken)?;
                return Ok(text);
            }
        }
        Err(wrong("its control archive has no file control".to_owned()))
    })?;
    let paragraph = paragraphs(&text).next().ok_or_else(|| wrong("its control file is empty".to_owned()))?;
    let field = |name: &str| paragraph.get(name).unwrap_or_default().to_owned();
    let (name, version) = (field("Package"), field("Version"));
    // `Source: linux (6.12.1-1)`, or another name alone, or nothing: then it is the package's own.
    let source = paragraph.get("Source").unwrap_or(&name);
    let (source, source_version) = match source.split_once('(') {
        Some((source, version)) => (source.trim(), version.trim_end_matches(')').trim()),
        None => (source, version.as_str()),
    };
    Ok(Control {
        source: source.to_owned(),
        source_version: source_version.to_owned(),
        architecture: field("Architecture"),
        section: field("Section"),
        maintainer: field("Maintainer"),
        homepage: paragraph.get("Homepage").map(str::to_owned),
        summary: field("Description").lines().next().unwrap_or_default().to_owned(),
        name,
        version,
    })
}

/// The tree of a data archive that lies on disk: contents are stretches of it.
fn read_tree(data: &Path, package: &str) -> Result<Tree, Error> {
    let broken =
        |error: io::Error| Error::Archive { package: package.to_owned(), reason: format!("its data archive: {error}") };
    let refused = |source| Error::Member { package: package.to_owned(), source };
    let origin: Arc<str> = package.into();
    let path: Arc<Path> = data.into();
    let mut archive = tar::Archive::new(File::open(data).map_err(io_error(data))?);
    let mut tree = Tree::new();
    for entry in archive.entries_with_seek().map_err(broken)? {
        let entry = entry.map_err(broken)?;
        let place = path::from_member(&entry.path_bytes()).map_err(refused)?;
        let node = read_node(&entry, &place, &tree, &path, &origin)?;
        tree.insert(&place, node).map_err(refused)?;
    }
    Ok(tree)
}

fn read_node<R: Read>(
    entry: &tar::Entry<'_, R>,
    place: &str,
    tree: &Tree,
    data: &Arc<Path>,
    origin: &Arc<str>,
) -> Result<Node, Error> {
    let wrong = |reason: String| Error::Archive { package: origin.to_string(), reason };
    let header = entry.header();
    let number = |value: io::Result<u64>| {
        let value = value.map_err(|error| wrong(format!("{place}: {error}")))?;
        u32::try_from(value).map_err(|_| wrong(format!("{place}: owner {value} is above 4294967295")))
    };
    let kind = match header.entry_type() {
        EntryType::Directory => Kind::Directory,
        EntryType::Regular | EntryType::Continuous => {
            let (offset, length) = (entry.raw_file_position(), entry.size());
            Kind::File(Content::Disk { path: data.clone(), offset, length })
        }
        EntryType::Symlink => Kind::Symlink(link_target(entry, place, origin)?),
        EntryType::Link => {
            let name = entry.link_name_bytes().unwrap_or_default();
            let target =
                path::from_member(&name).map_err(|source| Error::Member { package: origin.to_string(), source })?;
            let node = tree.find(&target).filter(|node| node.content().is_some());
            return node
                .cloned()
                .ok_or_else(|| wrong(format!("hard link {place} names {target}, which is no file before it")));
        }
        other => {
            return Err(wrong(format!(
                "{place} is of tar type {:?}, which a package does not hold",
                other.as_byte() as char
            )));
        }
    };
    let mode = header.mode().map_err(|error| wrong(format!("{place}: {error}")))? & 0o7777;
    Ok(Node { kind, mode, uid: number(header.uid())?, gid: number(header.gid())?, origin: origin.clone() })
}

/// A target may be absolute (it is the root's own root then) but not climb above the root.
fn link_target<R: Read>(entry: &tar::Entry<'_, R>, place: &str, origin: &Arc<str>) -> Result<String, Error> {
    let name = entry.link_name_bytes().unwrap_or_default();
    let target = String::from_utf8_lossy(&name).into_owned();
    let leads_out =
        || Error::LinkLeadsOut { package: origin.to_string(), path: place.to_owned(), target: target.clone() };
    let mut depth = if target.starts_with('/') { 0 } else { place.matches('/').count() - 1 };
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => depth = depth.checked_sub(1).ok_or_else(leads_out)?,
            _ => depth += 1,
        }
    }
    if target.is_empty() || target.contains('\0') || std::str::from_utf8(&name).is_err() {
        let reason = format!("symbolic link {place} has a target that is empty or not UTF-8");
        return Err(Error::Archive { package: origin.to_string(), reason });
    }
    Ok(target)
}
