//! Signals as a descriptor: blocked for every thread, read by the main loop.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::time::Duration;

fn handled() -> SigSet {
    let mut set = SigSet::empty();
    // SIGINT is what the kernel makes of Ctrl-Alt-Del once it is told not to reboot by itself.
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGPWR,
        Signal::SIGPIPE,
    ] {
        set.add(signal);
    }
    set
}

/// Blocks the handled signals in this thread and all that it starts; takes Ctrl-Alt-Del over.
pub fn take_over() {
    if let Err(error) = handled().thread_block() {
        crate::console::say(format!("signals cannot be blocked: {error}"));
    }
    let _ = rustix::system::reboot(rustix::system::RebootCommand::CadOff);
}

/// The descriptor that reads them.
///
/// # Errors
/// As the kernel answers.
pub fn descriptor() -> nix::Result<SignalFd> {
    SignalFd::with_flags(&handled(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Waits for Ctrl-Alt-Del or a termination request, at most `limit`. Children are reaped meanwhile.
pub fn wait_for_reboot_request(limit: Option<Duration>) {
    let end = limit.map(|limit| crate::console::uptime() + limit);
    let Ok(signals) = descriptor() else {
        std::thread::sleep(limit.unwrap_or(Duration::from_secs(60)));
        return;
    };
    loop {
        let left = end.map(|end| end.saturating_sub(crate::console::uptime()));
        if !crate::wait_readable(&signals, left).unwrap_or(false) && left.is_some() {
            return;
        }
        while let Ok(Some(signal)) = signals.read_signal() {
            match Signal::try_from(signal.ssi_signo as i32) {
                Ok(Signal::SIGINT | Signal::SIGTERM | Signal::SIGPWR) => return,
                _ => while matches!(rustix::process::wait(rustix::process::WaitOptions::NOHANG), Ok(Some(_))) {},
            }
        }
    }
}
