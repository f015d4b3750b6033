//! The machine's own network: one interface (or a bond, or a VLAN on either) with one static or
//! leased IPv4 address. Planned as values, carried out by a thread that also renews the lease.

pub mod dhcp;
pub mod link;
pub mod packet;
pub mod plan;
pub mod run;

use std::net::Ipv4Addr;

/// What the machine's network is at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct NetworkState {
    pub interface: String,
    pub address: Option<(Ipv4Addr, u8)>,
    pub gateway: Option<Ipv4Addr>,
    pub dns: Vec<Ipv4Addr>,
    pub ntp: Vec<Ipv4Addr>,
    pub domain: Option<String>,
}

/// /etc/resolv.conf. A pod sandbox needs the file even where no server is known.
pub fn resolv_conf(state: &NetworkState) -> String {
    let mut text = String::from("# written by init\n");
    if let Some(domain) = &state.domain {
        text.push_str(&format!("search {domain}\n"));
    }
    // glibc takes no more than three.
    for server in state.dns.iter().take(3) {
        text.push_str(&format!("nameserver {server}\n"));
    }
    text
}

/// /etc/hosts: localhost (etcd's default peer URL needs it) and the machine's own name.
pub fn hosts(name: &str, address: Option<Ipv4Addr>) -> String {
    let mut text = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    text.push_str(&format!("{} {name}\n", address.unwrap_or(Ipv4Addr::new(127, 0, 1, 1))));
    text
}

/// `52:54:00:12:34:56` as bytes, in either case.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.trim().split(':');
    for byte in &mut bytes {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_resolver() {
        let state = NetworkState {
            dns: vec![[10, 0, 2, 3].into(), [1, 1, 1, 1].into(), [2, 2, 2, 2].into(), [3, 3, 3, 3].into()],
            domain: Some("example.test".into()),
            ..NetworkState::default()
        };
        assert_eq!(
            resolv_conf(&state),
            "# written by init\nsearch example.test\nnameserver 10.0.2.3\nnameserver 1.1.1.1\nnameserver 2.2.2.2\n"
        );
        assert!(hosts("m1", Some([192, 0, 2, 1].into())).ends_with("\n192.0.2.1 m1\n"));
        assert!(hosts("m1", None).ends_with("\n127.0.1.1 m1\n"));
    }

    #[test]
    fn hardware_addresses() {
        assert_eq!(parse_mac("52:54:00:12:34:aF"), Some([0x52, 0x54, 0, 0x12, 0x34, 0xaf]));
        for wrong in ["", "52:54:00:12:34", "52:54:00:12:34:56:78", "52-54-00-12-34-56", "gg:54:00:12:34:56"] {
            assert_eq!(parse_mac(wrong), None, "{wrong}");
        }
    }
}
