//! The content-addressed cache: files by SHA-256, and entries derived from them by the digest of
//! everything that went in. Safe for several builds at once: every entry appears by rename, and a
//! lock file per entry keeps two builds from doing the same work.

use crate::scratch;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Environment variable that names the cache's folder.
pub const CACHE_VARIABLE: &str = "IMGBUILD_CACHE";

/// What goes wrong in the cache.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no place for the cache: HOME is not set; set {CACHE_VARIABLE} to a folder")]
    NoHome,
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{}: no space left on the device; free some space, or set {CACHE_VARIABLE} to a folder on another disk",
        path.display()
    )]
    DiskFull { path: PathBuf },
    #[error("{label}: SHA-256 is {found}, wanted {wanted}")]
    Hash { label: String, wanted: Digest, found: Digest },
    #[error("{text:?} is not a SHA-256: wanted 64 hexadecimal digits")]
    NotADigest { text: String },
}

/// Names the path, and tells a full disk from other trouble.
pub fn io_error(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::DiskFull { path: path.into() },
        _ => Error::Io { path: path.into(), source },
    }
}

/// A SHA-256 digest, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Of bytes in memory.
    pub fn of(bytes: &[u8]) -> Self {
        Digest(Sha256::digest(bytes).into())
    }

    /// Of several parts, each with its length before it, so that no two lists collide.
    pub fn of_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Digest(hasher.finalize().into())
    }

    /// Of everything that `reader` gives; also the number of bytes.
    pub fn of_reader(reader: &mut dyn Read) -> io::Result<(Self, u64)> {
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 256 * 1024];
        let mut size = 0;
        loop {
            let count = reader.read(&mut buffer)?;
            if count == 0 {
                return Ok((Digest(hasher.finalize().into()), size));
            }
            hasher.update(&buffer[..count]);
            size += count as u64;
        }
    }

    /// Of a file; also its size in bytes.
    pub fn of_file(path: &Path) -> Result<(Self, u64), Error> {
        let mut file = File::open(path).map_err(io_error(path))?;
        Self::of_reader(&mut file).map_err(io_error(path))
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::NotADigest { text: text.to_owned() };
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[index * 2..index * 2 + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Digest(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// An exclusive lock, held until dropped; the kernel drops it when the process dies.
#[derive(Debug)]
pub struct Guard {
    _file: File,
}

/// The cache's folder.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// `path`, else $IMGBUILD_CACHE, else $XDG_CACHE_HOME/imgbuild, else ~/.cache/imgbuild.
    pub fn open(path: Option<&Path>) -> Result<Self, Error> {
        let root = match path {
            Some(path) => path.to_owned(),
            None => default_folder()?,
        };
        for folder in ["blobs", "partial", "locks", "derived", "index"] {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).map_err(io_error(&folder))?;
        }
        Ok(Cache { root })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the file with this digest is, or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        self.root.join("blobs").join(&name[..2]).join(name)
    }

    /// Where the part of an interrupted download is kept.
    pub fn partial_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("partial").join(digest.to_string())
    }

    /// The file, when it is there with the size in bytes that is wanted. Content was checked when it
    /// came in; a file of another size (a disk's fault) is removed.
    pub fn find(&self, digest: &Digest, size: Option<u64>) -> Result<Option<PathBuf>, Error> {
        let path = self.path(digest);
        match fs::metadata(&path) {
            Ok(metadata) if size.is_none_or(|size| size == metadata.len()) => Ok(Some(path)),
            Ok(_) => {
                fs::remove_file(&path).map_err(io_error(&path))?;
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error(&path)(error)),
        }
    }

    /// Reads the whole file again; one that does not match its name is removed, and named in the error.
    pub fn check(&self, digest: &Digest) -> Result<PathBuf, Error> {
        let path = self.path(digest);
        let (found, _) = Digest::of_file(&path)?;
        if found == *digest {
            return Ok(path);
        }
        fs::remove_file(&path).map_err(io_error(&path))?;
        Err(Error::Hash { label: path.display().to_string(), wanted: *digest, found })
    }

    /// Takes a finished file whose digest the caller has computed; it must lie in the cache's file system.
    pub fn adopt(&self, file: &Path, digest: &Digest) -> Result<PathBuf, Error> {
        let target = self.path(digest);
        let folder = target.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder).map_err(io_error(folder))?;
        File::open(file).and_then(|file| file.sync_all()).map_err(io_error(file))?;
        fs::rename(file, &target).map_err(io_error(&target))?;
        sync_folder(folder)?;
        Ok(target)
    }

    /// Stores what `reader` gives; when `wanted` is given and does not match, nothing is stored.
    pub fn insert(
        &self,
        reader: &mut dyn Read,
        label: &str,
        wanted: Option<&Digest>,
    ) -> Result<(Digest, PathBuf), Error> {
        let folder = self.root.join("partial");
        let mut temporary = tempfile::NamedTempFile::new_in(&folder).map_err(io_error(&folder))?;
        let _watch = scratch::watch(temporary.path());
        let mut hasher = HashingReader { inner: reader, hasher: Sha256::new() };
        io::copy(&mut hasher, &mut temporary).map_err(io_error(temporary.path()))?;
        let found = Digest(hasher.hasher.finalize().into());
        if let Some(wanted) = wanted.filter(|wanted| **wanted != found) {
            return Err(Error::Hash { label: label.to_owned(), wanted: *wanted, found });
        }
        let path = self.adopt(temporary.path(), &found)?;
        // The file has moved: the temporary's name no longer exists.
        let _ = temporary.into_temp_path().keep();
        Ok((found, path))
    }

    /// Waits for and takes the exclusive lock called `name` (any text).
    pub fn lock(&self, name: &str) -> Result<Guard, Error> {
        let path = self.root.join("locks").join(Digest::of(name.as_bytes()).to_string());
        let file = File::options().create(true).append(true).open(&path).map_err(io_error(&path))?;
        file.lock().map_err(io_error(&path))?;
        Ok(Guard { _file: file })
    }

    /// Where the derived entry is, or would be. `kind` is a short word: `tree`, `go`.
    pub fn derived_path(&self, kind: &str, key: &Digest) -> PathBuf {
        self.root.join("derived").join(kind).join(key.to_string())
    }

    /// The derived entry (a file or a folder) if it is there; otherwise `make` writes it to the path it is
    /// given, which does not exist yet, and it appears under its name at once and complete, or not at all.
    pub fn derived<E: From<Error>>(
        &self,
        kind: &str,
        key: &Digest,
        make: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        let target = self.derived_path(kind, key);
        if target.exists() {
            return Ok(target);
        }
        let _guard = self.lock(&format!("derived {kind} {key}"))?;
        if target.exists() {
            return Ok(target);
        }
        let folder = self.root.join("derived").join(kind);
        fs::create_dir_all(&folder).map_err(io_error(&folder))?;
        let temporary = tempfile::Builder::new().prefix(".making-").tempdir_in(&folder).map_err(io_error(&folder))?;
        let _watch = scratch::watch(temporary.path());
        let entry = temporary.path().join("entry");
        make(&entry)?;
        sync_entry(&entry)?;
        fs::rename(&entry, &target).map_err(io_error(&target))?;
        sync_folder(&folder)?;
        Ok(target)
    }
}

struct HashingReader<'a> {
    inner: &'a mut dyn Read,
    hasher: Sha256,
}

impl Read for HashingReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

fn default_folder() -> Result<PathBuf, Error> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(folder) = variable(CACHE_VARIABLE) {
        return Ok(folder);
    }
    match variable("XDG_CACHE_HOME").filter(|folder| folder.is_absolute()) {
        Some(folder) => Ok(folder.join("imgbuild")),
        None => variable("HOME").map(|home| home.join(".cache/imgbuild")).ok_or(Error::NoHome),
    }
}

/// Makes a file's or a folder's content durable before its name appears.
fn sync_entry(entry: &Path) -> Result<(), Error> {
    let file = File::open(entry).map_err(io_error(entry))?;
    let is_folder = file.metadata().map_err(io_error(entry))?.is_dir();
    // A tree of many small files: one call for the file system instead of one for each.
    let result = if is_folder { rustix::fs::syncfs(&file).map_err(io::Error::from) } else { file.sync_all() };
    result.map_err(io_error(entry))
}

fn sync_folder(folder: &Path) -> Result<(), Error> {
    File::open(folder).and_then(|file| file.sync_all()).map_err(io_error(folder))
}

/// Writes a whole file so that a reader sees the old content or the new, never a part: temporary beside
/// it, fsync, rename.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<(), Error> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder).map_err(io_error(folder))?;
    let mut temporary = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)
        .map_err(io_error(folder))?;
    let _watch = scratch::watch(temporary.path());
    temporary.write_all(content).map_err(io_error(path))?;
    temporary.as_file().sync_all().map_err(io_error(path))?;
    temporary.persist(path).map_err(|error| io_error(path)(error.error))?;
    sync_folder(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn cache() -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(Some(folder.path())).unwrap();
        (folder, cache)
    }

    proptest! {
        #[test]
        fn a_digest_survives_its_text(bytes: [u8; 32]) {
            let digest = Digest(bytes);
            prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        }
    }

    #[test]
    fn digest_of_the_empty_input_is_the_standards() {
        assert_eq!(Digest::of(b"").to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert!("e3b0".parse::<Digest>().is_err());
        assert!("é".repeat(32).parse::<Digest>().is_err());
    }

    #[test]
    fn inserted_content_is_found_and_a_wrong_digest_stores_nothing() {
        let (_folder, cache) = cache();
        let (digest, path) = cache.insert(&mut &b"hello"[..], "greeting", None).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"hello");
        assert_eq!(cache.find(&digest, Some(5)).unwrap(), Some(path));

        let error = cache.insert(&mut &b"other"[..], "greeting", Some(&digest)).unwrap_err();
        assert!(error.to_string().starts_with("greeting: SHA-256 is "), "{error}");
        assert_eq!(cache.find(&Digest::of(b"other"), None).unwrap(), None);
        assert_eq!(fs::read_dir(cache.root().join("partial")).unwrap().count(), 0);
    }

    #[test]
    fn a_file_cut_short_by_the_disk_is_not_served() {
        let (_folder, cache) = cache();
        let (digest, path) = cache.insert(&mut &b"hello"[..], "greeting", None).unwrap();
        fs::write(&path, b"hel").unwrap();
        assert_eq!(cache.find(&digest, Some(5)).unwrap(), None);
    }

    #[test]
    fn a_flipped_bit_is_found_by_the_full_check() {
        let (_folder, cache) = cache();
        let (digest, path) = cache.insert(&mut &b"hello"[..], "greeting", None).unwrap();
        cache.check(&digest).unwrap();
        fs::write(&path, b"hellp").unwrap();
        assert!(matches!(cache.check(&digest), Err(Error::Hash { .. })));
        assert_eq!(cache.find(&digest, None).unwrap(), None);
    }

    #[test]
    fn a_derived_entry_is_made_once_by_two_builds() {
        let (_folder, cache) = cache();
        let key = Digest::of(b"inputs");
        let made = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let path = cache
                        .derived("test", &key, |path| {
                            made.fetch_add(1, Ordering::SeqCst);
                            fs::create_dir(path).map_err(io_error(path))?;
                            fs::write(path.join("file"), b"content").map_err(io_error(path))
                        })
                        .unwrap();
                    assert_eq!(fs::read(path.join("file")).unwrap(), b"content");
                });
            }
        });
        assert_eq!(made.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_derived_entry_that_fails_leaves_nothing() {
        let (_folder, cache) = cache();
        let key = Digest::of(b"inputs");
        let failed = cache.derived("test", &key, |path| {
            fs::write(path, b"half").map_err(io_error(path))?;
            Err(Error::NoHome)
        });
        assert!(failed.is_err());
        assert!(!cache.derived_path("test", &key).exists());
        assert_eq!(fs::read_dir(cache.root().join("derived/test")).unwrap().count(), 0);
    }

    #[test]
    fn writing_atomically_replaces_the_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/lock");
        write_atomically(&path, b"long content").unwrap();
        write_atomically(&path, b"short").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"short");
        assert_eq!(fs::read_dir(folder.path().join("new")).unwrap().count(), 1);
    }
}
