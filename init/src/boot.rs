//! Running stages: each is timed, printed and kept for the status; a failed one ends the boot in
//! words, and in the other slot where there is one.

use crate::console;
use crate::disk::block::Disk;
use crate::netboot::Origin;
use crate::stage::{Failure, Remedy, Stage};
use serde::{Deserialize, Serialize};
use spec::layout::{Partition, Slot};
use spec::status::{BootPlace, StageStatus};
use std::fs::OpenOptions;
use std::time::Duration;

/// What the first life hands to the second, as JSON at `HANDOVER_FILE`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Handover {
    pub disk: Disk,
    pub slot: Slot,
    /// Set where the disk is in memory.
    pub netboot: Option<Origin>,
    pub debug_shell: bool,
    pub stages: Vec<StageStatus>,
}

impl Handover {
    /// What the machine runs from, for the agent; none where an upgrade would be forgotten at the next boot.
    pub fn place(&self) -> Option<BootPlace> {
        if self.netboot.is_some() {
            return None;
        }
        let device = |partition: Partition| self.disk.partition_device(partition.number()).display().to_string();
        Some(BootPlace {
            slot: self.slot,
            esp: device(Partition::Esp),
            root_a: device(Partition::RootA),
            root_b: device(Partition::RootB),
        })
    }
}

pub const HANDOVER_FILE: &str = "/run/imgbuild/boot.json";

/// The stages so far.
#[derive(Debug, Default)]
pub struct Recorder {
    pub stages: Vec<StageStatus>,
}

impl Recorder {
    /// Runs a stage and records when it began and ended.
    ///
    /// # Errors
    /// The stage's own failure, after it was recorded.
    pub fn run<T>(&mut self, stage: Stage, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        let started_ms = console::uptime_ms();
        let result = work();
        let ended_ms = console::uptime_ms();
        let error = result.as_ref().err().map(ToString::to_string);
        if error.is_none() {
            console::say(format!("stage {:<12} {:>6} ms, at {:>6} ms", stage.name(), ended_ms - started_ms, ended_ms));
        }
        self.stages.push(StageStatus { name: stage.name().to_owned(), started_ms, ended_ms: Some(ended_ms), error });
        result
    }
}

/// Says what failed on every console.
pub fn announce(stage: &str, failure: &Failure) {
    console::say(format!(
        "stage {stage} FAILED\n  what: {}\n  why:  {}\n  try:  {}",
        failure.what, failure.why, failure.hint
    ));
}

/// Makes the other slot the next boot where it holds an image; says what it did.
pub fn turn_to_other_slot(disk: &Disk, slot: Slot) -> bool {
    let other = slot.other();
    let device = disk.partition_device(other.partition().number());
    let holds_image = std::fs::File::open(&device)
        .ok()
        .and_then(|mut file| crate::disk::probe::probe(&mut file))
        .is_some_and(|found| found.kind == "erofs");
    if !holds_image {
        console::say(format!("slot {} holds no image to fall back to", other.letter()));
        return false;
    }
    match choose_once(disk, other) {
        Ok(()) => {
            console::say(format!("the next boot takes slot {}", other.letter()));
            true
        }
        Err(error) => {
            console::say(format!("slot {} cannot be chosen: {error}", other.letter()));
            false
        }
    }
}

/// Has the loader take a slot at the next boot.
fn choose_once(disk: &Disk, slot: Slot) -> Result<(), String> {
    let path = disk.partition_device(Partition::Esp.number());
    let esp = OpenOptions::new().read(true).write(true).open(&path);
    let mut esp = esp.map_err(|error| format!("{}: {error}", path.display()))?;
    let entry = slots::entry(&mut esp, slot).map_err(|error| error.to_string())?;
    if entry.is_bad() {
        return Err("it did not work when it was tried".to_owned());
    }
    if crate::efi::is_there() {
        return crate::efi::set_one_shot(&entry.id()).map_err(|error| error.to_string());
    }
    slots::set_grub_next(&mut esp, slot).map_err(|error| error.to_string())
}

/// The end of a boot that failed before supervision began. Never returns.
pub fn end(stage: &str, failure: &Failure, place: Option<(&Disk, Slot)>) -> ! {
    announce(stage, failure);
    let turned =
        failure.remedy == Remedy::OtherSlot && place.is_some_and(|(disk, slot)| turn_to_other_slot(disk, slot));
    let patience = match (turned, failure.remedy) {
        (true, _) => Some(Duration::from_secs(10)),
        (false, Remedy::Hold) => None,
        (false, _) => Some(Duration::from_secs(60)),
    };
    match patience {
        Some(limit) => console::say(format!("rebooting in {} seconds; Ctrl-Alt-Del reboots now", limit.as_secs())),
        None => console::say("this machine waits for you; Ctrl-Alt-Del reboots"),
    }
    crate::signals::wait_for_reboot_request(patience);
    reboot_now(false)
}

/// Syncs and asks the kernel; never returns.
pub fn reboot_now(power_off: bool) -> ! {
    use rustix::system::{RebootCommand, reboot};
    rustix::fs::sync();
    let command = if power_off { RebootCommand::PowerOff } else { RebootCommand::Restart };
    loop {
        if let Err(error) = reboot(command) {
            console::say(format!("the kernel does not reboot: {error}"));
        }
        // A machine without power control comes back here; PID 1 must not end.
        std::thread::sleep(Duration::from_secs(3600));
    }
}
