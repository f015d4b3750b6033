//! Profiles, from files to one merged and checked value in which every part knows where it came from.

mod load;
mod merge;
mod validate;

use crate::error::{Error, Place, Problem, Result, Source};
use crate::project::Project;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub use validate::{PortRange, parse_port};

/// Where a value came from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A line of a profile.
    File(Place),
    /// Nobody wrote it: the schema's default.
    Default,
    /// Made by a rule of the builder, in words.
    Rule(String),
}

impl Origin {
    /// The place to point at, when there is one.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Origin::File(place) => Some(place),
            Origin::Default | Origin::Rule(_) => None,
        }
    }
}

impl fmt::Display for Origin {
    /// `profiles/base.toml:12`, `default`, `rule: ...`
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File(place) => place.fmt(formatter),
            Origin::Default => formatter.write_str("default"),
            Origin::Rule(rule) => write!(formatter, "rule: {rule}"),
        }
    }
}

/// A profile that is merged and valid. `merged.extends` is empty, and the paths in `overlays`,
/// `files`, `manifests` and `images` are absolute.
#[derive(Debug, Clone)]
pub struct Profile {
    /// The names that were asked for, without folder and ending, joined by `-`: `master-vm`.
    pub name: String,
    pub merged: spec::profile::Profile,
    /// Every file that took part, in the order of merging.
    pub sources: Vec<Arc<Source>>,
    values: Vec<Value>,
    origins: BTreeMap<String, Origin>,
}

/// One resolved value: `kernel.package`, or the third element of a list as `debian.packages[2]`.
#[derive(Debug, Clone)]
pub struct Value {
    pub path: String,
    pub value: toml::Value,
    pub origin: Origin,
}

impl Profile {
    /// Loads, merges and checks. `names` are names of the project's profiles, or paths (with a `/` or
    /// ending in `.toml`) relative to the current folder; each with what it extends, later ones win.
    ///
    /// # Errors
    /// Bad input that points at the line, every problem at once.
    pub fn load(project: &Project, names: &[String]) -> Result<Profile> {
        let files = load::load(project, names)?;
        let sources = files.iter().map(|file| file.source.clone()).collect();
        let tree = merge::merge(files.into_iter().map(|file| file.tree));
        let name = names.iter().map(|name| load::short_name(name)).collect::<Vec<_>>().join("-");
        let profile = Profile::of_tree(name, sources, tree)?;
        match Error::of_problems(format!("profile {}", profile.name), validate::problems(&profile, project)) {
            Some(error) => Err(error),
            None => Ok(profile),
        }
    }

    fn of_tree(name: String, sources: Vec<Arc<Source>>, tree: merge::Node) -> Result<Profile> {
        let merged = tree.to_profile()?;
        let values = tree.values();
        let mut origins = tree.table_origins();
        origins.extend(values.iter().map(|value| (value.path.clone(), value.origin.clone())));
        Ok(Profile { name, merged, sources, values, origins })
    }

    /// Where the value or table at `path` came from. Keys with dots are quoted as in TOML: see [`path`].
    pub fn origin(&self, path: &str) -> Origin {
        self.origins.get(path).cloned().unwrap_or(Origin::Default)
    }

    /// Every value that some file gives, sorted by path (lists in their order).
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// Whether a profile file of this name takes part.
    pub fn includes(&self, name: &str) -> bool {
        self.sources.iter().any(|source| source.path.file_stem().is_some_and(|stem| stem == name))
    }

    /// The role, which an image needs.
    ///
    /// # Errors
    /// Bad input when no file names one.
    pub fn role(&self) -> Result<spec::cluster::Role> {
        self.merged.role.ok_or_else(|| {
            Error::bad_input(format!("profile {} has no role, so it makes no image", self.name))
                .help("add --profile master or --profile node, or write `role = \"master\"` into your own profile")
        })
    }

    /// A problem that points at the value of this path.
    pub fn problem(&self, path: &str, message: impl Into<String>) -> Problem {
        let origin = self.origin(path);
        Problem::new(message).at(origin.place(), "this value")
    }
}

/// Joins keys to a path; keys that are no bare keys of TOML are quoted: `sysctl."vm.swappiness".value`.
pub fn path(keys: &[&str]) -> String {
    let bare =
        |key: &str| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    let quoted = |key: &&str| if bare(key) { (*key).to_owned() } else { format!("{key:?}") };
    keys.iter().map(quoted).collect::<Vec<_>>().join(".")
}

/// Names of the project's profiles, sorted.
pub fn available(project: &Project) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(project.profiles()) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".toml")?.to_owned()))
        .collect();
    names.sort();
    names
}

/// Profiles out of a text, for tests of what is made from them.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use std::path::Path;
    use toml::de::DeTable;

    /// A profile of one file `test.toml`, without the checks that need the project's folders.
    pub(crate) fn profile(text: &str) -> Profile {
        let source = Source::new(Path::new("test.toml"), "test.toml", text);
        let table = DeTable::parse(&source.text).unwrap();
        Profile::of_tree("test".into(), vec![source.clone()], merge::Node::of_table(&source, table.get_ref())).unwrap()
    }
}
