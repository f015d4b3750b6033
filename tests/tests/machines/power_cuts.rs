//! The power is cut at moments of a machine's life, and what was not flushed is lost, or some of it: the state file system
//! is whole each time, what the API acknowledged is there, and the machine starts.

use spec::agent::SlotState;
use spec::layout::Slot;
use stories::{MASTER, NEXT_MASTER, Recording, Room, expect, starts_whole, story};

#[test]
#[ignore = "long: ten boots after fifty checks"]
fn power_cuts_lose_nothing_that_was_acknowledged() {
    story("power-cuts", |lab| {
        let mut master = lab.machine("m1", &lab.image(MASTER)?)?;
        let mut recording = Recording::start(lab, &mut master, 0)?;
        master.power_on()?;
        master.wait_ready()?;
        for number in 0..20 {
            recording.acknowledge(&master, &format!("acknowledged-{number}"))?;
        }
        recording.end(&mut master)?;

        recording.check_state_at(50)?;
        for sample in recording.samples(0, 10)? {
            master.take_disk(&recording.replay(&sample)?)?;
            master.power_on()?;
            master.wait_ready()?;
            for name in &sample.acknowledged {
                master.kubectl(&["get", "configmap", name])?;
            }
            master.power_cut()?;
        }
        Ok(())
    });
}

/// A slot emptied and written, the loaders told, the new slot's first boot with firmware that counts in a file's name, and
/// the word that it is good.
#[test]
#[ignore = "long: eight boots after sixty checks"]
fn power_cuts_in_an_upgrade_leave_a_machine_that_starts() {
    story("power-cuts-upgrade", |lab| {
        let next = lab.bundle(NEXT_MASTER, "next")?;
        let (before, after) = (lab.image(MASTER)?, lab.image(NEXT_MASTER)?);
        let mut room = Room::new(lab, 1, 0)?;
        room.power_on_all_to_ready()?;
        let m1 = room.machine_mut("m1")?;
        m1.kubectl(&["create", "configmap", "kept"])?;
        m1.power_button()?;
        let recording = Recording::start(lab, m1, 0)?;
        room.power_on_to_ready("m1")?;
        let begun = recording.moment()?;
        room.imgbuild_node("m1", &format!("upgrade {}", next.display()))?;
        room.machine("m1")?.wait_ready()?;
        room.machine("m1")?.eventually("slot b, which is good", || {
            let slots = room.slots("m1")?;
            let good = slots.iter().any(|slot| slot.slot == Slot::B && slot.running && slot.state == SlotState::Good);
            expect(good, "slot b runs and is good", format!("{slots:?}"))
        })?;
        recording.end(room.machine_mut("m1")?)?;

        recording.at_moments(begun, 60, |disk| starts_whole(disk, &[&before, &after]))?;
        for sample in recording.samples(begun, 8)? {
            let m1 = room.machine_mut("m1")?;
            m1.take_disk(&recording.replay(&sample)?)?;
            room.power_on_to_ready("m1")?;
            let m1 = room.machine_mut("m1")?;
            m1.kubectl(&["get", "configmap", "kept"])?;
            m1.power_cut()?;
        }
        Ok(())
    });
}
