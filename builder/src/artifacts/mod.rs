//! What lies beside the images of a build: manifest, software bill of materials, checksums.

mod manifest;
mod sbom;

pub use manifest::{Artifact, Manifest, Sizes, sizes_of};
pub use sbom::{Ecosystem, SbomPackage, document};

use crate::cache::Digest;
use std::fmt::Write as _;

/// SHA256SUMS as sha256sum(1) reads it.
pub fn checksums(artifacts: &[Artifact]) -> String {
    artifacts.iter().fold(String::new(), |mut text, artifact| {
        // Writing to a String does not fail.
        let _ = writeln!(text, "{}  {}", artifact.sha256, artifact.name);
        text
    })
}

/// The artifact at `path`, by its file name.
///
/// # Errors
/// The file cannot be read.
pub fn artifact(path: &std::path::Path) -> Result<Artifact, crate::cache::Error> {
    let (sha256, size) = Digest::of_file(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Artifact { name, size, sha256 })
}
