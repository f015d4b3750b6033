//! Protocols by which firmware finds its boot program on the network: [`dhcp`] says where the program
//! is, beside the DHCP server of the site, and [`tftp`] hands it over.
//!
//! Both have a core without I/O (a message in, a message out) and a loop around it on sockets that the
//! caller has bound. What cannot be answered is ignored; what happens is told to the caller's callback.

use std::time::Duration;

pub mod dhcp;
pub mod tftp;

/// A socket that fails at receiving may fail again at once.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(200);
