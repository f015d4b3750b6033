//! A network switch of our own between machines: each port is a pair of unix datagram sockets, so that
//! a machine may start, die and come back at any time, and frames can be lost, delayed and cut off.
//!
//! A frame for a machine that is not there is dropped, as Ethernet does; no port ever waits for
//! another. The decisions are in [`frames`]; here is the thread that carries them out.

mod frames;

use crate::process::socket_folder;
use crate::{Error, NicLink, Result};
use frames::Frames;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

pub use frames::Line;

/// The largest frame that QEMU sends.
const LONGEST_FRAME: usize = 4096 + 65536;
/// Frames that wait for a machine to take them: the kernel holds as few as 10 itself.
const BACKLOG: usize = 512;
/// Frames that one port may bring before the next one's turn.
const TURN: usize = 64;
const CHANCE_SEED: u64 = 4;

/// A switch that runs. Dropping it ends it and takes its sockets away.
#[derive(Debug)]
pub struct Switch {
    shared: Arc<Mutex<Shared>>,
    ports: Sender<Port>,
    /// A byte wakes the thread, closing it ends the thread.
    wake: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
    sockets: tempfile::TempDir,
}

#[derive(Debug)]
struct Shared {
    frames: Frames,
    /// Names of the ports by their numbers.
    names: Vec<String>,
}

impl Switch {
    /// # Errors
    /// [`Error::File`] when sockets or the thread cannot be made.
    pub fn start() -> Result<Switch> {
        let sockets = socket_folder()?;
        let failed = |action| Error::file(sockets.path(), action);
        let (wake, woken) = UnixStream::pair().map_err(failed("make sockets for"))?;
        woken.set_nonblocking(true).map_err(failed("set up sockets for"))?;
        let shared = Shared { frames: Frames::new(CHANCE_SEED), names: Vec::new() };
        let shared = Arc::new(Mutex::new(shared));
        let (ports, new_ports) = channel();
        let mut worker = Worker { shared: Arc::clone(&shared), ports: Vec::new(), new_ports, woken };
        let thread = std::thread::Builder::new()
            .name("switch".into())
            .spawn(move || worker.run())
            .map_err(failed("start the thread for"))?;
        Ok(Switch { shared, ports, wake: Some(wake), thread: Some(thread), sockets })
    }

    /// A new port; returns the machine's end of its cable. The name is also the socket's.
    ///
    /// # Errors
    /// [`Error::Configuration`] for a second port of this name, [`Error::File`].
    pub fn plug(&self, name: &str) -> Result<NicLink> {
        let mut shared = self.lock();
        if shared.names.iter().any(|known| known == name) {
            return Err(problem(name, "it is plugged in already"));
        }
        let ours = self.sockets.path().join(format!("{name}.switch"));
        let theirs = self.sockets.path().join(format!("{name}.machine"));
        let port = Port::open(&ours, theirs.clone()).map_err(Error::file(&ours, "bind"))?;
        shared.names.push(name.into());
        shared.frames.add_port();
        // Sent under the lock, so that the thread counts its ports in the same order.
        self.ports.send(port).map_err(|_| problem(name, "the switch has ended"))?;
        if let Some(mut wake) = self.wake.as_ref() {
            wake.write_all(&[0]).map_err(Error::file(&ours, "tell the switch of"))?;
        }
        Ok(NicLink::Datagram { local: theirs, remote: ours })
    }

    /// Cuts one off from all others.
    pub fn cut(&self, name: &str) -> Result<()> {
        self.change(&[name], |frames, ports| frames.cut(ports[0]))
    }

    /// Cuts two off from each other; both reach all others.
    pub fn cut_between(&self, one: &str, other: &str) -> Result<()> {
        self.change(&[one, other], |frames, ports| frames.cut_between(ports[0], ports[1]))
    }

    /// Ends every cut of this port.
    pub fn heal(&self, name: &str) -> Result<()> {
        self.change(&[name], |frames, ports| frames.heal(ports[0]))
    }

    /// What every frame meets from now on.
    pub fn set_line(&self, line: Line) {
        self.lock().frames.line = line;
    }

    fn change(&self, names: &[&str], change: impl FnOnce(&mut Frames, &[usize])) -> Result<()> {
        let mut shared = self.lock();
        let number = |name: &&str| {
            let found = shared.names.iter().position(|known| known == name);
            found.ok_or_else(|| problem(name, "it is not plugged into the switch"))
        };
        let ports = names.iter().map(number).collect::<Result<Vec<usize>>>()?;
        change(&mut shared.frames, &ports);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn problem(port: &str, problem: &str) -> Error {
    Error::Configuration { machine: port.into(), problem: problem.into() }
}

impl Drop for Switch {
    fn drop(&mut self) {
        drop(self.wake.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::warn!("the switch's thread panicked");
        }
    }
}

/// The switch's side of a cable.
#[derive(Debug)]
struct Port {
    incoming: UnixDatagram,
    /// Apart from `incoming`, which would refuse a machine that came back while it is connected to the
    /// one before; connected, because poll(2) tells only then when the other end has room again.
    outgoing: UnixDatagram,
    remote: PathBuf,
    backlog: VecDeque<Vec<u8>>,
}

impl Port {
    fn open(local: &std::path::Path, remote: PathBuf) -> std::io::Result<Port> {
        let (incoming, outgoing) = (UnixDatagram::bind(local)?, UnixDatagram::unbound()?);
        incoming.set_nonblocking(true)?;
        outgoing.set_nonblocking(true)?;
        Ok(Port { incoming, outgoing, remote, backlog: VecDeque::new() })
    }

    fn send(&mut self, frame: Vec<u8>) {
        if self.backlog.len() < BACKLOG {
            self.backlog.push_back(frame);
            self.flush();
        }
    }

    /// Sends what the other end takes.
    fn flush(&mut self) {
        while let Some(frame) = self.backlog.front() {
            match self.outgoing.send(frame) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if matches!(error.kind(), ErrorKind::NotConnected | ErrorKind::ConnectionRefused) => {
                    // Never connected, or to a machine that is gone: perhaps there is another now.
                    if self.outgoing.connect(&self.remote).is_err() {
                        self.backlog.clear();
                    }
                }
                _ => drop(self.backlog.pop_front()),
            }
        }
    }
}

/// The thread and what is its own.
struct Worker {
    shared: Arc<Mutex<Shared>>,
    ports: Vec<Port>,
    new_ports: Receiver<Port>,
    woken: UnixStream,
}

impl Worker {
    fn run(&mut self) {
        let mut buffer = vec![0; LONGEST_FRAME];
        loop {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(error) => return tracing::warn!("the switch ends: {error}"),
            };
            if ready.woken && !self.take_new_ports() {
                return;
            }
            let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            for number in ready.incoming {
                for _ in 0..TURN {
                    let Ok(length) = self.ports[number].incoming.recv(&mut buffer) else { break };
                    shared.frames.arrive(number, &buffer[..length], Instant::now());
                }
            }
            while let Some((number, frame)) = shared.frames.leave(Instant::now()) {
                // A port that the thread is still to be told of has no machine yet.
                if let Some(port) = self.ports.get_mut(number) {
                    port.send(frame);
                }
            }
            drop(shared);
            self.ports.iter_mut().for_each(Port::flush);
        }
    }

    /// Sleeps until there is something to do.
    fn wait(&self) -> std::io::Result<Ready> {
        let mut waiting = vec![PollFd::from_borrowed_fd(self.woken.as_fd(), PollFlags::IN)];
        waiting.extend(self.ports.iter().map(|port| PollFd::from_borrowed_fd(port.incoming.as_fd(), PollFlags::IN)));
        let full = self.ports.iter().filter(|port| !port.backlog.is_empty());
        waiting.extend(full.map(|port| PollFd::from_borrowed_fd(port.outgoing.as_fd(), PollFlags::OUT)));
        let due = self.shared.lock().unwrap_or_else(PoisonError::into_inner).frames.next_due();
        let timeout = due.map(|due| Timespec::try_from(due.saturating_duration_since(Instant::now())));
        let timeout = timeout.transpose().map_err(std::io::Error::other)?;
        match poll(&mut waiting, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let incoming = &waiting[1..=self.ports.len()];
        let incoming = incoming.iter().enumerate().filter(|(_, fd)| fd.revents().contains(PollFlags::IN));
        Ok(Ready { woken: !waiting[0].revents().is_empty(), incoming: incoming.map(|(number, _)| number).collect() })
    }

    /// Whether the switch is still wanted.
    fn take_new_ports(&mut self) -> bool {
        let mut bytes = [0; 64];
        let open = !matches!(self.woken.read(&mut bytes), Ok(0));
        self.ports.extend(self.new_ports.try_iter());
        open
    }
}

/// What a wait has brought.
struct Ready {
    woken: bool,
    /// Numbers of the ports with frames.
    incoming: Vec<usize>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(20);

    /// What stands in for a machine: its end of the cable, and its number as its address.
    struct Guest {
        socket: UnixDatagram,
        switch: PathBuf,
        number: u8,
    }

    impl Guest {
        fn new(link: &NicLink, number: u8) -> Guest {
            let NicLink::Datagram { local, remote } = link else { panic!("{link:?}") };
            // As QEMU does.
            drop(std::fs::remove_file(local));
            let socket = UnixDatagram::bind(local).unwrap();
            socket.set_read_timeout(Some(LONG)).unwrap();
            Guest { socket, switch: remote.clone(), number }
        }

        fn address(number: u8) -> [u8; 6] {
            [0x52, 0x54, 0, 0, 0, number]
        }

        fn send(&self, to: &[u8; 6], payload: &[u8]) {
            let frame = [to, &Guest::address(self.number)[..], &[0x88, 0xb5], payload].concat();
            self.socket.send_to(&frame, &self.switch).unwrap();
        }

        fn shout(&self, payload: &[u8]) {
            self.send(&[0xff; 6], payload);
        }

        fn receive(&self) -> Vec<u8> {
            let mut buffer = vec![0; LONGEST_FRAME];
            let length = self.socket.recv(&mut buffer).unwrap();
            buffer[14..length].to_vec()
        }
    }

    #[test]
    fn machines_hear_each_other_whichever_of_them_are_on() {
        let switch = Switch::start().unwrap();
        let links = ["m1", "m2", "m3"].map(|name| switch.plug(name).unwrap());
        let first = Guest::new(&links[0], 1);
        first.shout(b"is anybody there?");
        let second = Guest::new(&links[1], 2);
        second.shout(b"me");
        assert_eq!(first.receive(), b"me");

        // One dies; who speaks to it does not wait, and it is heard and served when it is back.
        drop(second);
        for _ in 0..1000 {
            first.send(&Guest::address(2), b"lost");
        }
        let second = Guest::new(&links[1], 2);
        second.send(&Guest::address(1), b"back");
        assert_eq!(first.receive(), b"back");
        first.send(&Guest::address(2), b"welcome");
        // Some of what was sent before may have waited in the switch.
        while second.receive() != b"welcome" {}
    }

    #[test]
    fn a_slow_machine_gets_what_waited_for_it() {
        let switch = Switch::start().unwrap();
        let (fast, slow) = (switch.plug("fast").unwrap(), switch.plug("slow").unwrap());
        let (fast, slow) = (Guest::new(&fast, 1), Guest::new(&slow, 2));
        for number in 0..200_u8 {
            fast.shout(&[number; 9000]);
        }
        for number in 0..200 {
            assert_eq!(slow.receive(), [number; 9000]);
        }
    }

    #[test]
    fn a_cut_and_a_slow_line_are_felt() {
        let switch = Switch::start().unwrap();
        let links = ["m1", "m2"].map(|name| switch.plug(name).unwrap());
        let (first, second) = (Guest::new(&links[0], 1), Guest::new(&links[1], 2));
        switch.cut("m2").unwrap();
        first.shout(b"lost");
        second.socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert!(second.socket.recv(&mut [0; 100]).is_err());
        switch.heal("m2").unwrap();
        second.socket.set_read_timeout(Some(LONG)).unwrap();

        let delay = Duration::from_millis(50);
        switch.set_line(Line { delay, ..Line::default() });
        let sent = Instant::now();
        first.shout(b"late");
        assert_eq!(second.receive(), b"late");
        assert!(sent.elapsed() >= delay);
        second.shout(b"later");
        assert_eq!(first.receive(), b"later");
        assert!(sent.elapsed() >= 2 * delay);
    }

    #[test]
    fn names_are_known_once() {
        let switch = Switch::start().unwrap();
        switch.plug("m1").unwrap();
        assert_eq!(switch.plug("m1").unwrap_err().to_string(), "machine m1: it is plugged in already");
        let unknown = switch.cut_between("m1", "m9").unwrap_err().to_string();
        assert_eq!(unknown, "machine m9: it is not plugged into the switch");
    }
}
