//! Messages as firmware sends them, and what must not be answered. Replies are judged as the bytes that
//! machines get.

#![allow(clippy::unwrap_used)]

use super::*;
use dhcproto::{Decodable, Decoder};
use proptest::prelude::*;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SOURCE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 77), 4070);
const NOBODY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);
const EVERYONE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::BROADCAST, 68);
const SCRIPT: &str = "http://192.0.2.1:8080/boot.ipxe";

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const INFORM: u8 = 8;

const UUID: [u8; 17] = [0, 0x4c, 0x4c, 0x45, 0x44, 0, 0x34, 0x52, 0x10, 0x80, 0x57, 0xb6, 0xc0, 0x4f, 6, 43, 52];
/// What firmware asks for: mask, router, name servers, file size, vendor's options, and so on.
const WISHES: &[u8] = &[1, 3, 6, 13, 15, 17, 18, 43, 60, 66, 67, 128, 129, 130, 131, 132, 133, 134, 135];

fn boot() -> Boot {
    Boot {
        server: SERVER,
        bios: "undionly.kpxe".into(),
        uefi: "snponly.efi".into(),
        http: "http://192.0.2.1:8080".into(),
        script: SCRIPT.into(),
    }
}

type Options<'a> = Vec<(u8, &'a [u8])>;

fn packet(kind: u8, options: &Options) -> Vec<u8> {
    let mut bytes = vec![0; 240];
    bytes[..12].copy_from_slice(&[1, 1, 6, 0, 0xa1, 0xb2, 0xc3, 0xd4, 0, 4, 0x80, 0]);
    bytes[28..34].copy_from_slice(&MAC);
    bytes[236..240].copy_from_slice(&[99, 130, 83, 99]);
    bytes.extend([53, 1, kind]);
    for (code, value) in options {
        bytes.extend([*code, value.len() as u8]);
        bytes.extend_from_slice(value);
    }
    bytes.push(255);
    bytes
}

fn firmware<'a>(class: &'a [u8], architecture: &'a [u8; 2]) -> Options<'a> {
    vec![(57, &[4, 236]), (55, WISHES), (97, &UUID), (94, &[1, 2, 1]), (93, architecture), (60, class)]
}

fn bios<'a>() -> Options<'a> {
    firmware(b"PXEClient:Arch:00000:UNDI:002001", &[0, 0])
}

fn uefi<'a>() -> Options<'a> {
    firmware(b"PXEClient:Arch:00007:UNDI:003016", &[0, 7])
}

fn http<'a>() -> Options<'a> {
    firmware(b"HTTPClient:Arch:00016:UNDI:003001", &[0, 16])
}

/// iPXE names itself, and has its own options in option 175.
fn ipxe<'a>(mut options: Options<'a>, user_class: &'a [u8]) -> Options<'a> {
    options.push((77, user_class));
    options.push((175, &[0xb1, 5, 1, 0x1a, 0xf4, 0x10, 0, 0x18, 1, 1]));
    options
}

/// The answer as a machine gets it: header fields and options by their codes.
struct Received {
    bytes: Vec<u8>,
    options: Vec<(u8, Vec<u8>)>,
    to: SocketAddrV4,
}

impl Received {
    fn option(&self, code: u8) -> Option<&[u8]> {
        self.options.iter().find(|(of, _)| *of == code).map(|(_, value)| value.as_slice())
    }

    fn codes(&self) -> Vec<u8> {
        self.options.iter().map(|(code, _)| *code).collect()
    }

    fn file(&self) -> &str {
        str::from_utf8(self.bytes[108..236].split(|byte| *byte == 0).next().unwrap()).unwrap()
    }

    fn address(&self, at: usize) -> Ipv4Addr {
        <[u8; 4]>::try_from(&self.bytes[at..at + 4]).unwrap().into()
    }
}

fn ask(bytes: &[u8], arrived: Port, source: SocketAddrV4, boot: &Boot) -> Option<Received> {
    let reply = answer(&read_message(bytes)?, arrived, source, boot)?;
    let bytes = reply.to_bytes().unwrap();
    assert!(bytes.len() >= 300, "{} bytes", bytes.len());
    let decoded = Message::decode(&mut Decoder::new(&bytes)).unwrap();
    let again = Reply { message: decoded, ..reply };
    assert_eq!(again.to_bytes().unwrap(), bytes);
    let (mut options, mut rest) = (Vec::new(), &bytes[240..]);
    while rest[0] != 255 {
        let length = usize::from(rest[1]);
        options.push((rest[0], rest[2..2 + length].to_vec()));
        rest = &rest[2 + length..];
    }
    Some(Received { bytes, options, to: again.to })
}

fn discover(options: Options) -> Option<Received> {
    ask(&packet(DISCOVER, &options), Port::Dhcp, NOBODY, &boot())
}

#[test]
fn a_bios_is_offered_its_program_and_told_to_look_no_further() {
    let offer = discover(bios()).unwrap();
    assert_eq!(offer.bytes[..12], [2, 1, 6, 0, 0xa1, 0xb2, 0xc3, 0xd4, 0, 0, 0x80, 0]);
    assert_eq!(offer.bytes[28..44], [0x52, 0x54, 0, 0x12, 0x34, 0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(offer.bytes[236..240], [99, 130, 83, 99]);
    assert_eq!(offer.address(20), SERVER);
    assert_eq!(offer.option(53), Some(&[OFFER][..]));
    assert_eq!(offer.option(54), Some(&[192, 0, 2, 1][..]));
    assert_eq!(offer.option(60), Some(&b"PXEClient"[..]));
    assert_eq!(offer.option(97), Some(&UUID[..]));
    assert_eq!(offer.option(43), Some(&[6, 1, 8, 255][..]));
    assert_eq!(offer.file(), "undionly.kpxe");
    assert_eq!(offer.to, EVERYONE);
}

#[test]
fn uefi_is_offered_its_program_without_option_43() {
    for architecture in [[0, 7], [0, 9]] {
        let offer = discover(firmware(b"PXEClient:Arch:00007:UNDI:003016", &architecture)).unwrap();
        assert_eq!((offer.file(), offer.address(20)), ("snponly.efi", SERVER));
        assert_eq!(offer.codes(), [53, 54, 60, 97]);
        assert_eq!(offer.option(60), Some(&b"PXEClient"[..]));
    }
}

#[test]
fn http_boot_is_offered_a_url() {
    let offer = discover(http()).unwrap();
    assert_eq!(offer.option(60), Some(&b"HTTPClient"[..]));
    // The NUL ends the text for EDK2, which would write it over the code of option 97.
    assert_eq!(offer.option(67), Some(&b"http://192.0.2.1:8080/snponly.efi\0"[..]));
    assert_eq!(offer.codes(), [53, 54, 60, 67, 97]);
    let with_slash = Boot { http: "http://192.0.2.1:8080/".into(), ..boot() };
    let offer = ask(&packet(DISCOVER, &http()), Port::Dhcp, NOBODY, &with_slash).unwrap();
    assert_eq!(offer.file(), "http://192.0.2.1:8080/snponly.efi");
}

#[test]
fn ipxe_is_offered_its_script_however_it_says_its_name() {
    let names: [&[u8]; 4] = [b"iPXE", b"\x04iPXE", b"\x03abc\x04iPXE", b"\x04iPXE\x00\x05other"];
    for firmware in [bios, uefi] {
        for name in names {
            let offer = discover(ipxe(firmware(), name)).unwrap();
            assert_eq!((offer.file(), offer.address(20)), (SCRIPT, SERVER), "{name:?}");
            assert_eq!(offer.option(175), Some([1, 1, 1].as_slice()), "{name:?}");
        }
    }
    let others: [&[u8]; 5] = [b"", b"iPXF", b"\x05iPXE", b"\x03iPXE", b"iPXE2"];
    for name in others {
        let offer = discover(ipxe(bios(), name)).unwrap();
        assert_eq!((offer.file(), offer.option(175)), ("undionly.kpxe", None), "{name:?}");
    }
}

#[test]
fn a_url_longer_than_the_field_goes_into_an_option_of_its_own() {
    let script = |length: usize| format!("http://192.0.2.1/{}", "x".repeat(length - 17));
    let ask_for = |script: String| {
        ask(&packet(DISCOVER, &ipxe(uefi(), b"iPXE")), Port::Dhcp, NOBODY, &Boot { script, ..boot() }).unwrap()
    };
    let fitting = ask_for(script(127));
    assert_eq!((fitting.file(), fitting.option(67)), (script(127).as_str(), None));
    let long = ask_for(script(128));
    assert_eq!((long.file(), long.option(67)), ("", Some(format!("{}\0", script(128)).as_bytes())));
    // RFC 3396: what is longer than 255 bytes comes in parts.
    let longer = ask_for(script(300));
    let parts: Vec<u8> =
        longer.options.iter().filter(|(code, _)| *code == 67).flat_map(|(_, part)| part.clone()).collect();
    assert_eq!(parts, format!("{}\0", script(300)).as_bytes());
}

#[test]
fn who_does_not_boot_from_the_network_gets_nothing() {
    let udhcpc: Options = vec![(61, &[1, 0x52, 0x54, 0, 0x12, 0x34, 0x56]), (55, WISHES), (60, b"udhcp 1.36.1")];
    assert!(discover(udhcpc).is_none());
    let networkd: Options = vec![(55, WISHES), (12, b"m1"), (93, &[0, 7])];
    assert!(discover(networkd).is_none());
    assert!(discover(firmware(b"MSFT 5.0", &[0, 0])).is_none());
    let old: Options = vec![(55, WISHES), (60, b"PXEClient")];
    assert!(discover(old).is_none());
}

#[test]
fn hardware_without_a_program_gets_nothing() {
    for architecture in [1u8, 2, 6, 10, 11, 15, 16, 19, 27, 255] {
        assert!(
            discover(firmware(b"PXEClient:Arch:00011:UNDI:003000", &[0, architecture])).is_none(),
            "{architecture}"
        );
    }
    for architecture in [0u8, 6, 11, 15, 19] {
        assert!(
            discover(firmware(b"HTTPClient:Arch:00019:UNDI:003000", &[0, architecture])).is_none(),
            "{architecture}"
        );
    }
    let without = Boot { bios: String::new(), http: String::new(), ..boot() };
    for options in [bios(), http()] {
        assert!(ask(&packet(DISCOVER, &options), Port::Dhcp, NOBODY, &without).is_none());
    }
    assert!(ask(&packet(DISCOVER, &uefi()), Port::Dhcp, NOBODY, &without).is_some());
}

#[test]
fn each_port_has_its_messages() {
    let answered =
        |kind, port| ask(&packet(kind, &uefi()), port, SOURCE, &boot()).map(|reply| reply.option(53).unwrap()[0]);
    for kind in 0..=18 {
        assert_eq!(answered(kind, Port::Dhcp), (kind == DISCOVER).then_some(OFFER), "{kind}");
        assert_eq!(answered(kind, Port::Pxe), (kind == REQUEST || kind == INFORM).then_some(ACK), "{kind}");
    }
    let mut of_a_server = packet(DISCOVER, &uefi());
    of_a_server[0] = 2;
    assert!(ask(&of_a_server, Port::Dhcp, NOBODY, &boot()).is_none());
}

#[test]
fn a_request_at_port_4011_is_answered_to_where_it_came_from() {
    let mut request = packet(REQUEST, &uefi());
    request[12..16].copy_from_slice(&SOURCE.ip().octets());
    let ack = ask(&request, Port::Pxe, SOURCE, &boot()).unwrap();
    assert_eq!((ack.to, ack.address(12)), (SOURCE, *SOURCE.ip()));
    assert_eq!((ack.file(), ack.address(20)), ("snponly.efi", SERVER));
    assert_eq!(ack.codes(), [53, 54, 60, 97]);
    let ack = ask(&packet(INFORM, &bios()), Port::Pxe, SOURCE, &boot()).unwrap();
    assert_eq!((ack.file(), ack.option(43)), ("undionly.kpxe", Some(&[6, 1, 8, 255][..])));
    let ack = ask(&packet(REQUEST, &ipxe(bios(), b"iPXE")), Port::Pxe, SOURCE, &boot()).unwrap();
    assert_eq!(ack.file(), SCRIPT);
    assert_eq!(ask(&request, Port::Pxe, NOBODY, &boot()).unwrap().to, EVERYONE);
}

#[test]
fn an_offer_goes_to_the_relay_or_the_address_or_everyone() {
    let (relay, address) = (Ipv4Addr::new(198, 51, 100, 1), Ipv4Addr::new(198, 51, 100, 7));
    let offer = |ciaddr: Ipv4Addr, giaddr: Ipv4Addr, flags: u8| {
        let mut bytes = packet(DISCOVER, &bios());
        bytes[10] = flags;
        bytes[12..16].copy_from_slice(&ciaddr.octets());
        bytes[24..28].copy_from_slice(&giaddr.octets());
        let offer = ask(&bytes, Port::Dhcp, SOURCE, &boot()).unwrap();
        assert_eq!((offer.bytes[10], offer.address(24)), (flags, giaddr));
        assert_eq!(offer.address(12), Ipv4Addr::UNSPECIFIED);
        offer.to
    };
    let none = Ipv4Addr::UNSPECIFIED;
    assert_eq!(offer(none, none, 0x80), EVERYONE);
    assert_eq!(offer(none, none, 0), EVERYONE);
    assert_eq!(offer(address, none, 0), SocketAddrV4::new(address, 68));
    assert_eq!(offer(none, relay, 0x80), SocketAddrV4::new(relay, 67));
    assert_eq!(offer(address, relay, 0), SocketAddrV4::new(relay, 67));
    for nobody in [Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST, Ipv4Addr::new(224, 0, 0, 1)] {
        assert_eq!(offer(nobody, none, 0), EVERYONE);
    }
}

#[test]
fn what_the_relay_noted_comes_back_last() {
    let mut options = bios();
    options.push((82, &[1, 4, b'e', b't', b'h', b'7', 2, 2, 9, 9]));
    let offer = discover(options).unwrap();
    assert_eq!(offer.option(82), Some(&[1, 4, b'e', b't', b'h', b'7', 2, 2, 9, 9][..]));
    assert_eq!(offer.codes().last(), Some(&82));
}

#[test]
fn hardware_addresses_of_other_lengths_are_no_clients() {
    for length in [0u8, 5, 7, 16, 17, 255] {
        let mut bytes = packet(DISCOVER, &bios());
        bytes[2] = length;
        assert!(ask(&bytes, Port::Dhcp, NOBODY, &boot()).is_none(), "{length}");
        // A message that did not pass through `read_message`.
        let unread = Message::decode(&mut Decoder::new(&bytes)).unwrap();
        assert!(answer(&unread, Port::Dhcp, NOBODY, &boot()).is_none(), "{length}");
    }
}

#[test]
fn what_is_no_dhcp_message_is_not_read() {
    let whole = packet(DISCOVER, &bios());
    assert!(read_message(&whole).is_some());
    assert!(read_message(&whole[..239]).is_none());
    assert!(read_message(&whole[..250]).is_none());
    for (length, read) in [(16, true), (17, false), (255, false)] {
        let mut bytes = whole.clone();
        bytes[2] = length;
        assert_eq!(read_message(&bytes).is_some(), read, "{length}");
    }
    let mut bootp = whole;
    bootp[236] = 0;
    assert!(read_message(&bootp).is_none());
}

async fn bound() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").await.unwrap()
}

#[tokio::test]
async fn the_server_goes_on_after_nonsense_and_after_an_answer_that_cannot_be_sent() {
    let (dhcp, pxe, machine) = (bound().await, bound().await, bound().await);
    let (at_dhcp, at_pxe) = (dhcp.local_addr().unwrap(), pxe.local_addr().unwrap());
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(serve(dhcp, pxe, boot(), move |event| tell.send(event).unwrap()));

    for nonsense in [&b""[..], b"x", &[255; 1500]] {
        machine.send_to(nonsense, at_dhcp).await.unwrap();
        machine.send_to(nonsense, at_pxe).await.unwrap();
    }
    // From a socket of the loopback device nothing can be sent to a relay elsewhere.
    let mut relayed = packet(DISCOVER, &ipxe(uefi(), b"iPXE"));
    relayed[24..28].copy_from_slice(&[198, 51, 100, 1]);
    machine.send_to(&relayed, at_dhcp).await.unwrap();
    match told.recv().await.unwrap() {
        Event::SendFailed { client, to, .. } => {
            assert_eq!(client, Client { mac: MAC, firmware: Firmware::Uefi, ipxe: true });
            assert_eq!(to, "198.51.100.1:67".parse().unwrap());
        }
        other => panic!("{other:?}"),
    }

    machine.send_to(&packet(REQUEST, &bios()), at_pxe).await.unwrap();
    let mut buffer = [0; 2048];
    let (length, from) = machine.recv_from(&mut buffer).await.unwrap();
    assert_eq!(from, at_pxe);
    let ack = Message::decode(&mut Decoder::new(&buffer[..length])).unwrap();
    assert_eq!((length, ack.fname()), (300.max(length), Some(&b"undionly.kpxe\0"[..])));
    match told.recv().await.unwrap() {
        Event::Answered { client, port, program } => {
            assert_eq!(client, Client { mac: MAC, firmware: Firmware::Bios, ipxe: false });
            assert_eq!((port, program.as_str()), (Port::Pxe, "undionly.kpxe"));
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        for port in [Port::Dhcp, Port::Pxe] {
            let _ = ask(&bytes, port, SOURCE, &boot());
        }
    }

    /// Whatever the options and the fields of the header say.
    #[test]
    fn an_answer_never_gives_an_address_or_a_lease(
        kind in 0u8..10,
        header in proptest::collection::vec(any::<u8>(), 233),
        options in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..30)), 0..8),
        options_first: bool,
    ) {
        let mut all = uefi();
        let foreign: Options = options.iter().map(|(code, value)| (*code, value.as_slice())).collect();
        all.splice(if options_first { 0..0 } else { 6..6 }, foreign);
        let mut bytes = packet(kind, &all);
        bytes[3..236].copy_from_slice(&header);
        for port in [Port::Dhcp, Port::Pxe] {
            if let Some(reply) = ask(&bytes, port, SOURCE, &boot()) {
                prop_assert_eq!(reply.address(16), Ipv4Addr::UNSPECIFIED);
                prop_assert!(reply.codes().iter().all(|code| [43, 53, 54, 60, 67, 82, 97].contains(code)));
            }
        }
    }
}
