//! An upgrade bundle: a signed manifest, the UKI and the root image that it names, and both cut into chunks by their
//! content, so that a machine asks for nothing that it has.
//!
//! The manifest is JSON, its signature Ed25519 (RFC 8032) over the manifest's bytes; public keys are PEM files as
//! OpenSSL writes them (RFC 8410). What a bundle holds is only as good as its manifest: everything else in it is checked
//! against the hashes there.

mod chunks;
mod key;

pub use chunks::{Chunk, Cutter, LARGEST, chunks_of};
pub use key::{PUBLIC_KEY_TAG, PublicKey, ReleaseKey, SIGNATURE_LENGTH, public_keys, verify};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use spec::image::Image;
use std::collections::BTreeMap;
use thiserror::Error;

/// Names in the bundle's tar archive, in their order.
pub const MANIFEST_FILE: &str = "bundle.json";
pub const SIGNATURE_FILE: &str = "bundle.json.sig";
/// sha256sum(1) reads it: the payload's hashes for people who have no program of ours.
pub const CHECKSUMS_FILE: &str = "SHA256SUMS";
/// The payload.
pub const UKI: &str = "imgbuild.efi";
pub const ROOT: &str = "root.img";
pub const PAYLOAD: [&str; 2] = [UKI, ROOT];
/// End of a bundle's file name.
pub const EXTENSION: &str = "bundle";
/// Bytes of the largest manifest.
pub const MANIFEST_LIMIT: usize = 2 << 20;

#[derive(Debug, Error)]
pub enum Error {
    #[error("{name}: no Ed25519 key in PEM: {reason}")]
    Key { name: String, reason: String },
    #[error("the bundle's signature is by none of the {known} release keys that this image trusts")]
    Signature { known: usize },
    #[error("the bundle's manifest: {0}")]
    Manifest(String),
    #[error("{what}: {source}")]
    Io { what: &'static str, source: std::io::Error },
}

/// A piece of the UKI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    pub offset: u64,
    pub length: u64,
}

/// A file of the payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Payload {
    /// Bytes.
    pub size: u64,
    /// Hexadecimal.
    pub sha256: String,
    /// In the file's order, without gaps.
    pub chunks: Vec<Chunk>,
}

impl Payload {
    /// A chunk by its number from 0, and where in the file it begins.
    pub fn chunk(&self, number: u32) -> Option<(u64, &Chunk)> {
        let (before, rest) = self.chunks.split_at_checked(number as usize)?;
        Some((before.iter().map(|chunk| u64::from(chunk.size)).sum(), rest.first()?))
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Manifest {
    pub format: u32,
    pub image: Image,
    /// `layout::STATE_FORMAT` of the image.
    pub state_format: u32,
    /// Where in the UKI kernel and initramfs lie, and the kernel's command line: what GRUB boots.
    pub kernel: Range,
    pub initramfs: Range,
    pub command_line: String,
    pub files: BTreeMap<String, Payload>,
}

impl Manifest {
    pub const FORMAT: u32 = 1;

    /// Reads a manifest whose signature was found good.
    ///
    /// # Errors
    /// [`Error::Manifest`]: another format, a payload that is missing, chunks that do not add up.
    pub fn decode(bytes: &[u8]) -> Result<Manifest, Error> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let wrong = |error: &dyn std::fmt::Display| Error::Manifest(error.to_string());
        let Format { format } = serde_json::from_slice(bytes).map_err(|error| wrong(&error))?;
        if format != Manifest::FORMAT {
            return Err(wrong(&format!("its format is {format}; this program knows {}", Manifest::FORMAT)));
        }
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(|error| wrong(&error))?;
        for name in PAYLOAD {
            let payload = manifest.payload(name)?;
            let sum: u64 = payload.chunks.iter().map(|chunk| u64::from(chunk.size)).sum();
            if sum != payload.size || payload.chunks.iter().any(|chunk| chunk.size > LARGEST) {
                return Err(wrong(&format!("the chunks of {name} have {sum} bytes of its {}", payload.size)));
            }
        }
        let uki = manifest.payload(UKI)?.size;
        for (what, range) in [("kernel", manifest.kernel), ("initramfs", manifest.initramfs)] {
            if range.offset.checked_add(range.length).is_none_or(|end| end > uki) {
                return Err(wrong(&format!("the {what} reaches behind the end of {UKI}")));
            }
        }
        Ok(manifest)
    }

    /// # Errors
    /// [`Error::Manifest`] where it has none of this name.
    pub fn payload(&self, name: &str) -> Result<&Payload, Error> {
        self.files.get(name).ok_or_else(|| Error::Manifest(format!("it has no {name}")))
    }

    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.files.values().map(|payload| payload.size).sum()
    }

    /// The bytes to sign.
    ///
    /// # Errors
    /// What cannot become JSON.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        serde_json::to_vec(self).map_err(|error| Error::Manifest(error.to_string()))
    }
}

/// SHA-256 (FIPS 180-4) of what is written to it.
#[derive(Debug, Clone, Default)]
pub struct HashSink(Sha256);

impl HashSink {
    /// In hexadecimal.
    pub fn text(self) -> String {
        hex(&self.0.finalize())
    }
}

impl std::io::Write for HashSink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests;
