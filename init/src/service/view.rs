//! What the supervisor tells: init.json for the agent, lines and the status page for people.

use super::supervisor::Supervisor;
use crate::console::{self, say, uptime_ms};
use crate::page::{View, render};
use spec::paths;
use spec::status::{InitStatus, ServiceState};

/// Milliseconds between two drawings of the page on a screen.
const REDRAW_EVERY: u64 = 1000;

/// What was told already.
#[derive(Default)]
pub struct Shown {
    status: Vec<u8>,
    page: String,
    headline: String,
    drawn_at: u64,
    pending: bool,
    services_started: bool,
    ready: bool,
}

impl Shown {
    /// When a page that was held back is due.
    pub fn redraw_at(&self) -> u64 {
        if self.pending { self.drawn_at + REDRAW_EVERY } else { u64::MAX }
    }
}

impl Supervisor {
    pub(super) fn status(&self) -> InitStatus {
        InitStatus {
            stages: self.stages.clone(),
            services: self.units.iter().map(super::unit::Unit::status).collect(),
            sysctl_failures: self.sysctl_failures.clone(),
            shutting_down: self.shutting_down,
            boot: self.handover.place(),
        }
    }

    /// Writes the status where it changed, prints milestones, draws the page.
    pub(super) fn show(&mut self) {
        let status = self.status();
        let json = serde_json::to_vec(&status).unwrap_or_default();
        if json != self.view.status {
            if let Err(error) = crate::files::replace_volatile(paths::INIT_STATUS_FILE, &json, 0o644) {
                say(error.to_string());
            }
            self.view.status = json;
        }
        self.say_milestones();
        self.draw(&status);
    }

    fn say_milestones(&mut self) {
        let started = !self.units.is_empty()
            && self.units.iter().all(|unit| unit.was_ready || unit.fulfilled() || unit.state == ServiceState::Failed);
        if started && !self.view.services_started && !self.shutting_down {
            self.view.services_started = true;
            say(format!("services started, at {:>6} ms", uptime_ms()));
        }
        if let Some(node) = self.node.as_ref().filter(|node| node.ready && !self.view.ready) {
            say(format!("node {} is Ready", node.name));
            self.view.ready = true;
        }
    }

    fn headline(&self) -> String {
        if self.shutting_down {
            return "shutting down".to_owned();
        }
        match &self.node {
            Some(node) if !node.phase.is_empty() => node.phase.clone(),
            _ if self.units.is_empty() => "nothing to supervise".to_owned(),
            _ if self.view.services_started => "services started".to_owned(),
            _ => "starting services".to_owned(),
        }
    }

    fn draw(&mut self, status: &InitStatus) {
        let headline = self.headline();
        let page = render(&View {
            name: self.machine.name(),
            role: self.machine.role().name(),
            cluster: self.machine.cluster_name(),
            image: &self.machine.image.profile,
            version: &self.machine.image.version,
            addresses: &self.machine.addresses(),
            services: &status.services,
            node: self.node.as_ref(),
            headline: &headline,
            trouble: self.trouble.as_deref(),
        });
        if page == self.view.page && !self.view.pending {
            return;
        }
        // A debug shell has the serial line to itself once services run.
        let on_serial = headline != self.view.headline && !self.handover.debug_shell;
        let now = uptime_ms();
        if !on_serial && now < self.view.drawn_at + REDRAW_EVERY {
            self.view.pending = true;
            return;
        }
        console::page(&page, on_serial);
        self.view.pending = false;
        self.view.drawn_at = now;
        self.view.page = page;
        self.view.headline = headline;
    }
}
