//! The slot that runs, on trial: called good when the machine has been well for a minute, given up when it is not in
//! time. And the one that the machine fell back from: called bad.

use crate::facts::Facts;
use crate::machine::{Status, ask_init, say};
use crate::node_api::init_status;
use slots::Error;
use spec::agent::{SlotState, SlotStatus};
use spec::boot::{Entry, GrubEnvironment, TRIES, Tries};
use spec::layout::Slot;
use spec::status::{BootPlace, ETCD_HEALTHY, InitStatus, NodeStatus, Request};
use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// So long without a break everything must be well.
const WELL_FOR: Duration = Duration::from_secs(60);
/// Within this time from the agent's start.
const LIMIT: Duration = Duration::from_secs(20 * 60);
const PERIOD: Duration = Duration::from_secs(1);

/// The loader's slots as this machine last read or wrote them.
#[derive(Default)]
pub struct Slots(RefCell<Vec<SlotStatus>>);

impl Slots {
    pub fn current(&self) -> Vec<SlotStatus> {
        self.0.borrow().clone()
    }
}

/// What the running slot is to the loaders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Good,
    OnTrial,
    /// The loaders would rather have this one, which is on trial, and the machine does not run it.
    FellBackFrom(Entry),
}

fn standing(entries: &[Entry], running: Slot, grub: &GrubEnvironment) -> Standing {
    let newest = entries.iter().max_by_key(|entry| entry.generation);
    let own = entries.iter().find(|entry| entry.slot == running);
    match (newest, own) {
        (Some(newest), _) if newest.slot != running && newest.on_trial() && was_tried(newest, grub) => {
            Standing::FellBackFrom(*newest)
        }
        (_, Some(own)) if own.tries.is_some() || grub.first == running && grub.trial.is_some() => Standing::OnTrial,
        _ => Standing::Good,
    }
}

/// systemd-boot counts in the entry's name, GRUB in its environment.
fn was_tried(entry: &Entry, grub: &GrubEnvironment) -> bool {
    entry.tries.is_some_and(|tries| tries.done > 0) || grub.first != entry.slot || grub.trial != Some(TRIES)
}

/// Whether nothing is left to be wished for.
fn is_well(node: &NodeStatus, init: &InitStatus) -> bool {
    let etcd = node.etcd.as_deref().is_none_or(|etcd| etcd == ETCD_HEALTHY);
    node.ready && etcd && !init.shutting_down && init.services.iter().all(|service| service.state.is_well())
}

/// Looks after the slots until nothing is on trial any more.
pub async fn watch(root: &Path, facts: &Facts, status: &Status, slots: &Slots) {
    let Some(place) = init_status(root).boot else { return };
    if let Err(error) = look_after(root, facts, status, slots, &place).await {
        say(format!("the slots of this disk: {error}"));
    }
}

async fn look_after(
    root: &Path,
    facts: &Facts,
    status: &Status,
    slots: &Slots,
    place: &BootPlace,
) -> Result<(), Error> {
    let mut esp = open(place)?;
    let entries = slots::entries(&mut esp)?;
    let grub = slots::grub_environment(&mut esp)?;
    drop(esp);
    slots.0.replace(describe(&entries, place.slot));
    match standing(&entries, place.slot, &grub) {
        Standing::Good => return Ok(()),
        Standing::FellBackFrom(entry) => {
            say(format!(
                "slot {} did not come up: this machine fell back to slot {}",
                entry.slot.letter(),
                place.slot.letter()
            ));
            return call(place, entry.slot, Verdict::Bad, slots);
        }
        Standing::OnTrial => {}
    }
    say(format!("slot {} is on trial", place.slot.letter()));
    let end = Instant::now() + LIMIT;
    let mut well_since = None;
    loop {
        let now = Instant::now();
        if !is_well(&status.current(), &init_status(root)) {
            well_since = None;
        } else if now >= *well_since.get_or_insert(now) + WELL_FOR {
            call(place, place.slot, Verdict::Good, slots)?;
            say(format!("slot {} is good: {} has been well for a minute", place.slot.letter(), facts.image.version));
            return Ok(());
        }
        if now >= end && well_since.is_none() {
            call(place, place.slot, Verdict::Bad, slots)?;
            say(format!(
                "slot {} is not well after {} minutes: back to the other",
                place.slot.letter(),
                LIMIT.as_secs() / 60
            ));
            if let Err(error) = ask_init(&Request::Reboot).await {
                say(format!("asking init to reboot: {error}"));
            }
            return Ok(());
        }
        tokio::time::sleep(PERIOD).await;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    Bad,
}

fn call(place: &BootPlace, slot: Slot, verdict: Verdict, slots: &Slots) -> Result<(), Error> {
    let mut esp = open(place)?;
    let done = slots::entry(&mut esp, slot)?.tries.map_or(0, |tries| tries.done);
    let tries = (verdict == Verdict::Bad).then_some(Tries { left: 0, done });
    slots::set_tries(&mut esp, slot, tries)?;
    slots.0.replace(describe(&slots::entries(&mut esp)?, place.slot));
    Ok(())
}

fn describe(entries: &[Entry], running: Slot) -> Vec<SlotStatus> {
    let state = |entry: &Entry| match entry.tries {
        None => SlotState::Good,
        Some(_) if entry.is_bad() && entry.slot != running => SlotState::Bad,
        Some(_) => SlotState::Trial,
    };
    let one = |entry: &Entry| SlotStatus {
        slot: entry.slot,
        generation: entry.generation,
        state: state(entry),
        running: entry.slot == running,
    };
    entries.iter().map(one).collect()
}

fn open(place: &BootPlace) -> Result<File, Error> {
    let esp = OpenOptions::new().read(true).write(true).open(&place.esp);
    esp.map_err(|source| Error::Io { what: place.esp.clone(), source })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use spec::status::{ServiceState, ServiceStatus};

    fn entries(names: &[&str]) -> Vec<Entry> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn the_standing_of_the_running_slot() {
        let first = "imgbuild-00000001-a.efi";
        let grub = |first, trial| GrubEnvironment { first, trial, next: None };
        let (fresh, good) = (grub(Slot::B, Some(TRIES)), grub(Slot::B, None));
        let cases = [
            (vec![first], Slot::A, &GrubEnvironment::FIRST, Standing::Good),
            (vec![first, "imgbuild-00000002-b.efi"], Slot::B, &good, Standing::Good),
            (vec![first, "imgbuild-00000002-b+2-1.efi"], Slot::B, &fresh, Standing::OnTrial),
            // The last of its tries.
            (vec![first, "imgbuild-00000002-b+0-3.efi"], Slot::B, &fresh, Standing::OnTrial),
            // GRUB does not count in the name.
            (vec![first, "imgbuild-00000002-b+3.efi"], Slot::B, &grub(Slot::B, Some(0)), Standing::OnTrial),
            // Written, and not yet booted.
            (vec![first, "imgbuild-00000002-b+3.efi"], Slot::A, &fresh, Standing::Good),
            (vec![first, "imgbuild-00000002-b+0-3.efi"], Slot::A, &fresh, Standing::Good),
            // Good once, and init turned away from it for one boot.
            (vec![first, "imgbuild-00000002-b.efi"], Slot::A, &good, Standing::Good),
        ];
        for (names, running, grub, wanted) in cases {
            assert_eq!(standing(&entries(&names), running, grub), wanted, "{names:?}, {running:?}, {grub:?}");
        }
        // init, or the loader, has turned away from it: by UEFI, by GRUB once, by GRUB for good.
        for (name, grub) in [
            ("imgbuild-00000002-b+2-1.efi", &fresh),
            ("imgbuild-00000002-b+3.efi", &grub(Slot::B, Some(2))),
            ("imgbuild-00000002-b+3.efi", &GrubEnvironment::FIRST),
        ] {
            let given_up = entries(&[first, name]);
            assert_eq!(standing(&given_up, Slot::A, grub), Standing::FellBackFrom(given_up[1]));
        }
    }

    #[test]
    fn a_slot_is_described_as_the_loaders_see_it() {
        let states = |names: &[&str], running| {
            describe(&entries(names), running).iter().map(|slot| (slot.state, slot.running)).collect::<Vec<_>>()
        };
        let names = ["imgbuild-00000002-b+0-3.efi", "imgbuild-00000001-a.efi"];
        assert_eq!(states(&names, Slot::A), [(SlotState::Bad, false), (SlotState::Good, true)]);
        assert_eq!(states(&names, Slot::B), [(SlotState::Trial, true), (SlotState::Good, false)]);
    }

    #[test]
    fn well_is_ready_with_every_service_and_etcd() {
        let service =
            |state| ServiceStatus { name: "etcd".into(), state, pid: None, restarts: 0, since_ms: 0, detail: None };
        let node = NodeStatus { ready: true, etcd: Some(ETCD_HEALTHY.into()), ..NodeStatus::default() };
        let init = InitStatus { services: vec![service(ServiceState::Ready)], ..InitStatus::default() };
        assert!(is_well(&node, &init));
        assert!(is_well(&NodeStatus { etcd: None, ..node.clone() }, &init));
        assert!(!is_well(&NodeStatus { ready: false, ..node.clone() }, &init));
        assert!(!is_well(&NodeStatus { etcd: Some("waiting".into()), ..node.clone() }, &init));
        assert!(!is_well(&node, &InitStatus { shutting_down: true, ..init.clone() }));
        assert!(!is_well(&node, &InitStatus { services: vec![service(ServiceState::Starting)], ..init }));
    }
}
