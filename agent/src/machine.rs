//! What the agent tells init and the console: readiness, requests on init's socket, the status file.

use crate::files;
use spec::paths;
use spec::status::{NodeStatus, Request, Response};
use std::cell::RefCell;
use std::io;
use std::path::Path;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

/// A line for the service's log, which init keeps.
pub fn say(line: impl AsRef<str>) {
    eprintln!("{}", line.as_ref());
}

/// Sends READY=1 to the socket that NOTIFY_SOCKET names, sd_notify(3). Nothing when it is unset.
pub fn notify_ready() -> io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let socket = std::os::unix::net::UnixDatagram::unbound()?;
    socket.send_to(b"READY=1", Path::new(&path)).map(drop)
}

/// Asks init something; its error message becomes the error.
pub async fn ask_init(request: &Request) -> io::Result<Response> {
    let mut stream = tokio::net::UnixStream::connect(paths::INIT_SOCKET).await?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes()).await?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).await?;
    match serde_json::from_str(&answer)? {
        Response::Error { message } => Err(io::Error::other(message)),
        response => Ok(response),
    }
}

/// The status file's content; written only when it changes.
#[derive(Debug)]
pub struct Status {
    current: RefCell<NodeStatus>,
    /// What the agent waits for, etcd aside.
    phase: RefCell<String>,
    /// What etcd waits for: all else waits for it, so it goes before.
    etcd_phase: RefCell<Option<String>>,
}

impl Status {
    pub fn new(status: NodeStatus) -> Status {
        let phase = RefCell::new(status.phase.clone());
        let status = Status { current: RefCell::new(status), phase, etcd_phase: RefCell::default() };
        status.write();
        status
    }

    /// Changes it and writes the file when that made a difference.
    pub fn update(&self, change: impl FnOnce(&mut NodeStatus)) {
        let mut next = self.current.borrow().clone();
        change(&mut next);
        let changed = next != *self.current.borrow();
        if changed {
            *self.current.borrow_mut() = next;
            self.write();
        }
    }

    /// Says what the agent waits for now; logged when it is new.
    pub fn phase(&self, phase: &str) {
        if self.phase.replace(phase.into()) != phase {
            say(phase);
        }
        self.show_phase();
    }

    /// The same of etcd; `None`: it waits for nothing any more.
    pub fn etcd_phase(&self, phase: Option<&str>) {
        let before = self.etcd_phase.replace(phase.map(Into::into));
        if let Some(phase) = phase.filter(|phase| before.as_deref() != Some(phase)) {
            say(phase);
        }
        self.show_phase();
    }

    fn show_phase(&self) {
        let phase = self.etcd_phase.borrow().clone().unwrap_or_else(|| self.phase.borrow().clone());
        self.update(|status| status.phase = phase);
    }

    pub fn current(&self) -> NodeStatus {
        self.current.borrow().clone()
    }

    fn write(&self) {
        let text = match serde_json::to_string(&*self.current.borrow()) {
            Ok(text) => text,
            Err(error) => return say(format!("status: {error}")),
        };
        if let Err(error) = files::write(Path::new(paths::NODE_STATUS_FILE), text, 0o644, false) {
            say(format!("status: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_etcd_waits_for_goes_before_and_is_forgotten_when_it_is_over() {
        let status = Status::new(NodeStatus { phase: "joining the cluster".into(), ..NodeStatus::default() });
        let shown = || status.current().phase;
        status.etcd_phase(Some("forming waits for m3"));
        assert_eq!(shown(), "forming waits for m3");
        status.phase("Ready");
        assert_eq!(shown(), "forming waits for m3");
        status.etcd_phase(None);
        assert_eq!(shown(), "Ready");
    }
}
