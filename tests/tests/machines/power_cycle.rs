//! Off by the power button, on again: the same node with the same data.

use stories::manifests::{WEB_NODE_PORT, web};
use stories::{MASTER, expect, story};

#[test]
fn a_machine_switched_off_and_on_is_the_same_node_with_the_same_data() {
    story("power-cycle", |lab| {
        let mut master = lab.machine("m1", &lab.image(MASTER)?)?;
        master.power_on()?;
        master.wait_ready()?;
        master.apply(&web())?;
        master.wait_for("pod/web", "condition=Ready", 300)?;
        master.kubectl(&["create", "configmap", "kept", "--from-literal=word=snow"])?;
        let before = master.node_uids()?;

        master.power_button()?;
        master.power_on()?;
        master.wait_ready()?;
        let after = master.node_uids()?;
        expect(after == before, &format!("the node's UID {before}"), after)?;
        let word = master.kubectl(&["get", "configmap", "kept", "-o", "jsonpath={.data.word}"])?;
        expect(word == "snow", "the ConfigMap as it was written", word)?;
        master.wait_for("pod/web", "condition=Ready", 300)?;
        master.http_get(WEB_NODE_PORT, "/hostname").map(drop)
    });
}

#[test]
fn ctrl_alt_delete_restarts_the_machine_cleanly() {
    story("ctrl-alt-delete", |lab| {
        let mut master = lab.machine("m1", &lab.image(MASTER)?)?;
        master.power_on()?;
        master.wait_ready()?;
        let before = master.node_uids()?;
        master.ctrl_alt_delete()?;
        master.wait_for_event("RESET", 180)?;
        master.wait_for_console("stage services", 180)?;
        master.wait_ready()?;
        let after = master.node_uids()?;
        expect(after == before, &format!("the node's UID {before}"), after)
    });
}
