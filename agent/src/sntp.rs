//! SNTP version 4 (RFC 4330, RFC 5905): one question, one judged answer. The transmit timestamp of
//! the question is random, so that an answer must come from who saw the question.

use ring::rand::{SecureRandom, SystemRandom};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

/// Seconds between NTP's epoch (1900) and Unix's.
const EPOCH_DIFFERENCE: u64 = 2_208_988_800;
/// Bytes of a packet without extensions.
pub const PACKET_SIZE: usize = 48;
/// UDP port.
pub const PORT: u16 = 123;

/// Why an answer is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("{0} bytes, 48 are wanted")]
    Length(usize),
    #[error("not a server's answer (mode {0})")]
    Mode(u8),
    #[error("an answer to another question")]
    Origin,
    #[error("the server is not synchronised")]
    Unsynchronised,
    #[error("the server refuses: {0}")]
    KissOfDeath(String),
    #[error("its time is zero")]
    Zero,
}

/// A question with this cookie as transmit timestamp.
pub fn question(cookie: u64) -> [u8; PACKET_SIZE] {
    let mut packet = [0; PACKET_SIZE];
    // No leap warning, version 4, mode 3 (client).
    packet[0] = 0b00_100_011;
    packet[40..48].copy_from_slice(&cookie.to_be_bytes());
    packet
}

/// The server's time in an answer: time since the Unix epoch at which it was sent. Era 1 of NTP
/// begins in 2036: a time before 1968 counts as of that era.
pub fn answer(packet: &[u8], cookie: u64) -> Result<Duration, Refused> {
    let packet: &[u8; PACKET_SIZE] =
        packet.get(..PACKET_SIZE).and_then(|head| head.try_into().ok()).ok_or(Refused::Length(packet.len()))?;
    let (leap, mode, stratum) = (packet[0] >> 6, packet[0] & 7, packet[1]);
    if mode != 4 {
        return Err(Refused::Mode(mode));
    }
    if packet[24..32] != cookie.to_be_bytes() {
        return Err(Refused::Origin);
    }
    if stratum == 0 {
        return Err(Refused::KissOfDeath(String::from_utf8_lossy(&packet[12..16]).into_owned()));
    }
    if leap == 3 || stratum > 15 {
        return Err(Refused::Unsynchronised);
    }
    let word = |at: usize| u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
    let (seconds, fraction) = (u64::from(word(40)), u64::from(word(44)));
    if seconds == 0 && fraction == 0 {
        return Err(Refused::Zero);
    }
    let era = if seconds & 0x8000_0000 == 0 { 1 << 32 } else { 0 };
    let nanoseconds = (fraction * 1_000_000_000) >> 32;
    Ok(Duration::new(seconds + era - EPOCH_DIFFERENCE, nanoseconds as u32))
}

/// A server's time and how far the local clock is behind (positive) or before it, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reading {
    /// Time since the Unix epoch, half the round trip added.
    pub time: Duration,
    pub offset_seconds: f64,
}

/// Asks one server; an answer later than `deadline` counts as none.
pub async fn ask(server: SocketAddr, deadline: Duration) -> std::io::Result<Reading> {
    let local: SocketAddr =
        if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { (std::net::Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = tokio::net::UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    let cookie = cookie()?;
    let exchange = async {
        let start = tokio::time::Instant::now();
        socket.send(&question(cookie)).await?;
        let mut buffer = [0u8; 512];
        loop {
            let length = socket.recv(&mut buffer).await?;
            match answer(&buffer[..length], cookie) {
                Ok(time) => break Ok(time + start.elapsed() / 2),
                // Anyone can send to the port; only the one who saw the question knows the cookie.
                Err(Refused::Origin | Refused::Length(_) | Refused::Mode(_)) => {}
                Err(refused) => break Err(std::io::Error::other(refused)),
            }
        }
    };
    let time = tokio::time::timeout(deadline, exchange)
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    let here = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(Reading { time, offset_seconds: time.as_secs_f64() - here.as_secs_f64() })
}

fn cookie() -> std::io::Result<u64> {
    let mut bytes = [0u8; 8];
    SystemRandom::new().fill(&mut bytes).map_err(|_| std::io::Error::other("the system gives no random bytes"))?;
    Ok(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn reply(cookie: u64, seconds: u32, fraction: u32) -> [u8; PACKET_SIZE] {
        let mut packet = question(0);
        packet[0] = 0b00_100_100;
        packet[1] = 2;
        packet[24..32].copy_from_slice(&cookie.to_be_bytes());
        packet[40..44].copy_from_slice(&seconds.to_be_bytes());
        packet[44..48].copy_from_slice(&fraction.to_be_bytes());
        packet
    }

    #[test]
    fn the_time_of_rfc_5905s_figure_is_read() {
        // 1 January 1970 is 2208988800 seconds after NTP's epoch (RFC 5905 figure 4).
        let packet = reply(7, 2_208_988_800, 0x8000_0000);
        assert_eq!(answer(&packet, 7).unwrap(), Duration::new(0, 500_000_000));
        // Era 1 begins on 8 February 2036 at 06:28:16 UTC.
        assert_eq!(answer(&reply(7, 1, 0), 7).unwrap().as_secs(), 2_085_978_497);
    }

    #[test]
    fn answers_that_prove_nothing_are_refused() {
        let good = reply(7, 3_900_000_000, 0);
        assert_eq!(answer(&good, 8), Err(Refused::Origin));
        assert_eq!(answer(&good[..47], 7), Err(Refused::Length(47)));
        let mut other = good;
        other[0] = 0b00_100_011;
        assert_eq!(answer(&other, 7), Err(Refused::Mode(3)));
        other[0] = 0b11_100_100;
        assert_eq!(answer(&other, 7), Err(Refused::Unsynchronised));
        let mut kiss = good;
        kiss[1] = 0;
        kiss[12..16].copy_from_slice(b"RATE");
        assert_eq!(answer(&kiss, 7), Err(Refused::KissOfDeath("RATE".into())));
        assert_eq!(answer(&reply(7, 0, 0), 7), Err(Refused::Zero));
    }

    #[tokio::test]
    async fn a_server_that_is_asked_is_read_and_silence_ends_at_the_deadline() {
        let server = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let serve = tokio::spawn(async move {
            let mut buffer = [0u8; 64];
            let (_, from) = server.recv_from(&mut buffer).await.unwrap();
            let cookie = u64::from_be_bytes(buffer[40..48].try_into().unwrap());
            server.send_to(&reply(cookie ^ 1, 1, 1), from).await.unwrap();
            server.send_to(&reply(cookie, 3_995_000_000, 0), from).await.unwrap();
            server
        });
        let reading = ask(address, Duration::from_secs(5)).await.unwrap();
        assert_eq!(reading.time.as_secs(), 3_995_000_000 - EPOCH_DIFFERENCE);
        let _silent = serve.await.unwrap();
        let late = ask(address, Duration::from_millis(30)).await.unwrap_err();
        assert_eq!(late.kind(), std::io::ErrorKind::TimedOut);
    }

    proptest::proptest! {
        #[test]
        fn foreign_packets_never_panic(bytes in proptest::collection::vec(proptest::arbitrary::any::<u8>(), 0..80), cookie: u64) {
            let _ = answer(&bytes, cookie);
        }

        #[test]
        fn every_time_of_both_eras_survives(seconds in 1u64..(1 << 32), fraction: u32) {
            let packet = reply(1, (seconds + EPOCH_DIFFERENCE) as u32, fraction);
            // Unix times that NTP can say: 1968 to 2104.
            if seconds + EPOCH_DIFFERENCE < (3 << 31) && (seconds + EPOCH_DIFFERENCE) >= (1 << 31) && (seconds + EPOCH_DIFFERENCE) as u32 != 0 {
                proptest::prop_assert_eq!(answer(&packet, 1).unwrap().as_secs(), seconds);
            }
        }
    }
}
