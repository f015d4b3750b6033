//! Profiles with mistakes: each is refused with status 2, by name, pointing at its line.

#![allow(clippy::unwrap_used)]

mod support;

use support::{Project, says};

#[test]
fn an_unknown_key_is_refused_at_its_line() {
    let project = Project::new();
    project.write("profiles/master.toml", "role = \"master\"\n\n[debian]\npakages = [\"crun\"]\n");
    let text = project.refused(&["--profile", "master"]);
    says(
        &text,
        &["profiles/master.toml: unknown field `pakages`", "profiles/master.toml:4:1", "expected one of", "`packages`"],
    );
}

#[test]
fn a_wrong_type_is_refused_at_its_line() {
    let project = Project::new();
    project.write("profiles/master.toml", "role = \"master\"\n[network]\nmtu = \"9000\"\n");
    says(&project.refused(&["explain", "--profile", "master"]), &["invalid type: string", "profiles/master.toml:3:7"]);
}

#[test]
fn text_that_is_no_toml_is_refused_at_its_line() {
    let project = Project::new();
    project.write("profiles/master.toml", "role = \"master\"\noverlays = [\n");
    says(&project.refused(&["explain", "--profile", "master"]), &["profiles/master.toml:", "array"]);
}

#[test]
fn a_cycle_in_extends_shows_the_chain() {
    let project = Project::new();
    project.write("profiles/a.toml", "extends = [\"b\"]\n");
    project.write("profiles/b.toml", "extends = [\"c\"]\n");
    project.write("profiles/c.toml", "description = \"c\"\nextends = [\"b\"]\n");
    let text = project.refused(&["--profile", "a"]);
    says(&text, &["extend each other in a circle: b -> c -> b", "profiles/c.toml:2:12"]);
}

#[test]
fn a_profile_that_extends_itself_is_a_cycle() {
    let project = Project::new();
    project.write("profiles/a.toml", "extends = [\"../profiles/a.toml\"]\n");
    says(&project.refused(&["--profile", "a"]), &["circle: a -> ../profiles/a.toml"]);
}

#[test]
fn a_missing_overlay_is_named_with_those_that_exist() {
    let project = Project::new();
    project.write("profiles/master.toml", "role = \"master\"\noverlays = [\"base\", \"etdc\"]\n");
    let text = project.refused(&["--profile", "master"]);
    says(
        &text,
        &["the overlay overlays/etdc does not exist", "profiles/master.toml:2:21", "the project's overlays are: base"],
    );
    assert!(!project.path("clusters").exists() && !project.path("out").exists(), "nothing was begun");
}

#[test]
fn a_profile_that_does_not_exist_lists_those_that_do() {
    let project = Project::new();
    says(&project.refused(&["--profile", "mater"]), &["no profile \"mater\"", "the project has master"]);
    project.write("profiles/mine.toml", "extends = [\"nothing\"]\n");
    says(&project.refused(&["--profile", "mine"]), &["no profile \"nothing\"", "profiles/mine.toml:1:12"]);
}

#[test]
fn every_mistake_is_told_at_once() {
    let project = Project::new();
    project.write(
        "profiles/master.toml",
        r#"role = "master"
[ports.a]
port = "70000"
description = "a"
[ports.b]
port = "80"
protocol = "sctp"
from = ["10.0.0.0/33", "private"]
description = "b"
[files."etc/x"]
source = "nowhere"
mode = "0999"
[components.kubernets]
[kernel]
slice-us = 99
timer-slack-us = 0
"#,
    );
    let text = project.refused(&["--profile", "master"]);
    says(
        &text,
        &[
            "profile master: 9 problems",
            "\"70000\" is not a port",
            "\"sctp\" is not known",
            "\"10.0.0.0/33\" is no network",
            "\"etc/x\" is no path of the root",
            "the file ",
            "nowhere does not exist",
            "\"0999\" is no mode",
            "no component \"kubernets\"",
            "kernel.slice-us: 99 µs",
            "kernel.timer-slack-us: 0 µs",
        ],
    );
}

#[test]
fn a_sysctl_that_is_gone_names_its_successor() {
    let project = Project::new();
    project.write(
        "profiles/master.toml",
        "role = \"master\"\n[sysctl.\"net.ipv4.tcp_tw_recycle\"]\nvalue = \"1\"\nreason = \"speed\"\n",
    );
    says(
        &project.refused(&["--profile", "master"]),
        &["removed in Linux 4.12", "use net.ipv4.tcp_tw_reuse", "profiles/master.toml:2:9"],
    );
}

#[test]
fn a_profile_without_a_role_makes_no_image() {
    let project = Project::new();
    project.write("profiles/vm.toml", "[kernel]\npackage = \"linux-image-cloud-amd64\"\n");
    says(&project.refused(&["--profile", "vm"]), &["profile vm has no role", "--profile master"]);
}

#[test]
fn without_a_profile_the_names_are_told() {
    says(&Project::new().refused(&[]), &["which profile?", "master"]);
}

#[test]
fn a_profile_of_ones_own_extends_the_projects() {
    let project = Project::new();
    project.write("mine/overlay/etc/issue", "mine\n");
    project.write(
        "mine/edge-1.toml",
        "extends = [\"master\"]\ntimezone = \"Asia/Shanghai\"\noverlays = [\"./overlay\"]\n",
    );
    let text = project.done(&["explain", "--profile", "mine/edge-1.toml"]);
    says(
        &text,
        &[
            "profile edge-1: profiles/master.toml, mine/edge-1.toml",
            "role = \"master\"    # profiles/master.toml:1",
            "timezone = \"Asia/Shanghai\"    # mine/edge-1.toml:2",
            "overlays[1] = \"mine/overlay\"    # mine/edge-1.toml:3",
            "/etc/issue    # mine/overlay",
            "/etc/motd    # overlays/base",
        ],
    );
}

#[test]
fn explain_as_json_has_every_sysctl_with_its_origin() {
    let project = Project::new();
    project.write("profiles/tuned.toml", "[sysctl.\"vm.swappiness\"]\nvalue = \"10\"\nreason = \"zram\"\n");
    let text = project.done(&["explain", "--profile", "master", "--profile", "tuned", "--json"]);
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["profile"], "master-tuned");
    let sysctls = document["sysctls"].as_array().unwrap();
    let found = sysctls.iter().find(|sysctl| sysctl["key"] == "vm.swappiness").unwrap();
    assert_eq!(
        (&found["value"], &found["origin"], &found["handbook"]),
        (&"10".into(), &"profiles/tuned.toml:2".into(), &"0".into())
    );
    let left = document["sysctls_not_applied"].as_array().unwrap();
    assert_eq!(sysctls.len() + left.len(), spec::sysctl::CATALOGUE.len());
}

#[test]
fn an_error_as_json_is_one_event_with_file_and_line() {
    let project = Project::new();
    project.write("profiles/master.toml", "rol = \"master\"\n");
    let assert = project.imgbuild(&["--json", "--profile", "master"]).assert().code(2).stderr("");
    let event: serde_json::Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
    assert_eq!(event["event"], "error");
    assert_eq!(
        (&event["status"], &event["error"]["file"], &event["error"]["line"]),
        (&2.into(), &"profiles/master.toml".into(), &1.into())
    );
}

#[test]
fn sizes_are_sorted_and_need_a_build() {
    let project = Project::new();
    says(
        &project.refused(&["explain", "--profile", "master", "--sizes"]),
        &["out/master/manifest.json does not exist"],
    );
    project.write("out/master/manifest.json", r#"{"sizes": {"packages": {"crun": 1000000, "tzdata": 3000000}}}"#);
    let text = project.done(&["explain", "--profile", "master", "--sizes"]);
    assert_eq!(text, "packages, 4.0 MB\n      3.00 MB  tzdata\n      1.00 MB  crun\n\n");
}
