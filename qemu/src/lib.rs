//! Virtual machines as values: a [`Machine`] describes one, [`Machine::arguments`] turns it into
//! QEMU's command line (pure), [`Running`] is one that runs, with its console, its QMP monitor and
//! its power switch. Several machines share a [`Switch`], which loses, delays and cuts what a test wants
//! it to, and the host reaches them through a [`Gateway`]. Used by `imgbuild run` and by the stories.
//!
//! How QEMU is started is the caller's: every function that starts a program takes [`Programs`],
//! so that the host's own QEMU and one from a tools root look the same.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod accelerator;
pub mod console;
pub mod disk;
pub mod gateway;
pub mod machine;
pub mod network;
pub mod patience;
pub mod process;
pub mod qmp;
pub mod switch;
pub mod writelog;

mod arguments;
mod error;
mod random;

pub use accelerator::Accelerator;
pub use console::{Console, Pattern};
pub use error::{Error, Result};
pub use gateway::Gateway;
pub use machine::{Bus, DirectKernel, Disk, Display, Firmware, Machine};
pub use network::{Nic, NicLink, NicModel};
pub use patience::Patience;
pub use process::{Running, StartOptions, start};
pub use qmp::Qmp;
pub use switch::{Line, Switch};

/// Name of the emulator's program.
pub const QEMU_PROGRAM: &str = "qemu-system-x86_64";

/// Gives a command that starts the program of this name. Working folder and files of the host must
/// be reachable by the same paths in it.
pub type Programs<'a> = &'a dyn Fn(&str) -> std::process::Command;

/// The programs of the host, found by PATH.
pub fn host_programs(program: &str) -> std::process::Command {
    std::process::Command::new(program)
}
