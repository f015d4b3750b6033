//! The network thread: waits for the cards, makes the links, keeps the address.

use super::NetworkState;
use super::dhcp::{Action, Client, Lease, read_message};
use super::link::{self, Netlink};
use super::packet;
use super::plan::{Addressing, BOND_NAME, Plan, PlanError, plan};
use crate::devices::Watch;
use crate::events::{Event, Mailbox};
use crate::{console, sys};
use dhcproto::v4::Message;
use dhcproto::{Encodable, Encoder};
use rustix::event::{PollFd, PollFlags};
use rustix::fd::OwnedFd;
use rustix::net::RecvFlags;
use spec::cluster::Machine;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

/// Milliseconds that a cable may take after coldplug.
const CARRIER_PATIENCE: u64 = 10_000;

/// Pause after an error that ended everything.
const RETRY: Duration = Duration::from_secs(10);

/// Starts the thread. What it finds and what fails arrives as events.
pub fn start(machine: Machine, watch: Arc<Watch>, mailbox: Mailbox) {
    let complaints = mailbox.clone();
    let spawned = std::thread::Builder::new().name("network".into()).spawn(move || {
        // A machine without its address is lost: whatever ends the thread's work, it begins again.
        loop {
            let trouble = match std::panic::catch_unwind(AssertUnwindSafe(|| run(&machine, &watch, &mailbox))) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "a defect in the network code".to_owned(),
            };
            mailbox.send(Event::NetworkTrouble(format!("{trouble}; trying again in {} s", RETRY.as_secs())));
            std::thread::sleep(RETRY);
        }
    });
    if let Err(error) = spawned {
        complaints.send(Event::NetworkTrouble(error.to_string()));
    }
}

fn run(machine: &Machine, watch: &Watch, mailbox: &Mailbox) -> io::Result<()> {
    let changes = link::link_changes()?;
    let mut netlink = Netlink::open()?;
    let plan = wait_for_plan(machine, watch, &changes, &mut netlink, mailbox)?;
    make_links(&plan, &mut netlink)?;
    let interface = plan.interface();
    let index = link::index(&interface).ok_or_else(|| io::Error::other(format!("interface {interface} vanished")))?;
    match plan.addressing {
        Addressing::Static { address, prefix, gateway, dns } => {
            netlink.add_address(index, address, prefix)?;
            if let Some(gateway) = gateway {
                netlink.set_default_route(index, gateway, address)?;
            }
            let state =
                NetworkState { interface, address: Some((address, prefix)), gateway, dns, ..NetworkState::default() };
            mailbox.send(Event::Network(state));
            Ok(())
        }
        Addressing::Dhcp => {
            let mac = link::mac(&interface).unwrap_or_default();
            let random = crate::random::uuid().as_u128() as u32;
            let client = Client::new(mac, &machine.name, random, now());
            let mut keeper =
                Keeper { interface, index, mtu: plan.mtu, netlink, mailbox, held: None, carrier: false, said: false };
            keeper.run(client, &changes)
        }
    }
}

/// Waits until the cards that the machine wants are there: a few seconds for a cable where any card
/// will do, for ever for a card.
fn wait_for_plan(
    machine: &Machine,
    watch: &Watch,
    changes: &OwnedFd,
    netlink: &mut Netlink,
    mailbox: &Mailbox,
) -> io::Result<Plan> {
    let mut end: Option<u64> = None;
    let mut said = false;
    loop {
        for card in link::cards() {
            // Down, a card does not even say whether a cable is in it.
            if let (false, Some(index)) = (card.carrier, link::index(&card.name)) {
                let _ = netlink.bring_up(index, None);
            }
        }
        // Until coldplug is through, another card may still come.
        if end.is_none() && watch.coldplugged() {
            end = Some(now() + CARRIER_PATIENCE);
        }
        let late = end.is_some_and(|end| now() >= end);
        let cards = link::cards();
        let chosen = machine.mac.is_some() || machine.network.bond.is_some();
        match plan(machine, &cards) {
            Ok(plan) if chosen || late || plan.cards.iter().all(|card| link::has_carrier(card)) => return Ok(plan),
            Err(error @ PlanError::Value { .. }) => return Err(io::Error::other(error)),
            Err(error) if late && !said => {
                said = true;
                mailbox.send(Event::NetworkTrouble(format!("{error}; waiting for it")));
            }
            _ => {}
        }
        // The end of coldplug changes no link: look again now and then while it lasts.
        let pause = if late { Duration::from_secs(3600) } else { Duration::from_millis(500) };
        crate::wait_readable(changes, Some(pause))?;
        link::drain(changes);
    }
}

fn make_links(plan: &Plan, netlink: &mut Netlink) -> io::Result<()> {
    let found = |name: &str| link::index(name).ok_or_else(|| io::Error::other(format!("interface {name} vanished")));
    let step = |what: &str, name: &str| {
        let text = format!("{what} {name}");
        move |error: io::Error| io::Error::new(error.kind(), format!("{text}: {error}"))
    };
    if let Some(mode) = plan.bond {
        netlink.make_bond(BOND_NAME, mode).map_err(step("making", BOND_NAME))?;
        let bond = found(BOND_NAME)?;
        for card in &plan.cards {
            netlink.enslave(found(card)?, bond).map_err(step("adding to the bond", card))?;
            netlink.bring_up(found(card)?, plan.mtu).map_err(step("bringing up", card))?;
        }
    }
    netlink.bring_up(found(plan.base())?, plan.mtu).map_err(step("bringing up", plan.base()))?;
    if let Some(id) = plan.vlan {
        let name = plan.interface();
        netlink.make_vlan(&name, found(plan.base())?, id).map_err(step("making", &name))?;
        netlink.bring_up(found(&name)?, plan.mtu).map_err(step("bringing up", &name))?;
    }
    Ok(())
}

fn now() -> u64 {
    console::uptime_ms()
}

/// Keeps a lease: the state machine's hands.
struct Keeper<'a> {
    interface: String,
    index: u32,
    mtu: Option<u32>,
    netlink: Netlink,
    mailbox: &'a Mailbox,
    held: Option<Lease>,
    carrier: bool,
    said: bool,
}

impl Keeper<'_> {
    fn run(&mut self, mut client: Client, changes: &OwnedFd) -> io::Result<()> {
        self.carrier = link::has_carrier(&self.interface);
        let started = now();
        let mut raw: Option<OwnedFd> = None;
        // Keeps the kernel from answering the server with "port unreachable", and sends renewals.
        let mut port: Option<UdpSocket> = None;
        loop {
            if client.listens() && raw.is_none() {
                raw = Some(
                    sys::packet_socket(self.index)
                        .map_err(|error| io::Error::new(error.kind(), format!("packet socket: {error}")))?,
                );
            } else if !client.listens() {
                raw = None;
            }
            for action in client.on_timer(now()) {
                self.carry_out(action, raw.as_ref(), &mut port);
            }
            self.complain_once(started, client.listens());
            self.wait(&client, changes, raw.as_ref(), port.as_ref());
            let carrier = link::has_carrier(&self.interface);
            if carrier && !self.carrier {
                client.link_came_up(now());
            }
            self.carrier = carrier;
            let messages: Vec<Message> =
                raw.iter().flat_map(receive_raw).chain(port.iter().flat_map(receive_port)).collect();
            for message in messages {
                for action in client.on_message(now(), &message) {
                    self.carry_out(action, raw.as_ref(), &mut port);
                }
            }
        }
    }

    fn wait(&self, client: &Client, changes: &OwnedFd, raw: Option<&OwnedFd>, port: Option<&UdpSocket>) {
        let mut descriptors = vec![PollFd::new(changes, PollFlags::IN)];
        descriptors.extend(raw.map(|raw| PollFd::new(raw, PollFlags::IN)));
        descriptors.extend(port.map(|port| PollFd::new(port, PollFlags::IN)));
        // In steps of at most an hour: nothing depends on a timer of years.
        let pause = client.wake_at().saturating_sub(now()).min(3_600_000);
        let _ = rustix::event::poll(&mut descriptors, Some(&crate::timespec(Duration::from_millis(pause))));
        link::drain(changes);
    }

    fn complain_once(&mut self, started: u64, waiting: bool) {
        if waiting && self.held.is_none() && !self.said && now() - started > 15_000 {
            self.said = true;
            let cable = if self.carrier { "no DHCP server answers" } else { "no cable, or nothing at its other end" };
            self.mailbox.send(Event::NetworkTrouble(format!("{}: {cable}; still trying", self.interface)));
        }
    }

    fn carry_out(&mut self, action: Action, raw: Option<&OwnedFd>, port: &mut Option<UdpSocket>) {
        let result = match action {
            Action::Broadcast(message) => match raw {
                Some(raw) => encode(&message)
                    .and_then(|bytes| sys::send_packet(raw, self.index, [0xff; 6], &packet::wrap(&bytes))),
                None => Ok(()),
            },
            Action::Unicast(server, message) => match port {
                Some(port) => {
                    encode(&message).and_then(|bytes| port.send_to(&bytes, (server, packet::SERVER_PORT)).map(drop))
                }
                None => Ok(()),
            },
            Action::Configure(lease) => self.configure(lease, port),
            Action::Deconfigure => self.deconfigure(port),
        };
        // An interface that is down for a moment is no news; the state machine asks again.
        if let Err(error) = result.filter_network_down() {
            self.mailbox.send(Event::NetworkTrouble(format!("{}: {error}", self.interface)));
        }
    }

    fn configure(&mut self, lease: Lease, port: &mut Option<UdpSocket>) -> io::Result<()> {
        if let Some(mtu) = self.mtu.or(lease.mtu) {
            let _ = self.netlink.bring_up(self.index, Some(mtu));
        }
        if let Some(old) = self.held.take().filter(|old| (old.address, old.prefix) != (lease.address, lease.prefix)) {
            let _ = self.netlink.remove_address(self.index, old.address, old.prefix);
        }
        self.netlink.add_address(self.index, lease.address, lease.prefix)?;
        if let Some(gateway) = lease.gateway {
            self.netlink.set_default_route(self.index, gateway, lease.address)?;
        }
        *port = renewal_socket(lease.address, &self.interface).ok();
        self.mailbox.send(Event::Network(NetworkState {
            interface: self.interface.clone(),
            address: Some((lease.address, lease.prefix)),
            gateway: lease.gateway,
            dns: lease.dns.clone(),
            ntp: lease.ntp.clone(),
            domain: lease.domain.clone(),
        }));
        self.held = Some(lease);
        Ok(())
    }

    fn deconfigure(&mut self, port: &mut Option<UdpSocket>) -> io::Result<()> {
        *port = None;
        let Some(lease) = self.held.take() else { return Ok(()) };
        self.mailbox
            .send(Event::NetworkTrouble(format!("{}: the lease of {} has ended", self.interface, lease.address)));
        self.mailbox
            .send(Event::Network(NetworkState { interface: self.interface.clone(), ..NetworkState::default() }));
        self.netlink.remove_address(self.index, lease.address, lease.prefix)
    }
}

trait NetworkDown {
    fn filter_network_down(self) -> Self;
}

impl NetworkDown for io::Result<()> {
    fn filter_network_down(self) -> Self {
        match self {
            Err(error) if matches!(error.kind(), io::ErrorKind::NetworkDown | io::ErrorKind::NetworkUnreachable) => {
                Ok(())
            }
            other => other,
        }
    }
}

fn renewal_socket(address: Ipv4Addr, interface: &str) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(SocketAddrV4::new(address, packet::CLIENT_PORT))?;
    sys::bind_to_device(&socket, interface)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn encode(message: &Message) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(400);
    message.encode(&mut Encoder::new(&mut bytes)).map_err(io::Error::other)?;
    // BOOTP's 300 bytes: some servers and relays drop shorter ones.
    bytes.resize(bytes.len().max(300), 0);
    Ok(bytes)
}

fn receive_raw(socket: &OwnedFd) -> Vec<Message> {
    let mut buffer = [0u8; 2048];
    let mut messages = Vec::new();
    while let Ok((length, _)) = rustix::net::recv(socket, &mut buffer[..], RecvFlags::DONTWAIT) {
        messages.extend(packet::unwrap(&buffer[..length.min(2048)]).and_then(read_message));
    }
    messages
}

fn receive_port(socket: &UdpSocket) -> Vec<Message> {
    let mut buffer = [0u8; 2048];
    let mut messages = Vec::new();
    while let Ok(length) = socket.recv(&mut buffer) {
        messages.extend(read_message(&buffer[..length]));
    }
    messages
}
