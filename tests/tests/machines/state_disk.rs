//! State disks that a machine cannot work with: none, a broken one, a full one. It says so, and
//! never makes an empty one in the place of data.

use spec::layout::image_size;
use stories::{MASTER, StatePartition, expect, story};

#[test]
fn without_room_for_a_state_the_machine_says_so() {
    story("no-state-disk", |lab| {
        let mut master = lab.machine("m1", &lab.image(MASTER)?)?;
        master.resize_disk(image_size())?;
        master.power_on()?;
        master.wait_for_console("stage state FAILED", 180)?;
        master.wait_for_console("no state disk", 10).map(drop)
    });
}

#[test]
fn a_corrupt_state_file_system_is_refused_and_left_alone() {
    story("corrupt-state", |lab| {
        let mut master = lab.machine("m1", &lab.image(MASTER)?)?;
        master.power_on()?;
        // By then the power button has its driver.
        master.wait_for_console("coldplug ", 180)?;
        master.power_button()?;
        let state = StatePartition::of(lab, master.disk());
        state.check()?;
        state.damage()?;
        master.power_on()?;
        master.wait_for_console("stage state FAILED", 180)?;
        master.power_cut()?;
        expect(state.is_damaged()?, "the damaged state left as it is", "it was written over")
    });
}

#[test]
fn a_full_state_disk_is_named_and_the_machine_stays_up() {
    story("full-state", |lab| {
        let mut master = lab.machine("m1", &lab.image(MASTER)?)?;
        master.power_on()?;
        master.wait_for_console("coldplug ", 180)?;
        master.power_button()?;
        StatePartition::of(lab, master.disk()).fill()?;
        master.power_on()?;
        master.wait_for_console("state disk is full", 300)?;
        // It still answers its button, once that has its driver.
        master.wait_for_console("coldplug ", 180)?;
        master.power_button()
    });
}
