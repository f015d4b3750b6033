//! How long a machine is away for a new image, beside what its boot and a reboot for nothing take.

use crate::{Row, found};
use std::time::{Duration, Instant};
use stories::{Lab, NEXT_MASTER, Result, Room};

const SECONDS: u64 = 900;
/// Seconds that an upgrade may take beyond a boot.
const MAXIMUM: f64 = 5.0;

pub fn measure(lab: &Lab) -> Result<Vec<Row>> {
    let next = lab.bundle(NEXT_MASTER, "next")?;
    let mut room = Room::new(lab, 1, 0)?;
    room.power_on_all_to_ready()?;
    // The first start of a disk makes what later ones find.
    settled(&room)?;
    room.machine_mut("m1")?.power_button()?;
    let boot = timed(|| room.power_on_to_ready("m1"))?.as_secs_f64();
    let reboot = away(&room, "reboot")?;
    let down = found(&room.machine("m1")?.console()?, r"rebooting after (\d+) ms", 1)? / 1000.0;
    let upgrade = away(&room, &format!("upgrade {}", next.display()))?;
    Ok(vec![
        Row::new(
            "a machine's downtime in an upgrade: from the first pod's end until its node is Ready",
            format!("{upgrade:.1} s"),
            format!("its boot from power-on takes {boot:.1} s: {:.1} s more, at most {MAXIMUM} s", upgrade - boot),
        ),
        Row::new("the same when it reboots for nothing", format!("{reboot:.1} s"), ""),
        Row::new("of it until it reboots", format!("{down:.1} s"), ""),
    ])
}

/// Seconds from the first pod's end until its node is Ready again.
fn away(room: &Room, order: &str) -> Result<f64> {
    settled(room)?;
    let m1 = room.machine("m1")?;
    let (given, away) = std::thread::scope(|scope| {
        let given = scope.spawn(|| room.imgbuild_node("m1", order));
        let away = m1
            .wait_for_console("stopping pods", SECONDS)
            .and_then(|_| timed(|| m1.wait_for_console("node m1 is Ready", SECONDS).map(drop)));
        (given.join(), away)
    });
    given.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    Ok(away?.as_secs_f64())
}

/// Waits until all of its services run: one that has only just started takes longer to end.
fn settled(room: &Room) -> Result {
    room.imgbuild("cluster health lab --wait 10m")
}

fn timed(work: impl FnOnce() -> Result) -> Result<Duration> {
    let begun = Instant::now();
    work().map(|()| begun.elapsed())
}
