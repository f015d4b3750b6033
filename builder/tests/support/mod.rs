//! A project of its own for each test, and the program run in it.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

pub mod agents;

use assert_cmd::Command;
use std::path::{Path, PathBuf};

pub struct Project {
    folder: tempfile::TempDir,
}

impl Project {
    /// A project with a sound profile `master`.
    pub fn new() -> Project {
        let project = Project { folder: tempfile::tempdir().unwrap() };
        project.write("components/README.md", "");
        project.write("overlays/base/etc/motd", "hello\n");
        project.write("profiles/master.toml", "role = \"master\"\noverlays = [\"base\"]\n");
        project
    }

    /// The same with the cluster `lab` of three masters, and a node by DHCP.
    pub fn with_a_cluster() -> Project {
        let project = Project::new();
        let masters = ["m1=192.0.2.11/24", "m2=192.0.2.12/24", "m3=192.0.2.13/24"].map(|master| ["--master", master]);
        project.done(&[&["cluster", "new", "lab"], masters.as_flattened()].concat());
        let path = project.path("clusters/lab/cluster.toml");
        let definition = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, format!("{definition}\n[[machine]]\nname = \"n1\"\nrole = \"node\"\n")).unwrap();
        project
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Replaces a text in a file, which must have it.
    pub fn edit(&self, name: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(from), "{from:?} in {text}");
        std::fs::write(self.path(name), text.replace(from, to)).unwrap();
    }

    /// The program, in the project, with a cache of its own.
    pub fn imgbuild(&self, arguments: &[&str]) -> Command {
        let mut command = Command::cargo_bin("imgbuild").unwrap();
        command
            .current_dir(self.folder.path())
            .env("HOME", self.path("home"))
            .env_remove("XDG_CACHE_HOME")
            .args(arguments);
        command
    }

    /// Runs and expects bad input (status 2); gives what was said.
    pub fn refused(&self, arguments: &[&str]) -> String {
        let assert = self.imgbuild(arguments).assert().code(2);
        String::from_utf8(assert.get_output().stderr.clone()).unwrap()
    }

    /// Runs and expects a failure (status 1); gives standard output and what was said.
    pub fn failed(&self, arguments: &[&str]) -> (String, String) {
        let assert = self.imgbuild(arguments).assert().code(1);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (text(&assert.get_output().stdout), text(&assert.get_output().stderr))
    }

    /// Runs and expects success; gives standard output.
    pub fn done(&self, arguments: &[&str]) -> String {
        let assert = self.imgbuild(arguments).assert().success();
        String::from_utf8(assert.get_output().stdout.clone()).unwrap()
    }

    /// Every path below the project that looks half-made.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        let temporary =
            |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".imgbuild-"));
        walkdir::WalkDir::new(self.folder.path())
            .into_iter()
            .map(|entry| entry.unwrap().into_path())
            .filter(|path| temporary(path))
            .collect()
    }
}

/// Asserts that each part is in the text.
#[track_caller]
pub fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}
