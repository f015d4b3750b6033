//! The root of a machine, from the parts that were fetched and built to one checked tree: packages are
//! merged and trimmed, what maintainer scripts would have made is made here, overlays and generated
//! files are laid over, and nothing leaves that would not run.
//!
//! Architecture invariant: the tree depends on its inputs alone, not on time, umask, locale or folder.

mod certificates;
mod check;
pub mod firmware;
mod generated;
mod images;
mod overlay;
mod packages;
mod stage;
mod trim;
mod users;
mod version;

pub use images::OciSource;
pub use packages::kernel_of;
pub use stage::{Inputs, Rooted, assemble, planned_image};

use crate::kernel::{self, Package, Selection, index, initramfs};
use crate::sources::deb::Unpacked;
use crate::sources::go::{self, Built};
use ::images::oci::OciError;
use ::images::tree::{Content, Node, Tree, TreeError};
use spec::paths;
use spec::sysctl::Setting;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// Why no root can be made. Each names the file or the key that is wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Component(#[from] go::Error),
    #[error(transparent)]
    Oci(#[from] OciError),
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    #[error("{path}: {source}")]
    Content { path: String, source: io::Error },
    #[error("{}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("overlay {}: it is neither a file, a folder nor a symbolic link; nothing else can be in an image", .0.display())]
    SpecialFile(PathBuf),
    #[error("{}: its name is not UTF-8", .0.display())]
    Name(PathBuf),
    #[error("profile key trim.{key}: glob `{glob}`: {reason}")]
    Glob { key: &'static str, glob: String, reason: String },
    #[error("profile key timezone: {zone} is not in /usr/share/zoneinfo{hint}")]
    TimeZone { zone: String, hint: &'static str },
    #[error("profile key users: {first} and {second} have the same {what} {number}; every user needs its own")]
    SameId { first: String, second: String, what: &'static str, number: u32 },
    #[error(
        "profile key images.\"{reference}\": {binary} was not built; wanted COMPONENT/BINARY of a component of this project"
    )]
    Binary { reference: String, binary: String },
    #[error("profile key images.\"{reference}\".files: the root has no file {path}; add the package that has it")]
    RootFile { reference: String, path: String },
    #[error("the root would not work:\n{}", .0.iter().map(|fault| format!("  {fault}\n")).collect::<String>())]
    Faults(Vec<String>),
}

/// Everything that a root is made of.
pub struct Ingredients<'a> {
    /// Merged; paths in it are absolute.
    pub profile: &'a spec::profile::Profile,
    /// In the order of the lock. The kernel's package may be among them: nothing of it is taken.
    pub packages: &'a [Unpacked],
    pub kernel: &'a Package,
    pub modules: &'a Selection,
    /// Names of modules that init loads at boot.
    pub load: &'a [String],
    pub components: &'a [Built],
    /// Package of our workspace -> its static program.
    pub programs: &'a BTreeMap<String, Content>,
    /// Install path -> what the profile takes from a URL or from a file of the operator.
    pub files: &'a BTreeMap<String, Node>,
    /// Reference -> where the image's content comes from.
    pub images: &'a BTreeMap<String, OciSource>,
    pub image: &'a spec::image::Image,
    pub settings: &'a [Setting],
    /// nftables ruleset of the host firewall.
    pub firewall: &'a str,
}

/// A root, checked.
#[derive(Debug, Clone)]
pub struct Composed {
    pub tree: Tree,
    /// What an operator may want to look at, one line each.
    pub warnings: Vec<String>,
}

/// Makes the root.
///
/// # Errors
/// A part that cannot be placed, or a root that would not work: a program without its libraries, a
/// service without its program.
pub fn compose(ingredients: &Ingredients) -> Result<Composed, Error> {
    let profile = ingredients.profile;
    let (mut tree, mut warnings) = packages::merge(ingredients.packages)?;
    certificates::bundle(&mut tree)?;
    trim::limit_time_zones(&mut tree, &ingredients.image.timezone)?;
    trim::trim(&mut tree, &profile.trim)?;
    firmware::trim(&mut tree, ingredients.modules);
    place_parts(&mut tree, ingredients)?;
    place_own(&mut tree, profile)?;
    generated::write(&mut tree, ingredients)?;
    images::place(&mut tree, ingredients)?;
    place_kernel(&mut tree, ingredients)?;
    warnings.extend(check::check(&tree, &ingredients.image.role)?);
    Ok(Composed { tree, warnings })
}

/// The part of the root that is the profile's own: its overlays and users.
///
/// # Errors
/// As [`compose`].
pub fn configured(profile: &spec::profile::Profile) -> Result<Tree, Error> {
    let mut tree = Tree::new();
    place_own(&mut tree, profile)?;
    Ok(tree)
}

fn place_own(tree: &mut Tree, profile: &spec::profile::Profile) -> Result<(), Error> {
    for folder in &profile.overlays {
        tree.merge(&overlay::read(folder.as_ref())?)?;
    }
    users::write(tree, &profile.users)
}

/// What the profile names one by one: components, our programs, URLs, files, links.
fn place_parts(tree: &mut Tree, ingredients: &Ingredients) -> Result<(), Error> {
    let profile = ingredients.profile;
    for built in ingredients.components {
        // Others were built for container images alone.
        if profile.components.get(&built.component).is_some_and(|choice| go::is_chosen(choice, &built.output)) {
            go::place(tree, built)?;
        }
    }
    for (package, path) in &profile.programs {
        if let Some(content) = ingredients.programs.get(package) {
            let origin: Arc<str> = format!("cargo:{package}").into();
            tree.insert(path, Node::file(content.clone(), 0o755, &origin))?;
        }
    }
    for (path, node) in ingredients.files {
        tree.insert(path, node.clone())?;
    }
    let origin: Arc<str> = "profile".into();
    for (path, target) in &profile.links {
        tree.insert(path, Node::symlink(target, &origin))?;
    }
    Ok(())
}

/// Modules, their indexes, the list of those to load, and those that are never loaded.
fn place_kernel(tree: &mut Tree, ingredients: &Ingredients) -> Result<(), Error> {
    let origin: Arc<str> = "kernel".into();
    let modules: Arc<str> = "deb:kernel modules".into();
    let folder = format!("{}/{}", paths::MODULES_DIR, ingredients.kernel.release);
    for module in ingredients.modules.modules.values() {
        let path = format!("{folder}/{}", module.path);
        tree.insert(&path, Node::file(module.content.clone(), 0o644, &modules))?;
    }
    for (name, content) in index::files(ingredients.kernel, ingredients.modules) {
        tree.insert(&format!("{folder}/{name}"), Node::file(content, 0o644, &origin))?;
    }
    let load = initramfs::load_list(ingredients.kernel, ingredients.load);
    tree.insert(paths::MODULES_FILE, Node::file(load, 0o644, &origin))?;
    let blacklist = &ingredients.profile.kernel.blacklist;
    if !blacklist.is_empty() {
        let text = blacklist.iter().fold(String::new(), |text, name| text + "blacklist " + name + "\n");
        tree.insert("/usr/lib/modprobe.d/imgbuild.conf", Node::file(text, 0o644, &origin))?;
    }
    Ok(())
}

/// The text of a file of the tree.
fn read_bytes(path: &str, content: &Content) -> Result<Arc<[u8]>, Error> {
    content.read().map_err(|source| Error::Content { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
