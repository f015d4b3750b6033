//! A TFTP server that is only read from (RFC 1350, options of RFC 2347 to 2349 and RFC 7440). Its files
//! are a map in memory: there is no path that could lead anywhere else.

mod packet;
mod transfer;

use bytes::Bytes;
use packet::{Packet, Request};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use transfer::{Step, Transfer};

pub use transfer::Outcome;

/// UDP port of TFTP servers.
pub const PORT: u16 = 69;

/// Transfers at once, each of which holds a window of 94 kB at most and a socket. Whoever comes then
/// is not answered, and asks again, as firmware does.
pub const LARGEST_NUMBER_OF_TRANSFERS: usize = 128;

/// A packet from a client: requests have 512 bytes at most (RFC 2347), the rest is shorter.
const RECEIVE_BUFFER: usize = 1024;

/// Name to content.
pub type Files = BTreeMap<String, Bytes>;

/// Why a request is answered with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no such file")]
    NoFile,
    #[error("files here are only read")]
    ReadOnly,
    /// Text of netascii has other line ends, and a boot program is no text; mail is obsolete.
    #[error("the only mode here is octet")]
    Mode,
}

impl Refusal {
    /// Error codes of RFC 1350, appendix I.
    fn code(self) -> u16 {
        match self {
            Refusal::Mode => 0,
            Refusal::NoFile => 1,
            Refusal::ReadOnly => 2,
        }
    }
}

/// What [`serve`] tells its caller. Names are the client's, without characters that control a terminal.
#[derive(Debug)]
pub enum Event {
    Begun {
        client: SocketAddr,
        name: String,
    },
    Ended {
        client: SocketAddr,
        name: String,
        /// Bytes that the client has acknowledged.
        delivered: u64,
        outcome: Outcome,
    },
    Refused {
        client: SocketAddr,
        name: String,
        refusal: Refusal,
    },
    /// All transfers that may be under way at once are.
    Busy {
        client: SocketAddr,
    },
    ReceiveFailed(io::Error),
}

/// Serves files until the future is dropped, which ends the transfers, too. `socket` is bound to port 69 of
/// the address that machines know: each transfer has its own port of the same address. At 0.0.0.0 the system
/// chooses the address that answers, and clients refuse another than the one they asked.
///
/// Malformed packets are ignored, failures of the network are events.
pub async fn serve(socket: UdpSocket, files: Arc<Files>, on_event: impl Fn(Event) + Send + Sync + 'static) {
    let limits = Limits { transfers: LARGEST_NUMBER_OF_TRANSFERS, first_wait: transfer::FIRST_WAIT };
    Server::new(socket, files, limits, on_event).run().await;
}

struct Limits {
    transfers: usize,
    first_wait: Duration,
}

struct Server<F> {
    socket: UdpSocket,
    files: Arc<Files>,
    limits: Limits,
    on_event: Arc<F>,
    transfers: JoinSet<()>,
    under_way: HashMap<SocketAddr, AbortHandle>,
}

impl<F: Fn(Event) + Send + Sync + 'static> Server<F> {
    fn new(socket: UdpSocket, files: Arc<Files>, limits: Limits, on_event: F) -> Server<F> {
        let (transfers, under_way) = (JoinSet::new(), HashMap::new());
        Server { socket, files, limits, on_event: Arc::new(on_event), transfers, under_way }
    }

    async fn run(mut self) {
        let mut buffer = [0; RECEIVE_BUFFER];
        loop {
            match self.socket.recv_from(&mut buffer).await {
                Ok((length, client)) => self.on_datagram(&buffer[..length], client).await,
                Err(error) => {
                    (self.on_event)(Event::ReceiveFailed(error));
                    tokio::time::sleep(crate::PAUSE_AFTER_ERROR).await;
                }
            }
        }
    }

    async fn on_datagram(&mut self, bytes: &[u8], client: SocketAddr) {
        match packet::parse(bytes) {
            Some(Packet::Read(request)) => self.on_read(request, client).await,
            Some(Packet::Write { name }) => self.refuse(client, name, Refusal::ReadOnly).await,
            _ => {}
        }
    }

    async fn on_read(&mut self, request: Request, client: SocketAddr) {
        while self.transfers.try_join_next().is_some() {}
        self.under_way.retain(|_, transfer| !transfer.is_finished());
        // A client repeats its request until the first packet has reached it.
        if self.under_way.contains_key(&client) {
            return;
        }
        if !request.octet {
            return self.refuse(client, request.name, Refusal::Mode).await;
        }
        let Some(content) = self.files.get(bare(&request.name)).cloned() else {
            return self.refuse(client, request.name, Refusal::NoFile).await;
        };
        if self.under_way.len() >= self.limits.transfers {
            return (self.on_event)(Event::Busy { client });
        }
        let address = self.socket.local_addr();
        let first_wait = self.limits.first_wait;
        let on_event = self.on_event.clone();
        let task = self.transfers.spawn(async move {
            let name = request.name;
            on_event(Event::Begun { client, name: name.clone() });
            let (mut transfer, first) = Transfer::new(content, &request.options, first_wait);
            let outcome = match address {
                Ok(address) => carry_out(address, client, &mut transfer, first).await,
                Err(error) => Err(error),
            };
            let outcome = outcome.unwrap_or_else(Outcome::Failed);
            on_event(Event::Ended { client, name, delivered: transfer.delivered(), outcome });
        });
        self.under_way.insert(client, task);
    }

    async fn refuse(&self, client: SocketAddr, name: String, refusal: Refusal) {
        // Lost or not sent, the client asks again.
        let _ = self.socket.send_to(&packet::error(refusal.code(), &refusal.to_string()), client).await;
        (self.on_event)(Event::Refused { client, name, refusal });
    }
}

/// Firmware and boot programs write the same name as `name`, `/name` and `./name`.
fn bare(name: &str) -> &str {
    let mut bare = name;
    while let Some(rest) = bare.strip_prefix('/').or_else(|| bare.strip_prefix("./")) {
        bare = rest;
    }
    bare
}

/// The transfer on a socket of its own, which hears this client only.
async fn carry_out(
    server: SocketAddr,
    client: SocketAddr,
    transfer: &mut Transfer,
    first: Step,
) -> io::Result<Outcome> {
    let socket = UdpSocket::bind(SocketAddr::new(server.ip(), 0)).await?;
    socket.connect(client).await?;
    match exchange(&socket, transfer, first).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(last_words(&socket, transfer)),
        other => other,
    }
}

async fn exchange(socket: &UdpSocket, transfer: &mut Transfer, first: Step) -> io::Result<Outcome> {
    let mut step = first;
    loop {
        for packet in &step.packets {
            socket.send(packet).await?;
        }
        match step.end {
            Some(outcome) => return Ok(outcome),
            None => step = next_step(socket, transfer).await?,
        }
    }
}

/// The system tells that the port is closed before it hands over what the client has sent until then.
fn last_words(socket: &UdpSocket, transfer: &mut Transfer) -> Outcome {
    let mut buffer = [0; RECEIVE_BUFFER];
    while let Ok(length) = socket.try_recv(&mut buffer) {
        if let Some(outcome) = transfer.on_packet(&buffer[..length]).end {
            return outcome;
        }
    }
    Outcome::Gone
}

async fn next_step(socket: &UdpSocket, transfer: &mut Transfer) -> io::Result<Step> {
    let deadline = Instant::now() + transfer.wait();
    let mut buffer = [0; RECEIVE_BUFFER];
    loop {
        let Ok(received) = tokio::time::timeout_at(deadline, socket.recv(&mut buffer)).await else {
            return Ok(transfer.on_timeout());
        };
        let step = transfer.on_packet(&buffer[..received?]);
        if !step.is_nothing() {
            return Ok(step);
        }
    }
}

#[cfg(test)]
#[path = "tftp_tests.rs"]
mod tests;
