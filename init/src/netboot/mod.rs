//! A machine that starts from the network: its root came with the kernel, its disk is in memory, and its seed comes by
//! TLS from the `imgbuild serve` that its initramfs names. From the seed on, the boot is that of a stick.

pub mod disk;
mod session;

pub use session::{LEASE, Session, lease};

use crate::files::at;
use spec::netboot::{START_FILE, Start};
use std::io;
use std::path::Path;

/// Where the seed comes from, if this machine starts from the network.
///
/// # Errors
/// A file of `serve`'s that makes no sense.
pub fn start() -> io::Result<Option<Start>> {
    if !Path::new(START_FILE).exists() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(START_FILE).map_err(at(START_FILE))?;
    toml::from_str(&text).map(Some).map_err(|error| at(START_FILE)(io::Error::other(error)))
}
