//! A new image goes through a whole cluster while a client on its node asks the API without a pause.

use spec::agent::{AgentStatus, SlotState, path};
use spec::layout::Slot;
use std::process::Stdio;
use std::time::Duration;
use stories::manifests::{ASKER, asker_on, budget_of_web, web_on};
use stories::{Failure, MASTER, NEXT_MASTER, NEXT_NODE, NODE, Result, Room, expect, run, story_with_machines};

const MASTERS: [&str; 3] = ["m1", "m2", "m3"];
const MACHINES: [&str; 4] = ["m1", "m2", "m3", "n1"];
const PODS_SECONDS: u64 = 300;
/// For three masters, one after the other.
const ROLL_LIMIT: Duration = Duration::from_secs(60 * 60);

#[test]
#[ignore = "long: four machines on two cores, each upgraded"]
fn a_cluster_of_four_is_rolled_without_a_failed_request() {
    story_with_machines("roll", 4, |lab| {
        let (masters, nodes) = (lab.bundle(NEXT_MASTER, "masters")?, lab.bundle(NEXT_NODE, "nodes")?);
        let masters = format!("upgrade {} --cluster lab", masters.display());
        let nodes = format!("upgrade {} --cluster lab", nodes.display());
        let mut room = Room::furnished(lab, (3, 1), "", (MASTER, NODE))?;
        room.power_on_all_to_ready()?;
        room.machine("m1")?.apply(&asker_on("n1"))?;
        room.machine("m1")?.wait_for(&format!("pod/{ASKER}"), "condition=Ready", PODS_SECONDS)?;
        asked(&room, 1)?;
        room.imgbuild("cluster health lab --wait 10m")?;

        let before = term(&room)?;
        the_operators_machine_dies_after_the_first(&room, &masters)?;
        two_operators_roll_once(&room, &masters)?;
        let elections = term(&room)? - before;
        println!("etcd had {elections} elections while three masters were rolled");
        expect(elections <= 3, "three elections at most", elections)?;
        let log = asked(&room, 1)?;
        println!("the client on n1 while three masters were rolled:\n{log}");
        expect(!log.contains("FAILED"), "no failed request", &log)?;

        // The client's own machine goes last, and the client with it.
        room.kubectl_via("m1", &["delete", "pod", ASKER])?;
        with_a_master_that_is_down_no_roll_begins(&mut room, &nodes)?;
        a_pod_that_may_not_go_keeps_its_machine(&room, &nodes)?;
        room.imgbuild(&nodes)?;
        room.wait_ready(MACHINES.len())?;
        for name in MACHINES {
            let slots = room.slots(name)?;
            let good = slots.iter().any(|slot| slot.slot == Slot::B && slot.running && slot.state == SlotState::Good);
            expect(good, &format!("{name} runs from slot b, which is good"), format!("{slots:?}"))?;
        }
        room.kubectl_via("m1", &["get", "configmap", "next"])?;
        room.imgbuild("cluster health lab --wait 10m")
    });
}

fn with_a_master_that_is_down_no_roll_begins(room: &mut Room, roll: &str) -> Result {
    room.machine_mut("m3")?.power_cut()?;
    refused(room.imgbuild(roll), "is not well")?;
    room.power_on_to_ready("m3")?;
    room.imgbuild("cluster health lab --wait 10m")
}

/// Killed, so that nothing is put in order: the machine under way gets well by itself, and whoever comes next finds it
/// done once the lock has run out.
fn the_operators_machine_dies_after_the_first(room: &Room, roll: &str) -> Result {
    let lost = |error| Failure::Unexpected(format!("the operator's process: {error}"));
    let mut operator = room.imgbuild_of_another(roll)?.stdout(Stdio::null()).spawn().map_err(lost)?;
    let first = room.machine("m1")?.when_started("a master on its new slot", || {
        let ended = operator.try_wait().map_err(lost)?;
        expect(ended.is_none(), "an operator who rolls", format!("{ended:?}"))?;
        let rolled = MASTERS.into_iter().find(|name| runs_from_b(room, name));
        rolled.ok_or_else(|| Failure::Unexpected("none yet".into()))
    });
    operator.kill().and_then(|()| operator.wait()).map_err(lost)?;
    let first = first?;
    println!("the operator's machine died when {first} was up again");
    room.imgbuild("cluster health lab --wait 10m")?;
    room.machine("m1")?
        .eventually("the lock of an operator who is gone", || room.imgbuild(&format!("{roll} --canary {first}")))
}

/// etcd's: each election begins another.
fn term(room: &Room) -> Result<u64> {
    let status = room.etcdctl("m1", "endpoint status")?;
    status[0]["Status"]["raftTerm"].as_u64().ok_or_else(|| Failure::Unexpected(format!("no term: {status}")))
}

/// As far as it answers: one that reboots does not.
fn runs_from_b(room: &Room, name: &str) -> bool {
    let status: Result<AgentStatus> = room.ask(name, path::STATUS);
    status.is_ok_and(|status| status.slots.iter().any(|slot| slot.slot == Slot::B && slot.running))
}

/// Two who start the same roll at once: one of them rolls, and the other is told who does.
fn two_operators_roll_once(room: &Room, roll: &str) -> Result {
    let other = room.imgbuild_of_another(roll)?;
    let (one, other) = std::thread::scope(|scope| {
        let other = scope.spawn(|| run(other, "", ROLL_LIMIT)?.ok().map(drop));
        (room.imgbuild(roll), other.join())
    });
    let other = other.map_err(|_| Failure::Unexpected("the other operator's thread panicked".into()))?;
    match (one, other) {
        (Ok(()), second) => refused(second, "rolls through this cluster"),
        (first, Ok(())) => refused(first, "rolls through this cluster"),
        (Err(one), Err(other)) => Err(Failure::Unexpected(format!("neither rolled: {one}; {other}"))),
    }
}

/// Its budget never allows it to: the machine is not rebooted, and goes once the budget is gone.
fn a_pod_that_may_not_go_keeps_its_machine(room: &Room, roll: &str) -> Result {
    let m1 = room.machine("m1")?;
    m1.apply(&web_on("n1"))?;
    m1.apply(&budget_of_web())?;
    m1.wait_for("pod/web", "condition=Ready", PODS_SECONDS)?;
    refused(room.imgbuild(&format!("{roll} --drain 1m")), "default/web")?;
    expect(!runs_from_b(room, "n1"), "n1 where it was", "it has rebooted")?;
    m1.kubectl(&["delete", "poddisruptionbudget", "web"]).map(drop)
}

fn refused(outcome: Result, reason: &str) -> Result {
    let said = outcome.map_or_else(|failure| failure.to_string(), |()| "it was done".into());
    println!("refused: {said}");
    expect(said.contains(reason), reason, said)
}

/// What the client has written, once there are so many more lines that say how often it was answered.
fn asked(room: &Room, more: usize) -> Result<String> {
    let log = || room.kubectl_via("m1", &["logs", ASKER, "-c", "asks"]);
    let answered = |log: &str| log.lines().filter(|line| line.contains("answered")).count();
    let before = answered(&log().unwrap_or_default());
    room.machine("m1")?.eventually("the client's answers", || {
        let log = log()?;
        expect(answered(&log) >= before + more, "another line", &log).map(|()| log)
    })
}
