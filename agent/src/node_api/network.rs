//! Interfaces and routes out of the kernel's rtnetlink(7) dumps.

use crate::netlink::{self, Message, Netlink};
use spec::agent::{Interface, Network, Route};
use std::collections::BTreeMap;
use std::io;

const GET_LINK: u16 = 18;
const GET_ADDRESS: u16 = 22;
const GET_ROUTE: u16 = 26;
/// Bytes of the fixed parts: `ifinfomsg`, `ifaddrmsg`, `rtmsg`.
const LINK: usize = 16;
const ADDRESS: usize = 8;
const ROUTE: usize = 12;

const LINK_HARDWARE: u16 = 1;
const LINK_NAME: u16 = 3;
const LINK_MTU: u16 = 4;
const LINK_STATE: u16 = 16;
const ADDRESS_ADDRESS: u16 = 1;
const ADDRESS_LOCAL: u16 = 2;
const ROUTE_DESTINATION: u16 = 1;
const ROUTE_INTERFACE: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;
const ROUTE_METRIC: u16 = 6;

const TABLE_MAIN: u8 = 254;
const UNICAST: u8 = 1;
/// IF_OPER_UNKNOWN and so on (RFC 2863).
const STATES: [&str; 7] = ["unknown", "not-present", "down", "lower-layer-down", "testing", "dormant", "up"];

pub fn read() -> io::Result<Network> {
    let mut netlink = Netlink::open()?;
    let mut interfaces = links(&netlink.dump(GET_LINK, &[0; LINK])?);
    add_addresses(&mut interfaces, &netlink.dump(GET_ADDRESS, &[0; ADDRESS])?);
    let routes = routes(&interfaces, &netlink.dump(GET_ROUTE, &[0; ROUTE])?);
    Ok(Network { interfaces: interfaces.into_values().collect(), routes })
}

type Attributes<'a> = BTreeMap<u16, &'a [u8]>;

/// The fixed part and the attributes of a message.
fn parts<const FIXED: usize>(body: &[u8]) -> Option<(&[u8; FIXED], Attributes<'_>)> {
    let (fixed, rest) = body.split_first_chunk()?;
    Some((fixed, netlink::attributes(rest).collect()))
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

/// By index.
fn links(messages: &[Message]) -> BTreeMap<u32, Interface> {
    messages.iter().filter_map(|(_, body)| link(body)).collect()
}

fn link(body: &[u8]) -> Option<(u32, Interface)> {
    let (fixed, attributes) = parts::<LINK>(body)?;
    let name = attributes.get(&LINK_NAME)?;
    let state = attributes.get(&LINK_STATE).and_then(|value| STATES.get(usize::from(*value.first()?)));
    let mac = attributes.get(&LINK_HARDWARE).filter(|bytes| bytes.iter().any(|byte| *byte != 0));
    let mac = mac.map(|bytes| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":"));
    let interface = Interface {
        name: String::from_utf8_lossy(name.strip_suffix(b"\0").unwrap_or(name)).into_owned(),
        state: (*state.unwrap_or(&STATES[0])).to_owned(),
        mac,
        mtu: attributes.get(&LINK_MTU).and_then(|value| number(value)).unwrap_or(0),
        addresses: Vec::new(),
    };
    Some((number(&fixed[4..8])?, interface))
}

fn add_addresses(interfaces: &mut BTreeMap<u32, Interface>, messages: &[Message]) {
    for (_, body) in messages {
        let Some((fixed, attributes)) = parts::<ADDRESS>(body) else { continue };
        // On a point-to-point link the other one is the peer's.
        let value = attributes.get(&ADDRESS_LOCAL).or_else(|| attributes.get(&ADDRESS_ADDRESS));
        let address = value.and_then(|value| netlink::address(value));
        let interface = number(&fixed[4..8]).and_then(|index| interfaces.get_mut(&index));
        if let (Some(interface), Some(address)) = (interface, address) {
            interface.addresses.push(format!("{address}/{}", fixed[1]));
        }
    }
}

fn routes(interfaces: &BTreeMap<u32, Interface>, messages: &[Message]) -> Vec<Route> {
    messages.iter().filter_map(|(_, body)| route(interfaces, body)).collect()
}

fn route(interfaces: &BTreeMap<u32, Interface>, body: &[u8]) -> Option<Route> {
    let (fixed, attributes) = parts::<ROUTE>(body)?;
    let [_, prefix, _, _, table, _, _, kind, ..] = *fixed;
    if table != TABLE_MAIN || kind != UNICAST {
        return None;
    }
    let address = |kind: u16| attributes.get(&kind).and_then(|value| netlink::address(value));
    let destination = address(ROUTE_DESTINATION).map(|address| format!("{address}/{prefix}"));
    let interface = attributes.get(&ROUTE_INTERFACE).and_then(|value| interfaces.get(&number(value)?));
    Some(Route {
        destination: destination.unwrap_or_else(|| "default".into()),
        gateway: address(ROUTE_GATEWAY).map(|address| address.to_string()),
        interface: interface.map(|interface| interface.name.clone()),
        metric: attributes.get(&ROUTE_METRIC).and_then(|value| number(value)),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::netlink::tests::{in_a_namespace, ip};
    use proptest::prelude::*;

    #[test]
    fn interfaces_and_routes_are_as_ip_set_them() {
        if !in_a_namespace("node_api::network::tests::interfaces_and_routes_are_as_ip_set_them") {
            return;
        }
        for command in [
            "link set dev up0 mtu 1400 address 52:54:00:00:00:09",
            "address add 192.0.2.7/24 dev up0",
            "route add default via 192.0.2.1 dev up0 metric 50",
        ] {
            ip(command);
        }
        let network = read().unwrap();
        let find = |name: &str| network.interfaces.iter().find(|interface| interface.name == name).unwrap();
        let card = find("up0");
        assert_eq!((card.mac.as_deref(), card.mtu), (Some("52:54:00:00:00:09"), 1400));
        assert!(card.addresses.contains(&"192.0.2.7/24".into()), "{card:?}");
        let loopback = find("lo");
        assert_eq!((loopback.mac.as_deref(), loopback.state.as_str()), (None, "unknown"));
        assert!(loopback.addresses.contains(&"127.0.0.1/8".into()), "{loopback:?}");
        let route = |destination: &str, gateway: Option<&str>, metric| Route {
            destination: destination.into(),
            gateway: gateway.map(str::to_owned),
            interface: Some("up0".into()),
            metric,
        };
        let all = &network.routes;
        assert!(all.contains(&route("default", Some("192.0.2.1"), Some(50))), "{all:?}");
        assert!(all.contains(&route("192.0.2.0/24", None, None)), "{all:?}");
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..6)) {
            let messages: Vec<Message> = bodies.into_iter().map(|body| (0, body)).collect();
            let mut interfaces = links(&messages);
            add_addresses(&mut interfaces, &messages);
            let _ = routes(&interfaces, &messages);
        }
    }
}
