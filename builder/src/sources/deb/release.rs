//! InRelease: the clear-signed list of a suite's indexes. The signature is judged by Sequoia's standard
//! policy against the pinned keys, and nothing but the signed text is ever parsed.

use super::Error;
use super::control::{Paragraph, paragraphs};
use crate::cache::Digest;
use openpgp::parse::Parse;
use openpgp::parse::stream::{
    GoodChecksum, MessageLayer, MessageStructure, VerificationError, VerificationHelper, VerifierBuilder,
};
use openpgp::policy::StandardPolicy;
use openpgp::types::RevocationStatus;
use openpgp::{Cert, KeyHandle};
use sequoia_openpgp as openpgp;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use time::format_description::well_known::{Rfc2822, Rfc3339};

/// Where Debian's package debian-archive-keyring puts its files.
pub const KEYRING_FOLDER: &str = "/usr/share/keyrings";
/// How far ahead of this machine's clock an index's date may be.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(3600);

/// Whom to believe.
pub struct Trust {
    certificates: Vec<Cert>,
    /// For messages: the pinned fingerprints, or "the keyring".
    description: String,
}

impl Trust {
    /// Reads keyrings (files; none given: the machine's Debian keyrings), narrowed to the primary keys with
    /// these fingerprints (40 hexadecimal digits, spaces allowed; none given: every key of the keyrings).
    ///
    /// # Errors
    /// No keyring, or one that cannot be read.
    pub fn load(keyrings: &[PathBuf], fingerprints: &[String]) -> Result<Self, Error> {
        let found;
        let keyrings = match keyrings {
            [] => {
                found = machine_keyrings(Path::new(KEYRING_FOLDER))?;
                &found
            }
            given => given,
        };
        let wanted: Vec<String> = fingerprints.iter().map(|text| normal_fingerprint(text)).collect();
        let mut certificates = Vec::new();
        for path in keyrings {
            let wrong = |reason: String| Error::Keyring { path: path.clone(), reason };
            let parser = openpgp::cert::CertParser::from_file(path).map_err(|error| wrong(error.to_string()))?;
            // A keyring may hold keys of a kind that is unknown here; the others are still good.
            certificates.extend(parser.flatten());
        }
        if !wanted.is_empty() {
            certificates.retain(|certificate| wanted.contains(&certificate.fingerprint().to_hex()));
        }
        let description = if wanted.is_empty() { "the keys of the keyring".to_owned() } else { wanted.join(", ") };
        Ok(Trust { certificates, description })
    }

    /// Of certificates at hand.
    pub fn of(certificates: Vec<Cert>) -> Self {
        let fingerprints: Vec<String> =
            certificates.iter().map(|certificate| certificate.fingerprint().to_hex()).collect();
        Trust { certificates, description: fingerprints.join(", ") }
    }
}

fn normal_fingerprint(text: &str) -> String {
    text.chars().filter(|character| !character.is_whitespace()).collect::<String>().to_ascii_uppercase()
}

/// `debian-archive-*.gpg` and `.pgp`, without the keys that Debian has retired.
fn machine_keyrings(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let none = || Error::NoKeyring { folder: folder.to_owned() };
    let entries = std::fs::read_dir(folder).map_err(|_| none())?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_keyring = name.ends_with(".gpg") || name.ends_with(".pgp");
        name.starts_with("debian-archive-") && is_keyring && !name.contains("removed")
    });
    paths.sort();
    if paths.is_empty() { Err(none()) } else { Ok(paths) }
}

/// A suite's index of indexes, as signed.
#[derive(Debug, Clone)]
pub struct Release {
    pub suite: String,
    pub codename: String,
    /// When it was made.
    pub date: SystemTime,
    pub valid_until: Option<SystemTime>,
    /// Indexes may be fetched by their hash.
    pub by_hash: bool,
    /// Path within the suite -> digest and size in bytes.
    pub files: BTreeMap<String, (Digest, u64)>,
    /// Primary fingerprints of the trusted keys whose signatures are good.
    pub signers: Vec<String>,
}

impl Release {
    /// Checks the signature and reads the signed text. `url` is for messages.
    ///
    /// # Errors
    /// Not signed, signed by others, altered, key not valid at `now`, or not a Release file.
    pub fn verify(url: &str, signed: &[u8], trust: &Trust, now: SystemTime) -> Result<Self, Error> {
        let policy = StandardPolicy::new();
        let helper = Judge { url, trust, now, signers: Vec::new(), verdict: None };
        let not_signed =
            |error: openpgp::anyhow::Error| Error::NotSigned { url: url.to_owned(), reason: error.to_string() };
        let mut verifier = match VerifierBuilder::from_bytes(signed)
            .map_err(not_signed)
            .map(|builder| builder.with_policy(&policy, now, helper))?
        {
            Ok(verifier) => verifier,
            Err(error) => return Err(error.downcast::<Error>().unwrap_or_else(not_signed)),
        };
        let mut text = String::new();
        if let Err(error) = verifier.read_to_string(&mut text) {
            let verdict = verifier.into_helper().verdict;
            return Err(verdict.unwrap_or_else(|| Error::NotSigned { url: url.to_owned(), reason: error.to_string() }));
        }
        let helper = verifier.into_helper();
        match helper.verdict {
            Some(verdict) => Err(verdict),
            None if helper.signers.is_empty() => {
                Err(Error::NotSigned { url: url.to_owned(), reason: "it has no signature".to_owned() })
            }
            None => parse(url, &text, helper.signers),
        }
    }

    /// Judges the dates: for locking, not for building from a lock.
    ///
    /// # Errors
    /// Expired, or dated after `now`.
    pub fn check_dates(&self, url: &str, now: SystemTime) -> Result<(), Error> {
        if self.date > now + CLOCK_TOLERANCE {
            return Err(Error::NotYetValid { url: url.to_owned(), date: show(self.date), now: show(now) });
        }
        match self.valid_until {
            Some(end) if end < now => {
                Err(Error::Expired { url: url.to_owned(), valid_until: show(end), now: show(now) })
            }
            _ => Ok(()),
        }
    }
}

/// RFC 3339, for messages and the lock.
pub fn show(time: SystemTime) -> String {
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_else(|_| "a date out of range".to_owned())
}

struct Judge<'a> {
    url: &'a str,
    trust: &'a Trust,
    now: SystemTime,
    signers: Vec<String>,
    verdict: Option<Error>,
}

impl VerificationHelper for Judge<'_> {
    fn get_certs(&mut self, _: &[KeyHandle]) -> openpgp::Result<Vec<Cert>> {
        Ok(self.trust.certificates.clone())
    }

    /// One good signature of a trusted key is enough; Debian signs with the old key and the new.
    fn check(&mut self, structure: MessageStructure<'_>) -> openpgp::Result<()> {
        let mut worst: Option<Error> = None;
        let mut unknown = Vec::new();
        for layer in structure {
            let MessageLayer::SignatureGroup { results } = layer else { continue };
            for result in results {
                match result {
                    Ok(good) => match valid_now(&good, self.now) {
                        Ok(fingerprint) => self.signers.push(fingerprint),
                        Err((key, reason)) => {
                            worst = Some(Error::KeyNotValid { url: self.url.to_owned(), key, reason });
                        }
                    },
                    Err(VerificationError::MissingKey { sig }) => {
                        unknown.extend(sig.get_issuers().first().map(KeyHandle::to_hex));
                    }
                    Err(error) => worst = Some(self.explain(&error)),
                }
            }
        }
        if self.signers.is_empty() {
            let signers = if unknown.is_empty() { "nobody".to_owned() } else { unknown.join(", ") };
            let trusted = self.trust.description.clone();
            self.verdict = Some(worst.unwrap_or(Error::WrongKey { url: self.url.to_owned(), signers, trusted }));
        }
        Ok(())
    }
}

impl Judge<'_> {
    fn explain(&self, error: &VerificationError<'_>) -> Error {
        let url = self.url.to_owned();
        match error {
            VerificationError::BadSignature { ka, error, .. } => {
                Error::BadSignature { url, key: ka.cert().fingerprint().to_hex(), reason: error.to_string() }
            }
            VerificationError::BadKey { ka, error, .. } => {
                Error::KeyNotValid { url, key: ka.cert().fingerprint().to_hex(), reason: error.to_string() }
            }
            VerificationError::UnboundKey { cert, error, .. } => {
                Error::KeyNotValid { url, key: cert.fingerprint().to_hex(), reason: error.to_string() }
            }
            other => Error::NotSigned { url, reason: other.to_string() },
        }
    }
}

/// Sequoia judges a key at the time of its signature; a key that has expired or was revoked since is
/// not believed here. Gives the primary fingerprint, or it and the reason.
fn valid_now(good: &GoodChecksum<'_>, now: SystemTime) -> Result<String, (String, String)> {
    let policy = StandardPolicy::new();
    let fingerprint = good.ka.cert().fingerprint().to_hex();
    let wrong = |reason: String| (fingerprint.clone(), reason);
    let certificate = good.ka.cert().with_policy(&policy, now).map_err(|error| wrong(error.to_string()))?;
    certificate.alive().map_err(|error| wrong(error.to_string()))?;
    if let RevocationStatus::Revoked(_) = certificate.revocation_status() {
        return Err(wrong("it was revoked".to_owned()));
    }
    let signing = good.ka.key().fingerprint();
    let usable = certificate.keys().alive().revoked(false).for_signing().any(|key| key.key().fingerprint() == signing);
    if usable { Ok(fingerprint) } else { Err(wrong(format!("its signing key {signing} has expired or was revoked"))) }
}

fn parse(url: &str, text: &str, signers: Vec<String>) -> Result<Release, Error> {
    let malformed = |reason: String| Error::Malformed { url: url.to_owned(), reason };
    let paragraph = paragraphs(text).next().ok_or_else(|| malformed("it is empty".to_owned()))?;
    let date = date(&paragraph, "Date").map_err(&malformed)?;
    let date = date.ok_or_else(|| malformed("it has no Date".to_owned()))?;
    let listed = paragraph.get("SHA256").ok_or_else(|| malformed("it has no SHA256 list".to_owned()))?;
    let mut files = BTreeMap::new();
    for line in listed.lines().filter(|line| !line.trim().is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [digest, size, path] = words[..] else {
            return Err(malformed(format!("SHA256 list: wanted digest, size and path, found {line:?}")));
        };
        let digest = digest.parse().map_err(|error: crate::cache::Error| malformed(error.to_string()))?;
        let size = size.parse().map_err(|_| malformed(format!("SHA256 list: {size:?} is not a size")))?;
        files.insert(path.to_owned(), (digest, size));
    }
    let text = |name: &str| paragraph.get(name).unwrap_or_default().to_owned();
    Ok(Release {
        suite: text("Suite"),
        codename: text("Codename"),
        date,
        valid_until: self::date(&paragraph, "Valid-Until").map_err(&malformed)?,
        by_hash: paragraph.get("Acquire-By-Hash") == Some("yes"),
        files,
        signers,
    })
}

/// `Sat, 21 Nov 2026 09:15:44 UTC`
fn date(paragraph: &Paragraph<'_>, field: &str) -> Result<Option<SystemTime>, String> {
    let Some(value) = paragraph.get(field) else { return Ok(None) };
    let numeric = value.replace("UTC", "+0000");
    match OffsetDateTime::parse(&numeric, &Rfc2822) {
        Ok(time) => Ok(Some(time.into())),
        Err(error) => Err(format!("{field}: {value:?} is not a date: {error}")),
    }
}
