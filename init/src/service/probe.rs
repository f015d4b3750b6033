//! Asking a service whether it is ready without ever waiting for it: a connection, or an HTTP/1.0 GET.

use crate::console::uptime_ms;
use rustix::event::PollFlags;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};
use std::net::SocketAddr;

/// Milliseconds for one attempt, and between two.
const PATIENCE: u64 = 2000;
pub const PAUSE: u64 = 200;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Pending,
    Ready,
    NotReady,
}

#[derive(Debug)]
enum Phase {
    Connecting,
    Reading(Vec<u8>),
}

#[derive(Debug)]
pub struct Probe {
    socket: OwnedFd,
    phase: Phase,
    /// Path to GET; `None` for a mere connection.
    request: Option<String>,
    ends_at: u64,
}

impl Probe {
    /// Begins an attempt; `None` where not even a socket is to be had.
    pub fn begin(address: SocketAddr, path: Option<&str>) -> Option<Probe> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket =
            socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None).ok()?;
        match connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(_) => return None,
        }
        let request = path.map(|path| format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n"));
        Some(Probe { socket, phase: Phase::Connecting, request, ends_at: uptime_ms() + PATIENCE })
    }

    pub fn descriptor(&self) -> (BorrowedFd<'_>, PollFlags) {
        let flags = match self.phase {
            Phase::Connecting => PollFlags::OUT,
            Phase::Reading(_) => PollFlags::IN,
        };
        (self.socket.as_fd(), flags)
    }

    pub fn ends_at(&self) -> u64 {
        self.ends_at
    }

    /// Goes on after the descriptor became ready, or the time passed.
    pub fn advance(&mut self, readable: bool) -> Outcome {
        if !readable {
            return if uptime_ms() >= self.ends_at { Outcome::NotReady } else { Outcome::Pending };
        }
        match &mut self.phase {
            Phase::Connecting => match (sockopt::socket_error(&self.socket), &self.request) {
                (Ok(Ok(())), None) => Outcome::Ready,
                (Ok(Ok(())), Some(request)) => {
                    // A request of a hundred bytes fits the empty buffer of a new connection.
                    let sent = rustix::net::send(&self.socket, request.as_bytes(), rustix::net::SendFlags::NOSIGNAL);
                    self.phase = Phase::Reading(Vec::new());
                    if sent.is_ok() { Outcome::Pending } else { Outcome::NotReady }
                }
                _ => Outcome::NotReady,
            },
            Phase::Reading(answer) => {
                let mut bytes = [0u8; 256];
                match rustix::io::read(&self.socket, &mut bytes) {
                    Ok(0) => judge(answer, true),
                    Ok(count) => {
                        answer.extend_from_slice(&bytes[..count]);
                        judge(answer, false)
                    }
                    Err(Errno::AGAIN | Errno::INTR) => Outcome::Pending,
                    Err(_) => Outcome::NotReady,
                }
            }
        }
    }
}

/// The status line says it: `HTTP/1.1 200 ...`.
fn judge(answer: &[u8], over: bool) -> Outcome {
    let line = String::from_utf8_lossy(answer.get(..answer.len().min(64)).unwrap_or_default()).into_owned();
    let mut words = line.split(' ');
    match (words.next(), words.next(), words.next()) {
        (Some(version), Some(status), Some(_)) if version.starts_with("HTTP/1.") => {
            if status == "200" {
                Outcome::Ready
            } else {
                Outcome::NotReady
            }
        }
        _ if over || answer.len() > 64 => Outcome::NotReady,
        _ => Outcome::Pending,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::time::Duration;

    fn drive(mut probe: Probe) -> Outcome {
        loop {
            let (descriptor, flags) = probe.descriptor();
            let mut wait = [rustix::event::PollFd::from_borrowed_fd(descriptor, flags)];
            rustix::event::poll(&mut wait, Some(&crate::timespec(Duration::from_secs(3)))).unwrap();
            let ready = !wait[0].revents().is_empty();
            match probe.advance(ready) {
                Outcome::Pending => {}
                other => return other,
            }
        }
    }

    fn served(answer: &'static [u8], path: Option<&str>) -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            let _ = stream.read(&mut [0; 200]);
            let _ = stream.write_all(answer);
        });
        let outcome = drive(Probe::begin(address, path).unwrap());
        server.join().unwrap();
        outcome
    }

    #[test]
    fn only_200_is_ready() {
        assert_eq!(served(b"HTTP/1.1 200 OK\r\n\r\nok", Some("/health")), Outcome::Ready);
        assert_eq!(served(b"HTTP/1.0 503 Not yet\r\n\r\n", Some("/health")), Outcome::NotReady);
        assert_eq!(served(b"SSH-2.0-x\r\n", Some("/")), Outcome::NotReady);
        assert_eq!(served(b"", None), Outcome::Ready);
    }

    #[test]
    fn a_closed_port_is_not_ready() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        if let Some(probe) = Probe::begin(address, None) {
            assert_eq!(drive(probe), Outcome::NotReady);
        }
    }
}
