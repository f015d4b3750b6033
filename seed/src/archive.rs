//! The payload of a seed: a ustar archive of regular files with relative names, in name order, with
//! fixed owner, mode and time, so that the same files give the same bytes.

use crate::{Defect, Files};
use std::io::Read;

/// Files and bytes of the archive.
///
/// # Errors
/// A name that is empty, absolute, longer than ustar allows or has a `.` or `..` part.
pub fn encode(files: &Files) -> Result<Vec<u8>, Defect> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        check_name(name)?;
        let mut header = tar::Header::new_ustar();
        header.set_path(name).map_err(|_| Defect::Name(name.clone()))?;
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content.as_slice()).map_err(|error| Defect::Archive(error.to_string()))?;
    }
    builder.into_inner().map_err(|error| Defect::Archive(error.to_string()))
}

/// The files of an archive made by [`encode`]; anything else in it is refused.
///
/// # Errors
/// An entry that is no regular file, a name as for [`encode`], a name twice, a truncated archive.
pub fn decode(payload: &[u8]) -> Result<Files, Defect> {
    let broken = |error: std::io::Error| Defect::Archive(error.to_string());
    let mut files = Files::new();
    let mut archive = tar::Archive::new(payload);
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        check_name(&name)?;
        if entry.header().entry_type() != tar::EntryType::Regular {
            return Err(Defect::NotAFile(name));
        }
        // The size in a foreign header is no promise: the vector grows with what is really there.
        let mut content = Vec::new();
        entry.read_to_end(&mut content).map_err(broken)?;
        if content.len() as u64 != entry.size() {
            return Err(Defect::Archive(format!("{name} is cut short")));
        }
        if files.insert(name.clone(), content).is_some() {
            return Err(Defect::Twice(name));
        }
    }
    Ok(files)
}

fn check_name(name: &str) -> Result<(), Defect> {
    let sound = !name.contains('\0') && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    if sound { Ok(()) } else { Err(Defect::Name(name.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn files_come_back(files in proptest::collection::btree_map(
            "[a-z][a-z0-9.-]{0,20}(/[a-z][a-z0-9.-]{0,20}){0,2}",
            proptest::collection::vec(any::<u8>(), 0..2000),
            0..8,
        )) {
            let payload = encode(&files).unwrap();
            prop_assert_eq!(payload.len() % 512, 0);
            prop_assert_eq!(decode(&payload).unwrap(), files);
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        for name in ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a/", "a\0b"] {
            let files = Files::from([(name.to_owned(), b"x".to_vec())]);
            assert!(matches!(encode(&files), Err(Defect::Name(_))), "{name:?}");
        }
    }

    #[test]
    fn a_link_in_the_archive_is_refused() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, "pki", "/etc").unwrap();
        let payload = builder.into_inner().unwrap();
        assert!(matches!(decode(&payload), Err(Defect::NotAFile(name)) if name == "pki"));
    }
}
