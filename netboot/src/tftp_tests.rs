//! The server over the loopback device, against a client that loses packets, and against curl.

#![allow(clippy::unwrap_used)]

use super::*;
use std::sync::Mutex;

/// Short waits let a lost packet cost little.
const HASTY: Duration = Duration::from_millis(30);

type Told = Arc<Mutex<Vec<Event>>>;

fn content(size: usize) -> Bytes {
    (0..size).map(|at| (at * 31 + at / 251) as u8).collect()
}

async fn bound() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").await.unwrap()
}

async fn start(files: Files, transfers: usize, first_wait: Duration) -> (SocketAddr, Told) {
    let socket = bound().await;
    let address = socket.local_addr().unwrap();
    let told = Told::default();
    let tell = told.clone();
    let on_event = move |event| tell.lock().unwrap().push(event);
    tokio::spawn(Server::new(socket, Arc::new(files), Limits { transfers, first_wait }, on_event).run());
    (address, told)
}

async fn start_with(size: usize) -> (SocketAddr, Told) {
    start(Files::from([("file".to_owned(), content(size))]), 128, HASTY).await
}

/// Waits until an event like this was told.
async fn until(told: &Told, wanted: impl Fn(&Event) -> bool) {
    let seen = async {
        while !told.lock().unwrap().iter().any(&wanted) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), seen).await.unwrap_or_else(|_| panic!("{told:?}"));
}

fn request(name: &str, options: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = format!("\0\x01{name}\0octet\0").into_bytes();
    for (name, value) in options {
        bytes.extend(format!("{name}\0{value}\0").into_bytes());
    }
    bytes
}

#[derive(Debug, PartialEq)]
struct Refused(u16, String);

/// Of so many packets one is lost, always the same ones, in no rhythm that windows could fall into.
struct Losses {
    one_of: u32,
    state: u32,
}

impl Losses {
    const NONE: Losses = Losses { one_of: 0, state: 1 };

    fn one_of(packets: u32) -> Losses {
        Losses { one_of: packets, state: 0x9e37_79b9 }
    }

    fn takes(&mut self) -> bool {
        // xorshift32
        self.state ^= self.state << 13;
        self.state ^= self.state >> 17;
        self.state ^= self.state << 5;
        self.one_of != 0 && self.state.is_multiple_of(self.one_of)
    }
}

/// A client of its own, which knows nothing of the server's code. It repeats its last packet after a second, ten times.
async fn fetch(
    server: SocketAddr,
    name: &str,
    options: &[(&str, &str)],
    mut losses: Losses,
) -> Result<(Vec<u8>, String), Refused> {
    let socket = bound().await;
    let (mut block_size, mut window) = (512, 1);
    let (mut received, mut blocks, mut acknowledged, mut agreed) = (Vec::new(), 0u64, 0u64, String::new());
    let mut last_packet = request(name, options);
    let mut peer = server;
    socket.send_to(&last_packet, peer).await.unwrap();
    let mut buffer = vec![0; 65_536];
    let mut repeated = 0;
    loop {
        let Ok(datagram) = tokio::time::timeout(Duration::from_secs(1), socket.recv_from(&mut buffer)).await else {
            repeated += 1;
            assert!(repeated <= 10, "no answer after block {blocks}");
            socket.send_to(&last_packet, peer).await.unwrap();
            continue;
        };
        let (length, from) = datagram.unwrap();
        if losses.takes() {
            continue;
        }
        assert!(peer == server || from == peer, "a second transfer at {from}");
        let bytes = &buffer[..length];
        let number = u16::from_be_bytes([bytes[2], bytes[3]]);
        let mut complete = false;
        match bytes[1] {
            6 => {
                let fields: Vec<&str> = str::from_utf8(&bytes[2..]).unwrap().split_terminator('\0').collect();
                for pair in fields.chunks(2) {
                    match pair[0] {
                        "blksize" => block_size = pair[1].parse().unwrap(),
                        "windowsize" => window = pair[1].parse().unwrap(),
                        _ => {}
                    }
                }
                agreed = fields.join(" ");
            }
            3 if number == (blocks + 1) as u16 => {
                blocks += 1;
                received.extend_from_slice(&bytes[4..]);
                complete = length < 4 + block_size;
                if !complete && blocks - acknowledged < window {
                    continue;
                }
            }
            3 => {}
            5 => {
                let text = str::from_utf8(&bytes[4..]).unwrap().trim_end_matches('\0');
                return Err(Refused(number, text.to_owned()));
            }
            other => panic!("packet {other}"),
        }
        peer = from;
        acknowledged = blocks;
        let [high, low] = (blocks as u16).to_be_bytes();
        last_packet = vec![0, 4, high, low];
        // The last acknowledgement arrives: a client that leaves after losing it is the server's timeout.
        if complete || !losses.takes() {
            socket.send_to(&last_packet, peer).await.unwrap();
        }
        if complete {
            return Ok((received, agreed));
        }
    }
}

#[tokio::test]
async fn every_size_arrives_although_packets_are_lost() {
    let sizes = |block: usize| [0, 1, 511, 512, 513, block - 1, block, block + 1, block * 7, block * 40 + 5];
    for (block, window, loss) in [(512, 1, 0), (512, 1, 8), (1468, 4, 0), (1468, 4, 9), (8, 16, 10), (1024, 64, 12)] {
        for size in sizes(block) {
            let (server, told) = start_with(size).await;
            let (block, window) = (block.to_string(), window.to_string());
            let options = [("blksize", block.as_str()), ("windowsize", window.as_str())];
            let (received, agreed) = fetch(server, "file", &options, Losses::one_of(loss)).await.unwrap();
            assert!(received == content(size), "{size} bytes in blocks of {block}, windows of {window}");
            assert_eq!(agreed, format!("blksize {block} windowsize {window}"));
            until(&told, |event| {
                matches!(event, Event::Ended { outcome: Outcome::Finished, delivered, .. } if *delivered == size as u64)
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_client_without_options_is_served_in_blocks_of_512() {
    for size in [0, 512, 5000] {
        let (server, _) = start_with(size).await;
        let (received, agreed) = fetch(server, "file", &[], Losses::NONE).await.unwrap();
        assert!(received == content(size) && agreed.is_empty());
    }
}

#[tokio::test]
async fn more_than_65535_blocks_arrive() {
    let size = 8 * 65_600 + 5;
    let (server, _) = start_with(size).await;
    for (window, loss) in [("1", 0), ("32", 4000)] {
        let options = [("blksize", "8"), ("windowsize", window), ("tsize", "0")];
        let (received, agreed) = fetch(server, "file", &options, Losses::one_of(loss)).await.unwrap();
        assert!(received == content(size));
        assert_eq!(agreed, format!("blksize 8 tsize {size} windowsize {window}"));
    }
}

#[tokio::test]
async fn no_block_is_larger_than_a_frame() {
    let (server, _) = start_with(100_000).await;
    let options = [("blksize", "65464"), ("windowsize", "1000")];
    let (received, agreed) = fetch(server, "file", &options, Losses::NONE).await.unwrap();
    assert!(received == content(100_000));
    assert_eq!(agreed, "blksize 1468 windowsize 64");
}

#[tokio::test]
async fn fifty_clients_at_once_are_served() {
    let files: Files = (0..50).map(|number| (format!("file-{number}"), content(40_000 + number))).collect();
    let (server, told) = start(files, 50, HASTY).await;
    let clients: JoinSet<()> = (0..50)
        .map(|number| async move {
            let options = [("blksize", "1024"), ("windowsize", if number % 2 == 0 { "1" } else { "8" })];
            let (received, _) =
                fetch(server, &format!("file-{number}"), &options, Losses::one_of(17 + number as u32)).await.unwrap();
            assert!(received == content(40_000 + number), "{number}");
        })
        .collect();
    clients.join_all().await;
    assert!(!told.lock().unwrap().iter().any(|event| matches!(event, Event::Busy { .. })));
}

#[tokio::test]
async fn names_are_those_of_the_map_and_nothing_else() {
    let (server, told) = start_with(100).await;
    for name in ["file", "/file", "./file", "//./file", ".//file"] {
        assert!(fetch(server, name, &[], Losses::NONE).await.is_ok(), "{name}");
    }
    for name in ["", "/", "File", "file ", "../file", "a/../file", "/etc/passwd", "..\\file", "\u{1b}[2J"] {
        let refused = fetch(server, name, &[("tsize", "0")], Losses::NONE).await;
        assert_eq!(refused, Err(Refused(1, "no such file".into())), "{name}");
    }
    let shown = "\u{fffd}[2J";
    until(&told, |event| matches!(event, Event::Refused { name, refusal: Refusal::NoFile, .. } if name == shown)).await;
}

#[tokio::test]
async fn writes_and_text_are_refused() {
    let (server, _) = start_with(100).await;
    let client = bound().await;
    let mut buffer = [0; 600];
    for (bytes, wanted) in [
        (&b"\0\x02file\0octet\0"[..], &b"\0\x05\0\x02files here are only read\0"[..]),
        (b"\0\x01file\0netascii\0", b"\0\x05\0\0the only mode here is octet\0"),
        (b"\0\x01file\0mail\0", b"\0\x05\0\0the only mode here is octet\0"),
    ] {
        client.send_to(bytes, server).await.unwrap();
        let (length, _) = client.recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..length], wanted);
    }
}

#[tokio::test]
async fn nonsense_is_survived() {
    let (server, _) = start_with(100).await;
    let client = bound().await;
    for nonsense in [&b""[..], b"\0", b"\0\x01", b"\0\x01file", b"\0\x04\0\x01", b"\0\x05\0\x01x\0", &[1; 1400]] {
        client.send_to(nonsense, server).await.unwrap();
    }
    assert!(fetch(server, "file", &[], Losses::NONE).await.is_ok());
}

#[tokio::test]
async fn a_repeated_request_begins_no_second_transfer() {
    let (server, _) = start(Files::from([("file".to_owned(), content(2000))]), 128, Duration::from_secs(30)).await;
    let client = bound().await;
    for _ in 0..3 {
        client.send_to(&request("file", &[]), server).await.unwrap();
    }
    let mut buffer = [0; 600];
    let (length, transfer) = client.recv_from(&mut buffer).await.unwrap();
    assert_eq!((length, &buffer[..4]), (516, &[0, 3, 0, 1][..]));
    assert_ne!(transfer, server);
    let second = tokio::time::timeout(Duration::from_millis(300), client.recv_from(&mut buffer)).await;
    assert!(second.is_err(), "{second:?}");
    client.send_to(&[0, 4, 0, 1], transfer).await.unwrap();
    assert_eq!(client.recv_from(&mut buffer).await.unwrap(), (516, transfer));
    assert_eq!(buffer[..4], [0, 3, 0, 2]);
}

#[tokio::test]
async fn a_client_that_only_wants_the_size_frees_its_place_at_once() {
    let files = Files::from([("file".to_owned(), content(2000))]);
    let (server, told) = start(files, 1, Duration::from_secs(30)).await;
    let client = bound().await;
    client.send_to(&request("file", &[("tsize", "0")]), server).await.unwrap();
    let mut buffer = [0; 600];
    let (length, transfer) = client.recv_from(&mut buffer).await.unwrap();
    assert_eq!(&buffer[..length], b"\0\x06tsize\x002000\0");

    let other = bound().await;
    other.send_to(&request("file", &[]), server).await.unwrap();
    let place = other.local_addr().unwrap();
    until(&told, |event| matches!(event, Event::Busy { client } if *client == place)).await;

    client.send_to(b"\0\x05\0\x08User aborted\0", transfer).await.unwrap();
    until(&told, |event| matches!(event, Event::Ended { outcome: Outcome::Aborted { code: 8, .. }, delivered: 0, .. }))
        .await;
    // The same port asks for the file itself.
    client.send_to(&request("file", &[]), server).await.unwrap();
    let (length, _) = client.recv_from(&mut buffer).await.unwrap();
    assert_eq!((length, &buffer[..4]), (516, &[0, 3, 0, 1][..]));
}

#[tokio::test]
async fn a_client_that_falls_silent_is_given_up() {
    let (server, told) = start(Files::from([("file".to_owned(), content(2000))]), 128, Duration::from_millis(2)).await;
    let silent = bound().await;
    silent.send_to(&request("file", &[]), server).await.unwrap();
    until(&told, |event| matches!(event, Event::Ended { outcome: Outcome::TimedOut, delivered: 0, .. })).await;
    let mut sent = 0;
    while silent.try_recv(&mut [0; 600]).is_ok() {
        sent += 1;
    }
    assert_eq!(sent, 7);
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed() {
    let (server, told) = start_with(2000).await;
    let leaving = bound().await;
    leaving.send_to(&request("file", &[]), server).await.unwrap();
    drop(leaving);
    until(&told, |event| matches!(event, Event::Ended { outcome: Outcome::Gone, .. })).await;
}

#[tokio::test]
async fn a_server_that_is_dropped_ends_its_transfers() {
    let socket = bound().await;
    let server = socket.local_addr().unwrap();
    let files = Arc::new(Files::from([("file".to_owned(), content(2000))]));
    let serving = tokio::spawn(serve(socket, files, |_| {}));
    let client = bound().await;
    client.send_to(&request("file", &[]), server).await.unwrap();
    let mut buffer = [0; 600];
    let (_, transfer) = client.recv_from(&mut buffer).await.unwrap();
    serving.abort();
    assert!(serving.await.unwrap_err().is_cancelled());
    tokio::task::yield_now().await;
    client.connect(transfer).await.unwrap();
    let refused = async {
        while client.send(&[0, 4, 0, 0]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), refused).await.unwrap();
}

/// An implementation that is not ours. Hosts whose curl has no TFTP leave it out.
#[tokio::test]
async fn curl_fetches_what_we_serve() {
    let protocols = std::process::Command::new("curl").arg("--version").output();
    if !protocols.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(" tftp ")) {
        eprintln!("not tested: this host has no curl with TFTP");
        return;
    }
    for size in [0, 1, 511, 512, 513, 1468 * 3, 300_001] {
        let (server, told) = start_with(size).await;
        for option in [&["--tftp-blksize", "1468"][..], &["--tftp-blksize", "8"], &["--tftp-no-options"], &[]] {
            let output = tokio::task::spawn_blocking(move || {
                let url = format!("tftp://{server}/file");
                std::process::Command::new("curl").args(["-sS", "--max-time", "60"]).args(option).arg(url).output()
            });
            let output = output.await.unwrap().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(output.stdout == content(size), "{size} bytes with {option:?}");
        }
        until(&told, |event| matches!(event, Event::Ended { outcome: Outcome::Finished, .. })).await;
    }
}
