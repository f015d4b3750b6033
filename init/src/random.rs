//! Random numbers early in the boot. Names and GUIDs must not wait for the kernel's generator to be
//! sure of itself, which on a machine without a random source takes minutes; keys are the agent's.

use rustix::rand::{GetRandomFlags, getrandom};
use spec::paths::STATE_OWN_DIR;
use std::path::PathBuf;
use uuid::Uuid;

/// Bytes carried from one boot to the next.
const SEED_SIZE: usize = 512;

fn bytes<const N: usize>(flags: GetRandomFlags) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let mut done = 0;
    while done < N {
        done += getrandom(&mut bytes[done..], flags).ok()?;
    }
    Some(bytes)
}

/// A version 4 UUID, at once.
pub fn uuid() -> Uuid {
    let drawn: [u8; 16] = bytes(GetRandomFlags::INSECURE).unwrap_or_default();
    uuid::Builder::from_random_bytes(drawn).into_uuid()
}

fn seed_file() -> PathBuf {
    PathBuf::from(STATE_OWN_DIR).join("random-seed")
}

/// Gives the kernel what the last boot saved. A seed counts once: it is removed first, so that a
/// power cut cannot make two boots start alike.
pub fn restore() {
    let Ok(seed) = std::fs::read(seed_file()) else { return };
    let removed = std::fs::remove_file(seed_file()).and_then(|()| std::fs::File::open(STATE_OWN_DIR)?.sync_all());
    if seed.len() == SEED_SIZE
        && removed.is_ok()
        && let Err(error) = crate::sys::add_entropy(&seed)
    {
        crate::console::say(format!("random seed: {error}"));
    }
}

/// Saves a seed for the next boot, once the kernel's generator is sure of itself.
pub fn save() {
    if let Some(seed) = bytes::<SEED_SIZE>(GetRandomFlags::NONBLOCK) {
        let _ = crate::files::replace(seed_file(), &seed, 0o600);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_of_version_four_and_differ() {
        let (one, two) = (uuid(), uuid());
        assert_eq!(one.get_version_num(), 4);
        assert_ne!(one, two);
    }
}
