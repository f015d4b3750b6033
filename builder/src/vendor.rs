//! `imgbuild vendor DIR`: everything a lock needs, in a folder that serves as Debian mirror
//! (`--mirror file:///DIR`) and as Go module proxy (`GOPROXY=file:///DIR/go`). What is there already and
//! right is kept, so that several profiles can share one folder.

use crate::cache::{Digest, io_error, write_atomically};
use crate::fetch::Fetcher;
use crate::lock::Lock;
use crate::progress::Unit;
use crate::scratch;
use crate::sources::deb::index::IndexFile;
use crate::sources::deb::{self, Archive, Index, Mirror};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folder of the module proxy within the vendored one.
pub const GO_FOLDER: &str = "go";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("go {arguments}: {reason}")]
    Go { arguments: &'static str, reason: String },
    #[error("component {component}: module {module}: {reason}")]
    Module { component: String, module: String, reason: String },
    #[error("component {component}: go.mod replaces {module} by the folder {folder}; a module proxy cannot hold that")]
    LocalReplace { component: String, module: String, folder: String },
    #[error(transparent)]
    Debian(#[from] deb::Error),
    #[error(transparent)]
    Cache(#[from] crate::cache::Error),
}

/// What was written, or was there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    pub packages: usize,
    pub modules: usize,
    /// Bytes of all of it.
    pub bytes: u64,
}

/// Writes a lock's packages, the index they came from, and the modules of its Go components.
/// `components` is the project's folder of that name; `index` is a function that loads the archive's index:
/// where that fails, or the mirror has moved on, the folder serves this lock but cannot be locked from anew.
///
/// # Errors
/// A package or module that is not to be had, or the file system's.
pub fn vendor(
    fetcher: &Fetcher,
    mirror: &Mirror,
    lock: &Lock,
    components: &Path,
    folder: &Path,
    index: impl FnOnce() -> Result<Index, deb::Error>,
) -> Result<Summary, Error> {
    let mut summary = Summary::default();
    vendor_packages(fetcher, mirror, lock, folder, &mut summary)?;
    match index() {
        Ok(index) => vendor_index(fetcher, lock, &index, folder)?,
        Err(error) => fetcher.progress().warn(&format!("no index is vendored, the lock works without: {error}")),
    }
    vendor_modules(fetcher, lock, components, folder, &mut summary)?;
    Ok(summary)
}

fn vendor_packages(
    fetcher: &Fetcher,
    mirror: &Mirror,
    lock: &Lock,
    folder: &Path,
    summary: &mut Summary,
) -> Result<(), Error> {
    let files = deb::fetch_packages(fetcher, mirror, lock)?;
    let task = fetcher.progress().task("vendoring packages", files.len() as u64, Unit::Items);
    for (package, file) in lock.packages.iter().zip(&files) {
        let target = folder.join(package.archive.folder()).join(&package.filename);
        copy(file, &target, Some(&package.sha256))?;
        summary.packages += 1;
        summary.bytes += package.size;
        task.advance(1);
    }
    task.done();
    Ok(())
}

fn vendor_index(fetcher: &Fetcher, lock: &Lock, index: &Index, folder: &Path) -> Result<(), Error> {
    let moved = lock.packages.iter().find(|package| index.exactly(&package.name, &package.version).is_none());
    if let Some(package) = moved {
        let (name, version) = (&package.name, &package.version);
        let text = format!(
            "the mirror has moved on since {name} {version} was locked: no index is vendored, the lock works without"
        );
        fetcher.progress().warn(&text);
        return Ok(());
    }
    for (path, file) in &index.files {
        let suite = path.split('/').next().unwrap_or_default();
        let target = folder.join(Archive::of_suite(suite).folder()).join("dists").join(path);
        match file {
            IndexFile::Signed(content) => write_atomically(&target, content)?,
            IndexFile::Cached(source) => copy(source, &target, None)?,
        }
    }
    Ok(())
}

/// What `go mod download -json` says of a module.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Downloaded {
    path: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    info: Option<PathBuf>,
    #[serde(default)]
    go_mod: Option<PathBuf>,
    #[serde(default)]
    zip: Option<PathBuf>,
}

fn vendor_modules(
    fetcher: &Fetcher,
    lock: &Lock,
    components: &Path,
    folder: &Path,
    summary: &mut Summary,
) -> Result<(), Error> {
    if lock.components.is_empty() {
        return Ok(());
    }
    let cache = module_cache()?;
    let mut done = BTreeSet::new();
    let task = fetcher.progress().task("vendoring Go modules", lock.components.len() as u64, Unit::Items);
    for component in &lock.components {
        let source = components.join(&component.name);
        for module in download(&component.name, &source, fetcher.offline())? {
            let files = [module.info, module.go_mod, module.zip].into_iter().flatten();
            for file in files.filter(|file| done.insert(file.clone())) {
                summary.bytes += copy_module_file(&cache, &file, folder, &component.name, &module.path)?;
                summary.modules += usize::from(file.extension().is_some_and(|extension| extension == "zip"));
            }
        }
        // The module graph is read from go.mod files of modules of which nothing is linked.
        for file in go_mod_files(&cache, &source).into_iter().filter(|file| done.insert(file.clone())) {
            summary.bytes += copy_module_file(&cache, &file, folder, &component.name, "go.sum")?;
        }
        task.advance(1);
    }
    task.done();
    Ok(())
}

/// GOMODCACHE/cache/download, which has a proxy's layout.
fn module_cache() -> Result<PathBuf, Error> {
    let wrong = |reason: String| Error::Go { arguments: "env GOMODCACHE", reason };
    let output = Command::new("go").args(["env", "GOMODCACHE"]).output().map_err(|error| wrong(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.trim() {
        "" => Err(wrong(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        path => Ok(Path::new(path).join("cache/download")),
    }
}

/// Has Go fetch, and check against go.sum, every module of a component's build. It runs on copies: Go may
/// add to go.sum, and the component's own is pinned.
fn download(component: &str, source: &Path, offline: bool) -> Result<Vec<Downloaded>, Error> {
    let wrong = |reason: String| Error::Go {
        arguments: "mod download -json",
        reason: format!("component {component}: {reason}"),
    };
    let copy = tempfile::tempdir().map_err(|error| wrong(error.to_string()))?;
    let _watch = scratch::watch(copy.path());
    for name in ["go.mod", "go.sum"] {
        let path = source.join(name);
        if path.exists() {
            fs::copy(&path, copy.path().join(name)).map_err(io_error(&path))?;
        }
    }
    refuse_local_replaces(component, source)?;
    let mut command = Command::new("go");
    command.args(["mod", "download", "-json"]).current_dir(copy.path()).env("GOWORK", "off").env("GOFLAGS", "-mod=mod");
    if offline {
        command.env("GOPROXY", "off");
    }
    let output = command.output().map_err(|error| wrong(error.to_string()))?;
    let mut modules = Vec::new();
    for module in serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Downloaded>() {
        let module = module.map_err(|error| wrong(format!("its answer cannot be read: {error}")))?;
        if let Some(reason) = module.error {
            let name = format!("{} {}", module.path, module.version);
            return Err(Error::Module { component: component.to_owned(), module: name, reason });
        }
        modules.push(module);
    }
    // A module without dependencies makes Go say so, with status 0.
    if output.status.success() {
        Ok(modules)
    } else {
        Err(wrong(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

fn refuse_local_replaces(component: &str, source: &Path) -> Result<(), Error> {
    let path = source.join("go.mod");
    let text = fs::read_to_string(&path).map_err(io_error(&path))?;
    for line in text.lines() {
        let Some((module, target)) = line.split_once("=>") else { continue };
        let target = target.trim();
        if target.starts_with('.') || target.starts_with('/') {
            let module = module.trim().trim_start_matches("replace ").to_owned();
            return Err(Error::LocalReplace { component: component.to_owned(), module, folder: target.to_owned() });
        }
    }
    Ok(())
}

/// The .mod files in the module cache that go.sum knows: `MODULE VERSION/go.mod h1:...`.
fn go_mod_files(cache: &Path, source: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(source.join("go.sum")).unwrap_or_default();
    let files = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (module, version) = (words.next()?, words.next()?.strip_suffix("/go.mod")?);
        Some(cache.join(escape(module)).join("@v").join(format!("{}.mod", escape(version))))
    });
    files.filter(|file| file.exists()).collect()
}

/// Capital letters in paths of a module cache: `!a` for `A`, so that no file system confuses them.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii_uppercase() {
            escaped.push('!');
        }
        escaped.push(character.to_ascii_lowercase());
    }
    escaped
}

/// Copies a file of the module cache to its place in the proxy; gives its size.
fn copy_module_file(cache: &Path, file: &Path, folder: &Path, component: &str, module: &str) -> Result<u64, Error> {
    let relative = file.strip_prefix(cache).map_err(|_| Error::Module {
        component: component.to_owned(),
        module: module.to_owned(),
        reason: format!("{} is not below {}", file.display(), cache.display()),
    })?;
    let target = folder.join(GO_FOLDER).join(relative);
    copy(file, &target, None)?;
    Ok(fs::metadata(&target).map_err(io_error(&target))?.len())
}

/// Copies a file whole or not at all; one that is there with the same content stays.
fn copy(source: &Path, target: &Path, digest: Option<&Digest>) -> Result<(), Error> {
    if same(source, target, digest)? {
        return Ok(());
    }
    let folder = target.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(io_error(folder))?;
    let mut temporary = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)
        .map_err(io_error(folder))?;
    let _watch = scratch::watch(temporary.path());
    let mut input = File::open(source).map_err(io_error(source))?;
    io::copy(&mut input, &mut temporary).map_err(io_error(target))?;
    temporary.as_file().sync_all().map_err(io_error(target))?;
    temporary.persist(target).map_err(|error| io_error(target)(error.error))?;
    Ok(())
}

fn same(source: &Path, target: &Path, digest: Option<&Digest>) -> Result<bool, Error> {
    let (Ok(there), Ok(wanted)) = (fs::metadata(target), fs::metadata(source)) else { return Ok(false) };
    if there.len() != wanted.len() {
        return Ok(false);
    }
    let wanted = match digest {
        Some(digest) => *digest,
        None => Digest::of_file(source)?.0,
    };
    Ok(Digest::of_file(target)?.0 == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capitals_are_escaped_as_go_does() {
        assert_eq!(escape("github.com/BurntSushi/toml"), "github.com/!burnt!sushi/toml");
    }

    #[test]
    fn a_folder_in_place_of_a_module_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("go.mod"), "module x\nreplace example.com/y => ../y\n").unwrap();
        let message = refuse_local_replaces("x", folder.path()).unwrap_err().to_string();
        assert!(message.contains("example.com/y") && message.contains("../y"), "{message}");
        fs::write(folder.path().join("go.mod"), "module x\nreplace k8s.io/a => k8s.io/a v0.37.2\n").unwrap();
        refuse_local_replaces("x", folder.path()).unwrap();
    }

    #[test]
    fn a_copy_that_was_damaged_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let (source, target) = (folder.path().join("source"), folder.path().join("new/target"));
        fs::write(&source, b"content").unwrap();
        copy(&source, &target, None).unwrap();
        fs::write(&target, b"cOntent").unwrap();
        copy(&source, &target, Some(&Digest::of(b"content"))).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"content");
    }
}
