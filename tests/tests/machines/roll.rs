//! A new image goes through a whole cluster while a client on its node asks the API without a pause.

use spec::agent::SlotState;
use spec::layout::Slot;
use stories::manifests::{ASKER, asker_on};
use stories::{MASTER, NEXT_MASTER, NEXT_NODE, NODE, Result, Room, expect, story_with_machines};

const MACHINES: [&str; 4] = ["m1", "m2", "m3", "n1"];
const ASKING_SECONDS: u64 = 300;

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

        room.imgbuild(&format!("upgrade {} --cluster lab", masters.display()))?;
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
