//! The life of one master, whose clock has no battery: it is switched on and works, programs on it die, it is restarted
//! from its keyboard, and it is off for a year, so that every certificate on its disk has expired. It is the same node with
//! the same data, and time does not run backwards. No time server answers. One machine for all of it, since each boot takes
//! minutes.

use stories::manifests::{WEB_NODE_PORT, inspector, web};
use stories::{Computer, Failure, MASTER, Result, StoryCluster, expect, story};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime, Time};

/// Identity and age of the container, and how often it was restarted.
const CONTAINER: &str = "jsonpath={.status.containerStatuses[0]['containerID','restartCount','state']}";
/// Where a clock without a battery starts; the firmware takes it for 2070.
const DEAD: &str = "1970-01-01T00:00:00";
/// More than a certificate of a machine lives.
const A_YEAR: Duration = Duration::days(400);

#[test]
fn a_master_goes_from_power_on_to_ready_and_survives_kills_a_restart_and_a_year_off() {
    story("one-master", |lab| {
        let image = lab.image(MASTER)?;
        let mut master = lab.machine("m1", &image)?;
        let mac = qemu::network::default_mac("m1", 0);
        let definition = format!("[[machine]]\nname = \"m1\"\nrole = \"master\"\nmac = \"{mac}\"\n");
        let cluster = StoryCluster::new(lab, &definition)?;
        master.take_seed(&cluster, Some("m1"))?;
        master.hardware().clock_base = Some(DEAD.into());
        master.power_on()?;
        master.wait_ready()?;
        let refused = "programs take turns as the kernel has it";
        let console = master.console()?;
        expect(!console.contains(refused), "the scheduler's slice as the profile vm has it", refused)?;
        let (first, made) = (master.create_and_date("first")?, image.seed_created()?);
        expect(first >= made, &format!("a time after the image's seed was made, {made}"), &first)?;
        it_runs_pods_serves_services_and_is_watched(&master)?;
        containerd_and_kubelet_are_killed_and_no_pod_notices(&master)?;
        ctrl_alt_delete_restarts_it_cleanly(&master)?;
        it_is_off_for_a_year(&mut master, &cluster)
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

fn it_is_off_for_a_year(master: &mut Computer, cluster: &StoryCluster) -> Result {
    let before = master.node_uids()?;
    master.power_button()?;
    let later = (OffsetDateTime::now_utc() + A_YEAR).replace_time(Time::MIDNIGHT);
    master.hardware().clock_base = Some(later.date().to_string() + "T00:00:00");
    master.take_kubeconfig(&cluster.kubeconfig_at(later)?);
    master.power_on()?;
    master.wait_ready()?;
    let after = master.node_uids()?;
    expect(after == before, &format!("the node's UID {before}"), after)?;
    let second = master.create_and_date("second")?;
    expect(second >= later.date().to_string(), &format!("a time after {}", later.date()), &second)?;
    master.kubectl(&["get", "configmap", "first"])?;

    master.power_button()?;
    master.hardware().clock_base = Some(DEAD.into());
    master.power_on()?;
    let third = corrected_to(master)?;
    expect(third > second, &format!("a time after {second}"), third)
}

/// The time that init sets the clock to once it has read what it saved, RFC 3339 in UTC.
fn corrected_to(master: &Computer) -> Result<String> {
    master.wait_for_console("stage state ", 180)?;
    let console = master.console()?;
    let seconds = console.rsplit("which cannot be; set to ").next().and_then(|rest| rest.split(',').next());
    let time = seconds.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds.parse().ok()?).ok());
    let text = time.and_then(|time| time.format(&Rfc3339).ok());
    text.ok_or_else(|| Failure::Unexpected(format!("init sets the clock to {seconds:?}")))
}
