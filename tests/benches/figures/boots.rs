//! How long a master takes from power-on, and a bare script that starts the same programs beside it: an
//! emulated machine's speed changes from day to day, the ratio of the two hardly.

use crate::{Row, bare, found, median};
use std::time::Instant;
use stories::{Computer, Failure, Lab, Result};

const IMAGE: &str = "master+vm";
const ROUNDS: usize = 3;
const MEMORY_MIB: u32 = 3072;
/// shared/measured.md, seconds: when containerd serves on Debian with systemd, and after the bare script.
const DEBIAN_CONTAINERD: f64 = 22.7;
const BARE_CONTAINERD: f64 = 7.0;
const READY_SECONDS: u64 = 900;

/// Seconds of one boot of ours.
struct Boot {
    /// From the kernel's start: init's and the agent's own time until kubelet may start, containerd
    /// serving, kubelet started.
    own: f64,
    containerd: f64,
    kubelet: f64,
    /// From power-on, the firmware included.
    ready: f64,
}

/// The same of the bare script, which QEMU boots without firmware.
struct Bare {
    containerd: f64,
    kubelet: f64,
    ready: f64,
}

/// One after the other, each with the host's two processors.
pub fn measure_two(lab: &Lab) -> Result<Vec<Row>> {
    let rounds = (0..ROUNDS).map(|round| Ok((ours(lab, 2, round)?, bare(lab, 2, round)?)));
    Ok(rows_of("2 vCPU, one after the other", &rounds.collect::<Result<Vec<_>>>()?))
}

/// What the stories have (more than one has crashed a guest under emulation), both at the same time.
pub fn measure_one(lab: &Lab) -> Result<Vec<Row>> {
    // What both begin with is there before a clock runs.
    bare::prepare(lab)?;
    lab.image(IMAGE)?;
    let rounds = (0..ROUNDS).map(|round| {
        std::thread::scope(|scope| {
            let beside = scope.spawn(|| bare(lab, 1, round));
            let ours = ours(lab, 1, round);
            Ok((ours?, beside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?))
        })
    });
    Ok(rows_of("1 vCPU, side by side", &rounds.collect::<Result<Vec<_>>>()?))
}

fn rows_of(how: &str, rounds: &[(Boot, Bare)]) -> Vec<Row> {
    let ours = |seconds: fn(&Boot) -> f64| median(rounds.iter().map(|(boot, _)| seconds(boot)));
    let bare = |seconds: fn(&Bare) -> f64| median(rounds.iter().map(|(_, bare)| seconds(bare)));
    let row = |figure: &str, value: f64, beside: String| {
        Row::new(&format!("first boot, {how}: {figure}"), format!("{value:.1} s"), beside)
    };
    let against = |value: f64, bare: f64| format!("{:.2} of the bare script's {bare:.1} s", value / bare);
    let (containerd, kubelet, ready) =
        (ours(|boot| boot.containerd), ours(|boot| boot.kubelet), ours(|boot| boot.ready));
    let most = 0.4 * DEBIAN_CONTAINERD / BARE_CONTAINERD;
    vec![
        row("init's and agent's own share until kubelet may start", ours(|boot| boot.own), "at most 3 s".into()),
        row(
            "containerd serves",
            containerd,
            format!(
                "{}; at most {most:.2}, which is 0.4 of Debian with systemd",
                against(containerd, bare(|bare| bare.containerd))
            ),
        ),
        row("kubelet starts", kubelet, against(kubelet, bare(|bare| bare.kubelet))),
        row(
            "node Ready, from power-on",
            ready,
            format!("{}, which has no firmware; at most 1.15", against(ready, bare(|bare| bare.ready))),
        ),
    ]
}

fn prepare(machine: &mut Computer, cpus: u32) {
    machine.hardware().cpus = cpus;
    machine.hardware().memory_mib = MEMORY_MIB;
}

fn ours(lab: &Lab, cpus: u32, round: usize) -> Result<Boot> {
    let mut master = lab.machine(&format!("boot-{cpus}-{round}"), &lab.image(IMAGE)?)?;
    prepare(&mut master, cpus);
    let begin = Instant::now();
    master.power_on()?;
    master.wait_for_console(" is Ready", READY_SECONDS)?;
    let ready = begin.elapsed().as_secs_f64();
    let console = master.console()?;
    master.power_cut()?;
    let milliseconds = |pattern: &str| Ok::<_, Failure>((found(&console, pattern, 1)?, found(&console, pattern, 2)?));
    let service = |name: &str| milliseconds(&format!(r"service {name} +(?:ready|done) +after +(\d+) ms, at +(\d+) ms"));
    // Everything from init's first moment to the end of its stages, and the agent's time to ready.
    let (first_took, first_end) = milliseconds(r"stage \S+ +(\d+) ms, at +(\d+) ms")?;
    let (_, stages_end) = milliseconds(r"stage services +(\d+) ms, at +(\d+) ms")?;
    let (agent, _) = service("agent")?;
    let (kubelet_took, kubelet_ready) = service("kubelet")?;
    Ok(Boot {
        own: (stages_end - (first_end - first_took) + agent) / 1000.0,
        containerd: service("containerd")?.1 / 1000.0,
        kubelet: (kubelet_ready - kubelet_took) / 1000.0,
        ready,
    })
}

fn bare(lab: &Lab, cpus: u32, round: usize) -> Result<Bare> {
    let mut machine = bare::machine(lab, &format!("bare-{cpus}-{round}"))?;
    prepare(&mut machine, cpus);
    let begin = Instant::now();
    machine.power_on()?;
    machine.wait_for_console("bare: kubelet starts", READY_SECONDS)?;
    machine.wait_ready()?;
    let ready = begin.elapsed().as_secs_f64();
    let console = machine.console()?;
    machine.power_cut()?;
    let at = |what: &str| found(&console, &format!(r"bare: {what} at (\d+\.\d+) s"), 1);
    Ok(Bare { containerd: at("containerd serves")?, kubelet: at("kubelet starts")?, ready })
}
