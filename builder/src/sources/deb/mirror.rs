//! Where the machine's own apt gets Debian from: read, never written down.

use super::Error;
use super::control::paragraphs;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which of Debian's two archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Archive {
    Debian,
    Security,
}

impl Archive {
    /// The archive that has a suite.
    pub fn of_suite(suite: &str) -> Self {
        if suite.ends_with("-security") { Archive::Security } else { Archive::Debian }
    }

    /// Last part of its address.
    pub const fn folder(self) -> &'static str {
        match self {
            Archive::Debian => "debian",
            Archive::Security => "debian-security",
        }
    }
}

/// Base addresses of both archives, without a slash at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    pub debian: String,
    pub security: String,
}

impl Mirror {
    /// From the operator's `--mirror URL`: the base of the Debian archive (ends in `/debian`), or a folder
    /// that holds `debian` and `debian-security`, as `imgbuild vendor` writes it.
    ///
    /// # Errors
    /// Not a URL of a kind that can be fetched.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        let url = url.trim_end_matches('/');
        if !["http://", "https://", "file:///"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(Error::BadMirror { text: url.to_owned() });
        }
        let parent = url.strip_suffix("/debian").unwrap_or(url);
        Ok(Mirror {
            debian: format!("{parent}/{}", Archive::Debian.folder()),
            security: format!("{parent}/{}", Archive::Security.folder()),
        })
    }

    /// From the sources of a machine's apt (`/etc/apt`), both file formats, sources.list(5).
    ///
    /// # Errors
    /// None of the files names the Debian archive.
    pub fn from_apt(folder: &Path) -> Result<Self, Error> {
        let files = source_files(folder);
        let sources: Vec<Source> = files.iter().flat_map(|file| read_sources(file)).collect();
        let debian = choose(&sources, Archive::Debian).ok_or_else(|| Error::NoMirror {
            looked_at: format!("{}/sources.list and sources.list.d", folder.display()),
        })?;
        // Mirrors carry both archives side by side; a machine without the security source is no reason to do without.
        let beside = Mirror::from_url(&debian).map(|mirror| mirror.security);
        let security = choose(&sources, Archive::Security).map_or(beside, Ok)?;
        Ok(Mirror { debian, security })
    }

    pub fn base(&self, archive: Archive) -> &str {
        match archive {
            Archive::Debian => &self.debian,
            Archive::Security => &self.security,
        }
    }
}

/// A source of apt: one address and one suite.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    url: String,
    suite: String,
    debian_keyring: bool,
}

fn source_files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder.join("sources.list.d"))
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "sources" || extension == "list"));
    files.push(folder.join("sources.list"));
    files.sort();
    files
}

fn read_sources(path: &Path) -> Vec<Source> {
    let Ok(text) = fs::read_to_string(path) else { return Vec::new() };
    let sources =
        if path.extension().is_some_and(|extension| extension == "sources") { deb822(&text) } else { one_line(&text) };
    sources.into_iter().filter_map(follow_mirror_file).collect()
}

fn deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for paragraph in paragraphs(text) {
        let enabled = !paragraph.get("Enabled").is_some_and(|value| value.eq_ignore_ascii_case("no"));
        if !enabled || !paragraph.words("Types").iter().any(|word| word == "deb") {
            continue;
        }
        let debian_keyring = paragraph.get("Signed-By").is_some_and(|value| value.contains("debian-archive-"));
        for url in paragraph.words("URIs") {
            for suite in paragraph.words("Suites") {
                sources.push(Source { url: url.trim_end_matches('/').to_owned(), suite, debian_keyring });
            }
        }
    }
    sources
}

/// `deb [options] URI suite component...`
fn one_line(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let Some(rest) = line.trim().strip_prefix("deb").filter(|rest| rest.starts_with([' ', '\t'])) else { continue };
        let rest = rest.trim_start();
        let (options, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((options, rest)) => (options, rest),
            None => ("", rest),
        };
        let mut words = rest.split_whitespace();
        if let (Some(url), Some(suite)) = (words.next(), words.next()) {
            let debian_keyring = options.contains("debian-archive-");
            let url = url.trim_end_matches('/').to_owned();
            sources.push(Source { url, suite: suite.to_owned(), debian_keyring });
        }
    }
    sources
}

/// `mirror+file:/etc/apt/mirrors/debian.list` (Debian's cloud images): the first address in that file.
fn follow_mirror_file(source: Source) -> Option<Source> {
    let Some(path) = source.url.strip_prefix("mirror+file:") else { return Some(source) };
    let text = fs::read_to_string(format!("/{}", path.trim_start_matches('/'))).ok()?;
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let url = lines.next()?.split_whitespace().next()?.trim_end_matches('/').to_owned();
    Some(Source { url, ..source })
}

/// The first source whose address ends in the archive's folder; failing that, one under another name that
/// is signed by Debian's keyring.
fn choose(sources: &[Source], archive: Archive) -> Option<String> {
    let usable =
        |source: &&Source| ["http://", "https://", "file:///"].iter().any(|scheme| source.url.starts_with(scheme));
    let ending = format!("/{}", archive.folder());
    let by_path = sources.iter().filter(usable).find(|source| source.url.ends_with(&ending));
    let by_keyring = || {
        let kind = |source: &&Source| source.debian_keyring && Archive::of_suite(&source.suite) == archive;
        sources.iter().filter(usable).find(kind)
    };
    by_path.or_else(by_keyring).map(|source| source.url.clone())
}

/// apt's own proxy for http (`Acquire::http::Proxy`), where apt is there to say.
pub fn apt_proxy() -> Option<String> {
    let output = Command::new("apt-config").args(["dump", "Acquire::http::Proxy"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let line = text.lines().find(|line| line.starts_with("Acquire::http::Proxy "))?;
    let value = line.split('"').nth(1)?.trim();
    (!value.is_empty() && value != "DIRECT").then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apt(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("sources.list.d")).unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn deb822_sources_are_read_and_third_parties_ignored() {
        let folder = apt(&[
            (
                "sources.list.d/a.sources",
                "Types: deb\nURIs: https://other.example/apt/\nSuites: stable\nComponents: main\n",
            ),
            (
                "sources.list.d/debian.sources",
                "Types: deb\n# comment\nURIs: http://m.example/debian/\nSuites: bookworm bookworm-updates\n\n\
                 Types: deb\nURIs: http://s.example/debian-security\nSuites: bookworm-security\n",
            ),
        ]);
        let mirror = Mirror::from_apt(folder.path()).unwrap();
        assert_eq!(mirror.debian, "http://m.example/debian");
        assert_eq!(mirror.security, "http://s.example/debian-security");
    }

    #[test]
    fn one_line_sources_and_a_missing_security_source() {
        let folder = apt(&[(
            "sources.list",
            "# deb http://no.example/debian trixie main\ndeb-src http://no.example/debian trixie main\n\
             deb [arch=amd64 signed-by=/x] http://m.example/debian trixie main # yes\n",
        )]);
        let mirror = Mirror::from_apt(folder.path()).unwrap();
        assert_eq!(mirror.debian, "http://m.example/debian");
        assert_eq!(mirror.security, "http://m.example/debian-security");
    }

    #[test]
    fn a_mirror_under_another_name_is_known_by_its_keyring() {
        let folder = apt(&[(
            "sources.list.d/x.sources",
            "Types: deb\nURIs: https://cache.example/os\nSuites: trixie\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n\
             Types: deb\nEnabled: no\nURIs: http://off.example/debian\nSuites: trixie\n",
        )]);
        assert_eq!(Mirror::from_apt(folder.path()).unwrap().debian, "https://cache.example/os");
    }

    #[test]
    fn a_machine_without_sources_is_told_what_to_give() {
        let folder = apt(&[]);
        let message = Mirror::from_apt(folder.path()).unwrap_err().to_string();
        assert!(message.contains("--mirror URL"), "{message}");
    }

    #[test]
    fn the_operators_mirror_is_a_base_or_a_vendored_folder() {
        let mirror = Mirror::from_url("http://m.example/debian/").unwrap();
        assert_eq!(mirror.security, "http://m.example/debian-security");
        assert_eq!(Mirror::from_url("file:///v").unwrap().debian, "file:///v/debian");
        assert!(matches!(Mirror::from_url("m.example"), Err(Error::BadMirror { .. })));
    }
}
