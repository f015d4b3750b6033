//! `NAME.lock`: exactly what a profile was resolved to. Same lock, same bytes: after locking, the hashes
//! in here rule, and no index is asked again until the request changes or the operator says `--update`.

use crate::cache::{Digest, write_atomically};
use crate::sources::deb::{self, Archive, Index, solver};
use serde::{Deserialize, Serialize};
use spec::component::Component;
use spec::profile::Profile;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Version of the lock's own format.
pub const FORMAT: u32 = 1;
/// The only architecture so far.
pub const ARCHITECTURE: &str = "amd64";

const HEADER: &str = "# Written by `imgbuild lock`; do not edit. `imgbuild lock --update` resolves anew.\n\n";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: not a lock: {source}; `imgbuild lock --update --profile {profile}` writes it anew", path.display())]
    Parse { path: PathBuf, profile: String, source: Box<toml::de::Error> },
    #[error("{}: lock of format {found}, this program knows {FORMAT}; use the imgbuild that wrote it, or lock anew", path.display())]
    Format { path: PathBuf, found: u32 },
    #[error("{}: there is no lock, and --locked forbids to make one; run `imgbuild lock --profile {profile}`", path.display())]
    Missing { path: PathBuf, profile: String },
    #[error("{}: the profile has changed since it was locked ({differences}), and --locked forbids to lock anew; run `imgbuild lock --profile {profile}`", path.display())]
    Outdated { path: PathBuf, profile: String, differences: String },
    #[error("the lock cannot be written as TOML: {0}")]
    Encode(#[from] toml::ser::Error),

    #[error("{}: {source}", path.display())]
    Component { path: PathBuf, source: Box<toml::de::Error> },
    #[error("component {name}: {module} {version} is not in {}; run `go mod tidy` there, or correct the version in component.toml", go_sum.display())]
    NotInGoSum { name: String, module: String, version: String, go_sum: PathBuf },
    #[error("{program} does not run ({reason}); it is needed to build; `imgbuild doctor` says how to get it")]
    Toolchain { program: &'static str, reason: String },

    #[error(transparent)]
    Debian(#[from] deb::Error),
    #[error(transparent)]
    Cache(#[from] crate::cache::Error),
}

/// What is asked of the Debian archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DebianRequest {
    pub architecture: String,
    pub suites: Vec<String>,
    /// `main`, `non-free-firmware`
    pub components: Vec<String>,
    /// Primary fingerprints of the keys that may sign.
    pub keys: Vec<String>,
    pub packages: Vec<String>,
    pub exclude: Vec<String>,
}

impl DebianRequest {
    /// What a merged profile asks for: the kernel's package and, with `firmware`, the firmware's come in.
    pub fn of_profile(profile: &Profile) -> Self {
        let debian = &profile.debian;
        let firmware = debian.firmware == Some(true);
        let mut components = debian.components.clone();
        let mut packages = debian.packages.clone();
        packages.extend(profile.kernel.package.clone());
        if firmware {
            components.push("non-free-firmware".to_owned());
            packages.extend(debian.firmware_packages.iter().cloned());
        }
        DebianRequest {
            architecture: ARCHITECTURE.to_owned(),
            // The order of suites and components is the order of preference: kept, without repeats.
            suites: without_repeats(debian.suites.clone()),
            components: without_repeats(components),
            keys: sorted(debian.keys.clone()),
            packages: sorted(packages),
            exclude: sorted(debian.exclude.clone()),
        }
    }

    /// SHA-256 of everything above: a lock with another digest was made for another request.
    pub fn digest(&self) -> Digest {
        let lists = [&self.suites, &self.components, &self.keys, &self.packages, &self.exclude];
        let lists = lists.map(|list| Digest::of_parts(list.iter().map(String::as_bytes)));
        Digest::of_parts([self.architecture.as_bytes()].into_iter().chain(lists.iter().map(|digest| &digest.0[..])))
    }

    /// As the index loader takes it.
    pub fn wanted(&self) -> deb::Wanted<'_> {
        deb::Wanted { suites: &self.suites, areas: &self.components, architecture: &self.architecture }
    }
}

fn sorted(mut list: Vec<String>) -> Vec<String> {
    list.sort();
    list.dedup();
    list
}

fn without_repeats(list: Vec<String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for item in list {
        if !kept.contains(&item) {
            kept.push(item);
        }
    }
    kept
}

/// A locked Debian package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Locked {
    pub name: String,
    pub version: String,
    pub architecture: String,
    pub archive: Archive,
    /// Path below the archive's base.
    pub filename: String,
    /// Bytes.
    pub size: u64,
    pub sha256: Digest,
}

/// A locked Go component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LockedComponent {
    pub name: String,
    pub version: String,
    /// Upstream module and its hash in go.sum (`h1:`); absent for a program of our own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sum: Option<String>,
    /// SHA-256 of go.mod and go.sum: every module that it is built from.
    pub modules: Digest,
}

impl LockedComponent {
    /// Reads components/NAME: component.toml, go.mod, go.sum.
    ///
    /// # Errors
    /// A file that cannot be read, or an upstream version that go.sum does not have.
    pub fn read(folder: &Path) -> Result<Self, Error> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).map_err(|source| Error::Read { path, source })
        };
        let component: Component = toml::from_str(&read("component.toml")?)
            .map_err(|source| Error::Component { path: folder.join("component.toml"), source: Box::new(source) })?;
        let go_mod = read("go.mod")?;
        // A module without dependencies has no go.sum.
        let go_sum_path = folder.join("go.sum");
        let go_sum = if go_sum_path.exists() { read("go.sum")? } else { String::new() };
        let sum = match &component.module {
            None => None,
            Some(module) => Some(find_sum(&go_sum, module, &component.version).ok_or_else(|| Error::NotInGoSum {
                name: component.name.clone(),
                module: module.clone(),
                version: component.version.clone(),
                go_sum: go_sum_path,
            })?),
        };
        let modules = Digest::of_parts([go_mod.as_bytes(), go_sum.as_bytes()]);
        Ok(LockedComponent { name: component.name, version: component.version, module: component.module, sum, modules })
    }
}

/// The hash of a module's content: `MODULE VERSION h1:...`.
fn find_sum(go_sum: &str, module: &str, version: &str) -> Option<String> {
    go_sum.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let found = words.next() == Some(module) && words.next() == Some(version);
        found.then(|| words.next().map(str::to_owned)).flatten()
    })
}

/// Versions of what compiles.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Toolchain {
    /// `1.95.0`
    pub rustc: String,
    /// `go1.26.8`
    pub go: String,
}

impl Toolchain {
    /// Of this machine, as the compilers say.
    ///
    /// # Errors
    /// A compiler that does not run.
    pub fn of_machine() -> Result<Self, Error> {
        Ok(Toolchain { rustc: ask("rustc", &["--version"], 1)?, go: ask("go", &["version"], 2)? })
    }
}

fn ask(program: &'static str, arguments: &[&str], word: usize) -> Result<String, Error> {
    let wrong = |reason: String| Error::Toolchain { program, reason };
    let output = Command::new(program).args(arguments).output().map_err(|error| wrong(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_whitespace().nth(word).filter(|_| output.status.success());
    version.map(str::to_owned).ok_or_else(|| wrong(format!("it answers {text:?}")))
}

/// All that a lock is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Names joined by `-`, for messages and the file's name.
    pub profile: String,
    pub debian: DebianRequest,
    pub components: Vec<LockedComponent>,
    pub toolchain: Toolchain,
}

impl Request {
    /// Of a merged profile; `components` is the project's folder of that name.
    ///
    /// # Errors
    /// A component that cannot be read.
    pub fn of_profile(name: &str, profile: &Profile, components: &Path, toolchain: Toolchain) -> Result<Self, Error> {
        let locked = profile.components.keys().map(|component| LockedComponent::read(&components.join(component)));
        Ok(Request {
            profile: name.to_owned(),
            debian: DebianRequest::of_profile(profile),
            components: locked.collect::<Result<_, _>>()?,
            toolchain,
        })
    }
}

/// The lock itself. Lists are sorted by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Lock {
    pub format: u32,
    pub profile: String,
    /// `DebianRequest::digest` of what it was made for.
    pub request: Digest,
    /// Release of the kernel, `6.12.117+deb13-amd64`, when the profile has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    pub toolchain: Toolchain,
    /// The request, so that a lock says by itself what it answers.
    pub debian: DebianRequest,
    /// Suite -> date of its index, RFC 3339.
    pub dates: BTreeMap<String, String>,
    #[serde(default, rename = "component")]
    pub components: Vec<LockedComponent>,
    #[serde(default, rename = "package")]
    pub packages: Vec<Locked>,
}

/// When a lock may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// `--locked`: the lock must be there and answer the request.
    Locked,
    /// Made when it is missing or the request has changed.
    AsNeeded,
    /// `--update`: made anew.
    Update,
}

/// What became of the lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Kept,
    Created,
    /// What changed, a line each.
    Changed(Vec<String>),
}

impl Lock {
    /// Resolves a request against an index.
    ///
    /// # Errors
    /// As [`solver::resolve`].
    pub fn resolve(request: &Request, index: &Index) -> Result<Self, Error> {
        let chosen = solver::resolve(index, &request.debian.packages, &request.debian.exclude)?;
        let packages = chosen.values().map(|chosen| lock_package(chosen.package)).collect::<Result<Vec<_>, _>>()?;
        let dates = index.suites.iter().map(|suite| (suite.name.clone(), deb::release::show(suite.date))).collect();
        let mut lock = Lock {
            format: FORMAT,
            profile: request.profile.clone(),
            request: request.debian.digest(),
            kernel: kernel_release(&packages),
            toolchain: request.toolchain.clone(),
            debian: request.debian.clone(),
            dates,
            components: Vec::new(),
            packages,
        };
        lock.set_components(request);
        Ok(lock)
    }

    /// The lock at `path` if it answers the request and `policy` lets it; otherwise one made with `load`'s
    /// index, and written. Packages stay as they are when only components or toolchain have changed.
    ///
    /// # Errors
    /// With `--locked` a lock that is missing or does not answer; an index or a package that is not to be had.
    pub fn obtain(
        path: &Path,
        request: &Request,
        policy: Policy,
        load: impl FnOnce() -> Result<Index, deb::Error>,
    ) -> Result<(Self, Outcome), Error> {
        let present = match Self::read(path) {
            Ok(lock) => Some(lock),
            Err(Error::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
            // A lock that cannot be read is no obstacle for writing it anew.
            Err(Error::Parse { .. } | Error::Format { .. }) if policy == Policy::Update => None,
            Err(error) => return Err(error),
        };
        let profile = request.profile.clone();
        let Some(present) = present else {
            if policy == Policy::Locked {
                return Err(Error::Missing { path: path.to_owned(), profile });
            }
            let lock = Self::resolve(request, &load()?)?;
            lock.write(path)?;
            return Ok((lock, Outcome::Created));
        };
        let differences = present.differences(request);
        if differences.is_empty() && policy != Policy::Update {
            return Ok((present, Outcome::Kept));
        }
        if policy == Policy::Locked {
            return Err(Error::Outdated { path: path.to_owned(), profile, differences: differences.join("; ") });
        }
        let lock = if present.request == request.debian.digest() && policy == Policy::AsNeeded {
            let mut lock = present.clone();
            lock.set_components(request);
            lock
        } else {
            Self::resolve(request, &load()?)?
        };
        lock.write(path)?;
        let changes = lock.changes_since(&present);
        Ok((lock, Outcome::Changed(changes)))
    }

    /// In what the request is not the one that this lock was made for, a phrase each.
    pub fn differences(&self, request: &Request) -> Vec<String> {
        let mut differences = Vec::new();
        let (old, new) = (&self.debian, &request.debian);
        for (name, old, new) in [
            ("packages", &old.packages, &new.packages),
            ("exclude", &old.exclude, &new.exclude),
            ("suites", &old.suites, &new.suites),
            ("components", &old.components, &new.components),
            ("keys", &old.keys, &new.keys),
        ] {
            differences.extend(list_difference(name, old, new));
        }
        if differences.is_empty() && self.request != request.debian.digest() {
            differences.push("the request's digest".to_owned());
        }
        let describe = |components: &[LockedComponent]| {
            let lines = components
                .iter()
                .map(|component| format!("{} {} {}", component.name, component.version, component.modules));
            lines.collect::<Vec<_>>()
        };
        differences.extend(list_difference(
            "go components",
            &describe(&self.components),
            &describe(&request.components),
        ));
        differences
    }

    /// Versions of compilers that differ from the lock's, in words; the bytes of the image may differ then.
    pub fn toolchain_differences(&self, machine: &Toolchain) -> Vec<String> {
        let pairs = [("rustc", &self.toolchain.rustc, &machine.rustc), ("go", &self.toolchain.go, &machine.go)];
        let different = pairs.into_iter().filter(|(_, locked, found)| locked != found);
        different.map(|(name, locked, found)| format!("{name}: locked {locked}, here {found}")).collect()
    }

    /// Packages and components that came, went or changed since `old`, a line each, sorted.
    pub fn changes_since(&self, old: &Lock) -> Vec<String> {
        let versions = |lock: &Lock| -> BTreeMap<String, String> {
            let packages = lock.packages.iter().map(|package| (package.name.clone(), package.version.clone()));
            let components =
                lock.components.iter().map(|component| (format!("{} (go)", component.name), component.version.clone()));
            packages.chain(components).collect()
        };
        let (old, new) = (versions(old), versions(self));
        let mut changes: Vec<String> = new
            .iter()
            .filter_map(|(name, version)| match old.get(name) {
                None => Some(format!("{name}: {version} is new")),
                Some(before) if before != version => Some(format!("{name}: {before} -> {version}")),
                Some(_) => None,
            })
            .collect();
        let gone = old.iter().filter(|(name, _)| !new.contains_key(*name));
        changes.extend(gone.map(|(name, version)| format!("{name}: {version} is gone")));
        changes.sort();
        changes
    }

    /// # Errors
    /// Missing ([`Error::Read`]), not a lock, or of another format.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let profile = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let wrong = |source| Error::Parse { path: path.to_owned(), profile: profile.clone(), source: Box::new(source) };
        // The format first: a newer lock is to be called that, not a lock with an unknown key.
        let head: Head = toml::from_str(&text).map_err(wrong)?;
        if head.format != FORMAT {
            return Err(Error::Format { path: path.to_owned(), found: head.format });
        }
        toml::from_str(&text).map_err(wrong)
    }

    /// The lock's text: the same for the same lock.
    ///
    /// # Errors
    /// None that is known; TOML's own.
    pub fn text(&self) -> Result<String, Error> {
        Ok(format!("{HEADER}{}", toml::to_string(self)?))
    }

    /// Writes it whole or not at all.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        Ok(write_atomically(path, self.text()?.as_bytes())?)
    }

    /// SHA-256 of the lock's text: part of an image's version.
    ///
    /// # Errors
    /// As [`Lock::text`].
    pub fn digest(&self) -> Result<Digest, Error> {
        Ok(Digest::of(self.text()?.as_bytes()))
    }

    /// The locked package of a name.
    pub fn package(&self, name: &str) -> Option<&Locked> {
        self.packages.iter().find(|package| package.name == name)
    }

    fn set_components(&mut self, request: &Request) {
        self.components = request.components.clone();
        self.components.sort_by(|left, right| left.name.cmp(&right.name));
        self.toolchain = request.toolchain.clone();
    }
}

fn list_difference(name: &str, old: &[String], new: &[String]) -> Option<String> {
    if old == new {
        return None;
    }
    let added = new.iter().filter(|item| !old.contains(item)).map(|item| format!("+{item}"));
    let removed = old.iter().filter(|item| !new.contains(item)).map(|item| format!("-{item}"));
    let items: Vec<String> = added.chain(removed).collect();
    let items = if items.is_empty() { "their order".to_owned() } else { items.join(" ") };
    Some(format!("{name}: {items}"))
}

fn lock_package(package: &deb::index::Package) -> Result<Locked, Error> {
    let missing = || deb::Error::Field { name: package.name.clone(), field: "SHA256", text: String::new() };
    Ok(Locked {
        name: package.name.clone(),
        version: package.version.clone(),
        architecture: package.architecture.clone(),
        archive: Archive::of_suite(&package.suite),
        filename: package.filename.clone(),
        size: package.size,
        sha256: package.sha256.ok_or_else(missing)?,
    })
}

/// From the name of the real kernel package: `linux-image-6.12.117+deb13-amd64`.
fn kernel_release(packages: &[Locked]) -> Option<String> {
    let releases = packages.iter().filter_map(|package| package.name.strip_prefix("linux-image-"));
    releases.filter(|release| release.starts_with(|first: char| first.is_ascii_digit())).map(str::to_owned).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn index(version: &str) -> Index {
        let text = format!(
            "Package: linux-image-amd64\nVersion: {version}\nDepends: linux-image-6.12.9+deb13-amd64 (= {version})\nFilename: pool/a.deb\nSize: 1\nSHA256: {DIGEST}\n\n\
             Package: linux-image-6.12.9+deb13-amd64\nVersion: {version}\nFilename: pool/b.deb\nSize: 2\nSHA256: {DIGEST}\n\n\
             Package: crun\nVersion: 1.21-1\nFilename: pool/c.deb\nSize: 3\nSHA256: {DIGEST}\n"
        );
        Index::of_texts(&[("trixie", &text)]).unwrap()
    }

    fn request(packages: &[&str]) -> Request {
        let mut profile = Profile::default();
        profile.debian.suites = vec!["trixie".into()];
        profile.debian.components = vec!["main".into()];
        profile.debian.packages = packages.iter().map(|name| (*name).to_owned()).collect();
        profile.kernel.package = Some("linux-image-amd64".into());
        Request {
            profile: "test".into(),
            debian: DebianRequest::of_profile(&profile),
            components: vec![LockedComponent {
                name: "etcd".into(),
                version: "v3.6.16".into(),
                module: Some("go.etcd.io/etcd/server/v3".into()),
                sum: Some("h1:x=".into()),
                modules: Digest::of(b""),
            }],
            toolchain: Toolchain { rustc: "1.95.0".into(), go: "go1.26.8".into() },
        }
    }

    fn never() -> Result<Index, deb::Error> {
        panic!("the index was asked although the lock answers")
    }

    #[test]
    fn a_lock_survives_its_text_and_the_text_is_stable() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.lock");
        let lock = Lock::resolve(&request(&["crun"]), &index("6.12.9-1")).unwrap();
        lock.write(&path).unwrap();
        let again = Lock::read(&path).unwrap();
        assert_eq!(again, lock);
        assert_eq!(again.text().unwrap(), fs::read_to_string(&path).unwrap());
        assert_eq!(lock.kernel.as_deref(), Some("6.12.9+deb13-amd64"));
        let names: Vec<&str> = lock.packages.iter().map(|package| package.name.as_str()).collect();
        assert_eq!(names, ["crun", "linux-image-6.12.9+deb13-amd64", "linux-image-amd64"]);
    }

    #[test]
    fn a_lock_that_answers_is_used_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.lock");
        let (first, outcome) =
            Lock::obtain(&path, &request(&["crun"]), Policy::AsNeeded, || Ok(index("6.12.9-1"))).unwrap();
        assert_eq!(outcome, Outcome::Created);
        let (second, outcome) = Lock::obtain(&path, &request(&["crun"]), Policy::Locked, never).unwrap();
        assert_eq!((second, outcome), (first, Outcome::Kept));
    }

    #[test]
    fn a_changed_profile_is_locked_anew_unless_that_is_forbidden() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.lock");
        let missing = Lock::obtain(&path, &request(&[]), Policy::Locked, never).unwrap_err().to_string();
        assert!(missing.contains("there is no lock"), "{missing}");
        Lock::obtain(&path, &request(&[]), Policy::AsNeeded, || Ok(index("6.12.9-1"))).unwrap();
        let outdated = Lock::obtain(&path, &request(&["crun"]), Policy::Locked, never).unwrap_err().to_string();
        assert!(outdated.contains("packages: +crun"), "{outdated}");
        let (_, outcome) =
            Lock::obtain(&path, &request(&["crun"]), Policy::AsNeeded, || Ok(index("6.12.9-1"))).unwrap();
        assert_eq!(outcome, Outcome::Changed(vec!["crun: 1.21-1 is new".into()]));
    }

    #[test]
    fn an_update_says_what_moved() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.lock");
        Lock::obtain(&path, &request(&[]), Policy::AsNeeded, || Ok(index("6.12.9-1"))).unwrap();
        let (_, outcome) = Lock::obtain(&path, &request(&[]), Policy::Update, || Ok(index("6.12.9-2"))).unwrap();
        let Outcome::Changed(changes) = outcome else { panic!("{outcome:?}") };
        assert_eq!(changes[1], "linux-image-amd64: 6.12.9-1 -> 6.12.9-2");
    }

    #[test]
    fn another_go_component_leaves_the_packages_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.lock");
        let mut request = request(&["crun"]);
        let (first, _) = Lock::obtain(&path, &request, Policy::AsNeeded, || Ok(index("6.12.9-1"))).unwrap();
        request.components[0].version = "v3.6.17".into();
        let (second, outcome) = Lock::obtain(&path, &request, Policy::AsNeeded, never).unwrap();
        assert_eq!(first.packages, second.packages);
        assert_eq!(outcome, Outcome::Changed(vec!["etcd (go): v3.6.16 -> v3.6.17".into()]));
        assert_ne!(first.digest().unwrap(), second.digest().unwrap());
    }

    #[test]
    fn a_lock_of_another_format_or_no_lock_at_all_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.lock");
        fs::write(&path, "format = 9\nfuture = true\n").unwrap();
        assert!(matches!(Lock::read(&path), Err(Error::Format { found: 9, .. })));
        fs::write(&path, "nonsense").unwrap();
        assert!(matches!(Lock::read(&path), Err(Error::Parse { .. })));
        Lock::obtain(&path, &request(&[]), Policy::Update, || Ok(index("6.12.9-1"))).unwrap();
    }

    #[test]
    fn a_component_version_that_go_sum_lacks_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write(
            "component.toml",
            "name = \"etcd\"\nversion = \"v3.6.17\"\nmodule = \"go.etcd.io/etcd\"\nlicense = \"Apache-2.0\"\n",
        );
        write("go.mod", "module etcd\n");
        write("go.sum", "go.etcd.io/etcd v3.6.16 h1:abc=\ngo.etcd.io/etcd v3.6.17/go.mod h1:def=\n");
        let message = LockedComponent::read(folder.path()).unwrap_err().to_string();
        assert!(message.contains("go.etcd.io/etcd v3.6.17 is not in"), "{message}");
        write("go.sum", "go.etcd.io/etcd v3.6.17 h1:abc=\n");
        assert_eq!(LockedComponent::read(folder.path()).unwrap().sum.as_deref(), Some("h1:abc="));
    }
}
