//! PID 1 of the appliance, in two lives of the same binary: `/init` of the initramfs finds and
//! verifies the root, then `/usr/sbin/init` of that root brings the machine up and supervises it.
//!
//! Architecture invariant: no network protocol but DHCP and netlink, no TLS, no async runtime, and no
//! way for PID 1 to end but a reboot.

mod boot;
mod clock;
mod cmdline;
mod console;
mod control;
mod devices;
mod disk;
mod efi;
mod events;
mod files;
mod identity;
mod initramfs;
mod install;
mod machine;
mod modules;
mod mounts;
mod net;
mod netboot;
mod page;
mod power;
mod random;
mod root;
mod scheduler;
mod service;
mod shell;
mod signals;
mod stage;
mod sys;
mod sysctl;
mod watchdog;

use rustix::event::{PollFd, PollFlags, Timespec};
use std::time::Duration;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let name = arguments.first().map_or("", |path| path.rsplit('/').next().unwrap_or(path));
    if name == "modprobe" {
        std::process::exit(modules::answer_kernel_request(&arguments));
    }
    if std::process::id() != 1 && arguments.get(1).is_some_and(|word| word == netboot::LEASE) {
        let ended = netboot::lease().err().map(|error| error.to_string());
        console::say(format!("init {}: {}", netboot::LEASE, ended.unwrap_or_default()));
        std::process::exit(1);
    }
    if std::process::id() != 1 {
        std::process::exit(control::ask(&arguments));
    }
    let life = || if std::path::Path::new(boot::HANDOVER_FILE).exists() { root::run() } else { initramfs::run() };
    if std::panic::catch_unwind(life).is_err() {
        let failure = stage::Failure::retry(
            "init itself broke",
            "a defect in init, shown above",
            "please report it with this console's text",
        );
        boot::end("init", &failure, None);
    }
}

/// Waits until a descriptor can be read; `false` when `limit` passed first.
///
/// # Errors
/// As poll(2) answers; an interruption counts as nothing.
pub fn wait_readable(descriptor: impl rustix::fd::AsFd, limit: Option<Duration>) -> std::io::Result<bool> {
    let limit = limit.map(timespec);
    let mut wait = [PollFd::new(&descriptor, PollFlags::IN)];
    match rustix::event::poll(&mut wait, limit.as_ref()) {
        Ok(count) => Ok(count > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A duration as the kernel takes it.
pub fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: duration.subsec_nanos().into() }
}
