//! The packages that the suites of a request offer: fetched, checked against the signed release, parsed.

use super::control::{Alternatives, Paragraph, paragraphs, relations};
use super::mirror::{Archive, Mirror};
use super::release::{Release, Trust};
use super::{Error, version};
use crate::cache::Digest;
use crate::fetch::{self, Fetcher};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A larger InRelease is refused; Debian's largest has 140 kB.
const INRELEASE_MAXIMUM: u64 = 16 << 20;

/// A package as an index offers it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Package {
    pub name: String,
    pub version: String,
    pub architecture: String,
    pub suite: String,
    pub priority: String,
    /// Pre-Depends, then Depends.
    pub depends: String,
    pub provides: String,
    /// Conflicts, then Breaks.
    pub conflicts: String,
    /// Path below the archive's base.
    pub filename: String,
    /// Bytes.
    pub size: u64,
    pub sha256: Option<Digest>,
    /// Source package, when its name is another.
    pub source: Option<String>,
}

/// A suite as it was when locked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suite {
    pub name: String,
    pub date: SystemTime,
    pub signers: Vec<String>,
}

/// What to load.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub suites: &'a [String],
    /// `main`, `non-free-firmware`
    pub areas: &'a [String],
    pub architecture: &'a str,
}

/// How to load it.
pub struct Conditions<'a> {
    pub trust: &'a Trust,
    /// The time that keys and dates are judged by.
    pub now: SystemTime,
    /// The operator has said that an expired index will do.
    pub allow_expired: bool,
}

/// A file of an archive's `dists`.
#[derive(Debug, Clone)]
pub enum IndexFile {
    /// InRelease, as signed.
    Signed(Vec<u8>),
    /// In the cache.
    Cached(PathBuf),
}

/// Every package of the suites, by name the highest version first.
#[derive(Debug, Default)]
pub struct Index {
    pub suites: Vec<Suite>,
    /// What it was read from: path below `dists/` and content.
    pub files: Vec<(String, IndexFile)>,
    packages: HashMap<String, Vec<Package>>,
    /// Virtual name -> names of those that provide it and the version they provide.
    providers: HashMap<String, Vec<(String, Option<String>)>>,
}

impl Index {
    /// Fetches and checks the indexes of all suites.
    ///
    /// # Errors
    /// Signature, date, hash, or the mirror: each of its own kind.
    pub fn load(
        fetcher: &Fetcher,
        mirror: &Mirror,
        wanted: Wanted<'_>,
        conditions: &Conditions<'_>,
    ) -> Result<Self, Error> {
        let mut index = Index::default();
        for suite in wanted.suites {
            let base = format!("{}/dists/{suite}", mirror.base(Archive::of_suite(suite)));
            let (release, signed) = load_release(fetcher, &base, suite, conditions)?;
            index.files.push((format!("{suite}/InRelease"), IndexFile::Signed(signed)));
            for area in wanted.areas {
                let folder = format!("{area}/binary-{}", wanted.architecture);
                let file = fetch_packages(fetcher, &base, suite, &release, &folder)?;
                index.add(suite, &read_packages(&file)?)?;
                index.files.push((format!("{suite}/{folder}/Packages.xz"), IndexFile::Cached(file)));
            }
            index.suites.push(Suite { name: suite.clone(), date: release.date, signers: release.signers });
        }
        index.finish()?;
        Ok(index)
    }

    /// From texts of Packages files at hand: (suite, text).
    ///
    /// # Errors
    /// A field that cannot be read.
    pub fn of_texts(texts: &[(&str, &str)]) -> Result<Self, Error> {
        let mut index = Index::default();
        for (suite, text) in texts {
            index.add(suite, text)?;
        }
        index.finish()?;
        Ok(index)
    }

    /// The highest version of a package.
    pub fn candidate(&self, name: &str) -> Option<&Package> {
        self.packages.get(name)?.first()
    }

    /// A package in exactly this version.
    pub fn exactly(&self, name: &str, version: &str) -> Option<&Package> {
        self.packages.get(name)?.iter().find(|package| package.version == version)
    }

    /// Packages whose candidate provides a name, in the order of preference: priority, then name.
    pub fn providers(&self, name: &str) -> &[(String, Option<String>)] {
        self.providers.get(name).map_or(&[], Vec::as_slice)
    }

    fn add(&mut self, suite: &str, text: &str) -> Result<(), Error> {
        for paragraph in paragraphs(text) {
            if let Some(package) = read_package(suite, &paragraph)? {
                self.packages.entry(package.name.clone()).or_default().push(package);
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Error> {
        for versions in self.packages.values_mut() {
            // Stable: of two equal versions the suite listed first stays first.
            versions.sort_by(|left, right| version::compare(&right.version, &left.version));
        }
        let mut providers: BTreeMap<String, Vec<(u8, String, Option<String>)>> = BTreeMap::new();
        for package in self.packages.values().filter_map(|versions| versions.first()) {
            for provided in
                read_relations(&package.name, "Provides", &package.provides)?.into_iter().flat_map(|group| group.0)
            {
                let version = provided.version.map(|(_, version)| version);
                let entry = (priority(&package.priority), package.name.clone(), version);
                providers.entry(provided.name).or_default().push(entry);
            }
        }
        for (name, mut list) in providers {
            list.sort();
            let list = list.into_iter().map(|(_, package, version)| (package, version)).collect();
            self.providers.insert(name, list);
        }
        Ok(())
    }
}

/// A field of relations, an error naming the package.
pub fn read_relations(name: &str, field: &'static str, text: &str) -> Result<Vec<Alternatives>, Error> {
    relations(text).map_err(|text| Error::Field { name: name.to_owned(), field, text })
}

fn priority(name: &str) -> u8 {
    ["required", "important", "standard", "optional"].iter().position(|known| *known == name).unwrap_or(4) as u8
}

fn read_package(suite: &str, paragraph: &Paragraph<'_>) -> Result<Option<Package>, Error> {
    let text = |field: &str| paragraph.get(field).unwrap_or_default().to_owned();
    let both = |first: &str, second: &str| match (paragraph.get(first), paragraph.get(second)) {
        (Some(first), Some(second)) => format!("{first}, {second}"),
        (first, second) => first.or(second).unwrap_or_default().to_owned(),
    };
    let name = text("Package");
    if name.is_empty() {
        return Ok(None);
    }
    let wrong = |field: &'static str| Error::Field { name: name.clone(), field, text: text(field) };
    let size = text("Size").parse().map_err(|_| wrong("Size"))?;
    let sha256 = text("SHA256").parse().map_err(|_| wrong("SHA256"))?;
    let filename = text("Filename");
    let sound = !filename.is_empty() && !filename.starts_with('/') && filename.split('/').all(|part| part != "..");
    if !sound {
        return Err(wrong("Filename"));
    }
    Ok(Some(Package {
        version: text("Version"),
        architecture: text("Architecture"),
        suite: suite.to_owned(),
        priority: text("Priority"),
        depends: both("Pre-Depends", "Depends"),
        provides: text("Provides"),
        conflicts: both("Conflicts", "Breaks"),
        source: paragraph.get("Source").map(str::to_owned),
        filename,
        size,
        sha256: Some(sha256),
        name,
    }))
}

fn load_release(
    fetcher: &Fetcher,
    base: &str,
    suite: &str,
    conditions: &Conditions<'_>,
) -> Result<(Release, Vec<u8>), Error> {
    let url = format!("{base}/InRelease");
    let wrapped = |source| Error::Index { suite: suite.to_owned(), source: Box::new(source) };
    let signed = fetcher.document(&url, INRELEASE_MAXIMUM).map_err(wrapped)?;
    let release = Release::verify(&url, &signed, conditions.trust, conditions.now)?;
    // A signature over another suite of the same archive is good, too: the name must be the one asked for.
    if release.codename != suite && release.suite != suite {
        let found = format!("{} ({})", release.codename, release.suite);
        return Err(Error::WrongSuite { url, wanted: suite.to_owned(), found });
    }
    match release.check_dates(&url, conditions.now) {
        Err(expired @ Error::Expired { .. }) if conditions.allow_expired => {
            fetcher.progress().warn(&expired.to_string())
        }
        result => result?,
    }
    Ok((release, signed))
}

fn fetch_packages(
    fetcher: &Fetcher,
    base: &str,
    suite: &str,
    release: &Release,
    folder: &str,
) -> Result<PathBuf, Error> {
    let path = format!("{folder}/Packages.xz");
    let Some((sha256, size)) = release.files.get(&path) else {
        return Err(Error::Malformed { url: format!("{base}/InRelease"), reason: format!("it lists no {path}") });
    };
    let mut request = fetch::Request {
        url: format!("{base}/{path}"),
        sha256: *sha256,
        size: Some(*size),
        label: format!("{suite} {folder}"),
    };
    if release.by_hash {
        // The name by hash stays while the mirror is being updated; not every mirror has it.
        request.url = format!("{base}/{folder}/by-hash/SHA256/{sha256}");
    }
    let file = match fetcher.fetch(&request) {
        Err(fetch::Error::NotFound { .. }) if release.by_hash => {
            request.url = format!("{base}/{path}");
            fetcher.fetch(&request)
        }
        result => result,
    };
    file.map_err(|source| Error::Index { suite: suite.to_owned(), source: Box::new(source) })
}

fn read_packages(file: &Path) -> Result<String, Error> {
    let mut text = String::new();
    let opened = File::open(file).map_err(crate::cache::io_error(file))?;
    let result = liblzma::read::XzDecoder::new_multi_decoder(opened).read_to_string(&mut text);
    let malformed = |error| Error::Malformed {
        url: file.display().to_string(),
        reason: format!("cannot be decompressed: {error}"),
    };
    result.map_err(malformed)?;
    Ok(text)
}
