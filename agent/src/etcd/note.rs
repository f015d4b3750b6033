//! The note on the state disk about this machine's part in etcd's cluster (`joining::Note`), and
//! whether etcd's data folder is what the note says.

use crate::facts::under;
use crate::files::{self, FileError};
use joining::{Holds, Note, State};
use std::path::Path;

/// Below the state partition; written before whatever it announces is done.
const FILE: &str = "/var/lib/imgbuild/etcd.json";
/// The members' data folders lie below it, one for each identity.
pub const DATA_DIR: &str = "/var/lib/etcd";

/// Reads the note, or begins the one of a state disk just made: `state_id` is drawn anew with each
/// file system.
pub fn read(root: &Path, state_id: &str) -> State {
    let path = under(root, FILE);
    let unusable = |why: String| State::Unavailable { why: format!("{}: {why}", path.display()) };
    match files::read_if_there(&path) {
        Err(error) => unusable(error.to_string()),
        Ok(None) if has_any_data(root) => unusable(format!("is gone, but {DATA_DIR} is not empty")),
        Ok(None) => State::Mounted(Note::new(state_id)),
        Ok(Some(text)) => match serde_json::from_str::<Note>(&text) {
            Ok(mut note) => {
                if let Some(why) = damage(root, &note.holds) {
                    note.holds = note.holds.damaged(why);
                }
                State::Mounted(note)
            }
            Err(error) => unusable(error.to_string()),
        },
    }
}

/// Writes it; it outlives a power cut once this returns.
pub fn write(root: &Path, note: &Note) -> Result<(), FileError> {
    let path = under(root, FILE);
    let text = serde_json::to_string_pretty(note)
        .map_err(|error| FileError::Content { path: path.clone(), reason: error.to_string() })?;
    files::write(&path, text, 0o600, true)
}

fn has_any_data(root: &Path) -> bool {
    std::fs::read_dir(under(root, DATA_DIR)).is_ok_and(|mut entries| entries.next().is_some())
}

/// What is wrong with the folder of committed data.
fn damage(root: &Path, holds: &Holds) -> Option<String> {
    let folder = holds.data_folder().filter(|_| matches!(holds, Holds::Data(_)))?;
    let log = under(root, DATA_DIR).join(folder).join("member/wal");
    let any = std::fs::read_dir(&log).is_ok_and(|mut entries| entries.next().is_some());
    (!any).then(|| format!("{} has no write-ahead log", log.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use joining::{Membership, Write};

    fn note_of(state: State) -> Note {
        match state {
            State::Mounted(note) => note,
            State::Unavailable { why } => panic!("{why}"),
        }
    }

    fn with_data() -> Note {
        let mut note = Note::new("s1");
        note.holds =
            Holds::Data(Membership { cluster: "c1".into(), abandons: Default::default(), member: None, forming: None });
        note
    }

    #[test]
    fn a_new_disk_has_a_new_note_and_a_written_one_is_read_back() {
        let root = tempfile::tempdir().unwrap();
        let note = note_of(read(root.path(), "s1"));
        assert_eq!((note.id.as_str(), &note.holds), ("s1", &Holds::Nothing));
        std::fs::create_dir_all(root.path().join("var/lib/imgbuild")).unwrap();
        let standing = joining::Standing { permit: true, seed_cluster: None, state: State::Mounted(note) };
        let standing = standing.after(&Write::Learn("c1".into()));
        write(root.path(), standing.note().unwrap()).unwrap();
        assert_eq!(&note_of(read(root.path(), "other")), standing.note().unwrap());
    }

    #[test]
    fn data_without_a_note_and_a_note_that_cannot_be_read_are_not_fresh() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("var/lib/etcd/c1-founder")).unwrap();
        assert!(matches!(read(root.path(), "s1"), State::Unavailable { why } if why.contains("is gone")));
        std::fs::create_dir_all(root.path().join("var/lib/imgbuild")).unwrap();
        std::fs::write(root.path().join("var/lib/imgbuild/etcd.json"), "{").unwrap();
        assert!(matches!(read(root.path(), "s1"), State::Unavailable { .. }));
    }

    #[test]
    fn a_data_folder_that_is_gone_is_damage_not_freshness() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("var/lib/imgbuild")).unwrap();
        write(root.path(), &with_data()).unwrap();
        let holds = note_of(read(root.path(), "s1")).holds;
        assert!(matches!(holds, Holds::Partial { why, .. } if why.contains("no write-ahead log")));
        let log = root.path().join("var/lib/etcd/c1-founder/member/wal");
        std::fs::create_dir_all(&log).unwrap();
        std::fs::write(log.join("0.wal"), "x").unwrap();
        assert!(matches!(note_of(read(root.path(), "s1")).holds, Holds::Data(_)));
    }
}
