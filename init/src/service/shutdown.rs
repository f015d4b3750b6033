//! The one exit path: pods, services in reverse order, what is left, file systems, reboot.

use super::supervisor::{Goal, Supervisor};
use super::{cgroup, spawn};
use crate::console::{say, uptime_ms};
use crate::{boot, clock, mounts};
use rustix::process::{Pid, Signal, kill_process};
use spec::paths;
use spec::status::ServiceState;
use std::path::Path;

/// Milliseconds that pods get together, and that killed processes get to vanish.
const PODS_PATIENCE: u64 = 90_000;
const KILLED_PATIENCE: u64 = 5_000;
/// The agent's command that marks the node and stops its pods within their grace periods.
const STOP_PODS: &str = "stop-pods";
/// The service that starts pods.
const KUBELET: &str = "kubelet";

impl Supervisor {
    /// Takes the machine down. Never returns.
    pub(super) fn take_down(&mut self, goal: Goal) -> ! {
        self.shutting_down = true;
        let begun = uptime_ms();
        self.show();
        self.stop_pods();
        self.stop_services();
        self.kill_leftovers();
        say("saving the clock, unmounting");
        clock::save();
        crate::random::save();
        for unit in &mut self.units {
            unit.outputs.clear();
            unit.log.close();
        }
        rustix::fs::sync();
        mounts::unmount_all();
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.close();
        }
        let what = if goal == Goal::Reboot { "rebooting" } else { "powering off" };
        say(format!("{what} after {} ms", uptime_ms() - begun));
        boot::reboot_now(goal == Goal::PowerOff)
    }

    /// Runs the agent's command while everything but kubelet still works: kubelet would start stopped
    /// containers again and call the node Ready. Without kubelet there are no pods to ask for.
    fn stop_pods(&mut self) {
        let kubelet = self.units.iter().position(|unit| unit.name == KUBELET && unit.process.is_some());
        let Some(kubelet) = kubelet.filter(|_| Path::new(paths::AGENT).exists()) else { return };
        say("stopping pods");
        self.stop(kubelet);
        while self.units[kubelet].process.is_some() {
            self.round(None);
        }
        let child = match spawn::helper(paths::AGENT, &[STOP_PODS]) {
            Ok(started) => {
                self.units[kubelet].outputs.push(started.output);
                started.process
            }
            Err(error) => return say(format!("{STOP_PODS}: {error}")),
        };
        let end = uptime_ms() + PODS_PATIENCE;
        while !self.ended.contains(&child) {
            if uptime_ms() >= end {
                say(format!("pods did not end within {} s", PODS_PATIENCE / 1000));
                if let Some(pid) = i32::try_from(child).ok().and_then(Pid::from_raw) {
                    let _ = kill_process(pid, Signal::KILL);
                }
                return;
            }
            self.round(Some(end));
        }
    }

    /// A service stops once nothing that stands after it lives.
    fn stop_services(&mut self) {
        say("stopping services");
        loop {
            let alive: Vec<usize> =
                (0..self.units.len()).filter(|place| self.units[*place].process.is_some()).collect();
            if alive.is_empty() {
                break;
            }
            for place in &alive {
                let name = &self.units[*place].name;
                let needed = alive.iter().any(|other| self.units[*other].service.after.contains(name));
                if !needed && self.units[*place].state != ServiceState::Stopping {
                    self.stop(*place);
                }
            }
            self.round(None);
        }
        for place in 0..self.units.len() {
            self.stop(place);
        }
    }

    /// Pods that did not end, shims, and whatever services left behind.
    fn kill_leftovers(&mut self) {
        let groups = [cgroup::PODS, cgroup::RUNTIME, "/sys/fs/cgroup/system"];
        for group in groups {
            cgroup::kill(Path::new(group));
        }
        if let Some(pid) = self.shell.and_then(|shell| i32::try_from(shell).ok()).and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
        let end = uptime_ms() + KILLED_PATIENCE;
        while groups.iter().any(|group| cgroup::populated(Path::new(group))) && uptime_ms() < end {
            self.round(Some((uptime_ms() + 50).min(end)));
        }
        // Last, what lives outside every group of ours; PID 1 is spared by the kernel.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(-1), nix::sys::signal::Signal::SIGKILL);
        while matches!(rustix::process::wait(rustix::process::WaitOptions::NOHANG), Ok(Some(_))) {}
    }
}
