//! Bytes as hexadecimal digits: how digests and drawn names are written.

use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};

pub fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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
