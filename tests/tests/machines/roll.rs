//! A new image goes through a whole cluster while a client on its node asks the API without a pause.

use spec::agent::SlotState;
use spec::layout::Slot;
use std::time::Duration;
use stories::manifests::{ASKER, asker_on};
use stories::{MASTER, NEXT_MASTER, NEXT_NODE, NODE, Result, Room, expect, story_with_machines};

const MACHINES: [&str; 4] = ["m1", "m2", "m3", "n1"];
const ASKING_SECONDS: u64 = 300;
/// For three masters, one after the other.
const ROLL_LIMIT: Duration = Duration::from_secs(60 * 60);

#[test]
#[ignore = "long: four machines on two cores, each upgraded"]
fn a_cluster_of_four_is_rolled_without_a_failed_request() {
    story_with_machines("roll", 4, |lab| {
        let (masters, nodes) = (lab.bundle(NEXT_MASTER, "masters")?, lab.bundle(NEXT_NODE, "nodes")?);
        let mut room = Room::furnished(lab, (3, 1), "", (MASTER, NODE))?;
        room.power_on_all_to_ready()?;
        room.machine("m1")?.apply(&asker_on("n1"))?;
        room.machine("m1")?.wait_for(&format!("pod/{ASKER}"), "condition=Ready", ASKING_SECONDS)?;
        asked(&room, 1)?;
        room.imgbuild("cluster health lab --wait 10m")?;

        two_operators_roll_once(&room, &format!("upgrade {} --cluster lab", masters.display()))?;
        let log = asked(&room, 1)?;
        println!("the client on n1 while three masters were rolled:\n{log}");
        expect(!log.contains("FAILED"), "no failed request", &log)?;

        // The client's own machine goes last, and the client with it.
        room.kubectl_via("m1", &["delete", "pod", ASKER])?;
        room.imgbuild(&format!("upgrade {} --cluster lab", nodes.display()))?;
        room.wait_ready(MACHINES.len())?;
        for name in MACHINES {
            let good = room
                .slots(name)?
                .iter()
                .any(|slot| slot.slot == Slot::B && slot.running && slot.state == SlotState::Good);
            expect(good, &format!("{name} runs from slot b, which is good"), format!("{:?}", room.slots(name)?))?;
        }
        room.kubectl_via("m1", &["get", "configmap", "next"])?;
        room.imgbuild("cluster health lab --wait 10m")
    });
}

/// Two who start the same roll at once: one of them rolls, and the other is told who does.
fn two_operators_roll_once(room: &Room, arguments: &str) -> Result {
    let outcomes = room.imgbuild_by_two(arguments, ROLL_LIMIT)?;
    let (rolled, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    let said: Vec<String> =
        refused.iter().filter_map(|outcome| outcome.as_ref().err()).map(ToString::to_string).collect();
    println!("{said:?}");
    let told = rolled.len() == 1 && said[0].contains("rolls through this cluster");
    expect(told, "one roll, and one operator who is told of the other", format!("{said:?}"))
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
