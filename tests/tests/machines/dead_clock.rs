//! The clock's battery is empty and no time server answers: time does not run backwards.

use stories::{MASTER, expect, story};

#[test]
fn a_clock_in_1970_is_set_to_a_time_that_the_machine_has_seen() {
    story("dead-clock", |lab| {
        let mut master = lab.machine("m1", &lab.image(MASTER)?)?;
        master.hardware().clock_base = Some("1970-01-01T00:00:00".into());
        master.power_on()?;
        master.wait_ready()?;
        let first = master.create_and_date("first")?;
        let made = lab.image(MASTER)?.seed_created()?;
        expect(first >= made, &format!("a time after the seed was made, {made}"), &first)?;

        master.power_button()?;
        master.power_on()?;
        master.wait_ready()?;
        let second = master.create_and_date("second")?;
        expect(second > first, &format!("a time after {first}"), &second)
    });
}
