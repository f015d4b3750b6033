//! The tree of files that a machine's root is made of, in memory: what every step of the builder
//! takes and gives. Paths are normalised and in order, owners are numbers, and every node knows
//! where it came from.

mod archive;
mod content;
pub mod path;

pub use archive::ArchiveError;
pub use content::Content;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use thiserror::Error;

#[derive(Debug, Error)]
pub enum TreeError {
    #[error("path `{path}` {reason}")]
    Path { path: String, reason: String },
    #[error("{path} cannot be placed: {blocker} is {found}, not a directory (from {origin})")]
    NotADirectory { path: String, blocker: String, found: &'static str, origin: Arc<str> },
    #[error("{path} cannot be placed: a directory with files is there already (from {origin})")]
    DirectoryInTheWay { path: String, origin: Arc<str> },
    #[error("{path} cannot be placed: the symbolic link {link} -> {target} leads out of the root")]
    LeadsOut { path: String, link: String, target: String },
    #[error("{path} cannot be placed: too many symbolic links on its way")]
    LinkLoop { path: String },
    #[error("{path}: {source}")]
    Read { path: String, source: io::Error },
}

impl TreeError {
    fn path(path: &str, reason: &str) -> Self {
        TreeError::Path { path: path.escape_debug().to_string(), reason: reason.to_owned() }
    }
}

/// What a node is.
#[derive(Debug, Clone)]
pub enum Kind {
    Directory,
    File(Content),
    /// Target as written in the link.
    Symlink(String),
    /// Major and minor number.
    CharDevice(u32, u32),
    /// Major and minor number.
    BlockDevice(u32, u32),
    Fifo,
}

impl Kind {
    const fn noun(&self) -> &'static str {
        match self {
            Kind::Directory => "a directory",
            Kind::File(_) => "a file",
            Kind::Symlink(_) => "a symbolic link",
            Kind::CharDevice(..) | Kind::BlockDevice(..) => "a device node",
            Kind::Fifo => "a pipe",
        }
    }
}

/// One file, directory, link or device node.
#[derive(Debug, Clone)]
pub struct Node {
    pub kind: Kind,
    /// Permission bits, 0 to 0o7777.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Package, overlay or rule that it came from.
    pub origin: Arc<str>,
}

impl Node {
    /// A directory 0755 of root.
    pub fn directory(origin: &Arc<str>) -> Self {
        Node { kind: Kind::Directory, mode: 0o755, uid: 0, gid: 0, origin: origin.clone() }
    }

    /// A file of root.
    pub fn file(content: impl Into<Content>, mode: u32, origin: &Arc<str>) -> Self {
        Node { kind: Kind::File(content.into()), mode, uid: 0, gid: 0, origin: origin.clone() }
    }

    /// A symbolic link.
    pub fn symlink(target: impl Into<String>, origin: &Arc<str>) -> Self {
        Node { kind: Kind::Symlink(target.into()), mode: 0o777, uid: 0, gid: 0, origin: origin.clone() }
    }

    /// The same node with another owner.
    #[must_use]
    pub fn owned_by(self, uid: u32, gid: u32) -> Self {
        Node { uid, gid, ..self }
    }

    pub const fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory)
    }

    /// The content of a file.
    pub const fn content(&self) -> Option<&Content> {
        match &self.kind {
            Kind::File(content) => Some(content),
            _ => None,
        }
    }

    /// Bytes of a file's content; 0 for everything else.
    pub fn size(&self) -> u64 {
        self.content().map_or(0, Content::len)
    }
}

/// An ordered map of normalised absolute paths to nodes; it always holds the root directory, and
/// the parent of every node it holds.
#[derive(Debug, Clone)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    /// A tree of a root directory 0755 of root.
    pub fn new() -> Self {
        Tree { nodes: BTreeMap::from([("/".to_owned(), Node::directory(&"root".into()))]) }
    }

    /// Places a node. Missing parents become directories 0755 of root; links on the way are
    /// followed, so that `/lib/x` lands in `/usr/lib/x` where `/lib` is a link to it. A later file
    /// or link replaces an earlier one; a directory given again takes the later mode and owner; a
    /// directory given where a link to a directory is leaves the link. Returns the path it got.
    ///
    /// # Errors
    /// A path that is not normal, a file among its parents, a link out of the root, a directory with
    /// files in the way of something else.
    pub fn insert(&mut self, path: &str, node: Node) -> Result<String, TreeError> {
        let path = path::normalise(path)?;
        let Some((parent, name)) = path::split(&path) else {
            return self.replace_root(node);
        };
        let parent = self.make_directories(parent, &path, &node.origin)?;
        let place = path::join(&parent, name);
        match self.nodes.get(&place) {
            Some(present) if present.is_directory() && !node.is_directory() && self.has_children(&place) => {
                return Err(TreeError::DirectoryInTheWay { path: place, origin: present.origin.clone() });
            }
            Some(Node { kind: Kind::Symlink(_), .. }) if node.is_directory() => {
                return self.make_directories(&place, &place, &node.origin);
            }
            Some(present) if node.is_directory() && !present.is_directory() => {
                return Err(self.not_a_directory(&path, &place));
            }
            _ => {}
        }
        self.nodes.insert(place.clone(), node);
        Ok(place)
    }

    /// Places an empty directory 0755 of root, unless a directory is there.
    ///
    /// # Errors
    /// As [`Tree::insert`].
    pub fn make_directory(&mut self, path: &str, origin: &Arc<str>) -> Result<String, TreeError> {
        let path = path::normalise(path)?;
        self.make_directories(&path, &path, origin)
    }

    /// Removes a node (links on the way to it are followed, the node itself is not) and all below it;
    /// gives how many nodes went. The root itself stays, empty.
    pub fn remove(&mut self, path: &str) -> usize {
        let Some(place) = self.locate(path) else { return 0 };
        let below: Vec<String> = self.below(&place).map(|(path, _)| path.to_owned()).collect();
        for path in &below {
            self.nodes.remove(path);
        }
        if place == "/" {
            return below.len();
        }
        below.len() + usize::from(self.nodes.remove(&place).is_some())
    }

    /// The node at exactly this normalised path; no link is followed.
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// As [`Tree::get`], to change mode, owner or content. Turning a directory into something else
    /// is the caller's fault.
    pub fn get_mut(&mut self, path: &str) -> Option<&mut Node> {
        self.nodes.get_mut(path)
    }

    /// Path of the node that `path` means when every link, the last one too, is followed; `None`
    /// where nothing is there or a link leads out of the root.
    pub fn resolve(&self, path: &str) -> Option<String> {
        let path = path::normalise(path).ok()?;
        let resolved = self.walk(&path, &path).ok()?;
        self.nodes.contains_key(&resolved).then_some(resolved)
    }

    /// The node that `path` means, links followed.
    pub fn find(&self, path: &str) -> Option<&Node> {
        self.nodes.get(&self.resolve(path)?)
    }

    /// All nodes, parents before their children, in the byte order of their paths.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// Nodes below a directory, without itself.
    pub fn below<'a>(&'a self, directory: &str) -> impl Iterator<Item = (&'a str, &'a Node)> + use<'a> {
        let prefix = if directory == "/" { "/".to_owned() } else { format!("{directory}/") };
        let from = (std::ops::Bound::Excluded(prefix.clone()), std::ops::Bound::Unbounded);
        self.nodes
            .range::<String, _>(from)
            .take_while(move |(path, _)| path.starts_with(&prefix))
            .map(|(path, node)| (path.as_str(), node))
    }

    /// Keeps what `keep` says yes to; below a directory that goes, all goes.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &Node) -> bool) {
        let dropped: Vec<String> = self
            .nodes
            .iter()
            .filter(|(path, node)| path.as_str() != "/" && !keep(path, node))
            .map(|(path, _)| path.clone())
            .collect();
        for path in dropped {
            let below: Vec<String> = self.below(&path).map(|(path, _)| path.to_owned()).collect();
            for path in below {
                self.nodes.remove(&path);
            }
            self.nodes.remove(&path);
        }
    }

    /// Lays `other` over this tree: later files and links win, directories that are here stay as
    /// they are.
    ///
    /// # Errors
    /// As [`Tree::insert`]; nothing else is lost, but nodes before the bad one have been placed.
    pub fn merge(&mut self, other: &Tree) -> Result<(), TreeError> {
        for (path, node) in other.iter() {
            if node.is_directory() && self.find(path).is_some_and(Node::is_directory) {
                continue;
            }
            self.insert(path, node.clone())?;
        }
        Ok(())
    }

    /// Number of nodes, the root included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is nothing but the root directory.
    pub fn is_empty(&self) -> bool {
        self.nodes.len() == 1
    }

    /// Sum of the sizes of all files, in bytes.
    pub fn total_size(&self) -> u64 {
        self.nodes.values().map(Node::size).sum()
    }

    fn has_children(&self, directory: &str) -> bool {
        self.below(directory).next().is_some()
    }

    fn replace_root(&mut self, node: Node) -> Result<String, TreeError> {
        if !node.is_directory() {
            return Err(TreeError::path("/", "can only be a directory"));
        }
        self.nodes.insert("/".to_owned(), node);
        Ok("/".to_owned())
    }

    /// Path with its parents' links followed, but not the last part's.
    fn locate(&self, path: &str) -> Option<String> {
        let path = path::normalise(path).ok()?;
        match path::split(&path) {
            None => Some(path),
            Some((parent, name)) => Some(path::join(&self.walk(parent, &path).ok()?, name)),
        }
    }

    /// Follows links until the path has none; parts that do not exist are taken as they are.
    fn walk(&self, path: &str, wanted: &str) -> Result<String, TreeError> {
        let mut pending: Vec<String> =
            path.split('/').rev().filter(|part| !part.is_empty()).map(str::to_owned).collect();
        let mut current = "/".to_owned();
        let mut links = 0;
        while let Some(part) = pending.pop() {
            let next = path::join(&current, &part);
            let Some(Node { kind: Kind::Symlink(target), .. }) = self.nodes.get(&next) else {
                current = next;
                continue;
            };
            links += 1;
            if links > path::LINKS_MAXIMUM {
                return Err(TreeError::LinkLoop { path: wanted.to_owned() });
            }
            current = self.enter_link(&next, target, current, &mut pending, wanted)?;
        }
        Ok(current)
    }

    /// Puts a link's target in place of the link: gives the directory to go on from and pushes what
    /// is left of the target. A `..` above the root is refused rather than taken as the root.
    fn enter_link(
        &self,
        link: &str,
        target: &str,
        directory: String,
        pending: &mut Vec<String>,
        wanted: &str,
    ) -> Result<String, TreeError> {
        let leads_out =
            || TreeError::LeadsOut { path: wanted.to_owned(), link: link.to_owned(), target: target.to_owned() };
        let mut start = if target.starts_with('/') { "/".to_owned() } else { directory };
        let mut rest = Vec::new();
        for part in target.split('/').filter(|part| !part.is_empty() && *part != ".") {
            if part != ".." {
                rest.push(part.to_owned());
            } else if rest.pop().is_none() {
                start = path::split(&start).ok_or_else(leads_out)?.0.to_owned();
            }
        }
        pending.extend(rest.into_iter().rev());
        Ok(start)
    }

    /// Makes `path` and its parents directories where nothing is yet; gives where it is, links
    /// followed.
    fn make_directories(&mut self, path: &str, wanted: &str, origin: &Arc<str>) -> Result<String, TreeError> {
        let place = self.walk(path, wanted)?;
        let mut missing = Vec::new();
        let mut current = place.as_str();
        loop {
            match self.nodes.get(current) {
                Some(node) if node.is_directory() => break,
                Some(_) => return Err(self.not_a_directory(wanted, current)),
                None => missing.push(current.to_owned()),
            }
            current = path::parent(current);
        }
        for directory in missing {
            self.nodes.insert(directory, Node::directory(origin));
        }
        Ok(place)
    }

    fn not_a_directory(&self, path: &str, blocker: &str) -> TreeError {
        let node = self.nodes.get(blocker);
        TreeError::NotADirectory {
            path: path.to_owned(),
            blocker: blocker.to_owned(),
            found: node.map_or("nothing", |node| node.kind.noun()),
            origin: node.map_or_else(|| "nowhere".into(), |node| node.origin.clone()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
