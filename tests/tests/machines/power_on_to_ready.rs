//! A machine that is switched on becomes a Ready node that runs pods, serves Services and is watched.

use stories::manifests::{WEB_NODE_PORT, web};
use stories::{MASTER, expect, story};

#[test]
fn a_master_goes_from_power_on_to_ready_and_runs_a_pod() {
    story("power-on-to-ready", |lab| {
        let mut master = lab.machine("m1", &lab.image(MASTER)?)?;
        master.power_on()?;
        master.wait_ready()?;

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
        expect(metrics.contains("node_uname_info"), "node_uname_info from node_exporter", metrics.len())
    });
}
