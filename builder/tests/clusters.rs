//! Cluster definitions with mistakes, and the making of new ones: never over an existing one, never half.

#![allow(clippy::unwrap_used)]

mod support;

use pki::{Authority, AuthorityName};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use support::{Project, says};
use time::{Duration, OffsetDateTime};

const DEFINITION: &str = "clusters/lab/cluster.toml";

fn with_cluster() -> Project {
    let project = Project::new();
    project.done(&["cluster", "new", "lab", "--master", "master-1=192.0.2.11/24"]);
    project
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_new_cluster_is_sound_closed_and_never_replaced() {
    let project = with_cluster();
    says(&project.done(&["cluster", "check", "lab"]), &["clusters/lab/cluster.toml is sound: 1 machine"]);
    assert_eq!(mode(&project.path("clusters/lab/secrets")), 0o700);
    assert_eq!(mode(&project.path("clusters/lab/secrets/kubernetes.key")), 0o600);
    assert_eq!(mode(&project.path("clusters/lab/admin.kubeconfig")), 0o600);
    let before = std::fs::read(project.path("clusters/lab/secrets/kubernetes.key")).unwrap();
    says(&project.refused(&["cluster", "new", "lab"]), &["clusters/lab exists already"]);
    assert_eq!(std::fs::read(project.path("clusters/lab/secrets/kubernetes.key")).unwrap(), before);
    assert_eq!(project.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_name_that_leads_elsewhere_is_refused() {
    let project = Project::new();
    for name in ["../x", "Lab", "a.b", ""] {
        says(&project.refused(&["cluster", "new", name]), &["is no name for a cluster"]);
    }
    says(&project.refused(&["--profile", "master", "--cluster", "../x"]), &["is no name of a cluster"]);
    assert!(!project.path("clusters").exists());
}

#[test]
fn overlapping_networks_are_refused_at_their_line() {
    let project = with_cluster();
    project.edit(DEFINITION, "10.96.0.0/12", "10.244.128.0/20");
    let text = project.refused(&["cluster", "check", "lab"]);
    says(&text, &["service-cidr 10.244.128.0/20 overlaps pod-cidr 10.244.0.0/16", "clusters/lab/cluster.toml:5:"]);
}

#[test]
fn a_machine_within_the_pods_network_is_refused() {
    let project = with_cluster();
    project.edit(DEFINITION, "192.0.2.11/24", "10.244.3.1/24");
    says(&project.refused(&["cluster", "check", "lab"]), &["the network 10.244.3.0/24 of master-1 overlaps pod-cidr"]);
}

#[test]
fn an_address_twice_is_refused_at_the_second() {
    let project = Project::new();
    let text = project.refused(&[
        "cluster",
        "new",
        "lab",
        "--master",
        "a=192.0.2.1/24",
        "--master",
        "b=192.0.2.2/24",
        "--master",
        "c=192.0.2.1/24",
    ]);
    says(&text, &["the address 192.0.2.1 of c is a's too", "clusters/lab/cluster.toml:"]);
    assert!(!project.path("clusters/lab").exists());
    assert_eq!(project.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn masters_without_addresses_are_refused_when_there_are_several() {
    let project = Project::new();
    says(&project.done(&["cluster", "new", "lab", "--masters", "3"]), &["The masters still need addresses"]);
    let text = project.refused(&["cluster", "check", "lab"]);
    says(
        &text,
        &["cluster lab: 3 problems", "the master master-1 has no address", "the master master-3 has no address"],
    );
    says(&project.refused(&["--profile", "master", "--cluster", "lab"]), &["the master master-2 has no address"]);
}

#[test]
fn an_unknown_role_and_an_unknown_key_are_refused_at_their_lines() {
    let project = with_cluster();
    project.edit(DEFINITION, "role = \"master\"", "role = \"worker\"");
    says(
        &project.refused(&["cluster", "check", "lab"]),
        &["unknown variant `worker`", "clusters/lab/cluster.toml:9:8"],
    );
    project.edit(DEFINITION, "role = \"worker\"", "rol = \"master\"");
    says(&project.refused(&["cluster", "check", "lab"]), &["unknown field `rol`"]);
}

#[test]
fn an_expired_authority_is_refused_also_by_a_build() {
    let project = with_cluster();
    let now = OffsetDateTime::now_utc();
    let expired =
        Authority::with_validity("lab kubernetes CA", now - Duration::days(20), now - Duration::days(10)).unwrap();
    replace_authority(&project, &expired);
    let message = "the authority clusters/lab/secrets/kubernetes.crt expired on";
    says(&project.refused(&["cluster", "check", "lab"]), &[message]);
    says(&project.refused(&["--profile", "master", "--cluster", "lab"]), &[message]);
    assert!(!project.path("out").exists());
}

#[test]
fn an_authority_that_expires_soon_is_warned_about() {
    let project = with_cluster();
    let now = OffsetDateTime::now_utc();
    let soon =
        Authority::with_validity("lab kubernetes CA", now - Duration::days(20), now + Duration::days(10)).unwrap();
    replace_authority(&project, &soon);
    let assert = project.imgbuild(&["cluster", "check", "lab"]).assert().success();
    says(
        &String::from_utf8_lossy(&assert.get_output().stderr),
        &["warning: clusters/lab/secrets/kubernetes.crt expires on"],
    );
}

fn replace_authority(project: &Project, authority: &Authority) {
    let place = |name: String| project.path(&name.replace("pki/", "clusters/lab/secrets/"));
    std::fs::write(place(AuthorityName::Kubernetes.certificate_file()), authority.certificate()).unwrap();
    std::fs::write(place(AuthorityName::Kubernetes.key_file()), authority.key()).unwrap();
}

#[test]
fn a_key_that_others_may_read_is_refused_with_the_command_that_mends_it() {
    let project = with_cluster();
    let key = project.path("clusters/lab/secrets/etcd.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    says(
        &project.refused(&["cluster", "check", "lab"]),
        &["clusters/lab/secrets/etcd.key has the mode 0640", "chmod 600 "],
    );
}

#[test]
fn missing_secrets_are_told_from_wrong_ones() {
    let project = with_cluster();
    std::fs::remove_file(project.path("clusters/lab/secrets/machine.key")).unwrap();
    says(&project.refused(&["cluster", "check", "lab"]), &["pki/machine.key", "missing"]);
    std::fs::remove_dir_all(project.path("clusters/lab/secrets")).unwrap();
    says(&project.refused(&["cluster", "check", "lab"]), &["the secrets clusters/lab/secrets cannot be read"]);
}

#[test]
fn a_cluster_that_does_not_exist_is_made_only_when_it_is_the_default() {
    let project = Project::new();
    says(
        &project.refused(&["--profile", "master", "--cluster", "lab"]),
        &["no cluster \"lab\"", "imgbuild cluster new lab"],
    );
    says(&project.refused(&["cluster", "show", "lab"]), &["no cluster definition clusters/lab/cluster.toml"]);
}

#[test]
fn the_operators_certificate_is_issued_anew() {
    let project = with_cluster();
    let kubeconfig = project.path("clusters/lab/admin.kubeconfig");
    let before = std::fs::read_to_string(&kubeconfig).unwrap();
    says(&before, &["https://192.0.2.11:6443"]);
    project.done(&["cluster", "kubeconfig", "lab", "--server", "https://127.0.0.1:16443"]);
    let after = std::fs::read_to_string(&kubeconfig).unwrap();
    says(&after, &["https://127.0.0.1:16443"]);
    assert_ne!(before, after);
    assert_eq!(mode(&kubeconfig), 0o600);
}

const NODES: &str =
    "[[machine]]\nname = \"node-1\"\nrole = \"node\"\n[[machine]]\nname = \"node-2\"\nrole = \"node\"\n";

fn with_nodes() -> Project {
    let project = with_cluster();
    project.edit(DEFINITION, "[[machine]]", &format!("{NODES}[[machine]]"));
    project.write("profiles/node.toml", "role = \"node\"\noverlays = [\"base\"]\n");
    project
}

#[test]
fn a_build_for_one_of_several_nodes_wants_its_name_before_the_work_begins() {
    let project = with_nodes();
    says(
        &project.refused(&["--profile", "node", "--cluster", "lab"]),
        &["which node of the 2 in clusters/lab/cluster.toml?", "--machine NAME; it has node-1, node-2"],
    );
    says(
        &project.refused(&["--profile", "node", "--cluster", "lab", "--machine", "node-3"]),
        &["no machine \"node-3\" in clusters/lab/cluster.toml"],
    );
}

#[test]
fn one_image_serves_many_machines() {
    let project = with_nodes();
    let image = project.path("disk.img");
    let mut file = std::fs::File::create_new(&image).unwrap();
    file.set_len(spec::layout::image_size()).unwrap();
    images::gpt::write(
        &mut file,
        spec::layout::image_size(),
        &images::gpt::IMAGE_PARTITIONS,
        images::gpt::Identity::OfImage,
    )
    .unwrap();
    for machine in ["node-1", "node-2"] {
        let said = project.done(&["cluster", "seed", "lab", "--machine", machine, "--image", "disk.img"]);
        assert_eq!(said, format!("disk.img is the image of {machine}\n"));
        let seed = seed::read_path(&image, spec::layout::Partition::Seed.offset()).unwrap();
        says(&String::from_utf8_lossy(&seed.files[spec::seed::files::MACHINE]), &[machine]);
    }
    says(
        &project.refused(&["cluster", "seed", "lab", "--machine", "master-1", "--image", "disk.img"]),
        &["disk.img is the image of a node, and master-1 is a master"],
    );
    says(
        &project.refused(&["cluster", "seed", "lab", "--machine", "node-9", "--image", "disk.img"]),
        &["no machine \"node-9\"", "it has node-1, node-2, master-1"],
    );
    says(
        &project.refused(&["cluster", "seed", "lab", "--machine", "node-1", "--image", DEFINITION]),
        &["clusters/lab/cluster.toml is no disk image of ours"],
    );
}

#[test]
fn a_kubeconfig_for_a_user_goes_to_standard_output_or_a_closed_file() {
    let project = with_cluster();
    let admin = std::fs::read(project.path("clusters/lab/admin.kubeconfig")).unwrap();
    let arguments = ["cluster", "kubeconfig", "lab", "--user", "jo", "--group", "developers", "--for", "30m"];
    says(&project.done(&arguments), &["current-context: \"jo@lab\"", "https://192.0.2.11:6443"]);
    let said = project.done(&[&arguments[..], &["--out", "jo.kubeconfig"]].concat());
    assert_eq!(said, "jo.kubeconfig\n");
    assert_eq!(mode(&project.path("jo.kubeconfig")), 0o600);
    assert_eq!(std::fs::read(project.path("clusters/lab/admin.kubeconfig")).unwrap(), admin);
    assert_eq!(project.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_kubeconfig_for_too_long_is_refused() {
    let project = with_cluster();
    let with = |life| project.refused(&["cluster", "kubeconfig", "lab", "--user", "jo", "--for", life, "--out", "x"]);
    says(&with("31d"), &["a kubeconfig for 31d", "at most 30 days are wanted"]);
    says(&with("0h"), &["more than nothing"]);
    says(&with("8"), &["such as 30m, 8h or 7d"]);
    assert!(!project.path("x").exists());
    project.refused(&["cluster", "kubeconfig", "lab", "--group", "developers"]);
}

#[test]
fn the_schema_is_json_with_every_key_described() {
    let schema: serde_json::Value = serde_json::from_str(&Project::new().done(&["cluster", "schema"])).unwrap();
    assert_eq!(schema["title"], "cluster.toml");
    let machine = &schema["$defs"]["Machine"]["properties"];
    assert!(
        machine["taints"]["description"].as_str().is_some_and(|text| text.contains("key=value:Effect")),
        "{schema:#}"
    );
}
