//! A service definition that is broken is named, and the others go on.

use stories::{BROKEN, story};

#[test]
fn a_broken_service_is_named_and_the_others_go_on() {
    story("broken-service", |lab| {
        let mut master = lab.machine("m1", &lab.image(BROKEN)?)?;
        master.power_on()?;
        master.wait_for_console("service reads-nothing is refused: ready.http", 180)?;
        master.wait_for_console("service ends-at-once ended with status 1, again in", 180)?;
        // The status page names what is not well.
        master.wait_for_console("reads-nothing failed refused", 180)?;
        master.wait_for_console("service kube-apiserver ", 300)?;
        master.wait_for_console("ready after", 180).map(drop)
    });
}
