//! Devices in the second life: coldplug and hotplug, drivers by modalias, links below /dev/disk.
//! All of it in a thread, so that nothing waits for a driver that it does not need.

pub mod links;
pub mod uevent;

use crate::console;
use crate::events::{Event, Mailbox};
use crate::modules::{Loader, is_processors, modaliases_of_devices, without_device};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lets other threads wait for devices: a number that grows with each change, and whether coldplug is through.
#[derive(Debug, Default)]
pub struct Watch {
    state: Mutex<(u64, bool)>,
    changed: Condvar,
}

impl Watch {
    fn bump(&self, coldplugged: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = (state.0 + 1, state.1 || coldplugged);
        self.changed.notify_all();
    }

    /// For a process that does no coldplug of its own.
    pub fn set_coldplugged(&self) {
        self.bump(true);
    }

    pub fn generation(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    pub fn coldplugged(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    /// Waits for a change after `generation`; `false` when `limit` passed first.
    pub fn wait_past(&self, generation: u64, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.0 <= generation {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

/// Starts the thread. The events are subscribed to before this returns, so that nothing is missed.
///
/// # Errors
/// As the kernel answers.
pub fn start(loader: Arc<Loader>, watch: Arc<Watch>, mailbox: Mailbox) -> std::io::Result<()> {
    let listener = uevent::Listener::open()?;
    let work = move || Devices { watch, mailbox, loader, seen: BTreeSet::new() }.run(&listener);
    std::thread::Builder::new().name("devices".into()).spawn(work)?;
    Ok(())
}

struct Devices {
    watch: Arc<Watch>,
    mailbox: Mailbox,
    loader: Arc<Loader>,
    seen: BTreeSet<String>,
}

impl Devices {
    fn run(&mut self, listener: &uevent::Listener) {
        let begun = console::uptime_ms();
        let failures = self.coldplug();
        links::update_all();
        for name in names_in_folder("/dev/input") {
            self.offer_input(&name);
        }
        self.mailbox.send(Event::Coldplugged { milliseconds: console::uptime_ms() - begun, failures });
        self.watch.bump(true);
        loop {
            match listener.next(None) {
                Ok(Some(event)) => self.handle(&event),
                Ok(None) => {}
                Err(error) => {
                    console::say(format!("device events: {error}; no hotplug from here on"));
                    return;
                }
            }
        }
    }

    /// Loads drivers until no bus brings anything new.
    fn coldplug(&mut self) -> Vec<String> {
        let mut failures = Vec::new();
        loop {
            let mut found = modaliases_of_devices();
            found.retain(|modalias| !is_processors(modalias));
            let fresh: Vec<String> = found.difference(&self.seen).cloned().collect();
            if fresh.is_empty() {
                return failures;
            }
            // Network cards first: an address is what everything else waits for.
            let (cards, others): (Vec<String>, Vec<String>) =
                fresh.into_iter().partition(|modalias| is_network_card(modalias));
            let last_card = cards.last().cloned();
            for modalias in cards.into_iter().chain(others) {
                failures.extend(
                    self.loader
                        .load_for_device(&modalias)
                        .iter()
                        .filter(|error| !without_device(error))
                        .map(ToString::to_string),
                );
                if last_card.as_ref() == Some(&modalias) {
                    self.watch.bump(false);
                }
                self.seen.insert(modalias);
            }
            self.watch.bump(false);
        }
    }

    fn handle(&mut self, event: &uevent::Uevent) {
        if event.action.is_empty() {
            // Events were lost: look at everything again.
            self.coldplug();
            links::update_all();
        }
        if let (true, Some(modalias)) = (event.action == "add", event.value("MODALIAS")) {
            for error in self.loader.load_for_device(modalias).iter().filter(|error| !without_device(error)) {
                console::say(error.to_string());
            }
            self.seen.insert(modalias.to_owned());
        }
        match (event.value("SUBSYSTEM"), event.value("DEVNAME")) {
            (Some("block"), Some(name)) => links::update(name, event.action == "remove"),
            (Some("input"), Some(name)) if event.action == "add" => self.offer_input(name.trim_start_matches("input/")),
            _ => {}
        }
        if event.action != "change" {
            self.watch.bump(false);
        }
    }

    fn offer_input(&self, name: &str) {
        if name.starts_with("event") {
            self.mailbox.send(Event::Input(Path::new("/dev/input").join(name)));
        }
    }
}

fn names_in_folder(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// PCI class 02, or a virtio network device.
fn is_network_card(modalias: &str) -> bool {
    modalias.starts_with("virtio:d00000001") || (modalias.starts_with("pci:") && modalias.contains("bc02"))
}
