//! What is taken out of the packages again.

use super::Error;
use ::images::tree::{Node, Tree};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use spec::profile::Trim;
use std::collections::BTreeSet;
use std::sync::Arc;

const ZONES: &str = "/usr/share/zoneinfo";
const UTC: &str = "UTC";

/// Removes what the globs say: a glob stands for the path that it matches and everything below it. Folders
/// that become empty go too.
pub(super) fn trim(tree: &mut Tree, globs: &Trim) -> Result<(), Error> {
    let remove = compile("remove", &globs.remove)?;
    let keep = compile("keep", &globs.keep)?;
    let folders: BTreeSet<String> = tree
        .iter()
        .filter(|(path, node)| node.is_directory() && tree.below(path).next().is_some())
        .map(|(path, _)| path.to_owned())
        .collect();
    let goes = |path: &str| matches(&remove, path) && !matches(&keep, path);
    let doomed: Vec<String> = tree
        .iter()
        .filter(|(path, node)| (!node.is_directory() || !folders.contains(*path)) && goes(path))
        .map(|(path, _)| path.to_owned())
        .collect();
    for path in doomed {
        tree.remove(&path);
    }
    // Deepest first, so that a parent is seen empty after its children have gone.
    for folder in folders.iter().rev().filter(|folder| *folder != "/") {
        if tree.below(folder).next().is_none() {
            tree.remove(folder);
        }
    }
    Ok(())
}

/// Whether the set matches the path or one of the folders above it.
fn matches(set: &GlobSet, path: &str) -> bool {
    let ends = path.match_indices('/').map(|(end, _)| end).filter(|end| *end > 0);
    set.is_match(path) || ends.into_iter().any(|end| set.is_match(&path[..end]))
}

fn compile(key: &'static str, globs: &[String]) -> Result<GlobSet, Error> {
    let refuse = |glob: &str, error: &globset::Error| Error::Glob {
        key,
        glob: glob.to_owned(),
        reason: error.kind().to_string(),
    };
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        let compiled = GlobBuilder::new(glob).literal_separator(true).build();
        set.add(compiled.map_err(|error| refuse(glob, &error))?);
    }
    set.build().map_err(|error| refuse(&globs.join(", "), &error))
}

/// Keeps the machine's time zone and UTC alone, and makes /etc/localtime.
pub(super) fn limit_time_zones(tree: &mut Tree, zone: &str) -> Result<(), Error> {
    let missing = |hint| Error::TimeZone { zone: zone.to_owned(), hint };
    if tree.get(ZONES).is_none() {
        // Without a file the machine's programs use UTC.
        return if zone == UTC { Ok(()) } else { Err(missing("; add the package tzdata")) };
    }
    let find = |name: &str| tree.find(&format!("{ZONES}/{name}")).filter(|node| node.content().is_some()).cloned();
    let wanted = find(zone).ok_or_else(|| missing("; wanted a name such as Europe/Berlin"))?;
    let utc = find(UTC);
    tree.remove(ZONES);
    let origin: Arc<str> = "timezone".into();
    tree.insert(&format!("{ZONES}/{zone}"), wanted)?;
    if let Some(utc) = utc {
        tree.insert(&format!("{ZONES}/{UTC}"), utc)?;
    }
    tree.insert("/etc/localtime", Node::symlink(format!("..{ZONES}/{zone}"), &origin))?;
    tree.insert("/etc/timezone", Node::file(format!("{zone}\n"), 0o644, &origin))?;
    Ok(())
}
