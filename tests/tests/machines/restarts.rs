//! Programs that the machine needs are killed, and come back without a pod noticing.

use stories::manifests::{WEB_NODE_PORT, inspector, web};
use stories::{MASTER, expect, story};

/// Identity and age of the container, and how often it was restarted.
const CONTAINER: &str = "jsonpath={.status.containerStatuses[0]['containerID','restartCount','state']}";

#[test]
fn containerd_and_kubelet_are_killed_and_no_pod_notices() {
    story("restarts", |lab| {
        let mut master = lab.machine("m1", &lab.image(MASTER)?)?;
        master.power_on()?;
        master.wait_ready()?;
        master.apply(&web())?;
        master.apply(&inspector())?;
        master.wait_for("pod/web pod/inspector", "condition=Ready", 300)?;
        let before = master.kubectl(&["get", "pod", "web", "-o", CONTAINER])?;

        for service in ["containerd", "kubelet"] {
            master.kill_program(service)?;
            master.wait_for_console(format!("service {service} was killed by signal 9"), 60)?;
            master.wait_for_console(format!("service {service} "), 60)?;
            master.wait_for_console("ready after", 180)?;
            master.http_get(WEB_NODE_PORT, "/hostname")?;
        }
        master.eventually("kubectl exec", || master.kubectl(&["exec", "web", "--", "/agnhost", "--version"]))?;
        master.wait_ready()?;
        let after = master.kubectl(&["get", "pod", "web", "-o", CONTAINER])?;
        expect(after == before, &format!("the same container, {before}"), after)
    });
}
