//! Three masters find each other and become one cluster, and what they suffer does not undo it. Too much for two
//! cores in CI: tests/tests/masters.rs tells the same natively.

use qemu::Line;
use serde_json::Value;
use spec::agent::{EtcdMember, path};
use spec::ports::API_BALANCER;
use std::time::Duration;
use stories::manifests::{WEB_NODE_PORT, inspector_on, web_on};
use stories::{NODE, PLAIN_MASTER, Result, Room, expect, story_with_machines};

const MASTERS: [&str; 3] = ["m1", "m2", "m3"];

/// Until masters that are on have asked each other.
const FORMED_SECONDS: u64 = 300;

/// One cluster for three chapters: it takes minutes to form.
#[test]
#[ignore = "long: four machines on two cores"]
fn three_masters_and_a_node_power_on_at_once() {
    story_with_machines("three-masters", 4, |lab| {
        // The masters as an operator has them: an image for the stories' pods would be imported on each.
        let mut room = Room::furnished(lab, (3, 1), "", (PLAIN_MASTER, NODE))?;
        let seconds = room.power_on_all_to_ready()?;
        println!("three masters and a node, powered on at once: all Ready after {seconds} s");
        answer(&room, &MASTERS)?;
        room.imgbuild("cluster health lab --wait 10m")?;
        room.imgbuild("cluster status lab")?;
        foreign_tools_agree(&room)?;
        a_bad_line_costs_time_alone(&room)?;
        a_master_is_killed(&mut room)?;
        a_master_is_wiped(&mut room)
    });
}

/// What etcd's and Kubernetes' own tools say of a cluster that its own agents call well.
fn foreign_tools_agree(room: &Room) -> Result {
    let m1 = room.machine("m1")?;
    let said = room.etcdctl("m1", "endpoint status --cluster")?;
    agree(&said, &room.ask::<Vec<EtcdMember>>("m1", path::ETCD_MEMBERS)?)?;
    for name in MASTERS {
        let said = room.kubectl_via(name, &["get", "--raw", "/readyz?verbose"])?;
        println!("{name}'s /readyz?verbose:\n{said}");
        let well =
            said.contains("[+]etcd ok") && said.trim_end().ends_with("readyz check passed") && !said.contains("[-]");
        expect(well, &format!("every check of {name} passed, etcd's too"), said)?;
    }
    println!("kubectl get csr:\n{}", m1.kubectl(&["get", "csr"])?);
    m1.eventually("requests for certificates", || {
        let requests = m1.kubectl(&["get", "csr", "-o", REQUEST_LINES])?;
        // The masters' own kubelets ask nobody: a master has the authority's key.
        for asked in [
            "imgbuild:bootstrap:n1 kubernetes.io/kube-apiserver-client-kubelet",
            "system:node:n1 kubernetes.io/kubelet-serving",
        ] {
            let issued = requests.lines().any(|line| line.starts_with(&format!("{asked} Approved LS0t")));
            expect(issued, &format!("{asked}, approved and issued"), &requests)?;
        }
        let open = requests.lines().find(|line| !line.contains(" Approved LS0t"));
        expect(open.is_none(), "every request approved and issued", open.unwrap_or_default())
    })
}

/// A line for each request: who asks, for what, what was decided, and the certificate in base64 (PEM begins with LS0t).
const REQUEST_LINES: &str = concat!(
    "jsonpath={range .items[*]}{.spec.username} {.spec.signerName} {.status.conditions[*].type} ",
    r#"{.status.certificate}{"\n"}{end}"#
);

/// The members, the leader and nobody's complaints by etcdctl, as the agent tells them.
fn agree(etcdctl: &Value, told: &[EtcdMember]) -> Result {
    let hexadecimal = |id: &Value| format!("{:x}", id.as_u64().unwrap_or_default());
    let mut found: Vec<(String, bool)> = Vec::new();
    for status in etcdctl.as_array().into_iter().flatten().map(|endpoint| &endpoint["Status"]) {
        let (id, leader) = (&status["header"]["member_id"], &status["leader"]);
        expect(status["errors"].is_null(), "no errors", status)?;
        found.push((hexadecimal(id), id == leader));
    }
    let leads = |member: &EtcdMember| member.health.as_ref().is_some_and(|health| health.leader);
    let mut wanted: Vec<(String, bool)> = told.iter().map(|member| (member.id.clone(), leads(member))).collect();
    found.sort();
    wanted.sort();
    expect(wanted.len() == MASTERS.len(), "three members", format!("{told:?}"))?;
    expect(found == wanted, &format!("{wanted:?} (member, leads) by etcdctl"), format!("{found:?}"))
}

/// One frame in a hundred lost, and 15 ms each way.
fn a_bad_line_costs_time_alone(room: &Room) -> Result {
    room.network().set_line(Line { loss_per_mille: 10, delay: Duration::from_millis(15) });
    for name in MASTERS {
        let m1 = room.machine("m1")?;
        m1.eventually("a write", || {
            room.kubectl_via(name, &["annotate", "node", "m1", &format!("story/by={name}"), "--overwrite"])
        })?;
    }
    room.imgbuild("cluster health lab --wait 10m")?;
    room.network().set_line(Line::default());
    answer(room, &MASTERS)
}

fn a_master_is_killed(room: &mut Room) -> Result {
    let m1 = room.machine("m1")?;
    m1.apply(&web_on("n1"))?;
    m1.apply(&inspector_on("n1"))?;
    m1.wait_for("pod/web pod/inspector", "condition=Ready", 300)?;

    room.machine_mut("m2")?.power_cut()?;
    room.machine("n1")?.http_get(WEB_NODE_PORT, "/hostname")?;
    answer(room, &["m1", "m3"])?;
    room.machine("m1")?.eventually("the API by the node's balancer", || answer_by_balancer(room))?;

    room.power_on_to_ready("m2")?;
    room.wait_ready(4)?;
    answer(room, &MASTERS)
}

fn a_master_is_wiped(room: &mut Room) -> Result {
    room.machine_mut("m3")?.power_cut()?;
    room.wipe("m3")?;
    room.power_on_to_ready("m3")?;
    room.wait_ready(4)?;
    answer(room, &MASTERS)
}

#[test]
#[ignore = "long: three machines on two cores"]
fn two_masters_form_on_an_operators_word_and_the_third_joins() {
    story_with_machines("one-master-off", 3, |lab| {
        let mut room = Room::furnished(lab, (3, 0), "", (PLAIN_MASTER, NODE))?;
        for name in ["m1", "m2"] {
            room.machine_mut(name)?.power_on()?;
        }
        for name in ["m1", "m2"] {
            room.machine(name)?.wait_for_console("forming the cluster waits for m3 (no answer)", FORMED_SECONDS)?;
        }
        room.imgbuild("cluster form lab --without m3")?;
        room.wait_until_ready(&["m1", "m2"])?;
        room.power_on_to_ready("m3")?;
        room.wait_ready(3)?;
        answer(&room, &MASTERS)
    });
}

/// What is lost and restored is told with all members of one snapshot in tests/tests/masters.rs; here two machines are
/// gone for good, and new ones join what the last one restores.
#[test]
#[ignore = "long: three machines on two cores"]
fn masters_come_in_any_order_and_two_that_are_lost_are_replaced_from_a_snapshot() {
    story_with_machines("two-masters-lost", 3, |lab| {
        let mut room = Room::furnished(lab, (3, 0), "", (PLAIN_MASTER, NODE))?;
        for (name, missing) in [("m3", "m1 (no answer) and m2 (no answer)"), ("m1", "m2 (no answer)")] {
            room.machine_mut(name)?.power_on()?;
            let waits = format!("forming the cluster waits for {missing}");
            room.machine(name)?.wait_for_console(waits, FORMED_SECONDS)?;
        }
        room.machine_mut("m2")?.power_on()?;
        room.wait_until_ready(&MASTERS)?;
        answer(&room, &MASTERS)?;

        let snapshot = lab.folder().join("snapshot.db").display().to_string();
        room.kubectl_via("m1", &["create", "configmap", "kept"])?;
        room.imgbuild(&format!("etcd snapshot save {snapshot} --cluster lab"))?;
        room.kubectl_via("m1", &["create", "configmap", "later"])?;
        let lost = room.cluster_id()?;
        for name in ["m2", "m3"] {
            room.machine_mut(name)?.power_cut()?;
        }
        room.machine("m1")?.eventually("an API server without its etcd", || {
            let answer = room.kubectl_via("m1", &["get", "--raw", "/readyz"]);
            expect(answer.is_err(), "no ok", answer.unwrap_or_default())
        })?;
        room.machine("m1")?.wait_for_console("has no quorum", FORMED_SECONDS)?;
        room.imgbuild(&format!("etcd restore {snapshot} --cluster lab --gives-up {lost} --without m2 --without m3"))?;
        let m1 = room.machine("m1")?;
        m1.eventually("what the snapshot has", || room.kubectl_via("m1", &["get", "configmap", "kept"]))?;
        let later = room.kubectl_via("m1", &["get", "configmap", "later", "--ignore-not-found"])?;
        expect(later.is_empty(), "nothing that is younger than the snapshot", later)?;
        let id = room.cluster_id()?;
        expect(id != lost, "another cluster", id)?;
        for name in ["m2", "m3"] {
            room.wipe(name)?;
            room.power_on_to_ready(name)?;
        }
        room.wait_ready(3)?;
        answer(&room, &MASTERS)
    });
}

/// The API servers of these masters are ready, each by its own port, and with each the etcd that it
/// talks to: the one on its own machine.
fn answer(room: &Room, masters: &[&str]) -> Result {
    masters.iter().try_for_each(|name| {
        room.machine(name)?.when_started("an API server that is ready", || {
            let answer = room.kubectl_via(name, &["get", "--raw", "/readyz"])?;
            expect(answer == "ok", &format!("ok from {name}"), answer)
        })
    })
}

/// The API is ready as the node sees it: asked from the pod `inspector`, which has the node's network.
fn answer_by_balancer(room: &Room) -> Result {
    let server = format!("--server=https://127.0.0.1:{API_BALANCER}");
    // Without any credentials kubectl would ask for some; these are nobody's, and health is for everybody.
    let nobody = ["--insecure-skip-tls-verify", "--username=nobody", "--password=none"];
    let question = [&["/usr/bin/kubectl", &server], &nobody[..], &["get", "--raw", "/readyz"]].concat();
    let answer = room.kubectl_via("m1", &[&["exec", "inspector", "--"], &question[..]].concat())?;
    expect(answer == "ok", "ok from the node's balancer", answer)
}
