//! The client against a server that answers, falls silent, refuses, or talks nonsense.

use super::*;
use dhcproto::{Encodable, Encoder};
use proptest::prelude::*;

const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

fn reply(to: &Message, kind: MessageType, lease: u32) -> Message {
    let mut message = Message::default();
    message.set_opcode(Opcode::BootReply).set_xid(to.xid()).set_chaddr(&MAC).set_yiaddr(ADDRESS);
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ServerIdentifier(SERVER));
    options.insert(DhcpOption::SubnetMask([255, 255, 255, 0].into()));
    options.insert(DhcpOption::Router(vec![SERVER]));
    options.insert(DhcpOption::DomainNameServer(vec![[10, 0, 2, 3].into()]));
    options.insert(DhcpOption::AddressLeaseTime(lease));
    message
}

fn only_message(actions: &[Action]) -> &Message {
    match actions {
        [Action::Broadcast(message) | Action::Unicast(_, message)] => message,
        other => panic!("{other:?}"),
    }
}

fn bound(lease: u32) -> (Client, Lease) {
    let mut client = Client::new(MAC, "m1", 7, 0);
    let discover = client.on_timer(0);
    let request = client.on_message(10, &reply(only_message(&discover), MessageType::Offer, lease));
    let actions = client.on_message(20, &reply(only_message(&request), MessageType::Ack, lease));
    let [Action::Configure(lease)] = actions.as_slice() else { panic!("{actions:?}") };
    (client, lease.clone())
}

#[test]
fn four_messages_make_a_lease() {
    let (client, lease) = bound(3600);
    assert_eq!((lease.address, lease.prefix, lease.gateway), (ADDRESS, 24, Some(SERVER)));
    assert_eq!((lease.renew_at, lease.rebind_at, lease.expires_at), (20 + 1_800_000, 20 + 3_150_000, 20 + 3_600_000));
    assert_eq!(client.wake_at(), lease.renew_at);
    assert!(!client.listens());
}

#[test]
fn a_request_names_address_and_server() {
    let mut client = Client::new(MAC, "m1", 7, 0);
    let discover = client.on_timer(0);
    let request = client.on_message(10, &reply(only_message(&discover), MessageType::Offer, 60));
    let message = only_message(&request);
    assert_eq!(message.opts().get(OptionCode::RequestedIpAddress), Some(&DhcpOption::RequestedIpAddress(ADDRESS)));
    assert_eq!(message.opts().get(OptionCode::ServerIdentifier), Some(&DhcpOption::ServerIdentifier(SERVER)));
    let mut bytes = Vec::new();
    message.encode(&mut Encoder::new(&mut bytes)).unwrap();
    assert_eq!(read_message(&bytes).unwrap().xid(), message.xid());
    // A hardware address that is longer than its field.
    bytes[2] = 17;
    assert!(read_message(&bytes).is_none());
}

#[test]
fn silence_is_answered_by_asking_again_ever_more_slowly() {
    let mut client = Client::new(MAC, "m1", 0, 0);
    let mut times = Vec::new();
    for _ in 0..7 {
        let now = client.wake_at();
        times.push(now);
        assert_eq!(only_message(&client.on_timer(now)).opts().msg_type(), Some(MessageType::Discover));
    }
    assert_eq!(times, [0, 1000, 3000, 7000, 15000, 31000, 47000]);
    assert!(client.on_timer(client.wake_at() - 1).is_empty());
}

#[test]
fn a_renewal_goes_to_the_server_and_prolongs() {
    let (mut client, lease) = bound(3600);
    let actions = client.on_timer(lease.renew_at);
    let [Action::Unicast(to, message)] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!((*to, message.ciaddr()), (SERVER, ADDRESS));
    assert!(message.opts().get(OptionCode::ServerIdentifier).is_none());
    let now = lease.renew_at + 5;
    let actions = client.on_message(now, &reply(message, MessageType::Ack, 3600));
    let [Action::Configure(renewed)] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(renewed.expires_at, now + 3_600_000);
}

#[test]
fn a_silent_server_leads_to_rebinding_and_then_to_the_loss_of_the_address() {
    let (mut client, lease) = bound(3600);
    let mut rebound = false;
    loop {
        let now = client.wake_at();
        assert!(now <= lease.expires_at);
        let actions = client.on_timer(now);
        match actions.as_slice() {
            [Action::Unicast(..)] => assert!(now < lease.rebind_at && !rebound),
            [Action::Broadcast(message)] => {
                assert!(now >= lease.rebind_at);
                assert_eq!(message.ciaddr(), ADDRESS);
                rebound = true;
            }
            [Action::Deconfigure, Action::Broadcast(message)] => {
                assert_eq!(now, lease.expires_at);
                assert_eq!(message.opts().msg_type(), Some(MessageType::Discover));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(rebound);
}

#[test]
fn a_refusal_gives_the_address_back() {
    let (mut client, lease) = bound(3600);
    let actions = client.on_timer(lease.renew_at);
    let nak = reply(only_message(&actions), MessageType::Nak, 0);
    let actions = client.on_message(lease.renew_at + 1, &nak);
    assert!(matches!(actions.as_slice(), [Action::Deconfigure, Action::Broadcast(_)]), "{actions:?}");
}

#[test]
fn an_infinite_lease_is_never_renewed() {
    let (client, lease) = bound(u32::MAX);
    assert_eq!((client.wake_at(), lease.expires_at), (u64::MAX, u64::MAX));
}

#[test]
fn a_cable_that_came_back_asks_at_once() {
    let (mut client, lease) = bound(3600);
    client.link_came_up(5000);
    let actions = client.on_timer(5000);
    let [Action::Broadcast(message)] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(message.ciaddr(), lease.address);
    assert!(client.wake_at() < 10_000);
}

#[test]
fn a_servers_domain_is_not_trusted_as_text() {
    assert!(is_domain("example.test") && !is_domain("x\nnameserver 6.6.6.6") && !is_domain(""));
}

proptest! {
    /// Whatever arrives whenever, the client has at most one lease configured, keeps waking, and never
    /// holds an address past its end.
    #[test]
    fn no_lease_outlives_its_end(steps in proptest::collection::vec((0u8..6, 0u64..4_000_000, 0u32..8000), 1..60)) {
        let mut client = Client::new(MAC, "m1", 1, 0);
        let mut now = 0;
        let mut last = client.on_timer(0).into_iter().next().and_then(|action| match action { Action::Broadcast(message) => Some(message), _ => None }).unwrap();
        let mut held: Option<Lease> = None;
        for (kind, pause, lease) in steps {
            let due = client.wake_at();
            let actions = match kind {
                0 | 1 => { now = due.max(now); client.on_timer(now) }
                2 => { now = (now + pause).min(due); client.on_message(now, &reply(&last, MessageType::Offer, lease)) }
                3 => { now = (now + pause).min(due); client.on_message(now, &reply(&last, MessageType::Ack, lease)) }
                4 => { now = (now + pause).min(due); client.on_message(now, &reply(&last, MessageType::Nak, lease)) }
                _ => { client.link_came_up(now); Vec::new() }
            };
            for action in actions {
                match action {
                    Action::Broadcast(message) | Action::Unicast(_, message) => last = message,
                    Action::Configure(lease) => {
                        prop_assert!(lease.renew_at <= lease.rebind_at && lease.rebind_at <= lease.expires_at);
                        held = Some(lease);
                    }
                    Action::Deconfigure => { prop_assert!(held.is_some()); held = None; }
                }
            }
            prop_assert!(client.wake_at() >= now);
            if let Some(lease) = &held {
                prop_assert!(client.wake_at() <= lease.expires_at.max(now + 1));
            }
        }
    }

    #[test]
    fn foreign_messages_never_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 240),
        options in proptest::collection::vec((prop_oneof![any::<u8>(), proptest::sample::select(READ.to_vec())], proptest::collection::vec(any::<u8>(), 0..12)), 0..12),
        rubbish in proptest::collection::vec(any::<u8>(), 0..8),
    ) {
        (bytes[0], bytes[2]) = (2, 6);
        bytes[28..34].copy_from_slice(&MAC);
        for (code, value) in options {
            bytes.extend([code, value.len() as u8]);
            bytes.extend(value);
        }
        bytes.extend(rubbish);
        if let Some(message) = read_message(&bytes) {
            let mut client = Client::new(MAC, "m1", message.xid(), 0);
            client.on_timer(0);
            client.on_message(1, &message);
        }
    }
}
