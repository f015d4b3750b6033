//! A bundle on its way to one machine: what it lacks is sent, and its next boot is followed.

use super::client::{Client, Trouble};
use crate::error::{Error, Result};
use crate::progress::{Progress, Unit};
use crate::release::Bundle;
use indicatif::HumanBytes;
use spec::agent::{Accepted, AgentStatus, SlotState, Upgrade as UpgradeStatus, UpgradePhase, path};
use spec::layout::Slot;
use std::cell::Cell;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

/// Between two looks at what a machine does by itself.
const LOOK: Duration = Duration::from_millis(500);
/// For the machine's own copying and checking.
const WORK_LIMIT: Duration = Duration::from_secs(30 * 60);
/// From the reboot until the slot is good: the agent itself gives it up after twenty minutes.
const TRIAL_LIMIT: Duration = Duration::from_secs(45 * 60);

/// One machine's upgrade.
pub struct Upgrade<'a> {
    pub client: Client,
    pub bundle: &'a Bundle,
    /// An `imgbuild serve` that the machine fetches from.
    pub from: Option<SocketAddrV4>,
    pub progress: &'a Progress,
}

impl Upgrade<'_> {
    fn failed(&self, what: impl std::fmt::Display) -> Error {
        Error::failure(format!("{}: {what}", self.client.name()))
    }

    fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.client.get(path).map_err(|trouble| self.client.error(&trouble))
    }

    fn post(&self, path: &str, body: &[u8]) -> Result<()> {
        let answer: std::result::Result<Accepted, Trouble> = self.client.post_bytes(path, body);
        answer.map(drop).map_err(|trouble| self.client.error(&trouble))
    }

    /// The slot that the machine runs from.
    ///
    /// # Errors
    /// It does not answer or does not know.
    pub fn running_slot(&self) -> Result<Slot> {
        let status: AgentStatus = self.get(path::STATUS)?;
        running(&status).ok_or_else(|| self.failed("it does not say which slot it runs from; its image may be too old"))
    }

    /// Writes the bundle to the other slot; the next boot is from there.
    ///
    /// # Errors
    /// The machine refuses the bundle, or cannot write it.
    pub fn write(&self) -> Result<()> {
        let signature = bundle::hex(&self.bundle.signature);
        self.post(&format!("{}?signature={signature}", path::UPGRADE), &self.bundle.manifest_bytes)?;
        let begun = self.until(|status| status.phase != UpgradePhase::Copying)?;
        let missing: u64 = begun.size - begun.present;
        let name = self.client.name();
        self.progress.note(&format!(
            "{name} lacks {} of {} ({:.1} %)",
            HumanBytes(missing),
            HumanBytes(begun.size),
            100.0 * missing as f64 / begun.size.max(1) as f64
        ));
        let place = path::upgrade_chunk(&begun.digest);
        let begun = match self.from {
            Some(from) => self.fetched(from, &place, begun)?,
            None => begun,
        };
        let task = self.progress.task(&format!("sending to {name}"), begun.size - begun.present, Unit::Bytes);
        for (file, numbers) in &begun.missing {
            for number in numbers {
                let bytes = self.bundle.chunk(file, *number)?;
                self.post(&format!("{place}?file={file}&chunk={number}"), &bytes)?;
                task.advance(bytes.len() as u64);
            }
        }
        task.done();
        self.post(&format!("{place}?last=1"), &[])?;
        self.until(|status| status.phase == UpgradePhase::Written)?;
        self.progress.note(&format!("{name} has written and checked {}", self.bundle.manifest.image.version));
        Ok(())
    }

    /// Has the machine fetch what it lacks; what it could not get is still missing then.
    fn fetched(&self, from: SocketAddrV4, place: &str, begun: UpgradeStatus) -> Result<UpgradeStatus> {
        let name = self.client.name();
        self.post(&format!("{place}?from={from}"), &[])?;
        let task = self.progress.task(&format!("{name} fetches"), begun.size - begun.present, Unit::Bytes);
        let present = Cell::new(begun.present);
        let fetched = self.until(|status| {
            task.advance(status.present.saturating_sub(present.replace(status.present)));
            status.phase != UpgradePhase::Fetching
        })?;
        task.done();
        match &fetched.reason {
            Some(reason) => self.progress.warn(&format!("{name}: {reason}; the rest goes from here")),
            None => self.progress.note(&format!("{name} has fetched the rest from {from}")),
        }
        Ok(fetched)
    }

    /// Looks until the machine's work has come so far.
    fn until(&self, enough: impl Fn(&UpgradeStatus) -> bool) -> Result<UpgradeStatus> {
        let end = Instant::now() + WORK_LIMIT;
        loop {
            let status: UpgradeStatus = self.get(path::UPGRADE)?;
            match status.phase {
                UpgradePhase::Failed => return Err(self.failed(status.reason.unwrap_or_default())),
                UpgradePhase::None => return Err(self.failed("its agent started anew: begin again")),
                _ if enough(&status) => return Ok(status),
                phase if Instant::now() >= end => {
                    return Err(self.failed(format!("it is {phase:?} for too long").to_lowercase()));
                }
                _ => std::thread::sleep(LOOK),
            }
        }
    }

    /// Follows a reboot out of slot `before` until the other slot is good.
    ///
    /// # Errors
    /// The machine fell back, or does not come up.
    pub fn wait(&self, before: Slot) -> Result<()> {
        let end = Instant::now() + TRIAL_LIMIT;
        let name = self.client.name();
        let mut said = String::new();
        loop {
            // As long as it is down nobody answers.
            let status: std::result::Result<AgentStatus, Trouble> = self.client.get(path::STATUS);
            let words = match &status {
                Err(_) => "is down".to_owned(),
                Ok(status) => status.node.phase.clone(),
            };
            if words != said {
                self.progress.note(&format!("{name}: {words}"));
                said = words;
            }
            if let Ok(status) = &status {
                let state = |slot: Slot| status.slots.iter().find(|found| found.slot == slot).map(|found| found.state);
                match running(status) {
                    Some(slot) if slot == before.other() && state(slot) == Some(SlotState::Good) => {
                        self.progress.note(&format!("{name} runs {} from slot {}", status.image, slot.letter()));
                        return Ok(());
                    }
                    Some(slot) if slot == before && state(before.other()) == Some(SlotState::Bad) => {
                        return Err(self
                            .failed(format!("it fell back: slot {} did not come up", before.other().letter()))
                            .help(format!("imgbuild node {name} logs agent, and its console, say more")));
                    }
                    _ => {}
                }
            }
            if Instant::now() >= end {
                return Err(self.failed(format!("{said}; slot {} is not good yet", before.other().letter())));
            }
            std::thread::sleep(LOOK);
        }
    }
}

fn running(status: &AgentStatus) -> Option<Slot> {
    status.slots.iter().find(|slot| slot.running).map(|slot| slot.slot)
}
