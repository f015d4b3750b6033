//! Finds and reads profile files, follows `extends`, and makes their paths absolute.

use super::available;
use super::merge::Node;
use crate::error::{Error, Place, Problem, Result, Source};
use crate::project::Project;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use toml::de::DeTable;

/// One profile file that takes part in a merge.
#[derive(Debug)]
pub(super) struct File {
    pub(super) source: Arc<Source>,
    pub(super) tree: Node,
}

/// Reads the named profiles and all that they extend. What is extended comes before who extends it;
/// a file that is reached twice stands where it was reached first.
pub(super) fn load(project: &Project, names: &[String]) -> Result<Vec<File>> {
    let current =
        std::env::current_dir().map_err(|error| Error::because("the current folder cannot be read", error))?;
    let mut loader = Loader { project, files: Vec::new(), chain: Vec::new() };
    for name in names {
        let path = loader.find(name, &current);
        loader.load(name, &path, None)?;
    }
    Ok(loader.files)
}

/// The name without folder and ending.
pub(super) fn short_name(name: &str) -> String {
    let stem = if is_path(name) { Path::new(name).file_stem() } else { None };
    stem.map_or_else(|| name.to_owned(), |stem| stem.to_string_lossy().into_owned())
}

fn is_path(name: &str) -> bool {
    name.contains('/') || name.ends_with(".toml")
}

struct Loader<'a> {
    project: &'a Project,
    files: Vec<File>,
    /// From the profile that was asked for to the one that is being read.
    chain: Vec<(String, PathBuf)>,
}

impl Loader<'_> {
    fn find(&self, name: &str, folder: &Path) -> PathBuf {
        if is_path(name) { clean(&folder.join(name)) } else { self.project.profiles().join(format!("{name}.toml")) }
    }

    /// Reads one file after those that it extends. `named_at` is the line that names it.
    fn load(&mut self, name: &str, path: &Path, named_at: Option<&Place>) -> Result<()> {
        if let Some(start) = self.chain.iter().position(|(_, known)| known == path) {
            return Err(self.cycle(start, name, named_at).into());
        }
        if self.files.iter().any(|file| file.source.path == path) {
            return Ok(());
        }
        let source = self.read(name, path, named_at)?;
        let mut tree = parse(&source)?;
        self.chain.push((name.to_owned(), path.to_owned()));
        let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
        if let Some(mut extends) = tree.take("extends") {
            for (parent, origin) in extends.texts_mut() {
                let parent_path = self.find(parent, &folder);
                self.load(parent, &parent_path, origin.place())?;
            }
        }
        self.chain.pop();
        resolve_paths(&mut tree, &folder, self.project);
        self.files.push(File { source, tree });
        Ok(())
    }

    fn read(&self, name: &str, path: &Path, named_at: Option<&Place>) -> Result<Arc<Source>> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Source::new(path, self.project.display(path), text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let problem =
                    Problem::new(format!("no profile {name:?}: {} does not exist", self.project.display(path)))
                        .at(named_at, "named here");
                Err(problem.help(format!(
                    "the project has {}; a file of your own is named by its path, ending in .toml",
                    available(self.project).join(", ")
                )))?
            }
            Err(error) => Err(Problem::new(format!("profile {}: cannot be read", path.display()))
                .at(named_at, "named here")
                .because(error))?,
        }
    }

    fn cycle(&self, start: usize, name: &str, named_at: Option<&Place>) -> Problem {
        let mut chain: Vec<&str> = self.chain[start..].iter().map(|(name, _)| name.as_str()).collect();
        chain.push(name);
        Problem::new(format!("profiles extend each other in a circle: {}", chain.join(" -> ")))
            .at(named_at, "closes the circle")
            .help("remove one of these `extends`")
    }
}

/// Reads the text as a profile, for unknown keys and wrong types, and as a tree with places.
fn parse(source: &Arc<Source>) -> Result<Node> {
    let refused = |error: toml::de::Error| Problem::of_toml(source, &error);
    let table = DeTable::parse(&source.text).map_err(refused)?;
    toml::from_str::<spec::profile::Profile>(&source.text).map_err(refused)?;
    Ok(Node::of_table(source, table.get_ref()))
}

/// Makes the file's paths absolute: a merged profile no longer knows the folder that each was relative to.
fn resolve_paths(tree: &mut Node, folder: &Path, project: &Project) {
    let absolute = |text: &mut String| *text = clean(&folder.join(&*text)).to_string_lossy().into_owned();
    if let Some(overlays) = tree.get_mut("overlays") {
        for (text, _) in overlays.texts_mut() {
            if text.contains('/') {
                absolute(text);
            } else {
                *text = project.overlays().join(&*text).to_string_lossy().into_owned();
            }
        }
    }
    if let Some(manifests) = tree.get_mut("manifests") {
        manifests.texts_mut().into_iter().for_each(|(text, _)| absolute(text));
    }
    for (table, key) in [("files", "source"), ("images", "layout")] {
        for entry in tree.get_mut(table).into_iter().flat_map(Node::entries_mut) {
            for (text, _) in entry.get_mut(key).into_iter().flat_map(Node::texts_mut) {
                absolute(text);
            }
        }
    }
}

/// The path without `.` and `..` parts, so that two ways to the same file are seen as one.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            part => clean.push(part),
        }
    }
    clean
}
