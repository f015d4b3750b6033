//! The debug profile's shell on the first console. Images without /bin/sh have none.

use crate::sys;
use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Command, Stdio};

/// Starts it; `None` where there is no shell or no console.
pub fn start() -> Option<u32> {
    if !Path::new("/bin/sh").exists() {
        return None;
    }
    // The last console named on the command line is where /dev/console leads.
    let active = crate::files::trimmed("/sys/class/tty/console/active")?;
    let name = active.split_whitespace().last()?.to_owned();
    let terminal = OpenOptions::new().read(true).write(true).open(format!("/dev/{name}")).ok()?;
    let mut command = Command::new("/bin/sh");
    command
        .arg("-i")
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root")
        .env("TERM", "linux")
        .current_dir("/");
    command
        .stdin(Stdio::from(terminal.try_clone().ok()?))
        .stdout(Stdio::from(terminal.try_clone().ok()?))
        .stderr(Stdio::from(terminal));
    let child = sys::spawn_with(&mut command, || {
        sys::unblock_signals()?;
        rustix::process::setsid()?;
        // Standard input is the terminal by now: it becomes the controlling one.
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        Ok(())
    });
    child.ok().map(|child| child.id())
}
