//! The frame of a story: its folder, its turn on the host, and what is left when it fails.

use crate::lab::workspace;
use crate::slots::Slots;
use crate::{Failure, Lab, Result};
use std::any::Any;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Folder of the stories' folders, instead of target/stories.
const STORIES_VARIABLE: &str = "IMGBUILD_STORIES";
/// File with the reason, in the folder of a story that failed.
const REASON_FILE: &str = "reason";

/// Tells a story with one machine at a time. Panics when it fails, as a test does.
pub fn story(name: &str, tell: impl FnOnce(&Lab) -> Result) {
    story_with_machines(name, 1, tell);
}

/// A lab outside of a story: for measuring. Its folder goes away, whatever comes of it.
pub fn scratch_lab<T>(name: &str, measure: impl FnOnce(&Lab) -> Result<T>) -> Result<T> {
    let folder = stories_folder().join(name);
    empty(&folder)?;
    let _slots = Slots::take(2)?;
    let outcome = measure(&Lab::new(&folder)?);
    drop(std::fs::remove_dir_all(&folder));
    outcome
}

/// Tells a story in which this many machines run at once. With more than there are slots it has the host
/// to itself: its machines idle more than they compute.
pub fn story_with_machines(name: &str, machines: usize, tell: impl FnOnce(&Lab) -> Result) {
    let folder = stories_folder().join(name);
    let told = catch_unwind(AssertUnwindSafe(|| {
        let _slots = Slots::take(machines)?;
        let begun = Instant::now();
        empty(&folder)?;
        let outcome = tell(&Lab::new(&folder)?);
        // Not by println!, which a test that passes keeps to itself: what a run was long with is to be seen.
        let _ = writeln!(std::io::stderr(), "story {name}: {} s", begun.elapsed().as_secs());
        outcome
    }));
    finish(name, &folder, told);
}

fn finish(name: &str, folder: &Path, told: std::result::Result<Result, Box<dyn Any + Send>>) {
    let reason = match &told {
        Ok(Ok(())) => {
            // A folder that stays costs room, not truth.
            drop(std::fs::remove_dir_all(folder));
            return;
        }
        Ok(Err(failure)) => failure.to_string(),
        Err(panic) => panic_text(panic.as_ref()),
    };
    let line = reason.lines().next().unwrap_or_default();
    let written =
        std::fs::create_dir_all(folder).and_then(|()| std::fs::write(folder.join(REASON_FILE), format!("{line}\n")));
    let place = match written {
        Ok(()) => format!("see {}", folder.display()),
        Err(error) => format!("nothing could be kept in {}: {error}", folder.display()),
    };
    match told {
        Err(panic) => {
            eprintln!("story {name}: {place}");
            resume_unwind(panic)
        }
        Ok(_) => panic!("story {name}: {reason}\n{place}"),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked").to_owned()
}

fn stories_folder() -> PathBuf {
    std::env::var_os(STORIES_VARIABLE).map_or_else(|| workspace().join("target/stories"), PathBuf::from)
}

fn empty(folder: &Path) -> Result {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Failure::file(folder, "empty")(error));
        }
        _ => {}
    }
    std::fs::create_dir_all(folder).map_err(Failure::file(folder, "make"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(name: &str, outcome: std::result::Result<Result, Box<dyn Any + Send>>) -> (bool, PathBuf) {
        let folder = std::env::temp_dir().join(format!("story-{}-{name}", std::process::id()));
        empty(&folder).unwrap();
        std::fs::write(folder.join("console.log"), "text").unwrap();
        (catch_unwind(AssertUnwindSafe(|| finish(name, &folder, outcome))).is_err(), folder)
    }

    #[test]
    fn a_story_that_succeeds_leaves_nothing() {
        let (failed, folder) = told("good", Ok(Ok(())));
        assert!(!failed && !folder.exists());
    }

    #[test]
    fn a_story_that_fails_leaves_its_folder_and_one_line() {
        let (failed, folder) = told("bad", Ok(Err(Failure::Unexpected("no node\nand more".into()))));
        assert!(failed && folder.join("console.log").exists());
        assert_eq!(std::fs::read_to_string(folder.join(REASON_FILE)).unwrap(), "no node\n");
        std::fs::remove_dir_all(folder).unwrap();
        let (failed, folder) = told("panic", Err(Box::new("assertion failed")));
        assert!(failed);
        assert_eq!(std::fs::read_to_string(folder.join(REASON_FILE)).unwrap(), "assertion failed\n");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
