//! What the threads for devices and network tell the main loop.

use crate::net::NetworkState;
use rustix::event::EventfdFlags;
use rustix::fd::OwnedFd;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

#[derive(Debug)]
pub enum Event {
    /// An address came, changed or went.
    Network(NetworkState),
    NetworkTrouble(String),
    /// A device node that may be a power button.
    Input(PathBuf),
    /// Every driver for what was there at the start is loaded.
    Coldplugged {
        milliseconds: u64,
        failures: Vec<String>,
    },
}

/// The sending side.
#[derive(Clone)]
pub struct Mailbox {
    sender: Sender<Event>,
    bell: Arc<OwnedFd>,
}

impl Mailbox {
    /// Never blocks; a main loop that has gone needs no events.
    pub fn send(&self, event: Event) {
        if self.sender.send(event).is_ok() {
            let _ = rustix::io::write(&*self.bell, &1u64.to_ne_bytes());
        }
    }
}

/// The receiving side; `bell` becomes readable when something is there.
pub struct Inbox {
    receiver: Receiver<Event>,
    pub bell: Arc<OwnedFd>,
}

impl Inbox {
    /// Everything that has arrived.
    pub fn take(&self) -> Vec<Event> {
        let mut count = [0; 8];
        let _ = rustix::io::read(&*self.bell, &mut count);
        self.receiver.try_iter().collect()
    }
}

/// # Errors
/// As the kernel answers.
pub fn mailbox() -> io::Result<(Mailbox, Inbox)> {
    let bell = Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let (sender, receiver) = channel();
    Ok((Mailbox { sender, bell: bell.clone() }, Inbox { receiver, bell }))
}
