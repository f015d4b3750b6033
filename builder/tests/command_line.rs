//! The command line itself: help, completions, manual pages, exit statuses.

#![allow(clippy::unwrap_used)]

mod support;

use support::{Project, says};

#[test]
fn help_has_examples_and_every_command() {
    let text = Project::new().done(&["--help"]);
    says(&text, &["Examples:", "imgbuild --profile master", "explain", "cluster", "doctor", "vendor", "Exit status:"]);
}

#[test]
fn a_wrong_option_is_bad_input() {
    let text = Project::new().refused(&["--profil", "master"]);
    says(&text, &["--profil", "--profile"]);
}

#[test]
fn options_of_build_before_another_command_are_refused() {
    says(&Project::new().refused(&["--profile", "master", "doctor"]), &["stands before another command"]);
}

#[test]
fn a_folder_that_is_no_project_is_refused() {
    says(&Project::new().refused(&["--project", "/proc", "doctor"]), &["--project /proc: no project is there"]);
}

#[test]
fn completions_are_made_for_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        says(&Project::new().done(&["completions", shell]), &["imgbuild", "explain"]);
    }
}

#[test]
fn manual_pages_are_made_for_each_command() {
    let project = Project::new();
    says(&project.done(&["man"]), &[".TH imgbuild 1"]);
    project.done(&["man", "pages"]);
    for page in ["imgbuild.1", "imgbuild-explain.1", "imgbuild-cluster-new.1"] {
        assert!(project.path("pages").join(page).is_file(), "{page}");
    }
    assert_eq!(project.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_missing_image_is_bad_input() {
    says(
        &Project::new().refused(&["run", "out/master/disk.img"]),
        &["no disk image out/master/disk.img", "imgbuild --profile master"],
    );
}

#[test]
fn doctor_tells_each_thing_and_its_state() {
    let project = Project::new();
    let output = project.imgbuild(&["doctor", "--json"]).output().unwrap();
    let mut documents = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<serde_json::Value>();
    let checks = documents.next().unwrap().unwrap().as_array().unwrap().clone();
    let missing = checks.iter().any(|check| check["state"] == "missing" && check["need"] == "needed");
    assert_eq!(output.status.code(), Some(if missing { 1 } else { 0 }));
    let error = documents.next().map(|event| event.unwrap());
    assert_eq!(error.is_some_and(|event| event["event"] == "error" && event["status"] == 1), missing);
    for check in &checks {
        assert_eq!(check["state"] == "missing", check["mend"].is_string(), "{check}");
    }
    let lacking = project.imgbuild(&["doctor"]).env("PATH", "/nonexistent").assert().code(1);
    let text = String::from_utf8_lossy(&lacking.get_output().stdout).into_owned();
    says(&text, &["MISSING  Rust: no rustc", "MISSING  Go: no go", "-> apt-get install gcc"]);
}
