//! What a name, a network, an address look like: text in, a value or what is wanted out.

use ipnet::IpNet;
use std::net::IpAddr;

pub(super) const LABEL: &str =
    "lower-case letters, digits and - are wanted, at most 63, with a letter or digit at both ends";

pub(super) const TAINT_EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// A DNS label (RFC 1123): lower-case letters, digits and `-`, not at the ends, at most 63.
pub fn is_label(text: &str) -> bool {
    let sound = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.len() <= 63 && text.bytes().all(sound) && !text.starts_with('-') && !text.ends_with('-')
}

pub(super) fn host_bits(net: &IpNet) -> u8 {
    net.max_prefix_len() - net.prefix_len()
}

/// Prefix of a node's share of the pods' network, as kube-controller-manager cuts it.
pub(super) const fn node_prefix(pods: &IpNet) -> u8 {
    spec::cluster::node_prefix(matches!(pods, IpNet::V4(_)))
}

/// A network without host bits.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    match text.parse::<IpNet>() {
        Ok(net) if net.trunc() == net => Ok(net),
        Ok(net) => Err(format!("the address has bits beyond the prefix: write {}", net.trunc())),
        Err(_) => Err("a CIDR such as 10.244.0.0/16 is wanted".into()),
    }
}

/// An address with the prefix of its network, and neither the network's own nor its broadcast address.
pub(in crate::cluster) fn host_address(text: &str) -> Result<IpNet, String> {
    let net = text.parse::<IpNet>().map_err(|_| match text.parse::<IpAddr>() {
        Ok(address) => format!("the prefix is missing: write {address}/24, if that is its network"),
        Err(_) => "an address with its prefix is wanted, such as 192.0.2.11/24".to_owned(),
    })?;
    let address = net.addr();
    if server_address(&address.to_string()).is_none() {
        return Err("no machine can be reached there".into());
    }
    let ends = [net.network(), net.broadcast()];
    if matches!(net, IpNet::V4(_)) && host_bits(&net) > 1 && ends.contains(&address) {
        return Err(format!(
            "it is the network's own or its broadcast address; {} to {} are its ends",
            ends[0], ends[1]
        ));
    }
    Ok(net)
}

/// The MAC address of a card in lower case: not all zero, and not a group's (IEEE 802, the lowest bit
/// of the first byte).
pub(super) fn hardware_address(text: &str) -> Option<String> {
    let parts: Vec<&str> = text.split(':').collect();
    let pair = |part: &&str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    if parts.len() != 6 || !parts.iter().all(pair) || parts.iter().all(|part| *part == "00") {
        return None;
    }
    let first = u8::from_str_radix(parts[0], 16).ok()?;
    (first & 1 == 0).then(|| text.to_ascii_lowercase())
}

/// An address at which another machine can answer.
pub(super) fn server_address(text: &str) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().ok()?;
    (!address.is_unspecified() && !address.is_multicast() && !address.is_loopback()).then_some(address)
}

pub(super) fn is_domain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
}

/// A DNS name that cannot be taken for an IPv4 address with a mistake in it: its last label has a letter.
pub(super) fn is_host_name(text: &str) -> bool {
    is_domain(text) && !text.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()))
}

/// HOST or HOST:PORT; an IPv6 address in brackets (RFC 3986 section 3.2).
pub(super) fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let six = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = match six {
        Some(six) => six.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.parse::<std::net::Ipv4Addr>().is_ok() || is_host_name(host),
    };
    host && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// http:// or https://, an authority, and a path of visible ASCII.
pub(super) fn is_web_address(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")) else { return false };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    is_authority(authority) && path.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The name part of a Kubernetes label, or its value.
pub(super) fn is_label_value(text: &str) -> bool {
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

pub(super) fn is_qualified_name(text: &str) -> bool {
    match text.split_once('/') {
        Some((prefix, name)) => is_domain(prefix) && is_label_value(name),
        None => is_label_value(text),
    }
}

/// Key and effect of `KEY=VALUE:EFFECT` or `KEY:EFFECT`.
pub(super) fn taint(text: &str) -> Option<(&str, &str)> {
    let (pair, effect) = text.rsplit_once(':')?;
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    let sound =
        is_qualified_name(key) && (value.is_empty() || is_label_value(value)) && TAINT_EFFECTS.contains(&effect);
    sound.then_some((key, effect))
}
