//! How long a master takes from power-on, with two virtual processors as measured.md has them.

use crate::Row;
use regex::Regex;
use std::time::Instant;
use stories::{Failure, Lab, Result};

const BOOTS: usize = 3;
/// Debian with systemd, and a bare script that starts the same programs (shared/measured.md), seconds.
const DEBIAN_CONTAINERD: f64 = 22.7;
const SCRIPT_READY: [f64; 2] = [64.0, 72.0];

/// Seconds of one boot.
struct Boot {
    /// From the kernel's start: init's and the agent's own time until kubelet may start, containerd
    /// serving, services started.
    own: f64,
    containerd: f64,
    kubelet: f64,
    /// From power-on, the firmware included.
    ready: f64,
}

pub fn measure_two(lab: &Lab) -> Result<Vec<Row>> {
    measure(lab, 2)
}

/// What the stories have: more than one has crashed a guest under emulation.
pub fn measure_one(lab: &Lab) -> Result<Vec<Row>> {
    measure(lab, 1)
}

fn measure(lab: &Lab, cpus: u32) -> Result<Vec<Row>> {
    let boots = (0..BOOTS).map(|number| boot(lab, cpus, number)).collect::<Result<Vec<_>>>()?;
    Ok(rows_of(cpus, &boots))
}

fn rows_of(cpus: u32, boots: &[Boot]) -> Vec<Row> {
    let median = |seconds: fn(&Boot) -> f64| {
        let mut all: Vec<f64> = boots.iter().map(seconds).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let (containerd, ready) = (median(|boot| boot.containerd), median(|boot| boot.ready));
    let row = |figure: &str, value: f64, beside: String| {
        Row::new(&format!("first boot, {cpus} vCPU: {figure}"), format!("{value:.1} s"), beside)
    };
    vec![
        row("init's and agent's own share until kubelet may start", median(|boot| boot.own), "at most 3 s".into()),
        row(
            "containerd serves",
            containerd,
            format!("{:.2} of Debian with systemd (22.7 s); at most 0.4", containerd / DEBIAN_CONTAINERD),
        ),
        row("kubelet starts", median(|boot| boot.kubelet), String::new()),
        row(
            "node Ready, from power-on with firmware",
            ready,
            format!(
                "{:.2} to {:.2} of a bare script (72 to 64 s); at most 1.15",
                ready / SCRIPT_READY[1],
                ready / SCRIPT_READY[0]
            ),
        ),
    ]
}

fn boot(lab: &Lab, cpus: u32, number: usize) -> Result<Boot> {
    let mut master = lab.machine(&format!("boot-{cpus}-{number}"), &lab.image("master-vm")?)?;
    master.hardware().cpus = cpus;
    master.hardware().memory_mib = 3072;
    let begin = Instant::now();
    master.power_on()?;
    master.wait_for_console(" is Ready", 600)?;
    let ready = begin.elapsed().as_secs_f64();
    let console = master.console()?;
    master.power_cut()?;
    let at = |pattern: &str| -> Result<(f64, f64)> {
        let expression = Regex::new(pattern).map_err(|error| Failure::Unexpected(error.to_string()))?;
        let found = expression.captures(&console);
        let found = found.ok_or_else(|| Failure::Unexpected(format!("the console lacks {pattern}")))?;
        let seconds =
            |group: usize| found.get(group).and_then(|text| text.as_str().parse::<f64>().ok()).unwrap_or(0.0) / 1000.0;
        Ok((seconds(1), seconds(2)))
    };
    let service = |name: &str| at(&format!(r"service {name} +(?:ready|done) +after +(\d+) ms, at +(\d+) ms"));
    // Everything from init's first moment to the end of its stages, and the agent's time to ready.
    let (first_took, first_end) = at(r"stage \S+ +(\d+) ms, at +(\d+) ms")?;
    let (_, stages_end) = at(r"stage services +(\d+) ms, at +(\d+) ms")?;
    let (agent, _) = service("agent")?;
    let (kubelet_took, kubelet_ready) = service("kubelet")?;
    Ok(Boot {
        own: stages_end - (first_end - first_took) + agent,
        containerd: service("containerd")?.1,
        kubelet: kubelet_ready - kubelet_took,
        ready,
    })
}
