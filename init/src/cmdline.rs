//! The kernel command line, read once into what init needs of it.

use spec::cmdline as key;

/// What the builder wrote into the UKI for us.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommandLine {
    /// 32 bytes.
    pub root_hash: Option<[u8; 32]>,
    /// Byte offset of the verity superblock in the root partition.
    pub hash_offset: Option<u64>,
    /// GUID of the boot partition, in lower case.
    pub boot_partition: Option<String>,
    /// MAC address of the card that the machine was started by, `52:54:00:12:34:56`.
    pub boot_interface: Option<String>,
    pub debug_shell: bool,
    /// What is there but not understood, one sentence each.
    pub complaints: Vec<String>,
}

/// Parses `/proc/cmdline`. Of a key given twice the last counts, as for the kernel. Never fails: a
/// value that makes no sense becomes a complaint and counts as absent.
pub fn parse(text: &str) -> CommandLine {
    let mut found = CommandLine::default();
    for word in words(text) {
        let Some((name, value)) = word.split_once('=') else { continue };
        match name {
            key::ROOT_HASH => match hex32(value) {
                Some(hash) => found.root_hash = Some(hash),
                None => found.complain(name, value, "64 hexadecimal digits"),
            },
            key::HASH_OFFSET => match value.parse::<u64>() {
                Ok(offset) if offset % u64::from(spec::layout::VERITY_BLOCK_SIZE) == 0 => {
                    found.hash_offset = Some(offset)
                }
                _ => found.complain(name, value, "a number of bytes that is a multiple of 4096"),
            },
            key::BOOT_PARTITION => match uuid::Uuid::parse_str(value) {
                Ok(guid) => found.boot_partition = Some(guid.to_string()),
                Err(_) => found.complain(name, value, "a partition GUID"),
            },
            // The digits before the address are its kind: 01 is Ethernet.
            key::BOOT_INTERFACE => {
                let mac = value.strip_prefix("01-").map(|mac| mac.replace('-', ":").to_lowercase());
                match mac.filter(|mac| crate::net::parse_mac(mac).is_some()) {
                    Some(mac) => found.boot_interface = Some(mac),
                    None => found.complain(name, value, "01- and a MAC address with - between its bytes"),
                }
            }
            key::DEBUG_SHELL => found.debug_shell = value == "1",
            _ => {}
        }
    }
    found
}

impl CommandLine {
    fn complain(&mut self, name: &str, value: &str, wanted: &str) {
        self.complaints.push(format!("kernel command line: {name}={value}: wanted {wanted}"));
    }
}

/// Splits at blanks outside double quotes, as the kernel does; the quotes go.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quoted = false;
    for character in text.chars() {
        match character {
            '"' => quoted = !quoted,
            c if c.is_whitespace() && !quoted => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            c => word.push(c),
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

fn hex32(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(bytes)
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_builders_keys_are_understood() {
        let hash = "ab".repeat(32);
        let line = parse(&format!(
            "quiet console=ttyS0 imgbuild.roothash={hash} imgbuild.hashoffset=8192 imgbuild.bootpart=5D1F7C62-0D3E-4B55-9A60-1F2F4F2B9E12 imgbuild.shell=1 BOOTIF=01-52-54-00-0A-00-01 gpt\n"
        ));
        assert_eq!(line.root_hash, Some([0xab; 32]));
        assert_eq!(line.hash_offset, Some(8192));
        assert_eq!(line.boot_partition.as_deref(), Some("5d1f7c62-0d3e-4b55-9a60-1f2f4f2b9e12"));
        assert!(line.debug_shell);
        assert_eq!(line.boot_interface.as_deref(), Some("52:54:00:0a:00:01"));
        assert!(line.complaints.is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_named_and_counts_as_absent() {
        let line = parse("imgbuild.roothash=12 imgbuild.hashoffset=77 imgbuild.bootpart=x");
        assert_eq!((line.root_hash, line.hash_offset, line.boot_partition), (None, None, None));
        assert_eq!(line.complaints.len(), 3);
        assert!(line.complaints[1].contains("imgbuild.hashoffset=77"));
    }

    #[test]
    fn quotes_hold_words_together_and_the_last_value_wins() {
        let line = parse("dyndbg=\"file x imgbuild.shell=1\" imgbuild.hashoffset=4096 imgbuild.hashoffset=8192");
        assert!(!line.debug_shell);
        assert_eq!(line.hash_offset, Some(8192));
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "\\PC*") {
            let _ = parse(&text);
        }

        #[test]
        fn hexadecimal_comes_back(bytes in any::<[u8; 32]>()) {
            prop_assert_eq!(hex32(&hex(&bytes)), Some(bytes));
        }
    }
}
