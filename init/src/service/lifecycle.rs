//! From waiting to ready and to the next run: what the supervisor does to its units.

use super::definition::split_url;
use super::probe::{Outcome, Probe};
use super::supervisor::{Supervisor, next_probe};
use super::unit::{AfterExit, Unit, after_exit};
use super::{cgroup, spawn};
use crate::console::{say, uptime_ms};
use rustix::process::{Pid, Signal, WaitOptions, kill_process};
use spec::service::{Kill, Ready};
use spec::status::ServiceState;
use std::path::Path;

impl Supervisor {
    /// Starts every unit that waits for nothing more; says what the others wait for.
    pub(super) fn start_what_can(&mut self) {
        if self.shutting_down {
            return;
        }
        for place in 0..self.units.len() {
            if self.units[place].state != ServiceState::Waiting || self.units[place].start_at > uptime_ms() {
                continue;
            }
            match self.waits_for(&self.units[place]) {
                Some(reason) => self.units[place].detail = Some(reason),
                None => self.start(place),
            }
        }
    }

    fn waits_for(&self, unit: &Unit) -> Option<String> {
        let unready = |name: &&String| {
            !self.units.iter().any(|other| other.name == **name && (other.fulfilled() || other.was_ready))
        };
        let services = unit.service.after.iter().filter(unready).cloned();
        let files = unit.service.wants_files.iter().filter(|path| !Path::new(path).exists()).cloned();
        let reasons: Vec<String> = services.chain(files).collect();
        (!reasons.is_empty()).then(|| format!("for {}", reasons.join(", ")))
    }

    fn start(&mut self, place: usize) {
        let unit = &mut self.units[place];
        unit.started_at = uptime_ms();
        unit.said_late = false;
        unit.kill_at = None;
        // What it said of its life before this one.
        if let Ready::File(path) = &unit.service.ready {
            drop(std::fs::remove_file(path));
        }
        match spawn::start(&unit.name, &unit.service) {
            Ok(started) => {
                unit.process = Some(started.process);
                unit.outputs.push(started.output);
                unit.probe = None;
                unit.probe_at = 0;
                unit.set(ServiceState::Starting, None);
                if unit.service.ready == Ready::Started {
                    self.became_ready(place);
                } else {
                    self.check_ready(place);
                }
            }
            Err(error) => self.failed(place, &error.to_string()),
        }
    }

    /// Looks whether a unit that starts has become ready, or is late.
    pub(super) fn check_ready(&mut self, place: usize) {
        let now = uptime_ms();
        let unit = &mut self.units[place];
        if let Ready::File(path) = &unit.service.ready
            && Path::new(path).exists()
        {
            return self.became_ready(place);
        }
        if unit.probe.as_ref().is_some_and(|probe| now >= probe.ends_at()) {
            self.advance_probe(place, false);
        }
        let unit = &mut self.units[place];
        if unit.probe.is_none() && now >= unit.probe_at {
            unit.probe = match &unit.service.ready {
                Ready::Tcp(address) => address.parse().ok().and_then(|address| Probe::begin(address, None)),
                Ready::Http(url) => split_url(url).and_then(|(address, path)| Probe::begin(address, Some(&path))),
                _ => None,
            };
            let probing = matches!(unit.service.ready, Ready::Tcp(_) | Ready::Http(_));
            unit.probe_at = if probing { next_probe() } else { u64::MAX };
        }
        let late = now >= unit.started_at + u64::from(unit.service.ready_timeout) * 1000;
        if late && !unit.said_late && unit.state == ServiceState::Starting {
            unit.said_late = true;
            unit.detail = Some(format!("not ready after {} s", unit.service.ready_timeout));
            say(format!(
                "service {} is not ready after {} s; its log ends: {}",
                unit.name,
                unit.service.ready_timeout,
                unit.log.last_line()
            ));
        }
    }

    pub(super) fn advance_probe(&mut self, place: usize, readable: bool) {
        let unit = &mut self.units[place];
        match unit.probe.as_mut().map(|probe| probe.advance(readable)) {
            Some(Outcome::Ready) => self.became_ready(place),
            Some(Outcome::NotReady) => {
                unit.probe = None;
                unit.probe_at = next_probe();
            }
            Some(Outcome::Pending) | None => {}
        }
    }

    pub(super) fn became_ready(&mut self, place: usize) {
        let unit = &mut self.units[place];
        if unit.state != ServiceState::Starting {
            return;
        }
        unit.probe = None;
        unit.set(ServiceState::Ready, None);
        if !unit.was_ready || unit.service.ready != Ready::Started {
            say(format!(
                "service {:<24} ready after {:>6} ms, at {:>6} ms",
                unit.name,
                uptime_ms() - unit.started_at,
                uptime_ms()
            ));
        }
        unit.was_ready = true;
    }

    /// Collects every process that ended: units', and orphans that became ours.
    pub(super) fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let Ok(process) = u32::try_from(pid.as_raw_nonzero().get()) else { continue };
            if self.shell == Some(process) {
                self.shell = None;
            } else if let Some(place) = self.units.iter().position(|unit| unit.process == Some(process)) {
                let words = match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => format!("ended with status {code}"),
                    (None, Some(signal)) => format!("was killed by signal {signal}"),
                    (None, None) => "ended".to_owned(),
                };
                self.ended(place, status.exit_status() == Some(0), &words);
            } else if let Some(place) = self.units.iter().position(|unit| unit.before_stop == Some(process)) {
                self.terminate(place);
            } else {
                self.ended.push(process);
            }
        }
    }

    fn ended(&mut self, place: usize, success: bool, words: &str) {
        let unit = &mut self.units[place];
        unit.process = None;
        unit.probe = None;
        unit.before_stop = None;
        unit.kill_at = None;
        unit.read_outputs();
        let group = cgroup::of_service(&unit.name);
        match unit.service.kill {
            Kill::Leaf => cgroup::kill(&group),
            Kill::Runtime => cgroup::move_to_runtime(&group),
        }
        if unit.state == ServiceState::Stopping {
            let again = std::mem::take(&mut unit.restart_wanted) && !self.shutting_down;
            unit.restarts += u32::from(again);
            unit.start_at = 0;
            unit.set(if again { ServiceState::Waiting } else { ServiceState::Stopped }, None);
            return;
        }
        match after_exit(&unit.service.ready, unit.service.restart.policy, success) {
            AfterExit::Done => {
                if !unit.was_ready {
                    say(format!(
                        "service {:<24} done after  {:>6} ms, at {:>6} ms",
                        unit.name,
                        uptime_ms() - unit.started_at,
                        uptime_ms()
                    ));
                }
                unit.was_ready = true;
                unit.set(ServiceState::Done, None);
            }
            AfterExit::Again => self.failed(place, words),
            AfterExit::Failed => {
                say(format!("service {} {words} and is not started again: {}", unit.name, unit.log.last_line()));
                unit.set(ServiceState::Failed, Some(words.to_owned()));
            }
        }
    }

    /// Schedules the next run. Said for the first failures, then ever more rarely.
    fn failed(&mut self, place: usize, words: &str) {
        let now = uptime_ms();
        let unit = &mut self.units[place];
        let delay = unit.backoff.next(&unit.service.restart, now.saturating_sub(unit.started_at));
        unit.restarts += 1;
        unit.start_at = now + delay;
        if unit.restarts.is_power_of_two() {
            say(format!(
                "service {} {words}, again in {delay} ms (restart {}): {}",
                unit.name,
                unit.restarts,
                unit.log.last_line()
            ));
        }
        unit.set(ServiceState::Waiting, Some(format!("{words}; restart {}", unit.restarts)));
    }

    /// Asks a unit to end, once what comes before it is done; SIGKILL follows after its time.
    pub(super) fn stop(&mut self, place: usize) {
        let unit = &mut self.units[place];
        match unit.process {
            Some(process) if unit.state != ServiceState::Stopping => {
                if unit.service.kill == Kill::Runtime {
                    cgroup::move_children_to_runtime(&cgroup::of_service(&unit.name), process);
                }
                unit.set(ServiceState::Stopping, None);
                match spawn::before_stop(&unit.service) {
                    Ok(None) => self.terminate(place),
                    Ok(Some(started)) => {
                        unit.before_stop = Some(started.process);
                        unit.outputs.push(started.output);
                        unit.kill_at = Some(stop_limit(unit));
                    }
                    Err(error) => {
                        say(format!("service {}: before-stop: {error}", unit.name));
                        self.terminate(place);
                    }
                }
            }
            Some(_) => {}
            None => {
                if !matches!(unit.state, ServiceState::Done | ServiceState::Failed) {
                    unit.set(ServiceState::Stopped, None);
                }
            }
        }
    }

    fn terminate(&mut self, place: usize) {
        let unit = &mut self.units[place];
        unit.before_stop = None;
        let Some(process) = unit.process else { return };
        unit.kill_at = Some(stop_limit(unit));
        signal(process, Signal::TERM);
    }

    /// What a unit's end waits for has had its time.
    pub(super) fn kill(&mut self, place: usize) {
        let unit = &mut self.units[place];
        unit.kill_at = None;
        if let Some(before) = unit.before_stop {
            say(format!("service {}: {} did not end and is killed", unit.name, unit.service.before_stop.join(" ")));
            signal(before, Signal::KILL);
            return self.terminate(place);
        }
        let Some(process) = unit.process else { return };
        say(format!("service {} did not end within {} s and is killed", unit.name, unit.service.stop_timeout));
        if unit.service.kill == Kill::Leaf {
            cgroup::kill(&cgroup::of_service(&unit.name));
        }
        signal(process, Signal::KILL);
    }

    /// Stops and starts again, or starts what is not running.
    pub(super) fn restart(&mut self, place: usize) {
        let unit = &mut self.units[place];
        unit.start_at = 0;
        if unit.process.is_some() {
            unit.restart_wanted = true;
            self.stop(place);
        } else {
            unit.set(ServiceState::Waiting, None);
        }
    }

    /// containerd's shims leave its group soon after they were born, so that nothing that befalls the
    /// service's group befalls them.
    pub(super) fn sort_children(&self) {
        for unit in self.units.iter().filter(|unit| unit.service.kill == Kill::Runtime) {
            if let Some(process) = unit.process {
                cgroup::move_children_to_runtime(&cgroup::of_service(&unit.name), process);
            }
        }
    }
}

/// When a unit that begins to stop, or gets SIGTERM, now is killed.
fn stop_limit(unit: &Unit) -> u64 {
    uptime_ms() + u64::from(unit.service.stop_timeout) * 1000
}

fn signal(process: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}
