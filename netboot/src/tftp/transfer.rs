//! One file on its way to one client, without I/O: packets and timeouts go in, packets come out.

use super::packet::{self, Options, Packet};
use bytes::Bytes;
use std::io;
use std::time::Duration;

/// Until the first retransmission, where the client has not asked for another time.
pub(super) const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The wait doubles with every retransmission up to this one.
const LONGEST_WAIT: Duration = Duration::from_secs(8);
/// After as many retransmissions without an answer the client is given up: 39 seconds.
const RETRANSMISSIONS: u32 = 6;

/// How a transfer ended.
#[derive(Debug)]
pub enum Outcome {
    /// The client has acknowledged the last block.
    Finished,
    /// The client gave up. Firmware that only asks for the size of a file does so, too.
    Aborted { code: u16, message: String },
    /// The client no longer answers.
    TimedOut,
    /// The client has closed its port.
    Gone,
    /// A socket could not be opened, or failed.
    Failed(io::Error),
}

/// What is to be done: packets to send, in this order, and whether the transfer is over.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub packets: Vec<Vec<u8>>,
    pub end: Option<Outcome>,
}

impl Step {
    pub fn is_nothing(&self) -> bool {
        self.packets.is_empty() && self.end.is_none()
    }

    fn end(outcome: Outcome) -> Step {
        Step { packets: Vec::new(), end: Some(outcome) }
    }
}

#[derive(Debug)]
pub(super) struct Transfer {
    content: Bytes,
    block_size: usize,
    /// Blocks.
    window: u64,
    /// What was agreed to, until the client acknowledges it as block 0.
    agreement: Option<Vec<u8>>,
    /// Blocks count from 1 and do not wrap around here. The last one is shorter than the others.
    last: u64,
    acknowledged: u64,
    sent: u64,
    first_wait: Duration,
    attempt: u32,
    /// The window that is on its way was sent more than once.
    resent: bool,
    /// Copies of blocks that are already acknowledged may still reach the client, which answers each of
    /// them with the acknowledgement that it sent last.
    echoes: bool,
}

impl Transfer {
    /// A transfer and its first packets. `first_wait` stands where the options name no timeout.
    pub fn new(content: Bytes, options: &Options, first_wait: Duration) -> (Transfer, Step) {
        let block_size = options.block_size.unwrap_or(packet::DEFAULT_BLOCK_SIZE);
        let mut transfer = Transfer {
            agreement: options.acknowledgement(content.len()),
            last: (content.len() / block_size) as u64 + 1,
            content,
            block_size,
            window: options.window.unwrap_or(1).into(),
            acknowledged: 0,
            sent: 0,
            first_wait: options.timeout.map_or(first_wait, |seconds| Duration::from_secs(seconds.into())),
            attempt: 0,
            resent: false,
            echoes: false,
        };
        let step = transfer.transmit();
        (transfer, step)
    }

    /// How long to wait for a packet that changes anything.
    pub fn wait(&self) -> Duration {
        self.first_wait.saturating_mul(1 << self.attempt).min(LONGEST_WAIT.max(self.first_wait))
    }

    /// Bytes that the client has acknowledged.
    pub fn delivered(&self) -> u64 {
        (self.acknowledged * self.block_size as u64).min(self.content.len() as u64)
    }

    /// A packet from the client. What says nothing new is ignored.
    pub fn on_packet(&mut self, bytes: &[u8]) -> Step {
        match packet::parse(bytes) {
            Some(Packet::Acknowledgement(block)) => self.on_acknowledgement(block),
            Some(Packet::Error { code, message }) => Step::end(Outcome::Aborted { code, message }),
            _ => Step::default(),
        }
    }

    /// The time of `wait` is over.
    pub fn on_timeout(&mut self) -> Step {
        if self.attempt == RETRANSMISSIONS {
            return Step::end(Outcome::TimedOut);
        }
        self.attempt += 1;
        self.resent = true;
        self.transmit()
    }

    fn on_acknowledgement(&mut self, block: u16) -> Step {
        if self.agreement.is_some() {
            if block != 0 {
                return Step::default();
            }
            self.agreement = None;
            return self.go_on_from(0);
        }
        let ahead = block.wrapping_sub(self.acknowledged as u16);
        let block = self.acknowledged + u64::from(ahead);
        match ahead {
            0 => self.on_repeated_acknowledgement(),
            _ if block > self.sent => Step::default(),
            _ => self.go_on_from(block),
        }
    }

    /// A block inside the window means that the next one is missing: the new window begins with that one
    /// (RFC 7440 section 4).
    fn go_on_from(&mut self, block: u64) -> Step {
        self.echoes = self.resent || block < self.sent;
        self.resent = false;
        self.attempt = 0;
        self.acknowledged = block;
        if block == self.last { Step::end(Outcome::Finished) } else { self.transmit() }
    }

    /// The first block of a window is missing, or the acknowledgement has an echo. Answering an echo would
    /// double all that follows (RFC 1123 section 4.2.3.1), so a window is sent again once at most, and only
    /// where there can be none; what is lost otherwise comes with the timeout.
    fn on_repeated_acknowledgement(&mut self) -> Step {
        if self.window == 1 || self.resent || self.echoes {
            return Step::default();
        }
        self.resent = true;
        self.transmit()
    }

    fn transmit(&mut self) -> Step {
        if let Some(agreement) = &self.agreement {
            return Step { packets: vec![agreement.clone()], end: None };
        }
        self.sent = (self.acknowledged + self.window).min(self.last);
        let packets = (self.acknowledged + 1..=self.sent).map(|block| packet::data(block, self.block(block))).collect();
        Step { packets, end: None }
    }

    fn block(&self, number: u64) -> &[u8] {
        let start = (number - 1) as usize * self.block_size;
        &self.content[start..self.content.len().min(start + self.block_size)]
    }
}

#[cfg(test)]
#[path = "transfer_tests.rs"]
mod tests;
