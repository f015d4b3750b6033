//! A file by URL and SHA-256, for upstream releases: the download itself, or a member of a tar archive.

use crate::cache::{Digest, io_error};
use crate::fetch::{self, Fetcher};
use images::tree::{Content, Node};
use spec::profile::Url;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{url}: sha256 = {text:?}: wanted 64 hexadecimal digits")]
    Digest { url: String, text: String },
    #[error("{url}: mode = {mode:?}: wanted octal permission bits, for example \"0755\"")]
    Mode { url: String, mode: String },
    #[error("{url}: a member is asked for, but the name ends in none of .tar, .tar.gz, .tgz, .tar.xz, .tar.zst")]
    NotAnArchive { url: String },
    #[error("{url}: no file {member} in it; it has {found}")]
    NoMember { url: String, member: String, found: String },
    #[error("{url}: cannot be unpacked: {source}")]
    Damaged { url: String, source: io::Error },
    #[error(transparent)]
    Fetch(#[from] fetch::Error),
    #[error(transparent)]
    Cache(#[from] crate::cache::Error),
}

/// As a node of root with the mode that the profile gives.
///
/// # Errors
/// The profile's values, the download, or an archive without the member.
pub fn node(fetcher: &Fetcher, source: &Url, origin: &Arc<str>) -> Result<Node, Error> {
    let mode = parse_mode(source)?;
    let path = fetch(fetcher, source)?;
    let content = Content::of_file(&path).map_err(io_error(&path))?;
    Ok(Node::file(content, mode, origin))
}

fn parse_mode(source: &Url) -> Result<u32, Error> {
    let mode = u32::from_str_radix(&source.mode, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| Error::Mode { url: source.url.clone(), mode: source.mode.clone() })
}

/// The file in the cache: the download, or the member.
///
/// # Errors
/// As [`node`].
pub fn fetch(fetcher: &Fetcher, source: &Url) -> Result<PathBuf, Error> {
    let wrong = |_| Error::Digest { url: source.url.clone(), text: source.sha256.clone() };
    let sha256: Digest = source.sha256.parse().map_err(wrong)?;
    let label = source.url.rsplit('/').next().unwrap_or(&source.url).to_owned();
    let archive = fetcher.fetch(&fetch::Request { url: source.url.clone(), sha256, size: None, label })?;
    let Some(member) = &source.member else { return Ok(archive) };
    let key = Digest::of_parts([b"member-1", &sha256.0[..], member.as_bytes()]);
    fetcher.cache().derived("member", &key, |target| extract(&archive, &source.url, member, target))
}

fn extract(archive: &Path, url: &str, member: &str, target: &Path) -> Result<(), Error> {
    let damaged = |source| Error::Damaged { url: url.to_owned(), source };
    let file = File::open(archive).map_err(io_error(archive))?;
    let reader: Box<dyn Read> = match url {
        url if url.ends_with(".tar") => Box::new(file),
        url if url.ends_with(".tar.gz") || url.ends_with(".tgz") => Box::new(flate2::read::MultiGzDecoder::new(file)),
        url if url.ends_with(".tar.xz") => Box::new(liblzma::read::XzDecoder::new_multi_decoder(file)),
        url if url.ends_with(".tar.zst") => Box::new(zstd::Decoder::new(file).map_err(damaged)?),
        _ => return Err(Error::NotAnArchive { url: url.to_owned() }),
    };
    let wanted = member.trim_start_matches("./");
    let mut found = Vec::new();
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").to_owned();
        if name == wanted && entry.header().entry_type().is_file() {
            let mut output = File::create_new(target).map_err(io_error(target))?;
            io::copy(&mut entry, &mut output).map_err(damaged)?;
            return Ok(());
        }
        found.push(name);
    }
    found.truncate(10);
    Err(Error::NoMember { url: url.to_owned(), member: member.to_owned(), found: found.join(", ") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;
    use crate::progress::Progress;

    fn archive() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o755);
        header.set_entry_type(tar::EntryType::Regular);
        builder.append_data(&mut header, "tool-1.0/bin/tool", &b"hello"[..]).unwrap();
        zstd::encode_all(&builder.into_inner().unwrap()[..], 1).unwrap()
    }

    #[test]
    fn a_member_of_an_archive_is_taken_out_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(&folder.path().join("cache"))).unwrap();
        let fetcher = Fetcher::new(cache, Progress::quiet(), fetch::Options::default());
        let path = folder.path().join("tool.tar.zst");
        std::fs::write(&path, archive()).unwrap();
        let mut source = Url {
            url: format!("file://{}", path.display()),
            sha256: Digest::of(&archive()).to_string(),
            member: Some("tool-1.0/bin/tool".into()),
            mode: "0755".into(),
        };
        let node = node(&fetcher, &source, &"url".into()).unwrap();
        assert_eq!((node.mode, &*node.content().unwrap().read().unwrap()), (0o755, &b"hello"[..]));

        source.member = Some("bin/tool".into());
        let message = fetch(&fetcher, &source).unwrap_err().to_string();
        assert!(message.contains("no file bin/tool") && message.contains("tool-1.0/bin/tool"), "{message}");
        source.mode = "rwx".into();
        assert!(matches!(super::node(&fetcher, &source, &"url".into()), Err(Error::Mode { .. })));
        source.sha256 = "0".repeat(64);
        assert!(matches!(fetch(&fetcher, &source), Err(Error::Fetch(fetch::Error::Hash { .. }))));
    }
}
