//! `imgbuild check` with the project's own profiles, the agent and CoreDNS, which it builds when they are not there.

#![allow(clippy::unwrap_used)]

use assert_cmd::Command;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use std::path::Path;

const ZONE: &str = "$ORIGIN example.org.\n@ 300 IN SOA ns hostmaster 1 3600 600 86400 300\n@ 300 IN NS ns\n\
                    ns 300 IN A 192.0.2.11\n";
const NAMES: &str = "[[dns-server.zone]]\nname = \"example.org\"\nfile = \"example.org.zone\"\n";

/// The program in a folder that is no project: the clusters are there, all else is this project's.
fn imgbuild(work: &Path, arguments: &[&str]) -> assert_cmd::assert::Assert {
    Command::cargo_bin("imgbuild").unwrap().current_dir(work).args(arguments).assert()
}

#[test]
fn coredns_reads_what_the_agent_makes_of_a_definition() {
    let work = tempfile::tempdir().unwrap();
    let (lab, check) = (work.path().join("clusters/lab"), ["check", "--profile", "master", "--cluster", "lab"]);
    imgbuild(work.path(), &["cluster", "new", "lab", "--master", "m1=192.0.2.11/24"]).success();
    let definition = std::fs::read_to_string(lab.join("cluster.toml")).unwrap();
    std::fs::write(lab.join("cluster.toml"), format!("{definition}{NAMES}")).unwrap();
    std::fs::write(lab.join("example.org.zone"), ZONE).unwrap();
    imgbuild(work.path(), &check).success().stderr(contains("nothing is wrong"));

    std::fs::write(lab.join("example.org.zone"), ZONE.replace("192.0.2.11", "192.0.2")).unwrap();
    let refused = imgbuild(work.path(), &check).code(2);
    refused.stderr(contains("CoreDNS of m1 would not start: plugin/file").and(contains("bad A")));
}
