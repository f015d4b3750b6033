//! Where things are on the builder: the project's tree, the work folder for out/ and clusters/, the cache.

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// Folders that make a folder the project's root.
const MARKS: [&str; 2] = ["profiles", "components"];

/// The folders that a build reads and writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    /// The project's tree: profiles/, overlays/, components/, the workspace's Cargo.toml.
    pub root: PathBuf,
    /// out/ and clusters/ are here: the project's root when the command runs inside it or it was
    /// named, otherwise the current folder.
    pub work: PathBuf,
    /// Content-addressed cache, may be shared by several builds.
    pub cache: PathBuf,
}

impl Project {
    /// Finds the project: as given, else from the current folder upwards, else the tree that this
    /// binary was built from.
    ///
    /// # Errors
    /// Bad input when the given folder is none, a failure when none can be found.
    pub fn find(given: Option<&Path>, cache: Option<&Path>) -> Result<Project> {
        let current =
            std::env::current_dir().map_err(|error| Error::because("the current folder cannot be read", error))?;
        let cache = cache.map_or_else(default_cache, |path| Ok(current.join(path)))?;
        if let Some(given) = given {
            let root = current.join(given);
            return match is_root(&root) {
                true => Ok(Project { work: root.clone(), root, cache }),
                false => Err(Error::bad_input(format!("--project {}: no project is there", given.display()))
                    .help(format!("a folder with {} is wanted", MARKS.join("/, ") + "/"))),
            };
        }
        if let Some(root) = current.ancestors().find(|folder| is_root(folder)) {
            return Ok(Project { root: root.to_owned(), work: root.to_owned(), cache });
        }
        match Path::new(env!("CARGO_MANIFEST_DIR")).parent() {
            Some(root) if is_root(root) => Ok(Project { root: root.to_owned(), work: current, cache }),
            _ => Err(Error::failure("the project's tree is not here, and not where this program was built")
                .help("change into it, or name it with --project DIR")),
        }
    }

    pub fn profiles(&self) -> PathBuf {
        self.root.join("profiles")
    }

    pub fn overlays(&self) -> PathBuf {
        self.root.join("overlays")
    }

    pub fn components(&self) -> PathBuf {
        self.root.join("components")
    }

    /// Folder of a cluster definition.
    pub fn cluster(&self, name: &str) -> PathBuf {
        self.work.join("clusters").join(name)
    }

    /// Folder of the release key.
    pub fn keys(&self) -> PathBuf {
        self.work.join("keys")
    }

    /// Folder of a build's artifacts when none is named.
    pub fn out(&self, profile: &str) -> PathBuf {
        self.work.join("out").join(profile)
    }

    /// A path as a person wants to read it: below the project or the work folder without them.
    pub fn display(&self, path: &Path) -> String {
        let short = path.strip_prefix(&self.root).or_else(|_| path.strip_prefix(&self.work)).unwrap_or(path);
        short.display().to_string()
    }
}

fn is_root(folder: &Path) -> bool {
    MARKS.iter().all(|mark| folder.join(mark).is_dir())
}

/// `$XDG_CACHE_HOME/imgbuild` or `~/.cache/imgbuild` (XDG Base Directory Specification).
fn default_cache() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    variable("XDG_CACHE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".cache")))
        .map(|folder| folder.join("imgbuild"))
        .ok_or_else(|| {
            Error::failure("no folder for the cache: neither XDG_CACHE_HOME nor HOME is set")
                .help("name one with --cache DIR")
        })
}
