//! Three masters find each other and become one cluster, and what they suffer does not undo it. Too much for two
//! cores in CI: tests/tests/masters.rs tells the same natively.

use qemu::Line;
use spec::ports::API_BALANCER;
use std::time::Duration;
use stories::manifests::{WEB_NODE_PORT, inspector_on, web_on};
use stories::{Result, Room, expect, story_with_machines};

const MASTERS: [&str; 3] = ["m1", "m2", "m3"];

/// One cluster for three chapters: it takes minutes to form.
#[test]
#[ignore = "long: four machines on two cores"]
fn three_masters_and_a_node_power_on_at_once() {
    story_with_machines("three-masters", 4, |lab| {
        let mut room = Room::new(lab, 3, 1)?;
        let seconds = room.power_on_all_to_ready()?;
        println!("three masters and a node, powered on at once: all Ready after {seconds} s");
        answer(&room, &MASTERS)?;
        room.imgbuild("cluster health lab --wait 10m")?;
        room.imgbuild("cluster status lab")?;
        a_bad_line_costs_time_alone(&room)?;
        a_master_is_killed(&mut room)?;
        a_master_is_wiped(&mut room)
    });
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
    let m1 = room.machine("m1")?;
    m1.eventually("the other masters", || answer(room, &["m1", "m3"]))?;
    m1.eventually("the API by the node's balancer", || answer_by_balancer(room))?;

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
fn one_master_is_not_powered_on() {
    story_with_machines("one-master-off", 3, |lab| {
        let mut room = Room::new(lab, 3, 0)?;
        for name in ["m1", "m2"] {
            room.machine_mut(name)?.power_on()?;
        }
        for name in ["m1", "m2"] {
            room.machine(name)?.wait_for_console("forming the cluster waits for m3 (no answer)", 300)?;
        }
        room.machine_mut("m3")?.power_on()?;
        room.wait_ready(3)?;
        answer(&room, &MASTERS)
    });
}

/// The API servers of these masters are ready, each by its own port, and with each the etcd that it
/// talks to: the one on its own machine.
fn answer(room: &Room, masters: &[&str]) -> Result {
    for name in masters {
        let answer = room.kubectl_via(name, &["get", "--raw", "/readyz"])?;
        expect(answer == "ok", &format!("ok from {name}"), answer)?;
    }
    Ok(())
}

/// The API is ready as the node sees it: asked from the pod `inspector`, which has the node's network.
fn answer_by_balancer(room: &Room) -> Result {
    let server = format!("--server=https://127.0.0.1:{API_BALANCER}");
    let question = ["/usr/bin/kubectl", &server, "--insecure-skip-tls-verify", "get", "--raw", "/readyz"];
    let answer = room.kubectl_via("m1", &[&["exec", "inspector", "--"], &question[..]].concat())?;
    expect(answer == "ok", "ok from the node's balancer", answer)
}
