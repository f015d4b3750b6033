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
    match pods {
        IpNet::V4(_) => 24,
        IpNet::V6(_) => 64,
    }
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
    if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
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

/// The MAC address in lower case.
pub(super) fn hardware_address(text: &str) -> Option<String> {
    let parts: Vec<&str> = text.split(':').collect();
    let pair = |part: &&str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    (parts.len() == 6 && parts.iter().all(pair)).then(|| text.to_ascii_lowercase())
}

pub(super) fn is_domain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_label)
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

pub(super) fn is_taint(text: &str) -> bool {
    let Some((pair, effect)) = text.rsplit_once(':') else { return false };
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    is_qualified_name(key) && (value.is_empty() || is_label_value(value)) && TAINT_EFFECTS.contains(&effect)
}
