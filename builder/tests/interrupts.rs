//! A program that is told to end leaves no temporaries and no programs of its own behind.

#![allow(clippy::unwrap_used)]

use imgbuild::scratch::{self, Scratch, create_file};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Set for the second run of this test program, which plays the builder: the folder to work in.
const ROLE: &str = "IMGBUILD_TEST_INTERRUPT";

/// Not a test of its own: what the second run does.
#[test]
fn a_builder_at_work() {
    let Some(folder) = std::env::var_os(ROLE).map(PathBuf::from) else { return };
    imgbuild::interrupt::install().unwrap();
    let scratch = Scratch::folder(&folder).unwrap();
    create_file(&scratch.path().join("half"), b"half", 0o600).unwrap();
    // What other libraries make: a watched file, and one with our prefix in a folder that is swept.
    let foreign = tempfile::NamedTempFile::new_in(&folder).unwrap();
    let _watch = scratch::watch(foreign.path());
    scratch::sweep_when_interrupted(&folder);
    std::fs::write(folder.join(".imgbuild-image"), "half").unwrap();
    let mut child = Command::new("sleep").arg("600").spawn().unwrap();
    println!("\nworking {}", child.id());
    child.wait().unwrap();
    // The child ends first; the signal's thread ends us.
    loop {
        std::thread::park();
    }
}

fn builder(folder: &Path) -> (Child, u32) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_builder_at_work", "--nocapture"])
        .env(ROLE, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let working =
        lines.map_while(Result::ok).find_map(|line| line.strip_prefix("working ").and_then(|pid| pid.parse().ok()));
    (child, working.unwrap())
}

#[test]
fn a_signal_removes_temporaries_and_ends_children() {
    for (signal, status) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let folder = tempfile::tempdir().unwrap();
        let (mut program, grandchild) = builder(folder.path());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "it works on something");
        assert!(Command::new("kill").args(["-s", signal, &program.id().to_string()]).status().unwrap().success());
        let ended = program.wait().unwrap();
        assert_eq!((ended.code(), ended.signal()), (Some(status), None), "{signal}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{signal}");
        assert!(!Path::new(&format!("/proc/{grandchild}/exe")).exists(), "{signal}: sleep runs on");
    }
}

#[test]
fn a_panic_removes_temporaries() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let work = std::thread::spawn(move || {
        let _scratch = Scratch::folder(&path).unwrap();
        std::panic::resume_unwind(Box::new("broken"));
    });
    assert!(work.join().is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
