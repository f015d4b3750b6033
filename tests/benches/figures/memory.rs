//! Memory that a master takes five minutes after it became Ready.

use crate::Row;
use std::time::Duration;
use stories::{Failure, Lab, MASTER, Result, manifests};

const IDLE: Duration = Duration::from_secs(300);
const OURS: [&str; 4] = ["init", "agent", "coredns", "node_exporter"];
const OURS_MAXIMUM: f64 = 90.0;

pub fn measure(lab: &Lab) -> Result<Vec<Row>> {
    let mut master = lab.machine("memory", &lab.image(MASTER)?)?;
    master.hardware().memory_mib = 3072;
    master.power_on()?;
    master.wait_ready()?;
    // Time itself is what is asked for: the machine is left alone for that long.
    std::thread::sleep(IDLE);
    let metrics = master.http_get(spec::ports::NODE_EXPORTER, "/metrics")?;
    let used = (metric(&metrics, "node_memory_MemTotal_bytes")? - metric(&metrics, "node_memory_MemAvailable_bytes")?)
        / f64::from(1 << 20);
    // The pod that looks at the processes comes after the reading that it would change.
    master.apply(&manifests::inspector())?;
    master.wait_for("pod/inspector", "condition=Ready", 300)?;
    let mut rows = vec![Row::new(
        "memory in use 5 minutes after Ready (MemTotal less MemAvailable)",
        format!("{used:.0} MiB"),
        "413 to 447 MiB for a bare script without agent, DNS and exporter",
    )];
    let mut sum = 0.0;
    for name in OURS {
        let mebibytes = master.proportional_memory(name)? as f64 / f64::from(1 << 20);
        sum += mebibytes;
        rows.push(Row::new(&format!("of it {name} (PSS)"), format!("{mebibytes:.1} MiB"), ""));
    }
    rows.push(Row::new("these four together", format!("{sum:.1} MiB"), format!("at most {OURS_MAXIMUM:.0} MiB")));
    master.power_cut()?;
    Ok(rows)
}

fn metric(metrics: &str, name: &str) -> Result<f64> {
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.ok_or_else(|| Failure::Unexpected(format!("node_exporter has no {name}")))
}
