//! A tree as a tar archive: written the same way every time, read with every name judged.

use super::{Content, Kind, Node, Tree, TreeError, path};
use std::io::{self, Read, Write};
use std::sync::Arc;
use tar::{EntryType, Header};
use thiserror::Error;

/// Name of the GNU records that carry long names.
const LONG_NAME: &[u8] = b"././@LongLink";

#[derive(Debug, Error)]
pub enum ArchiveError {
    #[error("{origin}: archive: {source}")]
    Io { origin: Arc<str>, source: io::Error },
    #[error("{origin}: archive member refused: {source}")]
    Tree { origin: Arc<str>, source: TreeError },
    #[error("{origin}: hard link {member} names {target}, which is no file before it in the archive")]
    HardLink { origin: Arc<str>, member: String, target: String },
    #[error("{origin}: {member} has tar type {kind:?}, which a root does not hold")]
    EntryType { origin: Arc<str>, member: String, kind: char },
    #[error("{path}: {source}")]
    Content { path: String, source: io::Error },
}

impl Tree {
    /// Writes the tree as a tar archive (GNU long names, numeric owners, path order); every member
    /// gets the time `mtime`, in seconds since the epoch.
    ///
    /// # Errors
    /// The writer, or content on disk that cannot be read, by path.
    pub fn write_tar<W: Write>(&self, writer: W, mtime: u64) -> Result<W, ArchiveError> {
        let mut builder = tar::Builder::new(writer);
        for (path, node) in self.iter() {
            append(&mut builder, path, node, mtime)
                .map_err(|source| ArchiveError::Content { path: path.to_owned(), source })?;
        }
        builder.into_inner().map_err(|source| ArchiveError::Content { path: "/".to_owned(), source })
    }

    /// Reads a tar archive into this tree, over what is there. Hard links become copies that share
    /// their content. Nothing outside the tree can be meant by any member.
    ///
    /// # Errors
    /// A broken archive, an absolute name, a `..` part, a link out of the root on a member's way, a
    /// type that a root does not hold: each by the member's name.
    pub fn read_tar<R: Read>(&mut self, reader: R, origin: &Arc<str>) -> Result<(), ArchiveError> {
        let broken = |source| ArchiveError::Io { origin: origin.clone(), source };
        let mut archive = tar::Archive::new(reader);
        for entry in archive.entries().map_err(broken)? {
            self.read_member(&mut entry.map_err(broken)?, origin)?;
        }
        Ok(())
    }

    fn read_member<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, origin: &Arc<str>) -> Result<(), ArchiveError> {
        let broken = |source| ArchiveError::Io { origin: origin.clone(), source };
        let refused = |source| ArchiveError::Tree { origin: origin.clone(), source };
        let place = path::from_member(&entry.path_bytes()).map_err(refused)?;
        let Some(kind) = self.kind_of(entry, &place, origin)? else { return Ok(()) };
        let header = entry.header();
        let node = Node {
            mode: header.mode().map_err(broken)? & 0o7777,
            uid: number(header.uid().map_err(broken)?).map_err(broken)?,
            gid: number(header.gid().map_err(broken)?).map_err(broken)?,
            origin: origin.clone(),
            kind,
        };
        self.insert(&place, node).map_err(refused)?;
        Ok(())
    }

    /// What a member is; `None` for one that says nothing about a file.
    fn kind_of<R: Read>(
        &self,
        entry: &mut tar::Entry<'_, R>,
        place: &str,
        origin: &Arc<str>,
    ) -> Result<Option<Kind>, ArchiveError> {
        let broken = |source| ArchiveError::Io { origin: origin.clone(), source };
        let device = |header: &Header| -> Result<(u32, u32), ArchiveError> {
            let pair = (header.device_major().map_err(broken)?, header.device_minor().map_err(broken)?);
            Ok((pair.0.unwrap_or(0), pair.1.unwrap_or(0)))
        };
        Ok(Some(match entry.header().entry_type() {
            EntryType::Directory => Kind::Directory,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                Kind::File(read_content(entry).map_err(broken)?)
            }
            EntryType::Symlink => Kind::Symlink(link_target(entry, place, origin)?),
            EntryType::Link => Kind::File(self.hard_link(entry, place, origin)?),
            EntryType::Char => device(entry.header()).map(|(major, minor)| Kind::CharDevice(major, minor))?,
            EntryType::Block => device(entry.header()).map(|(major, minor)| Kind::BlockDevice(major, minor))?,
            EntryType::Fifo => Kind::Fifo,
            EntryType::XGlobalHeader => return Ok(None),
            other => {
                let kind = char::from(other.as_byte());
                return Err(ArchiveError::EntryType { origin: origin.clone(), member: place.to_owned(), kind });
            }
        }))
    }

    fn hard_link<R: Read>(
        &self,
        entry: &tar::Entry<'_, R>,
        place: &str,
        origin: &Arc<str>,
    ) -> Result<Content, ArchiveError> {
        let name = entry.link_name_bytes().unwrap_or_default();
        let target =
            path::from_member(&name).map_err(|source| ArchiveError::Tree { origin: origin.clone(), source })?;
        let content = self.find(&target).and_then(Node::content).cloned();
        content.ok_or_else(|| ArchiveError::HardLink { origin: origin.clone(), member: place.to_owned(), target })
    }
}

fn link_target<R: Read>(entry: &tar::Entry<'_, R>, place: &str, origin: &Arc<str>) -> Result<String, ArchiveError> {
    let name = entry.link_name_bytes().unwrap_or_default();
    match std::str::from_utf8(&name) {
        Ok(target) if !target.is_empty() && !target.contains('\0') => Ok(target.to_owned()),
        _ => Err(ArchiveError::Tree {
            origin: origin.clone(),
            source: TreeError::path(place, "is a symbolic link whose target is empty or not UTF-8"),
        }),
    }
}

fn read_content<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Content> {
    // The size in a header is no promise: capacity is taken for sane sizes only.
    let expected = entry.size();
    let mut bytes = Vec::with_capacity(usize::try_from(expected.min(1 << 30)).unwrap_or(0));
    entry.read_to_end(&mut bytes)?;
    if bytes.len() as u64 != expected {
        let message = format!("{} is cut short", entry.path()?.display());
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
    }
    Ok(Content::from(bytes))
}

fn number(value: u64) -> io::Result<u32> {
    u32::try_from(value)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("owner {value} is above 4294967295")))
}

fn append<W: Write>(builder: &mut tar::Builder<W>, path: &str, node: &Node, mtime: u64) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_mode(node.mode);
    header.set_uid(node.uid.into());
    header.set_gid(node.gid.into());
    header.set_mtime(mtime);
    header.set_size(0);
    let name = member_name(path, node.is_directory());
    let empty = io::empty();
    match &node.kind {
        Kind::File(content) => {
            header.set_entry_type(EntryType::Regular);
            header.set_size(content.len());
            let reader = Exactly { inner: content.reader()?, left: content.len() };
            return builder.append_data(&mut header, name, reader);
        }
        Kind::Symlink(target) => {
            header.set_entry_type(EntryType::Symlink);
            append_link_name(builder, &mut header, target)?;
        }
        Kind::Directory => header.set_entry_type(EntryType::Directory),
        Kind::Fifo => header.set_entry_type(EntryType::Fifo),
        Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) => {
            let is_char = matches!(node.kind, Kind::CharDevice(..));
            header.set_entry_type(if is_char { EntryType::Char } else { EntryType::Block });
            header.set_device_major(*major)?;
            header.set_device_minor(*minor)?;
        }
    }
    builder.append_data(&mut header, name, empty)
}

/// Puts a link's target into the header as it is written (the crate would tidy it), one that is too
/// long into a GNU record before it.
fn append_link_name<W: Write>(builder: &mut tar::Builder<W>, header: &mut Header, target: &str) -> io::Result<()> {
    if header.set_link_name_literal(target).is_ok() {
        return Ok(());
    }
    let mut record = Header::new_gnu();
    record.as_mut_bytes()[..LONG_NAME.len()].copy_from_slice(LONG_NAME);
    record.set_entry_type(EntryType::GNULongLink);
    record.set_mode(0o644);
    record.set_uid(0);
    record.set_gid(0);
    record.set_mtime(0);
    record.set_size(target.len() as u64 + 1);
    record.set_cksum();
    builder.append(&record, [target.as_bytes(), b"\0"].concat().as_slice())
}

/// `./` for the root, else the path without its leading slash; directories end in a slash.
fn member_name(path: &str, directory: bool) -> String {
    match (path, directory) {
        ("/", _) => "./".to_owned(),
        (_, true) => format!("{}/", &path[1..]),
        (_, false) => path[1..].to_owned(),
    }
}

/// Fails where content on disk ends before the size that the header has promised.
struct Exactly<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left = self.left.saturating_sub(count as u64);
        if count == 0 && self.left > 0 && !buffer.is_empty() {
            let message = format!("{} bytes are missing at the end", self.left);
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        Ok(count)
    }
}
