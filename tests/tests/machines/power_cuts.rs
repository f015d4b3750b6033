//! The power is cut at moments of the first boot and of a working machine, and what was not flushed
//! is lost: the state file system is whole each time, and what the API acknowledged is there.

use stories::{MASTER, Recording, story};

#[test]
#[ignore = "long: ten boots after fifty checks"]
fn power_cuts_lose_nothing_that_was_acknowledged() {
    story("power-cuts", |lab| {
        let mut master = lab.machine("m1", &lab.image(MASTER)?)?;
        let mut recording = Recording::start(lab, &mut master)?;
        master.power_on()?;
        master.wait_ready()?;
        for number in 0..20 {
            recording.acknowledge(&master, &format!("acknowledged-{number}"))?;
        }
        recording.end(&mut master)?;

        recording.check_state_at(50)?;
        for sample in recording.samples(10)? {
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
