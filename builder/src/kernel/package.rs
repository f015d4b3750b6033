//! The content of a kernel package, sorted into what the rest works with.

use super::{Error, modinfo};
use images::tree::{Content, Node, Tree};
use spec::paths::MODULES_DIR;
use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::sync::Arc;

/// A kernel package: boot image, module files and the kernel's own lists.
#[derive(Debug, Clone)]
pub struct Package {
    /// `uname -r`
    pub release: String,
    /// The bzImage.
    pub image: Content,
    /// Module files as packed: path below /usr/lib/modules/RELEASE (`kernel/fs/erofs/erofs.ko.xz`) and content.
    files: BTreeMap<String, Content>,
    /// Module name -> key of `files`.
    names: BTreeMap<String, String>,
    /// Names of built-in modules -> path in `modules.builtin`.
    pub builtin: BTreeMap<String, String>,
    /// What built-in modules say about themselves.
    pub builtin_info: BTreeMap<String, modinfo::ModuleInfo>,
    /// The files `modules.builtin`, `modules.builtin.modinfo` and `modules.order`, unchanged.
    pub lists: BTreeMap<&'static str, Arc<[u8]>>,
    /// Path (`kernel/fs/erofs/erofs.ko`) -> place in the link order, which decides between aliases.
    order: HashMap<String, usize>,
}

const IMAGE_PREFIX: &str = "/boot/vmlinuz-";
const LISTS: [&str; 3] = ["modules.builtin", "modules.builtin.modinfo", "modules.order"];

impl Package {
    /// Finds the kernel in the tree of its unpacked package.
    ///
    /// # Errors
    /// [`Error::Package`] when there is no /boot/vmlinuz-RELEASE, more than one, or no modules for it.
    pub fn from_tree(tree: &Tree) -> Result<Package, Error> {
        let images: Vec<&str> = tree.below("/boot").filter_map(|(path, _)| path.strip_prefix(IMAGE_PREFIX)).collect();
        let [release] = images[..] else {
            return Err(Error::Package(format!("{} files named {IMAGE_PREFIX}RELEASE, wanted one", images.len())));
        };
        let folder = [format!("{MODULES_DIR}/{release}"), format!("/lib/modules/{release}")]
            .into_iter()
            .find(|folder| tree.get(folder).is_some())
            .ok_or_else(|| Error::Package(format!("no folder {MODULES_DIR}/{release}")))?;
        let mut files = BTreeMap::new();
        for (path, node) in tree.below(&folder) {
            if let (Some(content), Some(below)) = (node.content(), path.strip_prefix(&folder)) {
                files.insert(below.trim_start_matches('/').to_owned(), content.clone());
            }
        }
        let image = tree.get(&format!("{IMAGE_PREFIX}{release}")).and_then(Node::content).cloned();
        let image = image.ok_or_else(|| Error::Package(format!("{IMAGE_PREFIX}{release} is not a file")))?;
        Package::new(release.to_owned(), image, files)
    }

    /// The kernel `release` of these parts; `files` are those below its modules folder.
    ///
    /// # Errors
    /// [`Error::Package`] when a list of the kernel is missing or there are no modules.
    pub fn new(release: String, image: Content, mut files: BTreeMap<String, Content>) -> Result<Package, Error> {
        let mut lists = BTreeMap::new();
        for list in LISTS {
            let content = files.remove(list);
            let missing = || Error::Package(format!("usr/lib/modules/{release}/{list} is missing"));
            let content = content.ok_or_else(missing)?;
            lists.insert(list, read(list, &content)?);
        }
        files.retain(|path, _| is_module(path));
        if files.is_empty() {
            return Err(Error::Package(format!("no modules below usr/lib/modules/{release}/kernel")));
        }
        let names = files.keys().map(|path| (modinfo::name_of_path(path), path.clone())).collect();
        let builtin = lines(&lists["modules.builtin"]).map(|path| (modinfo::name_of_path(&path), path)).collect();
        let builtin_info = modinfo::parse_builtin(&lists["modules.builtin.modinfo"]);
        let order = lines(&lists["modules.order"]).enumerate().map(|(place, path)| (path, place)).collect();
        Ok(Package { release, image, files, names, builtin, builtin_info, lists, order })
    }

    /// Paths of all modules without the suffix of a compression: `kernel/fs/erofs/erofs.ko`.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(|path| plain_path(path))
    }

    /// Path of the module `name` (spelled with `_`), without the suffix of a compression.
    pub fn path_of(&self, name: &str) -> Option<&str> {
        self.names.get(name).map(|path| plain_path(path))
    }

    /// Place in the kernel's link order; modules that are not in it come last.
    pub fn order_of(&self, path: &str) -> usize {
        self.order.get(path).copied().unwrap_or(usize::MAX)
    }

    /// The uncompressed content of the module `name`, if there is one.
    ///
    /// # Errors
    /// [`Error::Module`] when it does not decompress.
    pub fn module(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let Some(path) = self.names.get(name) else { return Ok(None) };
        let Some(content) = self.files.get(path) else { return Ok(None) };
        decompress(path, &read(path, content)?).map(Some)
    }

    /// Whether the module `name` is built into the kernel.
    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains_key(name) || self.builtin_info.contains_key(name)
    }
}

fn lines(content: &[u8]) -> impl Iterator<Item = String> {
    String::from_utf8_lossy(content).lines().map(str::to_owned).collect::<Vec<_>>().into_iter()
}

fn is_module(path: &str) -> bool {
    path.starts_with("kernel/") && plain_path(path).ends_with(".ko")
}

fn plain_path(path: &str) -> &str {
    [".xz", ".zst", ".gz"].iter().find_map(|suffix| path.strip_suffix(suffix)).unwrap_or(path)
}

fn read(path: &str, content: &Content) -> Result<Arc<[u8]>, Error> {
    content.read().map_err(|error| Error::Package(format!("{path}: {error}")))
}

/// The module itself: init and kernel load it as it is. Signatures are part of it and stay.
fn decompress(path: &str, content: &[u8]) -> Result<Vec<u8>, Error> {
    let mut plain = Vec::new();
    let result = match path.rsplit('.').next() {
        Some("xz") => liblzma::read::XzDecoder::new(content).read_to_end(&mut plain),
        Some("zst") => zstd::stream::read::Decoder::new(content).and_then(|mut reader| reader.read_to_end(&mut plain)),
        Some("gz") => flate2::read::GzDecoder::new(content).read_to_end(&mut plain),
        _ => return Ok(content.to_vec()),
    };
    let damaged = |error| Error::Module { path: path.to_owned(), reason: format!("it does not decompress: {error}") };
    result.map_err(damaged)?;
    Ok(plain)
}
