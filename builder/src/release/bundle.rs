//! A bundle as a file: a tar archive (POSIX.1-2001, ustar) of the manifest, its signature, the payload's checksums and
//! the payload, uncompressed, so that tar(1), openssl(1) and sha256sum(1) can judge it.

use crate::artifacts::Manifest as BuildManifest;
use crate::error::{Error, Result};
use crate::pipeline::MANIFEST_FILE as BUILD_MANIFEST_FILE;
use crate::scratch;
use bundle::{
    CHECKSUMS_FILE, MANIFEST_FILE, MANIFEST_LIMIT, Manifest, PAYLOAD, Range, ReleaseKey, SIGNATURE_FILE,
    SIGNATURE_LENGTH, UKI, chunks_of,
};
use spec::layout::STATE_FORMAT;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const BUFFER: usize = 1 << 18;

/// Makes a signed bundle out of the artifacts in `out`; whole or not at all. `target` is its file.
///
/// # Errors
/// Bad input where `out` holds no build or `target` is no file; the disk's failures.
pub fn write(out: &Path, key: &ReleaseKey, target: &Path) -> Result<Manifest> {
    let manifest = describe(out)?;
    let scratch = scratch::Scratch::beside(target)?;
    let text = manifest.encode().map_err(Error::from_failure)?;
    if text.len() > MANIFEST_LIMIT {
        return Err(Error::failure(format!(
            "the bundle's manifest has {} bytes; machines take {MANIFEST_LIMIT}",
            text.len()
        )));
    }
    let checksums: String =
        manifest.files.iter().map(|(name, payload)| format!("{}  {name}\n", payload.sha256)).collect();
    let failed = |error| Error::io("write", target, error);
    let temporary = scratch.path().join("bundle");
    let file = File::create(&temporary).map_err(failed)?;
    let mut archive = tar::Builder::new(BufWriter::with_capacity(BUFFER, file));
    for (name, content) in
        [(MANIFEST_FILE, &text[..]), (SIGNATURE_FILE, &key.sign(&text)), (CHECKSUMS_FILE, checksums.as_bytes())]
    {
        append(&mut archive, name, content.len() as u64, content).map_err(failed)?;
    }
    for name in PAYLOAD {
        let path = out.join(name);
        let content = File::open(&path).map_err(|error| Error::io("read", &path, error))?;
        let size = manifest.payload(name).map_err(Error::from_failure)?.size;
        append(&mut archive, name, size, BufReader::with_capacity(BUFFER, content)).map_err(failed)?;
    }
    archive.into_inner().and_then(|mut file| file.flush()).map_err(failed)?;
    scratch.place(&temporary, target)?;
    Ok(manifest)
}

/// The same bytes for the same content.
fn append(archive: &mut tar::Builder<impl Write>, name: &str, size: u64, content: impl Read) -> std::io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    archive.append_data(&mut header, name, content)
}

fn describe(out: &Path) -> Result<Manifest> {
    let build = BuildManifest::of_build(out)?;
    let mut files = BTreeMap::new();
    for name in PAYLOAD {
        let path = out.join(name);
        let file = File::open(&path).map_err(|error| Error::io("read", &path, error))?;
        let payload = chunks_of(name, BufReader::with_capacity(BUFFER, file)).map_err(Error::from_failure)?;
        let as_built = build.artifacts.iter().find(|artifact| artifact.name == name);
        if as_built.is_none_or(|artifact| artifact.sha256.to_string() != payload.sha256) {
            return Err(Error::failure(format!("{} is not what {BUILD_MANIFEST_FILE} beside it says", path.display()))
                .help("build the image again"));
        }
        files.insert(name.to_owned(), payload);
    }
    let path = out.join(UKI);
    let uki = std::fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
    let places = images::uki::places(&uki).map_err(Error::from_failure)?;
    let place = |name: &str| -> Result<Range> {
        let found = places.iter().find(|(section, _, _)| section == name);
        let (_, offset, length) = found.ok_or_else(|| Error::failure(format!("{} has no {name}", path.display())))?;
        Ok(Range { offset: *offset, length: *length })
    };
    let line = place(".cmdline")?;
    let line = uki.get(line.offset as usize..(line.offset + line.length) as usize).unwrap_or_default();
    Ok(Manifest {
        format: Manifest::FORMAT,
        image: build.image,
        state_format: STATE_FORMAT,
        kernel: place(".linux")?,
        initramfs: place(".initrd")?,
        command_line: String::from_utf8_lossy(line).into_owned(),
        files,
    })
}

/// A bundle to send.
pub struct Bundle {
    path: PathBuf,
    file: File,
    pub manifest: Manifest,
    /// As it was signed.
    pub manifest_bytes: Vec<u8>,
    pub signature: Vec<u8>,
    /// Where a file of the payload begins.
    places: BTreeMap<String, u64>,
}

impl Bundle {
    /// Opens a bundle. Whose signature it has is for the machine to judge.
    ///
    /// # Errors
    /// Bad input for a file that is none, or is cut short.
    pub fn open(path: &Path) -> Result<Bundle> {
        let file = File::open(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::bad_input(format!("{}: no such bundle", path.display()))
                .help("make one: imgbuild bundle out/master"),
            _ => Error::io("read", path, error),
        })?;
        let length = file.metadata().map_err(|error| Error::io("read", path, error))?.len();
        let none = |why: &dyn std::fmt::Display| {
            Error::bad_input(format!("{} is no bundle: {why}", path.display()))
                .help("make one: imgbuild bundle out/master")
        };
        let (mut manifest_bytes, mut signature) = (Vec::new(), Vec::new());
        let mut places = BTreeMap::new();
        let mut archive = tar::Archive::new(&file);
        for entry in archive.entries_with_seek().map_err(|error| none(&error))? {
            let entry = entry.map_err(|error| none(&error))?;
            let name = entry.path().map_err(|error| none(&error))?.display().to_string();
            let (begin, size) = (entry.raw_file_position(), entry.size());
            if begin.saturating_add(size) > length {
                return Err(none(&format!("{name} is cut short")));
            }
            let piece = match name.as_str() {
                MANIFEST_FILE => Some((&mut manifest_bytes, MANIFEST_LIMIT)),
                SIGNATURE_FILE => Some((&mut signature, SIGNATURE_LENGTH)),
                _ => None,
            };
            match piece {
                Some((bytes, limit)) => {
                    entry.take(limit as u64).read_to_end(bytes).map_err(|error| none(&error))?;
                }
                None => drop(places.insert(name, begin)),
            }
        }
        if manifest_bytes.is_empty() || signature.len() != SIGNATURE_LENGTH {
            return Err(none(&format!("{MANIFEST_FILE} and its signature are wanted")));
        }
        let manifest = Manifest::decode(&manifest_bytes).map_err(|error| none(&error))?;
        if let Some(missing) = PAYLOAD.iter().find(|name| !places.contains_key(**name)) {
            return Err(none(&format!("it has no {missing}")));
        }
        Ok(Bundle { path: path.to_owned(), file, manifest, manifest_bytes, signature, places })
    }

    /// The bytes of a chunk, checked against the manifest.
    ///
    /// # Errors
    /// The bundle was changed.
    pub fn chunk(&self, name: &str, number: u32) -> Result<Vec<u8>> {
        let payload = self.manifest.payload(name).map_err(Error::from_failure)?;
        let begin = self.places.get(name).copied().unwrap_or_default();
        let found = payload.chunk(number);
        let (before, chunk) = found.ok_or_else(|| Error::failure(format!("{name} has no chunk {number}")))?;
        let mut bytes = vec![0; chunk.size as usize];
        self.file.read_exact_at(&mut bytes, begin + before).map_err(|error| Error::io("read", &self.path, error))?;
        if bundle::Chunk::of(&bytes) != *chunk {
            return Err(Error::bad_input(format!(
                "{}: chunk {number} of {name} is not what the manifest says: the bundle is damaged",
                self.path.display()
            )));
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_bundle_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.bundle");
        assert_eq!(Bundle::open(&path).err().unwrap().status(), 2);
        std::fs::write(&path, b"nothing of the kind").unwrap();
        assert_eq!(Bundle::open(&path).err().unwrap().status(), 2);
        std::fs::write(folder.path().join(BUILD_MANIFEST_FILE), b"{}").unwrap();
        let (key, _) = ReleaseKey::generate().unwrap();
        assert!(write(folder.path(), &key, &path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"nothing of the kind");
        assert_eq!(write(&folder.path().join("none"), &key, &path).err().unwrap().status(), 2);
    }
}
