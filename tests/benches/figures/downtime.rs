//! How long a machine is away for a new image, beside what its boot takes.

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
    room.machine_mut("m1")?.power_button()?;
    let boot = timed(|| room.power_on_to_ready("m1"))?;

    let m1 = room.machine("m1")?;
    let (upgraded, away) = std::thread::scope(|scope| {
        let upgrade = scope.spawn(|| room.imgbuild_node("m1", &format!("upgrade {}", next.display())));
        let away = m1
            .wait_for_console("stopping pods", SECONDS)
            .and_then(|_| timed(|| m1.wait_for_console("node m1 is Ready", SECONDS).map(drop)));
        (upgrade.join(), away)
    });
    upgraded.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let (boot, away) = (boot.as_secs_f64(), away?.as_secs_f64());
    let down = found(&m1.console()?, r"rebooting after (\d+) ms", 1)? / 1000.0;
    Ok(vec![
        Row::new(
            "a machine's downtime in an upgrade: from the first pod's end until its node is Ready",
            format!("{away:.1} s"),
            format!("its boot from power-on takes {boot:.1} s: {:.1} s more, at most {MAXIMUM} s", away - boot),
        ),
        Row::new("of it until it reboots", format!("{down:.1} s"), ""),
    ])
}

fn timed(work: impl FnOnce() -> Result) -> Result<Duration> {
    let begun = Instant::now();
    work().map(|()| begun.elapsed())
}
