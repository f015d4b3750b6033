//! A DHCP client (RFC 2131, figure 5) as a state machine without I/O: messages and timers go in,
//! actions come out. Times are milliseconds on any clock that only grows.

use dhcproto::v4::{DhcpOption, Flags, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Decoder};
use std::net::Ipv4Addr;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub address: Ipv4Addr,
    pub prefix: u8,
    pub gateway: Option<Ipv4Addr>,
    pub dns: Vec<Ipv4Addr>,
    pub ntp: Vec<Ipv4Addr>,
    pub domain: Option<String>,
    pub mtu: Option<u32>,
    pub server: Ipv4Addr,
    /// When to renew, to rebind, and when it is over. `u64::MAX`: never.
    pub renew_at: u64,
    pub rebind_at: u64,
    pub expires_at: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// To everyone, from no address.
    Broadcast(Message),
    /// To the server that gave the lease, from the leased address.
    Unicast(Ipv4Addr, Message),
    /// The address is ours (new or prolonged).
    Configure(Lease),
    /// The address is no longer ours.
    Deconfigure,
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    Selecting,
    /// An offer is taken: its address and server.
    Requesting(Ipv4Addr, Ipv4Addr),
    Bound(Lease),
    Renewing(Lease),
    Rebinding(Lease),
}

#[derive(Debug)]
pub struct Client {
    mac: [u8; 6],
    host_name: String,
    state: State,
    transaction: u32,
    attempt: u32,
    /// When the client wants to be woken.
    wake_at: u64,
    began: u64,
}

/// Retransmission: 1, 2, 4, 8 seconds, then every 16 (RFC 2131 section 4.1 has 4 to 64; a machine
/// that boots is not a thundering herd). The last bits of the transaction spread machines apart.
const fn delay(attempt: u32, transaction: u32) -> u64 {
    let exponent = if attempt > 4 { 4 } else { attempt };
    (1000 << exponent) + (transaction % 256) as u64
}

impl Client {
    /// A client that wants to be woken at once. `transaction` should be random.
    pub fn new(mac: [u8; 6], host_name: &str, transaction: u32, now: u64) -> Client {
        Client {
            mac,
            host_name: host_name.to_owned(),
            state: State::Selecting,
            transaction,
            attempt: 0,
            wake_at: now,
            began: now,
        }
    }

    pub fn wake_at(&self) -> u64 {
        self.wake_at
    }

    /// The socket is of use only while an answer may come.
    pub fn listens(&self) -> bool {
        !matches!(self.state, State::Bound(_))
    }

    /// The cable came back, perhaps in another network: ask again, keep the lease meanwhile.
    pub fn link_came_up(&mut self, now: u64) {
        match std::mem::replace(&mut self.state, State::Selecting) {
            State::Bound(lease) | State::Renewing(lease) => self.state = State::Rebinding(lease),
            other => self.state = other,
        }
        self.attempt = 0;
        self.wake_at = now;
    }

    /// The time `wake_at` has come.
    pub fn on_timer(&mut self, now: u64) -> Vec<Action> {
        if now < self.wake_at {
            return Vec::new();
        }
        match self.state.clone() {
            State::Selecting => self.discover(now),
            State::Requesting(..) if self.attempt >= 4 => self.restart(now),
            State::Requesting(address, server) => self.request(now, address, server),
            State::Bound(lease) => {
                self.attempt = 0;
                self.transaction = self.transaction.wrapping_add(1);
                self.began = now;
                self.state = State::Renewing(lease.clone());
                self.extend(now, lease)
            }
            State::Renewing(lease) | State::Rebinding(lease) if now >= lease.expires_at => {
                let mut actions = vec![Action::Deconfigure];
                actions.extend(self.restart(now));
                actions
            }
            State::Renewing(lease) => {
                if now >= lease.rebind_at {
                    self.attempt = 0;
                    self.state = State::Rebinding(lease.clone());
                }
                self.extend(now, lease)
            }
            State::Rebinding(lease) => self.extend(now, lease),
        }
    }

    /// A message arrived. Others' transactions and what the state does not wait for are ignored.
    pub fn on_message(&mut self, now: u64, message: &Message) -> Vec<Action> {
        let ours =
            message.opcode() == Opcode::BootReply && message.xid() == self.transaction && message.chaddr() == self.mac;
        if !ours {
            return Vec::new();
        }
        let server = match message.opts().get(OptionCode::ServerIdentifier) {
            Some(DhcpOption::ServerIdentifier(server)) => *server,
            _ => message.siaddr(),
        };
        match (self.state.clone(), message.opts().msg_type()) {
            (State::Selecting, Some(MessageType::Offer)) if dhcp::usable(message.yiaddr()) => {
                self.attempt = 0;
                self.state = State::Requesting(message.yiaddr(), server);
                self.request(now, message.yiaddr(), server)
            }
            (State::Requesting(_, chosen), Some(MessageType::Ack)) if chosen == server => {
                self.bind(now, message, server)
            }
            (State::Requesting(_, chosen), Some(MessageType::Nak)) if chosen == server => self.restart(now),
            (State::Renewing(_) | State::Rebinding(_), Some(MessageType::Ack)) => self.bind(now, message, server),
            (State::Renewing(_) | State::Rebinding(_), Some(MessageType::Nak)) => {
                let mut actions = vec![Action::Deconfigure];
                actions.extend(self.restart(now));
                actions
            }
            _ => Vec::new(),
        }
    }

    fn bind(&mut self, now: u64, message: &Message, server: Ipv4Addr) -> Vec<Action> {
        let Some(lease) = lease_of(message, server, now) else { return self.restart(now) };
        self.wake_at = lease.renew_at;
        self.attempt = 0;
        self.state = State::Bound(lease.clone());
        vec![Action::Configure(lease)]
    }

    fn restart(&mut self, now: u64) -> Vec<Action> {
        self.state = State::Selecting;
        self.attempt = 0;
        self.began = now;
        self.transaction = self.transaction.wrapping_add(1);
        self.discover(now)
    }

    fn discover(&mut self, now: u64) -> Vec<Action> {
        self.schedule(now);
        vec![Action::Broadcast(self.message(now, MessageType::Discover))]
    }

    fn request(&mut self, now: u64, address: Ipv4Addr, server: Ipv4Addr) -> Vec<Action> {
        self.schedule(now);
        let mut message = self.message(now, MessageType::Request);
        message.opts_mut().insert(DhcpOption::RequestedIpAddress(address));
        message.opts_mut().insert(DhcpOption::ServerIdentifier(server));
        vec![Action::Broadcast(message)]
    }

    /// Renew or rebind: the address stands in ciaddr, and no server is named (RFC 2131 section 4.3.2).
    fn extend(&mut self, now: u64, lease: Lease) -> Vec<Action> {
        self.attempt += 1;
        let rebinding = matches!(self.state, State::Rebinding(_));
        let limit = if rebinding { lease.expires_at } else { lease.rebind_at };
        // Half of what is left, but no more often than once a minute.
        let pause = (limit.saturating_sub(now) / 2).max(60_000);
        // A link that came back asks as quickly as at the start.
        let pause = if rebinding { pause.min(delay(self.attempt, self.transaction)).max(1000) } else { pause };
        self.wake_at = now.saturating_add(pause).min(limit.max(now + 1));
        let mut message = self.message(now, MessageType::Request);
        message.set_ciaddr(lease.address);
        if rebinding { vec![Action::Broadcast(message)] } else { vec![Action::Unicast(lease.server, message)] }
    }

    fn schedule(&mut self, now: u64) {
        self.wake_at = now + delay(self.attempt, self.transaction);
        self.attempt += 1;
    }

    fn message(&self, now: u64, kind: MessageType) -> Message {
        let mut message = blank_message();
        message.set_opcode(Opcode::BootRequest);
        message.set_xid(self.transaction);
        message.set_chaddr(&self.mac);
        message.set_secs(u16::try_from((now - self.began) / 1000).unwrap_or(u16::MAX));
        message.set_flags(Flags::default().set_broadcast());
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(kind));
        let identifier = [1].into_iter().chain(self.mac).collect();
        options.insert(DhcpOption::ClientIdentifier(identifier));
        options.insert(DhcpOption::Hostname(self.host_name.clone()));
        options.insert(DhcpOption::ParameterRequestList(vec![
            OptionCode::SubnetMask,
            OptionCode::ClasslessStaticRoute,
            OptionCode::Router,
            OptionCode::DomainNameServer,
            OptionCode::DomainName,
            OptionCode::InterfaceMtu,
            OptionCode::NtpServers,
        ]));
        message
    }
}

/// A message to fill in. Every constructor of the crate draws a transaction id, from a generator that
/// blocks for minutes on a machine without a random source; decoding an empty message draws nothing.
fn blank_message() -> Message {
    const MAGIC_COOKIE: [u8; 4] = [99, 130, 83, 99];
    let mut bytes = [0u8; 241];
    (bytes[0], bytes[1], bytes[2]) = (1, 1, 6);
    bytes[236..240].copy_from_slice(&MAGIC_COOKIE);
    bytes[240] = 255;
    Message::decode(&mut Decoder::new(&bytes)).unwrap_or_default()
}

/// Options that the client reads. File and server name are no business of ours, nor what a server may hide in them.
const READ: [u8; 12] = [1, 3, 6, 15, 26, 42, 51, 53, 54, 58, 59, 121];

/// A message as it came from the network. `None` for anything that is no DHCP answer.
pub fn read_message(bytes: &[u8]) -> Option<Message> {
    dhcp::read_message(bytes, &READ)
}

/// The lease in an acknowledgement. `None` where it has no usable address.
fn lease_of(message: &Message, server: Ipv4Addr, now: u64) -> Option<Lease> {
    let options = message.opts();
    let address = Some(message.yiaddr()).filter(|address| dhcp::usable(*address))?;
    let seconds = |code| match options.get(code) {
        Some(DhcpOption::AddressLeaseTime(seconds) | DhcpOption::Renewal(seconds) | DhcpOption::Rebinding(seconds)) => {
            Some(u64::from(*seconds))
        }
        _ => None,
    };
    let length = seconds(OptionCode::AddressLeaseTime).filter(|seconds| *seconds != u64::from(u32::MAX));
    let at = |seconds: u64| now.saturating_add(seconds.saturating_mul(1000));
    let (renew_at, rebind_at, expires_at) = match length {
        None => (u64::MAX, u64::MAX, u64::MAX),
        Some(length) => {
            // A lease of less than a minute is a server's mistake; renewing every second helps nobody.
            let length = length.max(60);
            let rebind = seconds(OptionCode::Rebinding).filter(|rebind| *rebind < length).unwrap_or(length * 7 / 8);
            let renew =
                seconds(OptionCode::Renewal).filter(|renew| *renew <= rebind).unwrap_or(length / 2).min(rebind).max(1);
            (at(renew), at(rebind), at(length))
        }
    };
    let prefix = match options.get(OptionCode::SubnetMask) {
        Some(DhcpOption::SubnetMask(mask)) => u32::from(*mask).leading_ones() as u8,
        _ => 24,
    };
    let addresses = |code| match options.get(code) {
        Some(DhcpOption::Router(list) | DhcpOption::DomainNameServer(list) | DhcpOption::NtpServers(list)) => {
            list.clone()
        }
        _ => Vec::new(),
    };
    // A default route in option 121 replaces option 3 (RFC 3442).
    let classless = match options.get(OptionCode::ClasslessStaticRoute) {
        Some(DhcpOption::ClasslessStaticRoute(routes)) => {
            routes.iter().find(|(network, _)| network.prefix_len() == 0).map(|(_, via)| *via)
        }
        _ => None,
    };
    Some(Lease {
        address,
        prefix,
        gateway: classless.or(addresses(OptionCode::Router).first().copied()).filter(|gateway| dhcp::usable(*gateway)),
        dns: addresses(OptionCode::DomainNameServer),
        ntp: addresses(OptionCode::NtpServers),
        domain: match options.get(OptionCode::DomainName) {
            Some(DhcpOption::DomainName(name)) if is_domain(name) => {
                Some(name.trim_end_matches(['.', '\0']).to_owned())
            }
            _ => None,
        },
        mtu: match options.get(OptionCode::InterfaceMtu) {
            Some(DhcpOption::InterfaceMtu(mtu)) if *mtu >= 576 => Some(u32::from(*mtu)),
            _ => None,
        },
        server,
        renew_at,
        rebind_at,
        expires_at,
    })
}

/// A server's text goes into a configuration file: nothing but a domain name may.
fn is_domain(name: &str) -> bool {
    let name = name.trim_end_matches(['.', '\0']);
    !name.is_empty()
        && name.len() < 254
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
}

#[cfg(test)]
#[path = "dhcp_tests.rs"]
mod tests;
