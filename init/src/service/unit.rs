//! One service at run time.

use super::backoff::Backoff;
use super::log::{LIMIT, RingLog};
use super::probe::Probe;
use crate::console::uptime_ms;
use rustix::fd::OwnedFd;
use spec::service::{Ready, RestartPolicy, Service};
use spec::status::{ServiceState, ServiceStatus};
use std::path::Path;

pub struct Unit {
    pub name: String,
    pub service: Service,
    pub state: ServiceState,
    pub process: Option<u32>,
    pub restarts: u32,
    pub since_ms: u64,
    pub detail: Option<String>,
    pub backoff: Backoff,
    /// Not started before this time.
    pub start_at: u64,
    pub started_at: u64,
    /// What runs before SIGTERM.
    pub before_stop: Option<u32>,
    /// When SIGKILL follows SIGTERM, or SIGTERM what runs before it.
    pub kill_at: Option<u64>,
    /// Start again after a stop that somebody asked for.
    pub restart_wanted: bool,
    pub log: RingLog,
    /// Pipes of this run and, where children outlived it, of earlier ones.
    pub outputs: Vec<OwnedFd>,
    pub probe: Option<Probe>,
    pub probe_at: u64,
    pub was_ready: bool,
    pub said_late: bool,
}

/// What follows the end of a service's main process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AfterExit {
    /// Ended well and stays so.
    Done,
    /// Again, after the back-off.
    Again,
    /// Ended and stays so.
    Failed,
}

/// Decides by definition and exit status; pure.
pub fn after_exit(ready: &Ready, policy: RestartPolicy, success: bool) -> AfterExit {
    match (ready, policy, success) {
        (Ready::Exit, _, true) | (_, RestartPolicy::OnFailure | RestartPolicy::Never, true) => AfterExit::Done,
        (_, RestartPolicy::Never, false) => AfterExit::Failed,
        _ => AfterExit::Again,
    }
}

impl Unit {
    pub fn new(name: String, service: Service) -> Unit {
        let log = RingLog::new(Path::new(spec::paths::LOG_DIR), &name, LIMIT);
        Unit {
            name,
            service,
            state: ServiceState::Waiting,
            process: None,
            restarts: 0,
            since_ms: uptime_ms(),
            detail: None,
            backoff: Backoff::default(),
            start_at: 0,
            started_at: 0,
            before_stop: None,
            kill_at: None,
            restart_wanted: false,
            log,
            outputs: Vec::new(),
            probe: None,
            probe_at: 0,
            was_ready: false,
            said_late: false,
        }
    }

    pub fn set(&mut self, state: ServiceState, detail: Option<String>) {
        if self.state != state {
            self.since_ms = uptime_ms();
        }
        self.state = state;
        self.detail = detail;
    }

    /// Has done, or does, what others wait for.
    pub fn fulfilled(&self) -> bool {
        self.state.is_well()
    }

    pub fn status(&self) -> ServiceStatus {
        ServiceStatus {
            name: self.name.clone(),
            state: self.state,
            pid: self.process,
            restarts: self.restarts,
            since_ms: self.since_ms,
            detail: self.detail.clone(),
        }
    }

    /// Reads what the program wrote; forgets pipes that everybody has closed.
    pub fn read_outputs(&mut self) {
        let log = &mut self.log;
        self.outputs.retain(|output| {
            let mut buffer = [0u8; 16 * 1024];
            // A flood must not keep init from its other work: the rest comes in the next round.
            for _ in 0..8 {
                match rustix::io::read(output, &mut buffer) {
                    Ok(0) => return false,
                    Ok(count) => log.append(&buffer[..count]),
                    Err(rustix::io::Errno::INTR) => {}
                    Err(_) => return true,
                }
            }
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_an_exit() {
        use RestartPolicy::{Always, Never, OnFailure};
        for (ready, policy, success, wanted) in [
            (Ready::Started, Always, true, AfterExit::Again),
            (Ready::Started, Always, false, AfterExit::Again),
            (Ready::Started, OnFailure, true, AfterExit::Done),
            (Ready::Started, OnFailure, false, AfterExit::Again),
            (Ready::Notify, Never, false, AfterExit::Failed),
            (Ready::Exit, Always, true, AfterExit::Done),
            (Ready::Exit, Always, false, AfterExit::Again),
            (Ready::Exit, Never, false, AfterExit::Failed),
        ] {
            assert_eq!(after_exit(&ready, policy, success), wanted, "{ready:?} {policy:?} {success}");
        }
    }
}
