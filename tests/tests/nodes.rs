//! Stories of nodes that join, natively: the real agents, etcd and API server; kubelet's part is played
//! by its own requests, sent with its own credentials through the node's balancer.

use spec::cluster::Role;
use spec::paths;
use stories::native::{Native, Room};
use stories::{Failure, Lab, Result, StoryCluster, expect, story};

const MASTER: [&str; 4] = ["agent", "etcd", "kube-apiserver", "kube-controller-manager"];
const DEFINITION: &str = r#"
[[machine]]
name = "m1"
role = "master"
mac = "52:54:00:00:00:01"
network = { address = "192.0.2.1/24" }

[[machine]]
name = "n1"
role = "node"
mac = "52:54:00:00:00:11"
network = { address = "192.0.2.11/24" }

[[machine]]
name = "n2"
role = "node"
mac = "52:54:00:00:00:12"
network = { address = "192.0.2.12/24" }

[any-node]
prefix = "rack7-"
labels = { room = "7" }
"#;
/// A node that the definition does not list.
const UNLISTED: &str = "rack7-525400000077";

fn joined(lab: &Lab, room: &Room) -> Result<(StoryCluster, Native, Native)> {
    let cluster = StoryCluster::new(lab, DEFINITION)?;
    let mut master = Native::new(room, &cluster, "m1", "192.0.2.1/24", Role::Master)?;
    let mut node = Native::new(room, &cluster, "n1", "192.0.2.11/24", Role::Node)?;
    // The node first: it waits for its master.
    node.power_on(&["agent"])?;
    master.power_on(&MASTER)?;
    node.eventually("its credentials", || {
        expect(node.path(paths::JOINED_FILE).exists(), "the mark of a machine that has joined", "none")
    })?;
    Ok((cluster, master, node))
}

fn condition(master: &Native, request: &str, wanted: &str) -> Result {
    master.eventually(&format!("{request} {wanted}"), || {
        let found = master.kubectl(&format!("get csr {request} -o jsonpath={{.status.conditions[*].type}}"))?;
        expect(found == wanted, wanted, found)
    })
}

#[test]
fn a_node_gets_credentials_in_its_own_name_and_in_no_other() {
    story("native-node-joins", |lab| {
        let room = Room::new()?;
        let (_, master, node) = joined(lab, &room)?;
        node.ask_as_kubelet("own", "system:node:n1")?;
        node.ask_as_kubelet("others", "system:node:n2")?;
        node.ask_as_kubelet("masters", "system:node:m1")?;
        condition(&master, "own", "Approved")?;
        condition(&master, "others", "Denied")?;
        condition(&master, "masters", "Denied")?;
        let folder = node.path(paths::PKI_DIR);
        let authorities = std::fs::read_dir(folder.join("kubernetes")).map_err(Failure::file(&folder, "read"))?;
        let keys: Vec<_> = authorities.flatten().map(|entry| entry.file_name()).collect();
        expect(!keys.iter().any(|name| name == "ca.key"), "no authority's key on a node", format!("{keys:?}"))
    });
}

#[test]
fn a_second_machine_with_the_same_credential_waits_for_an_operator() {
    story("native-stolen-credential", |lab| {
        let room = Room::new()?;
        let (_cluster, master, mut node) = joined(lab, &room)?;
        master.kubectl("get configmap -n kube-system imgbuild-joined-n1")?;
        // The same seed on another disk.
        node.lose_state()?;
        node.power_on(&["agent"])?;
        node.eventually("the reason", || {
            let phase = node.phase()?;
            expect(phase.contains("only one may have that name"), "why it waits", phase)
        })?;
        // An operator says that the first one is gone.
        master.kubectl("delete configmap -n kube-system imgbuild-joined-n1")?;
        node.eventually("its credentials", || {
            expect(node.path(paths::JOINED_FILE).exists(), "the mark of a machine that has joined", "none")
        })
    });
}

#[test]
fn a_node_that_is_not_listed_joins_on_an_operators_word_for_its_key() {
    story("native-unlisted-node", |lab| {
        let room = Room::new()?;
        let cluster = StoryCluster::new(lab, DEFINITION)?;
        let mut master = Native::new(&room, &cluster, "m1", "192.0.2.1/24", Role::Master)?;
        let mut node = Native::new(&room, &cluster, UNLISTED, "192.0.2.77/24", Role::Node)?;
        node.power_on(&["agent"])?;
        master.power_on(&MASTER)?;
        let approve = format!("cluster approve lab {UNLISTED} ");
        let key = node.eventually("the key on its console", || {
            let phase = node.phase()?;
            let key =
                phase.split_once(&approve).map(|(_, key)| key.chars().take_while(char::is_ascii_hexdigit).collect());
            key.ok_or(Failure::Unexpected(phase)) as Result<String>
        })?;
        master.imgbuild(&cluster, "cluster pending lab")?;
        let guessed = master.imgbuild(&cluster, &format!("{approve}0123456789abcdef"));
        expect(guessed.is_err(), "no approval of another key", "it was approved")?;
        expect(!node.path(paths::JOINED_FILE).exists(), "no credentials before", "it has joined")?;

        // A stick that was lost: whoever finds it asks for nothing any more.
        master.imgbuild(&cluster, "cluster rotate lab --join-credentials")?;
        node.eventually("that its credential is void", || {
            let phase = node.phase()?;
            expect(phase.contains("its join credential is void"), "a void credential", phase)
        })?;
        node.power_cut();
        node.write_seed(&cluster)?;
        node.power_on(&["agent"])?;
        master.imgbuild(&cluster, &format!("{approve}{key}"))?;
        node.eventually("its credentials", || {
            expect(node.path(paths::JOINED_FILE).exists(), "the mark of a machine that has joined", "none")
        })?;
        node.ask_as_kubelet("own", &format!("system:node:{UNLISTED}"))?;
        node.ask_as_kubelet("others", "system:node:rack7-525400000078")?;
        condition(&master, "own", "Approved")?;
        condition(&master, "others", "Denied")
    });
}
