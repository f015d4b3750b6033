//! The one module with `unsafe`: what a child process does between fork and exec to see a tools
//! root's `/usr` instead of the host's. Only raw system calls on strings made before the fork.
#![allow(unsafe_code)]

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountPropagationFlags;
use rustix::thread::UnshareFlags;
use std::ffi::CString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The mounts of a private view, prepared before the fork.
#[derive(Debug)]
pub(crate) struct PrivateView {
    /// Source and target of each recursive bind mount, in order.
    pub binds: Vec<(CString, CString)>,
    /// Identity maps for a user namespace: `ID ID 1` of the calling user and group.
    pub user_map: CString,
    pub group_map: CString,
    /// A caller with all rights needs no user namespace, unless its rights turn out to be too few.
    pub privileged: bool,
}

/// Lets `command` set up `view` in its child just before the program is executed.
pub(crate) fn enter_before_exec(command: &mut Command, view: PrivateView) {
    // SAFETY: the closure runs in the child after fork. It allocates nothing, takes no lock and
    // makes only system calls through rustix's raw backend, on strings that live in `view`.
    unsafe {
        command.pre_exec(move || view.enter().map_err(io::Error::from));
    }
}

impl PrivateView {
    fn enter(&self) -> Result<(), Errno> {
        self.unshare()?;
        // Nothing that is mounted here may reach the host.
        rustix::mount::mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        for (source, target) in &self.binds {
            rustix::mount::mount_bind_recursive(source.as_c_str(), target.as_c_str())?;
        }
        Ok(())
    }

    fn unshare(&self) -> Result<(), Errno> {
        if self.privileged {
            match unshare(UnshareFlags::NEWNS) {
                // Root in a container without CAP_SYS_ADMIN: try as an ordinary user would.
                Err(Errno::PERM) => {}
                result => return result,
            }
        }
        unshare(UnshareFlags::NEWNS | UnshareFlags::NEWUSER)?;
        // An unprivileged group map is only accepted after this.
        write(c"/proc/self/setgroups", b"deny")?;
        write(c"/proc/self/uid_map", self.user_map.as_bytes())?;
        write(c"/proc/self/gid_map", self.group_map.as_bytes())
    }
}

fn unshare(flags: UnshareFlags) -> Result<(), Errno> {
    // SAFETY: no flag shares or unshares the descriptor table, and the child has a single thread.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

fn write(path: &std::ffi::CStr, bytes: &[u8]) -> Result<(), Errno> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, bytes).map(|_| ())
}
