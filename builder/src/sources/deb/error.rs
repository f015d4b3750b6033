//! What goes wrong between a list of packages and their files, each by name.

use crate::fetch;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no Debian mirror: none of {looked_at} names one; give it with --mirror URL")]
    NoMirror { looked_at: String },
    #[error("mirror {text:?}: wanted a URL that begins with http://, https:// or file:///")]
    BadMirror { text: String },
    #[error("keyring {}: {reason}", path.display())]
    Keyring { path: PathBuf, reason: String },
    #[error("no Debian keyring in {}; install the package debian-archive-keyring, or give one with --keyring FILE", folder.display())]
    NoKeyring { folder: PathBuf },

    #[error("{url}: not a signed index: {reason}")]
    NotSigned { url: String, reason: String },
    #[error(
        "{url}: signed by {signers}, but the profile trusts only {trusted}; if Debian has changed its keys, put the new fingerprint into debian.keys and the keyring"
    )]
    WrongKey { url: String, signers: String, trusted: String },
    #[error("{url}: signed by key {key}, which is not valid now: {reason}")]
    KeyNotValid { url: String, key: String, reason: String },
    #[error("{url}: the signature of key {key} does not match the text: the index was altered ({reason})")]
    BadSignature { url: String, key: String, reason: String },
    #[error(
        "{url}: the index expired on {valid_until} (now it is {now}): the mirror has stopped updating, or someone serves an old copy"
    )]
    Expired { url: String, valid_until: String, now: String },
    #[error(
        "{url}: the index is dated {date}, which is after now ({now}): the clock of this machine is wrong, or the mirror's is"
    )]
    NotYetValid { url: String, date: String, now: String },
    #[error("{url}: is suite {found}, wanted {wanted}")]
    WrongSuite { url: String, wanted: String, found: String },
    #[error("{url}: {reason}")]
    Malformed { url: String, reason: String },

    #[error("index of {suite}: {source}")]
    Index { suite: String, source: Box<fetch::Error> },
    #[error("package {name} {version}: {source}")]
    Package { name: String, version: String, source: Box<fetch::Error> },
    #[error(
        "package {name}: version {wanted} is no longer on the mirror, which has {there}; `{command}` refreshes the lock"
    )]
    VersionGone { name: String, wanted: String, there: String, command: String },

    #[error("package {name} does not exist in {suites}; asked for by {asked_by}")]
    UnknownPackage { name: String, suites: String, asked_by: String },
    #[error("nothing satisfies {relation}, asked for by {asked_by}: {reason}")]
    Unsatisfied { relation: String, asked_by: String, reason: String },
    #[error("package {name} conflicts with {other} ({relation}); asked for by {asked_by}")]
    Conflict { name: String, relation: String, other: String, asked_by: String },
    #[error("package {name}: field {field}: cannot read {text:?}")]
    Field { name: String, field: &'static str, text: String },

    #[error("{package}: {reason}")]
    Archive { package: String, reason: String },
    #[error("{package}: refused: {source}")]
    Member { package: String, source: images::tree::TreeError },
    #[error("{package}: refused: symbolic link {path} -> {target} leads out of the root")]
    LinkLeadsOut { package: String, path: String, target: String },

    #[error(transparent)]
    Fetch(#[from] fetch::Error),
    #[error(transparent)]
    Cache(#[from] crate::cache::Error),
}
