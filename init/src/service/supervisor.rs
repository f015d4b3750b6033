//! The main loop: one poll over everything that can happen to a machine that runs.

use super::notify;
use super::probe::PAUSE;
use super::unit::Unit;
use super::waiting::FileWatch;
use crate::boot::Handover;
use crate::console::{say, uptime_ms};
use crate::control::Control;
use crate::events::{Event, Inbox};
use crate::machine::Machine;
use crate::watchdog::{FEED_EVERY_MS, Watchdog};
use crate::{clock, power, signals};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsFd, BorrowedFd};
use spec::paths;
use spec::service::Ready;
use spec::status::{NodeStatus, Request, Response, ServiceState, StageStatus};
use std::fs::File;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

/// How often the clock is saved, and containerd's new children are moved aside.
const SAVE_CLOCK_EVERY_MS: u64 = 600_000;
const SORT_CHILDREN_EVERY_MS: u64 = 5_000;

/// How the machine goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    Reboot,
    PowerOff,
}

pub struct Supervisor {
    pub(super) machine: Machine,
    pub(super) handover: Handover,
    pub(super) stages: Vec<StageStatus>,
    pub(super) sysctl_failures: Vec<(String, String, String)>,
    pub(super) units: Vec<Unit>,
    pub(super) signals: SignalFd,
    pub(super) inbox: Inbox,
    pub(super) files: FileWatch,
    pub(super) notify: UnixDatagram,
    pub(super) control: Control,
    pub(super) inputs: Vec<(PathBuf, File)>,
    pub(super) watchdog: Option<Watchdog>,
    pub(super) feed_at: u64,
    pub(super) save_clock_at: u64,
    pub(super) sort_children_at: u64,
    pub(super) shell: Option<u32>,
    pub(super) shell_at: u64,
    pub(super) goal: Option<Goal>,
    pub(super) shutting_down: bool,
    /// Processes that ended and belong to no unit: the agent's `stop-pods`.
    pub(super) ended: Vec<u32>,
    pub(super) trouble: Option<String>,
    pub(super) view: super::view::Shown,
    pub(super) node: Option<NodeStatus>,
}

/// What a descriptor belongs to.
#[derive(Debug, Clone, Copy)]
enum Source {
    Signals,
    Inbox,
    Files,
    Notify,
    Control,
    Client,
    Input(usize),
    Output(usize),
    Probe(usize),
}

impl Supervisor {
    /// # Errors
    /// Where one of the sockets or descriptors cannot be had.
    pub fn new(machine: Machine, handover: Handover, stages: Vec<StageStatus>, inbox: Inbox) -> io::Result<Supervisor> {
        Ok(Supervisor {
            machine,
            handover,
            stages,
            sysctl_failures: Vec::new(),
            units: Vec::new(),
            signals: signals::descriptor()?,
            inbox,
            files: FileWatch::open()?,
            notify: notify::open()?,
            control: Control::open()?,
            inputs: Vec::new(),
            watchdog: None,
            feed_at: 0,
            save_clock_at: uptime_ms() + SAVE_CLOCK_EVERY_MS,
            sort_children_at: 0,
            shell: None,
            shell_at: 0,
            goal: None,
            shutting_down: false,
            ended: Vec::new(),
            trouble: None,
            view: super::view::Shown::default(),
            node: None,
        })
    }

    /// The units, and what the stages want said.
    pub fn with(
        mut self,
        units: Vec<Unit>,
        sysctl_failures: Vec<(String, String, String)>,
        trouble: Option<String>,
    ) -> Supervisor {
        self.units = units;
        self.sysctl_failures = sysctl_failures;
        self.trouble = trouble;
        self
    }

    /// Supervises until somebody wants the machine down, then takes it down. Never returns.
    pub fn run(mut self) -> ! {
        loop {
            self.start_what_can();
            self.show();
            if let Some(goal) = self.goal {
                self.take_down(goal);
            }
            self.round(None);
        }
    }

    /// Waits for the next thing to happen, at most until `limit` (uptime in milliseconds), and handles it.
    pub(super) fn round(&mut self, limit: Option<u64>) {
        self.housekeeping();
        self.watch_files();
        let until = self.next_deadline().min(limit.unwrap_or(u64::MAX));
        let pause = Duration::from_millis(until.saturating_sub(uptime_ms()));
        for source in self.wait(pause) {
            self.handle(source);
        }
        self.expire();
        self.control.forget_gone();
    }

    fn wait(&self, pause: Duration) -> Vec<Source> {
        let mut sources: Vec<(Source, BorrowedFd<'_>, PollFlags)> = vec![
            (Source::Signals, self.signals.as_fd(), PollFlags::IN),
            (Source::Inbox, self.inbox.bell.as_fd(), PollFlags::IN),
            (Source::Files, self.files.descriptor.as_fd(), PollFlags::IN),
            (Source::Notify, self.notify.as_fd(), PollFlags::IN),
            (Source::Control, self.control.listener.as_fd(), PollFlags::IN),
        ];
        sources
            .extend(self.control.clients.iter().map(|client| (Source::Client, client.stream.as_fd(), PollFlags::IN)));
        sources.extend(
            self.inputs
                .iter()
                .enumerate()
                .map(|(place, (_, file))| (Source::Input(place), file.as_fd(), PollFlags::IN)),
        );
        for (place, unit) in self.units.iter().enumerate() {
            sources.extend(unit.outputs.iter().map(|output| (Source::Output(place), output.as_fd(), PollFlags::IN)));
            sources.extend(unit.probe.iter().map(|probe| {
                let (descriptor, flags) = probe.descriptor();
                (Source::Probe(place), descriptor, flags)
            }));
        }
        let mut descriptors: Vec<PollFd<'_>> =
            sources.iter().map(|(_, descriptor, flags)| PollFd::from_borrowed_fd(*descriptor, *flags)).collect();
        if rustix::event::poll(&mut descriptors, Some(&crate::timespec(pause))).is_err() {
            return Vec::new();
        }
        let ready = sources.iter().zip(&descriptors).filter(|(_, descriptor)| !descriptor.revents().is_empty());
        ready.map(|((source, _, _), _)| *source).collect()
    }

    fn handle(&mut self, source: Source) {
        match source {
            Source::Signals => self.read_signals(),
            Source::Inbox => self.inbox.take().into_iter().for_each(|event| self.handle_event(event)),
            Source::Files => {
                self.files.drain();
                self.read_node_status();
            }
            Source::Notify => self.read_notifications(),
            Source::Control => self.control.accept(),
            Source::Client => {
                for (place, request) in self.control.requests() {
                    let response =
                        request.map_or_else(|message| Response::Error { message }, |request| self.answer(request));
                    self.control.answer(place, &response);
                }
            }
            Source::Input(place) => self.read_input(place),
            Source::Output(place) => self.units[place].read_outputs(),
            Source::Probe(place) => self.advance_probe(place, true),
        }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Network(state) => {
                self.trouble = None;
                if let Err(error) = self.machine.network_changed(state) {
                    say(format!("identity: {error}"));
                }
            }
            Event::NetworkTrouble(text) => {
                say(format!("network: {text}"));
                self.trouble = Some(text);
            }
            Event::Input(path) => self.inputs.extend(power::open(&path).map(|file| (path, file))),
            Event::Coldplugged { milliseconds, failures } => {
                say(format!("coldplug     {milliseconds:>6} ms, at {:>6} ms", uptime_ms()));
                failures.iter().for_each(say);
                self.arm_watchdog();
            }
        }
    }

    fn arm_watchdog(&mut self) {
        if self.watchdog.is_none() {
            self.watchdog = Watchdog::open();
        }
    }

    fn read_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            match Signal::try_from(signal.ssi_signo as i32) {
                Ok(Signal::SIGCHLD) => self.reap(),
                Ok(Signal::SIGINT) => self.want(Goal::Reboot, "Ctrl-Alt-Del"),
                Ok(Signal::SIGTERM) => self.want(Goal::Reboot, "SIGTERM"),
                Ok(Signal::SIGPWR | Signal::SIGUSR2) => self.want(Goal::PowerOff, "a signal"),
                _ => {}
            }
        }
    }

    fn want(&mut self, goal: Goal, who: &str) {
        if self.goal.is_none() {
            let what = if goal == Goal::Reboot { "reboot" } else { "power off" };
            say(format!("{who}: {what}"));
            self.goal = Some(goal);
        }
    }

    fn read_input(&mut self, place: usize) {
        match self.inputs.get_mut(place).map(|(_, device)| power::pressed(device)) {
            Some(Some(true)) => self.want(Goal::PowerOff, "power button"),
            Some(None) => {
                self.inputs.remove(place);
            }
            _ => {}
        }
    }

    fn read_notifications(&mut self) {
        for notification in notify::receive(&self.notify) {
            let by_process = self.units.iter().position(|unit| unit.process == Some(notification.process));
            let by_group = || {
                let name = super::cgroup::service_of(notification.process)?;
                self.units.iter().position(|unit| unit.name == name)
            };
            let Some(place) = by_process.or_else(by_group) else { continue };
            if notification.ready && self.units[place].service.ready == Ready::Notify {
                self.became_ready(place);
            } else if let (Some(status), ServiceState::Starting) = (notification.status, self.units[place].state) {
                self.units[place].detail = Some(status);
            }
        }
    }

    fn answer(&mut self, request: Request) -> Response {
        match request {
            Request::Status => Response::Status { status: self.status() },
            Request::Reboot => {
                self.want(Goal::Reboot, "request");
                Response::Ok
            }
            Request::PowerOff => {
                self.want(Goal::PowerOff, "request");
                Response::Ok
            }
            Request::RestartService { name } => match self.units.iter().position(|unit| unit.name == name) {
                Some(place) if self.units[place].service.exec.is_empty() => Response::Error {
                    message: format!(
                        "service `{name}` was refused: {}",
                        self.units[place].detail.clone().unwrap_or_default()
                    ),
                },
                Some(place) => {
                    self.restart(place);
                    Response::Ok
                }
                None => Response::Error { message: format!("there is no service `{name}`") },
            },
            Request::ResetState => self.reset_state(),
            Request::SetClock { seconds, nanoseconds } => self.set_clock(seconds, nanoseconds),
            Request::SealSeed { cluster_id } => match self.machine.seal_seed(&self.handover.disk, cluster_id) {
                Ok(()) => Response::Ok,
                Err(error) => Response::Error { message: format!("the seed cannot be written: {error}") },
            },
        }
    }

    /// What is there is used up to the reboot; only the next boot loses it.
    fn reset_state(&mut self) -> Response {
        let named = self.machine.definition.as_ref().and_then(|definition| definition.state_disk.as_deref());
        match crate::disk::state::mark_for_making(&self.handover.disk, named) {
            Ok(()) => {
                self.want(Goal::Reboot, "the state is reset at the next boot");
                Response::Ok
            }
            Err(error) => Response::Error { message: format!("the state cannot be reset: {error}") },
        }
    }

    fn set_clock(&self, seconds: u64, nanoseconds: u32) -> Response {
        let earliest = self.machine.earliest_time();
        if seconds < earliest {
            return Response::Error {
                message: format!("{seconds} is before {earliest}, when this image and its data existed already"),
            };
        }
        match clock::set(seconds, nanoseconds) {
            Ok(()) => {
                clock::save();
                Response::Ok
            }
            Err(error) => Response::Error { message: format!("the clock cannot be set: {error}") },
        }
    }

    fn housekeeping(&mut self) {
        let now = uptime_ms();
        if now >= self.feed_at {
            self.feed_at = now + FEED_EVERY_MS;
            if let Some(watchdog) = &mut self.watchdog {
                watchdog.feed();
            }
        }
        if now >= self.save_clock_at {
            self.save_clock_at = now + SAVE_CLOCK_EVERY_MS;
            clock::save();
        }
        if now >= self.sort_children_at {
            self.sort_children_at = now + SORT_CHILDREN_EVERY_MS;
            self.sort_children();
        }
        if self.handover.debug_shell && self.shell.is_none() && now >= self.shell_at && !self.shutting_down {
            self.shell_at = now + 1000;
            self.shell = crate::shell::start();
        }
    }

    fn next_deadline(&self) -> u64 {
        let mut deadline = self.feed_at.min(self.save_clock_at);
        if self.handover.debug_shell && self.shell.is_none() && !self.shutting_down {
            deadline = deadline.min(self.shell_at);
        }
        for unit in &self.units {
            deadline = deadline.min(unit.kill_at.unwrap_or(u64::MAX));
            if unit.state == ServiceState::Waiting && unit.start_at > uptime_ms() && !self.shutting_down {
                deadline = deadline.min(unit.start_at);
            }
            if unit.state == ServiceState::Starting {
                deadline = deadline
                    .min(unit.probe.as_ref().map_or(unit.probe_at, super::probe::Probe::ends_at).max(uptime_ms()));
                if !unit.said_late {
                    deadline = deadline.min(unit.started_at + u64::from(unit.service.ready_timeout) * 1000);
                }
            }
        }
        deadline.min(self.view.redraw_at())
    }

    /// What a time that passed brings.
    fn expire(&mut self) {
        let now = uptime_ms();
        for place in 0..self.units.len() {
            if self.units[place].kill_at.is_some_and(|at| now >= at) {
                self.kill(place);
            }
            if self.units[place].state == ServiceState::Starting {
                self.check_ready(place);
            }
        }
    }

    /// The files that services wait for, and the agent's status.
    fn watch_files(&mut self) {
        let mut paths: Vec<&str> = vec![paths::NODE_STATUS_FILE];
        for unit in &self.units {
            match (unit.state, &unit.service.ready) {
                (ServiceState::Waiting, _) => paths.extend(unit.service.wants_files.iter().map(String::as_str)),
                (ServiceState::Starting, Ready::File(path)) => paths.push(path),
                _ => {}
            }
        }
        self.files.wait_for(paths);
    }

    fn read_node_status(&mut self) {
        if let Some(status) = std::fs::read(paths::NODE_STATUS_FILE)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<NodeStatus>(&bytes).ok())
        {
            self.node = Some(status);
        }
    }
}

/// When a probe that failed is repeated.
pub(super) fn next_probe() -> u64 {
    uptime_ms() + PAUSE
}
