//! The host tools: the `tools` profile's packages, locked and fetched like those of an image, unpacked
//! into one folder of the cache and run from there (`images::tools`).

use crate::cache::Digest;
use crate::error::{Error, Result};
use crate::lock;
use crate::pipeline::{self, Fetched};
use crate::profile::Profile;
use crate::request::Context;
use images::tools::ToolsRoot;
use images::tree::{Kind, Tree};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// Name of the profile.
pub const PROFILE: &str = "tools";
/// Counts the ways in which this module has laid out a root: part of the cache's key.
const LAYOUT: &[u8] = b"tools-1";

/// The tools, ready to run.
#[derive(Debug, Clone)]
pub struct Tools {
    pub root: ToolsRoot,
    /// What it is made of.
    pub packages: Vec<lock::Locked>,
}

impl Tools {
    /// Fetches and unpacks what the lock names, unless the cache has it.
    ///
    /// # Errors
    /// As fetching and unpacking; a host that allows no mount namespace.
    pub fn ensure(context: &Context) -> Result<Tools> {
        let profile = Profile::load(&context.project, &[PROFILE.to_owned()])?;
        let locked = pipeline::locked(context, &profile)?;
        let cache = pipeline::cache(context)?;
        let key = Digest::of_parts([LAYOUT, &locked.lock.digest().map_err(Error::from_failure)?.0[..]]);
        let folder = cache.derived("tools", &key, |target| -> std::result::Result<(), Failure> {
            let fetched = pipeline::fetch_debian(context, &locked)?;
            write_tree(&merge(fetched)?, target).map_err(|error| Failure(Error::io("write", target, error)))
        });
        let folder = folder.map_err(|failure| failure.0)?;
        Ok(Tools { root: ToolsRoot::new(&folder).map_err(Error::from_failure)?, packages: locked.lock.packages })
    }
}

/// Lets the cache's errors and ours meet.
struct Failure(Error);

impl From<crate::cache::Error> for Failure {
    fn from(error: crate::cache::Error) -> Failure {
        Failure(Error::from_failure(error))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure(error)
    }
}

fn merge(fetched: Fetched) -> Result<Tree> {
    let mut tree = Tree::new();
    for link in ["bin", "lib", "lib64", "sbin"] {
        let node = images::tree::Node::symlink(format!("usr/{link}"), &"merged-usr".into());
        tree.insert(&format!("/{link}"), node).map_err(Error::from_failure)?;
    }
    for package in fetched.packages {
        tree.merge(&package.tree).map_err(Error::from_failure)?;
    }
    Ok(tree)
}

/// Writes files, folders and links; owners are the user's, and nothing is set-uid.
fn write_tree(tree: &Tree, target: &Path) -> io::Result<()> {
    fs::create_dir(target)?;
    for (path, node) in tree.iter() {
        let place = target.join(path.trim_start_matches('/'));
        match &node.kind {
            Kind::Directory if path == "/" => {}
            Kind::Directory => fs::create_dir(&place)?,
            Kind::Symlink(link) => symlink(link, &place)?,
            Kind::File(content) => {
                io::copy(&mut content.reader()?, &mut File::create(&place)?)?;
                fs::set_permissions(&place, Permissions::from_mode(node.mode & 0o755 | 0o600))?;
            }
            // Device nodes and pipes: no tool needs one of its own.
            _ => {}
        }
    }
    Ok(())
}
