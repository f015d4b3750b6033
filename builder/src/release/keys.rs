//! keys/release.key signs bundles, keys/release.pub goes into every image that is built beside it.

use crate::error::{Error, Result};
use crate::project::Project;
use crate::scratch;
use bundle::ReleaseKey;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Where a project's release key lies.
pub struct KeyPaths {
    pub private: PathBuf,
    pub public: PathBuf,
}

impl KeyPaths {
    pub fn of(project: &Project) -> KeyPaths {
        let folder = project.keys();
        KeyPaths { private: folder.join("release.key"), public: folder.join("release.pub") }
    }
}

/// Makes the project's release key: the private half 0600 in a folder 0700.
///
/// # Errors
/// Bad input where there is one already.
pub fn new_key(project: &Project) -> Result<KeyPaths> {
    use std::os::unix::fs::DirBuilderExt;
    let paths = KeyPaths::of(project);
    if let Some(there) = [&paths.private, &paths.public].into_iter().find(|path| path.exists()) {
        let problem = Error::bad_input(format!("{} is there already", project.display(there)));
        return Err(
            problem.help("machines trust the key that their image was built with: keep it, or move it away yourself")
        );
    }
    let folder = project.keys();
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
    made.map_err(|error| Error::io("make", &folder, error))?;
    let (key, private) = ReleaseKey::generate().map_err(Error::from_failure)?;
    for (path, text, mode) in [(&paths.private, private, 0o600), (&paths.public, key.public_pem(), 0o644)] {
        scratch::write_file(path, text.as_bytes(), mode).map_err(|error| Error::io("write", path, error))?;
    }
    Ok(paths)
}

/// The key to sign with: the one at `path`, else the project's.
///
/// # Errors
/// Bad input where there is none, or another kind of key.
pub fn release_key(project: &Project, path: Option<&Path>) -> Result<ReleaseKey> {
    let path = path.map_or_else(|| KeyPaths::of(project).private, Path::to_owned);
    let text = std::fs::read_to_string(&path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::bad_input(format!("{}: no release key", project.display(&path)))
            .help("make one: imgbuild key new; images that are built afterwards take its bundles"),
        _ => Error::io("read", &path, error),
    })?;
    ReleaseKey::from_pem(&project.display(&path), &text).map_err(Error::from_bad_input)
}

/// The public half for an image, in PEM; `None` where the project has no key.
///
/// # Errors
/// Bad input for a file that holds anything else.
pub fn public_key(project: &Project) -> Result<Option<String>> {
    let path = KeyPaths::of(project).public;
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", &path, error)),
    };
    bundle::public_keys(&project.display(&path), &text).map_err(Error::from_bad_input)?;
    Ok(Some(text))
}
