//! The life of one master: it is switched on and works, programs on it die, and it is restarted from its keyboard.
//! One machine for all of it, since each boot takes minutes; off and on it goes in dead_clock.rs.

use stories::manifests::{WEB_NODE_PORT, inspector, web};
use stories::{Computer, MASTER, Result, expect, story};

/// Identity and age of the container, and how often it was restarted.
const CONTAINER: &str = "jsonpath={.status.containerStatuses[0]['containerID','restartCount','state']}";

#[test]
fn a_master_goes_from_power_on_to_ready_and_survives_kills_and_a_restart() {
    story("one-master", |lab| {
        let mut master = lab.machine("m1", &lab.image(MASTER)?)?;
        master.power_on()?;
        master.wait_ready()?;
        it_runs_pods_serves_services_and_is_watched(&master)?;
        containerd_and_kubelet_are_killed_and_no_pod_notices(&master)?;
        ctrl_alt_delete_restarts_it_cleanly(&master)
    });
}

fn it_runs_pods_serves_services_and_is_watched(master: &Computer) -> Result {
    master.apply(&web())?;
    master.wait_for("pod/web", "condition=Ready", 300)?;
    let version = master.kubectl(&["exec", "web", "--", "/agnhost", "--version"])?;
    expect(version.contains("version 2."), "agnhost's version from kubectl exec", version)?;
    let logs = master.kubectl(&["logs", "web"])?;
    expect(logs.contains("Started HTTP server"), "the server's first line from kubectl logs", logs)?;

    let by_name = "web.default.svc.cluster.local:80";
    master.kubectl(&["exec", "web", "--", "/agnhost", "connect", by_name, "--timeout=20s"])?;
    let answer = master.http_get(WEB_NODE_PORT, "/hostname")?;
    expect(answer.trim() == "web", "the pod's name from the NodePort", answer)?;
    let metrics = master.http_get(spec::ports::NODE_EXPORTER, "/metrics")?;
    expect(metrics.contains("node_uname_info"), "node_uname_info from node_exporter", metrics.len())?;
    let ours = "imgbuild_service_ready{service=\"containerd\"} 1";
    master.eventually("the agent's metrics", || {
        let metrics = master.http_get(spec::ports::NODE_EXPORTER, "/metrics")?;
        expect(metrics.contains(ours), ours, metrics.lines().filter(|line| line.contains("imgbuild")).count())
    })
}

fn containerd_and_kubelet_are_killed_and_no_pod_notices(master: &Computer) -> Result {
    master.apply(&inspector())?;
    master.wait_for("pod/inspector", "condition=Ready", 300)?;
    let before = master.kubectl(&["get", "pod", "web", "-o", CONTAINER])?;
    for service in ["containerd", "kubelet"] {
        master.kill_service(service)?;
        master.wait_for_console(format!("service {service} "), 60)?;
        master.wait_for_console("ready after", 180)?;
        master.http_get(WEB_NODE_PORT, "/hostname")?;
    }
    master.eventually("kubectl exec", || master.kubectl(&["exec", "web", "--", "/agnhost", "--version"]))?;
    master.wait_ready()?;
    let after = master.kubectl(&["get", "pod", "web", "-o", CONTAINER])?;
    expect(after == before, &format!("the same container, {before}"), after)
}

fn ctrl_alt_delete_restarts_it_cleanly(master: &Computer) -> Result {
    let before = master.node_uids()?;
    master.ctrl_alt_delete()?;
    master.wait_for_event("RESET", 180)?;
    master.wait_for_console("stage services", 180)?;
    master.wait_ready()?;
    let after = master.node_uids()?;
    expect(after == before, &format!("the node's UID {before}"), after)?;
    master.wait_for("pod/web", "condition=Ready", 300)?;
    master.http_get(WEB_NODE_PORT, "/hostname").map(drop)
}
