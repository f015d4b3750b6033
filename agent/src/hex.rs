//! Bytes as hexadecimal digits: how digests and drawn names are written.

use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};

pub fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The other way; `None` where it is something else.
pub fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let is_hex = digits.len().is_multiple_of(2) && digits.iter().all(u8::is_ascii_hexdigit);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    is_hex.then(|| digits.chunks(2).map(byte).collect()).flatten()
}

/// SHA-256 (FIPS 180-4).
pub fn sha256(bytes: impl AsRef<[u8]>) -> String {
    text(&Sha256::digest(bytes))
}

/// `N` random bytes; `None` when the system gives none.
pub fn random<const N: usize>() -> Option<String> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).ok()?;
    Some(text(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_come_back() {
        assert_eq!(bytes(&text(&[0, 255, 16])), Some(vec![0, 255, 16]));
        assert_eq!(bytes(""), Some(Vec::new()));
        for bad in ["0", "0g", "+1", "é"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }
}
