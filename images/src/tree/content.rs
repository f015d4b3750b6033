//! The bytes of a file of a tree: in memory, or a stretch of a file on disk that is read when needed.

use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

/// Cheap to clone: a clone shares the bytes or the path.
#[derive(Debug, Clone)]
pub enum Content {
    Memory(Arc<[u8]>),
    /// `length` bytes from byte `offset` of the file `path`, which must not change meanwhile.
    Disk {
        path: Arc<Path>,
        offset: u64,
        length: u64,
    },
}

impl Content {
    /// The whole of a file on disk, as long as it is now.
    ///
    /// # Errors
    /// The file's metadata cannot be read.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let length = named(path, path.metadata())?.len();
        Ok(Content::Disk { path: path.into(), offset: 0, length })
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Content::Memory(bytes) => bytes.len() as u64,
            Content::Disk { length, .. } => *length,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All bytes; from memory without a copy.
    ///
    /// # Errors
    /// The file on disk cannot be read or is shorter than it was.
    pub fn read(&self) -> io::Result<Arc<[u8]>> {
        match self {
            Content::Memory(bytes) => Ok(bytes.clone()),
            Content::Disk { path, length, .. } => {
                let mut bytes = Vec::with_capacity(usize::try_from(*length).unwrap_or(0));
                self.reader()?.read_to_end(&mut bytes)?;
                if bytes.len() as u64 == *length { Ok(bytes.into()) } else { Err(shorter(path, *length)) }
            }
        }
    }

    /// A reader of exactly [`Content::len`] bytes.
    ///
    /// # Errors
    /// The file on disk cannot be opened. A file that has become shorter ends the reader early.
    pub fn reader(&self) -> io::Result<Box<dyn Read + Send>> {
        match self {
            Content::Memory(bytes) => Ok(Box::new(Cursor::new(bytes.clone()))),
            Content::Disk { path, offset, length } => {
                let mut file = named(path, File::open(path))?;
                named(path, file.seek(SeekFrom::Start(*offset)))?;
                Ok(Box::new(file.take(*length)))
            }
        }
    }

    /// SHA-256 of the bytes.
    ///
    /// # Errors
    /// As [`Content::read`].
    pub fn sha256(&self) -> io::Result<[u8; 32]> {
        if let Content::Memory(bytes) = self {
            return Ok(Sha256::digest(bytes).into());
        }
        let mut reader = self.reader()?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok(hash.finalize().into()),
                count => hash.update(&buffer[..count]),
            }
        }
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Content::Memory(bytes.into())
    }
}

impl From<&[u8]> for Content {
    fn from(bytes: &[u8]) -> Self {
        Content::Memory(bytes.into())
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Content::Memory(text.as_bytes().into())
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Content::Memory(text.into_bytes().into())
    }
}

fn named<T>(path: &Path, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn shorter(path: &Path, length: u64) -> io::Error {
    let message = format!("{}: shorter than the {length} bytes that it had", path.display());
    io::Error::new(io::ErrorKind::UnexpectedEof, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_of_a_file_is_read_and_hashed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"0123456789").unwrap();
        let content = Content::Disk { path: path.as_path().into(), offset: 3, length: 4 };
        assert_eq!(&*content.read().unwrap(), b"3456");
        assert_eq!(content.sha256().unwrap(), Content::from("3456").sha256().unwrap());
        assert_eq!(Content::of_file(&path).unwrap().len(), 10);
    }

    #[test]
    fn a_file_that_shrank_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"0123456789").unwrap();
        let content = Content::of_file(&path).unwrap();
        std::fs::write(&path, b"012").unwrap();
        let message = content.read().unwrap_err().to_string();
        assert!(message.contains("file: shorter than the 10 bytes"), "{message}");
    }
}
