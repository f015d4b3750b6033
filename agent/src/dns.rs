//! A stub resolver (RFC 1035) for the time servers' names: the static agent must not call
//! getaddrinfo. Asks the servers of /etc/resolv.conf over UDP, A records first, then AAAA.

use ring::rand::{SecureRandom, SystemRandom};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const A: u16 = 1;
const AAAA: u16 = 28;
const INTERNET: u16 = 1;

/// Servers of a resolv.conf(5) text.
pub fn servers(resolv_conf: &str) -> Vec<IpAddr> {
    let lines = resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    lines.filter_map(|rest| rest.trim().parse().ok()).collect()
}

/// The addresses of a host name, or of an address itself. `wait`: per server and record type.
pub async fn resolve(name: &str, servers: &[IpAddr], wait: Duration) -> io::Result<Vec<IpAddr>> {
    if let Ok(address) = name.parse() {
        return Ok(vec![address]);
    }
    let mut last = io::Error::new(io::ErrorKind::NotFound, "no DNS server is known");
    for server in servers {
        for kind in [A, AAAA] {
            match ask(name, kind, SocketAddr::new(*server, 53), wait).await {
                Ok(addresses) if addresses.is_empty() => {
                    last = io::Error::new(io::ErrorKind::NotFound, format!("{server} knows no address of {name}"));
                }
                Ok(addresses) => return Ok(addresses),
                Err(error) => last = io::Error::new(error.kind(), format!("{server}: {error}")),
            }
        }
    }
    Err(last)
}

async fn ask(name: &str, kind: u16, server: SocketAddr, wait: Duration) -> io::Result<Vec<IpAddr>> {
    let local: SocketAddr =
        if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { (std::net::Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = tokio::net::UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    let mut id = [0u8; 2];
    SystemRandom::new().fill(&mut id).map_err(|_| io::Error::other("the system gives no random bytes"))?;
    let id = u16::from_ne_bytes(id);
    let query = query(id, name, kind).ok_or_else(|| io::Error::other(format!("{name:?} is no host name")))?;
    let exchange = async {
        socket.send(&query).await?;
        let mut buffer = [0u8; 1500];
        loop {
            let length = socket.recv(&mut buffer).await?;
            if let Some(answer) = answers(&buffer[..length], id, kind) {
                break answer;
            }
        }
    };
    tokio::time::timeout(wait, exchange).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// A query with recursion desired; `None` for a name that DNS cannot say.
fn query(id: u16, name: &str, kind: u16) -> Option<Vec<u8>> {
    let mut packet = Vec::with_capacity(32 + name.len());
    packet.extend(id.to_be_bytes());
    packet.extend([0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?;
        packet.push(length);
        packet.extend(label.as_bytes());
    }
    packet.push(0);
    packet.extend(kind.to_be_bytes());
    packet.extend(INTERNET.to_be_bytes());
    (packet.len() <= 12 + 255 + 4).then_some(packet)
}

/// The addresses in an answer to the query `id`. `None`: not our answer, wait for another.
fn answers(packet: &[u8], id: u16, kind: u16) -> Option<io::Result<Vec<IpAddr>>> {
    let word = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    if word(0)? != id || packet.get(2)? & 0x80 == 0 {
        return None;
    }
    let code = packet.get(3)? & 0x0f;
    if code != 0 {
        return Some(Err(io::Error::other(format!("DNS error {code}"))));
    }
    let mut at = 12;
    for _ in 0..word(4)? {
        at = skip_name(packet, at)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..word(6)? {
        at = skip_name(packet, at)?;
        let (record, length) = (word(at)?, usize::from(word(at + 8)?));
        let data = packet.get(at + 10..at + 10 + length)?;
        if record == kind {
            match data.len() {
                4 => found.push(IpAddr::from(<[u8; 4]>::try_from(data).ok()?)),
                16 => found.push(IpAddr::from(<[u8; 16]>::try_from(data).ok()?)),
                _ => {}
            }
        }
        at += 10 + length;
    }
    Some(Ok(found))
}

/// The offset behind a name, which may end in a pointer.
fn skip_name(packet: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *packet.get(at)? {
            0 => return Some(at + 1),
            length if length & 0xc0 == 0xc0 => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The answer of a real server to `ntp.example A`: a CNAME and two addresses.
    fn answer() -> Vec<u8> {
        let mut packet = query(0x1234, "ntp.example", A).unwrap();
        packet[2] = 0x81;
        packet[3] = 0x80;
        packet[7] = 3;
        packet.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 4, 1, b'x', 0xc0, 16]);
        packet.extend([0xc0, 41, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 1]);
        packet.extend([0xc0, 41, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 2]);
        packet
    }

    #[test]
    fn addresses_are_read_behind_a_cname() {
        let found = answers(&answer(), 0x1234, A).unwrap().unwrap();
        assert_eq!(found, ["192.0.2.1", "192.0.2.2"].map(|text| text.parse::<IpAddr>().unwrap()));
        assert!(answers(&answer(), 0x1235, A).is_none(), "another query's answer is not ours");
    }

    #[test]
    fn a_cut_or_negative_answer_gives_no_address() {
        let packet = answer();
        assert!(answers(&packet[..packet.len() - 3], 0x1234, A).is_none());
        let mut negative = packet;
        negative[3] = 0x83;
        assert!(answers(&negative, 0x1234, A).unwrap().is_err());
    }

    #[test]
    fn servers_come_from_resolv_conf_and_bad_names_are_no_query() {
        assert_eq!(servers("# x\nnameserver 192.0.2.53\nsearch a\n nameserver fd00::1\nnameserver x\n").len(), 2);
        assert!(query(1, "a..b", A).is_none());
        assert!(query(1, &"a".repeat(64), A).is_none());
        assert!(query(1, &"abc.".repeat(70), A).is_none());
    }

    #[tokio::test]
    async fn an_address_resolves_to_itself_and_silence_is_an_error() {
        let wait = Duration::from_millis(10);
        assert_eq!(resolve("192.0.2.9", &[], wait).await.unwrap(), ["192.0.2.9".parse::<IpAddr>().unwrap()]);
        assert!(resolve("ntp.example", &[], wait).await.unwrap_err().to_string().contains("no DNS server"));
    }

    proptest::proptest! {
        #[test]
        fn foreign_packets_never_panic(bytes in proptest::collection::vec(proptest::arbitrary::any::<u8>(), 0..200)) {
            let id = if bytes.len() > 1 { u16::from_be_bytes([bytes[0], bytes[1]]) } else { 0 };
            let _ = answers(&bytes, id, A);
        }
    }
}
