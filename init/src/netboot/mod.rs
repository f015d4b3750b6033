//! A machine that starts from the network or from a CD image: its root came with the kernel, and its disk is in memory.
//! Its seed comes by TLS from the `imgbuild serve` that its initramfs names, or is on the CD image. From the seed on, the
//! boot is that of a stick.

pub mod disk;
mod session;

pub use session::{LEASE, Session, lease};

use crate::files::at;
use serde::{Deserialize, Serialize};
use spec::netboot::{SEED_FILE, START_FILE, Start};
use std::io;
use std::path::Path;

/// What a machine came from whose disk is in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// `imgbuild serve`, where its seed is too.
    Network(Start),
    /// A CD image, with its seed.
    Medium,
}

/// Where this machine comes from, if not from a disk.
///
/// # Errors
/// A file of `serve`'s that makes no sense.
pub fn origin() -> io::Result<Option<Origin>> {
    if Path::new(SEED_FILE).exists() {
        return Ok(Some(Origin::Medium));
    }
    if !Path::new(START_FILE).exists() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(START_FILE).map_err(at(START_FILE))?;
    let start = toml::from_str(&text).map_err(|error| at(START_FILE)(io::Error::other(error)))?;
    Ok(Some(Origin::Network(start)))
}
