//! What init and the agent know, as metrics: a file in node_exporter's textfile folder, in Prometheus'
//! text format (prometheus.io, "Exposition formats", 0.0.4).

use crate::facts::{Facts, under};
use crate::machine::{Status, say};
use crate::{certificates, files};
use spec::status::{ETCD_HEALTHY, InitStatus, NodeStatus, ServiceStatus};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

/// As often as Prometheus commonly asks.
const PERIOD: Duration = Duration::from_secs(15);
/// Made by init for node_exporter (overlays/monitoring).
const FOLDER: &str = "/var/lib/node-exporter/textfile";
const FILE: &str = "imgbuild.prom";

/// Writes them for ever; not at all on a machine without node_exporter.
pub async fn keep(root: &Path, facts: &Facts, status: &Status) {
    let folder = under(root, FOLDER);
    let mut failed = false;
    loop {
        if folder.is_dir() {
            let known = Known {
                version: &facts.image.version,
                node: &status.current(),
                init: &crate::node_api::init_status(root),
                certificates: &certificates::ends(root),
            };
            let written = files::write(&folder.join(FILE), text(&known), 0o644, false);
            // Once is enough to be told that the disk is full.
            if let Err(error) = &written
                && !failed
            {
                say(format!("metrics: {error}"));
            }
            failed = written.is_err();
        }
        tokio::time::sleep(PERIOD).await;
    }
}

struct Known<'a> {
    version: &'a str,
    node: &'a NodeStatus,
    init: &'a InitStatus,
    /// Ends, seconds since the epoch.
    certificates: &'a BTreeMap<String, i64>,
}

/// A metric's samples: labels as they stand between the braces, and the value.
type Samples = Vec<(String, f64)>;

fn text(known: &Known) -> String {
    let Known { version, node, init, certificates } = *known;
    let one = |value: f64| vec![(String::new(), value)];
    let info = [("name", &*node.name), ("role", &node.role), ("cluster", &node.cluster), ("version", version)];
    let info: Vec<String> = info.iter().map(|(key, value)| label(key, value)).collect();
    let of_services = |value: fn(&ServiceStatus) -> f64| -> Samples {
        init.services.iter().map(|service| (label("service", &service.name), value(service))).collect()
    };
    let stages = init.stages.iter().filter_map(|stage| {
        let took = stage.ended_ms?.saturating_sub(stage.started_ms);
        Some((label("stage", &stage.name), took as f64 / 1000.0))
    });
    let ends = certificates.iter().map(|(name, end)| (label("certificate", name), *end as f64));
    let mut out = String::new();
    let mut add = |name: &str, kind: &str, help: &str, samples: Samples| {
        if samples.is_empty() {
            return;
        }
        // Into a String nothing fails.
        let _ = writeln!(out, "# HELP imgbuild_{name} {help}\n# TYPE imgbuild_{name} {kind}");
        for (labels, value) in samples {
            let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
            let _ = writeln!(out, "imgbuild_{name}{labels} {value}");
        }
    };
    add("info", "gauge", "The machine and its image.", vec![(info.join(","), 1.0)]);
    add("node_ready", "gauge", "Whether the Node object is Ready.", one(truth(node.ready)));
    let etcd = node.etcd.iter().map(|etcd| (String::new(), truth(etcd == ETCD_HEALTHY)));
    add("etcd_healthy", "gauge", "Whether this master's etcd member serves.", etcd.collect());
    let ready = of_services(|service| truth(service.state.is_well()));
    add("service_ready", "gauge", "Whether init's service is ready, or done where it only has to run once.", ready);
    let restarts = of_services(|service| f64::from(service.restarts));
    add("service_restarts_total", "counter", "Starts of the service after its first.", restarts);
    add("boot_stage_seconds", "gauge", "What a stage of the last boot took.", stages.collect());
    let refused = one(init.sysctl_failures.len() as f64);
    add("sysctl_failures", "gauge", "Kernel parameters that did not take.", refused);
    add("certificate_end_seconds", "gauge", "When the certificate ends, since the epoch.", ends.collect());
    out
}

fn truth(is: bool) -> f64 {
    f64::from(u8::from(is))
}

/// `key="value"`, the value escaped.
fn label(key: &str, value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("{key}=\"{value}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use spec::status::{ServiceState, StageStatus};

    #[test]
    fn each_metric_has_its_type_and_its_labels_are_escaped() {
        let service = |name: &str, state, restarts| ServiceStatus {
            name: name.into(),
            state,
            pid: None,
            restarts,
            since_ms: 0,
            detail: None,
        };
        let stage = StageStatus { name: "state".into(), started_ms: 1000, ended_ms: Some(2500), error: None };
        let known = Known {
            version: "1\"2\\3",
            node: &NodeStatus { name: "m1".into(), etcd: Some(ETCD_HEALTHY.into()), ..NodeStatus::default() },
            init: &InitStatus {
                stages: vec![stage],
                services: vec![service("etcd", ServiceState::Ready, 2), service("images", ServiceState::Done, 0)],
                ..InitStatus::default()
            },
            certificates: &BTreeMap::from([("etcd/peer".to_owned(), 1_800_000_000)]),
        };
        let text = text(&known);
        for line in [
            r#"imgbuild_info{name="m1",role="",cluster="",version="1\"2\\3"} 1"#,
            "imgbuild_node_ready 0",
            "imgbuild_etcd_healthy 1",
            r#"imgbuild_service_ready{service="images"} 1"#,
            r#"imgbuild_service_restarts_total{service="etcd"} 2"#,
            r#"imgbuild_boot_stage_seconds{stage="state"} 1.5"#,
            "imgbuild_sysctl_failures 0",
            r#"imgbuild_certificate_end_seconds{certificate="etcd/peer"} 1800000000"#,
            "# TYPE imgbuild_service_restarts_total counter",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
