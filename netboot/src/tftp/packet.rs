//! TFTP's packets (RFC 1350 section 5) and the options of a request (RFC 2347 to 2349, RFC 7440).

/// Bytes of a block where no other size was agreed on.
pub(super) const DEFAULT_BLOCK_SIZE: usize = 512;
/// Largest block that is agreed to: with the headers of TFTP, UDP and IPv4 it fills a frame of Ethernet,
/// and nothing is ever in fragments, which much firmware cannot put together.
pub(super) const LARGEST_BLOCK: usize = 1500 - 20 - 8 - 4;
/// Largest window that is agreed to, in blocks: 94 kB at once, which a receive buffer holds.
pub(super) const LARGEST_WINDOW: u16 = 64;

const READ: u16 = 1;
const WRITE: u16 = 2;
const DATA: u16 = 3;
const ACKNOWLEDGEMENT: u16 = 4;
const ERROR: u16 = 5;
const OPTION_ACKNOWLEDGEMENT: u16 = 6;

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Packet {
    Read(Request),
    Write { name: String },
    Acknowledgement(u16),
    Error { code: u16, message: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub name: String,
    pub octet: bool,
    pub options: Options,
}

/// What is agreed to of a client's options. Unknown options and values outside of their range are as if
/// they had not been sent (RFC 2347).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Options {
    /// Bytes.
    pub block_size: Option<usize>,
    /// The client wants to know the size of the file.
    pub size: bool,
    /// Seconds until the first retransmission.
    pub timeout: Option<u8>,
    /// Blocks.
    pub window: Option<u16>,
}

/// `None` for what is malformed and for what only a server sends.
pub(super) fn parse(bytes: &[u8]) -> Option<Packet> {
    let (code, rest) = take_number(bytes)?;
    match code {
        READ => {
            let mut fields = fields(rest)?;
            let (name, mode) = (text(fields.next()?), fields.next()?);
            Some(Packet::Read(Request {
                name,
                octet: mode.eq_ignore_ascii_case(b"octet"),
                options: Options::read(fields),
            }))
        }
        WRITE => Some(Packet::Write { name: text(fields(rest)?.next()?) }),
        ACKNOWLEDGEMENT => Some(Packet::Acknowledgement(take_number(rest)?.0)),
        ERROR => {
            let (code, rest) = take_number(rest)?;
            // The text is for people; a client that left out the NUL has still given up.
            let message = rest.split(|byte| *byte == 0).next().unwrap_or_default();
            Some(Packet::Error { code, message: text(message) })
        }
        _ => None,
    }
}

fn take_number(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u16::from_be_bytes(*number), rest))
}

fn fields(bytes: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    Some(bytes.strip_suffix(&[0])?.split(|byte| *byte == 0))
}

/// Foreign text is shown to people: nothing in it may steer a terminal.
fn text(bytes: &[u8]) -> String {
    let readable = |character: char| if character.is_control() { char::REPLACEMENT_CHARACTER } else { character };
    String::from_utf8_lossy(bytes).chars().map(readable).collect()
}

impl Options {
    fn read<'a>(mut fields: impl Iterator<Item = &'a [u8]>) -> Options {
        let mut options = Options::default();
        while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
            let value = str::from_utf8(value).ok().and_then(|value| value.parse::<u64>().ok()).unwrap_or_default();
            match name.to_ascii_lowercase().as_slice() {
                b"blksize" if (8..=65464).contains(&value) => {
                    options.block_size = Some(LARGEST_BLOCK.min(value as usize));
                }
                b"tsize" => options.size = true,
                b"timeout" if (1..=255).contains(&value) => options.timeout = Some(value as u8),
                b"windowsize" if (1..=65535).contains(&value) => {
                    options.window = Some(LARGEST_WINDOW.min(value as u16))
                }
                _ => {}
            }
        }
        options
    }

    /// The packet that says what was agreed to. `size` in bytes; `None` where there is nothing to say.
    pub fn acknowledgement(&self, size: usize) -> Option<Vec<u8>> {
        let agreed = [
            ("blksize", self.block_size.map(|size| size.to_string())),
            ("tsize", self.size.then(|| size.to_string())),
            ("timeout", self.timeout.map(|seconds| seconds.to_string())),
            ("windowsize", self.window.map(|blocks| blocks.to_string())),
        ];
        let fields: Vec<u8> = agreed
            .into_iter()
            .filter_map(|(name, value)| Some(format!("{name}\0{}\0", value?)))
            .flat_map(String::into_bytes)
            .collect();
        (!fields.is_empty()).then(|| [&OPTION_ACKNOWLEDGEMENT.to_be_bytes(), fields.as_slice()].concat())
    }
}

/// A block of a file. Blocks count from 1, and on the wire from 0 again after 65535.
pub(super) fn data(block: u64, content: &[u8]) -> Vec<u8> {
    [&DATA.to_be_bytes(), &(block as u16).to_be_bytes(), content].concat()
}

pub(super) fn error(code: u16, message: &str) -> Vec<u8> {
    [&ERROR.to_be_bytes(), &code.to_be_bytes(), message.as_bytes(), &[0]].concat()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn request(bytes: &[u8]) -> Request {
        match parse(bytes) {
            Some(Packet::Read(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_of_uefi_is_read() {
        let read = request(b"\0\x01snponly.efi\0octet\0tsize\x000\0blksize\x001468\0windowsize\x004\0");
        let options = Options { block_size: Some(1468), size: true, timeout: None, window: Some(4) };
        assert_eq!(read, Request { name: "snponly.efi".into(), octet: true, options });
        assert_eq!(
            options.acknowledgement(1_000_000).unwrap(),
            b"\0\x06blksize\x001468\0tsize\x001000000\0windowsize\x004\0"
        );
    }

    #[test]
    fn a_request_without_options_has_nothing_acknowledged() {
        let read = request(b"\0\x01a\0OCTET\0");
        assert_eq!(read, Request { name: "a".into(), octet: true, options: Options::default() });
        assert_eq!(read.options.acknowledgement(5), None);
        assert!(!request(b"\0\x01a\0netascii\0").octet);
    }

    #[test]
    fn values_are_kept_in_their_ranges() {
        let block_size =
            |value: &str| request(format!("\0\x01a\0octet\0BlkSize\0{value}\0").as_bytes()).options.block_size;
        let cases = [
            ("7", None),
            ("8", Some(8)),
            ("1468", Some(1468)),
            ("1469", Some(1468)),
            ("65464", Some(1468)),
            ("65465", None),
            ("-1", None),
            ("", None),
        ];
        for (value, wanted) in cases {
            assert_eq!(block_size(value), wanted, "{value}");
        }
        let read = request(b"\0\x01a\0octet\0timeout\x000\0windowsize\x000\0multicast\0\0tsize\0");
        assert_eq!(read.options, Options::default());
        let read = request(b"\0\x01a\0octet\0timeout\x00255\0windowsize\x0065535\0");
        assert_eq!(read.options, Options { timeout: Some(255), window: Some(64), ..Options::default() });
    }

    #[test]
    fn other_packets_are_told_apart() {
        assert_eq!(parse(b"\0\x02a\0octet\0"), Some(Packet::Write { name: "a".into() }));
        assert_eq!(parse(b"\0\x04\xff\xfe"), Some(Packet::Acknowledgement(0xfffe)));
        let error = |message: &str| Some(Packet::Error { code: 8, message: message.into() });
        assert_eq!(parse(b"\0\x05\0\x08User aborted\0"), error("User aborted"));
        assert_eq!(parse(b"\0\x05\0\x08\x1b[2J"), error("\u{fffd}[2J"));
        for malformed in
            [&b""[..], b"\0", b"\0\x01", b"\0\x01a", b"\0\x01a\0", b"\0\x01a\0octet", b"\0\x04\0", b"\0\x07\0\0"]
        {
            assert_eq!(parse(malformed), None, "{malformed:?}");
        }
    }

    #[test]
    fn what_is_sent_is_as_in_the_figures() {
        assert_eq!(data(65537, b"xy"), b"\0\x03\0\x01xy");
        assert_eq!(error(1, "no"), b"\0\x05\0\x01no\0");
    }

    proptest! {
        #[test]
        fn foreign_packets_never_panic(code in 0u8..8, bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse(&bytes);
            let _ = parse(&[&[0, code], bytes.as_slice()].concat());
        }

        #[test]
        fn nothing_outside_the_ranges_is_agreed_to(value: u64, name in "blksize|tsize|timeout|windowsize") {
            let options = request(format!("\0\x01a\0octet\0{name}\0{value}\0").as_bytes()).options;
            prop_assert!(options.block_size.is_none_or(|size| (8..=1468).contains(&size) && size as u64 <= value));
            prop_assert!(options.timeout.is_none_or(|seconds| u64::from(seconds) == value && seconds > 0));
            prop_assert!(options.window.is_none_or(|blocks| (1..=64).contains(&blocks) && u64::from(blocks) <= value));
        }
    }
}
