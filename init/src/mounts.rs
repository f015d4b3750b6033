//! The file systems that a root needs beside itself, and taking all of them down again.

use crate::console::say;
use crate::files::at;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_remount, unmount,
};
use std::ffi::CStr;
use std::io;
use std::path::Path;

pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";

struct Mount {
    kind: &'static str,
    target: &'static str,
    flags: MountFlags,
    options: &'static CStr,
    /// The machine can do without.
    optional: bool,
}

/// For what shows the kernel's own things.
pub const NO_PROGRAMS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

const MOUNTS: [Mount; 9] = [
    Mount {
        kind: "tmpfs",
        target: "/tmp",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
        options: c"mode=1777,size=25%",
        optional: false,
    },
    Mount {
        kind: "devpts",
        target: "/dev/pts",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        options: c"mode=0620,gid=5,ptmxmode=0666",
        optional: false,
    },
    Mount {
        kind: "tmpfs",
        target: "/dev/shm",
        flags: MountFlags::NOSUID.union(MountFlags::NODEV),
        options: c"mode=1777",
        optional: false,
    },
    Mount { kind: "mqueue", target: "/dev/mqueue", flags: NO_PROGRAMS, options: c"", optional: true },
    Mount {
        kind: "cgroup2",
        target: CGROUP_ROOT,
        flags: NO_PROGRAMS,
        options: c"nsdelegate,memory_recursiveprot",
        optional: false,
    },
    Mount { kind: "securityfs", target: "/sys/kernel/security", flags: NO_PROGRAMS, options: c"", optional: true },
    Mount { kind: "bpf", target: "/sys/fs/bpf", flags: NO_PROGRAMS, options: c"mode=0700", optional: true },
    Mount { kind: "tracefs", target: "/sys/kernel/tracing", flags: NO_PROGRAMS, options: c"", optional: true },
    Mount { kind: "pstore", target: "/sys/fs/pstore", flags: NO_PROGRAMS, options: c"", optional: true },
];

/// Mounts all of it but /etc; / becomes shared, as volumes of pods want it.
///
/// # Errors
/// The first that the machine cannot do without, by name.
pub fn mount_all() -> io::Result<()> {
    mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC)
        .map_err(|error| at("/")(error.into()))?;
    for entry in &MOUNTS {
        if entry.target.starts_with("/dev/") {
            let _ = std::fs::create_dir_all(entry.target);
        }
        match mount(entry.kind, entry.target, entry.kind, entry.flags, entry.options) {
            Ok(()) | Err(rustix::io::Errno::BUSY) => {}
            Err(error) if entry.optional => {
                say(format!("{} at {}: {error}; going on without", entry.kind, entry.target))
            }
            Err(error) => return Err(at(format!("{} at {}", entry.kind, entry.target))(error.into())),
        }
    }
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
        ("/dev/core", "/proc/kcore"),
    ] {
        let _ = std::os::unix::fs::symlink(target, link);
    }
    Ok(())
}

/// /etc: the image's below, this boot's generated files above, in memory. Needs the module overlay.
///
/// # Errors
/// With the path in the text.
pub fn mount_etc() -> io::Result<()> {
    for folder in ["/run/imgbuild/etc/upper", "/run/imgbuild/etc/work"] {
        std::fs::create_dir_all(folder).map_err(at(folder))?;
    }
    let options = c"lowerdir=/etc,upperdir=/run/imgbuild/etc/upper,workdir=/run/imgbuild/etc/work";
    mount("etc", "/etc", "overlay", MountFlags::NOSUID | MountFlags::NODEV, options)
        .map_err(|error| at("overlay at /etc")(error.into()))
}

/// CNI plugins of add-ons live on state.
///
/// # Errors
/// With the path in the text.
pub fn bind_addon_plugins() -> io::Result<()> {
    let source = "/var/opt/cni/bin";
    std::fs::create_dir_all(source).map_err(at(source))?;
    mount_bind(source, spec::paths::CNI_ADDON_DIR).map_err(|error| at(spec::paths::CNI_ADDON_DIR)(error.into()))
}

/// What is mounted, oldest first, from /proc/self/mountinfo (proc(5)): mount points.
fn mount_points(mountinfo: &str) -> Vec<String> {
    mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape).collect()
}

/// Octal escapes of blanks and the like.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escaped =
            (*first == b'\\').then(|| tail.get(..3)).flatten().and_then(|digits| std::str::from_utf8(digits).ok());
        match escaped.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Unmounts everything that may hold data, newest first. The state is at the latest read-only and
/// synced when this returns; what would not go is said.
pub fn unmount_all() {
    let kernel = ["/proc", "/sys", "/dev", "/run"];
    // Mounts propagate; what is busy at first may be free once its children are gone.
    for round in 0..3 {
        let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = mount_points(&text);
        let wanted = points
            .iter()
            .rev()
            .filter(|point| *point != "/" && !kernel.iter().any(|keep| Path::new(point).starts_with(keep)));
        let mut failed = Vec::new();
        for point in wanted {
            if let Err(error) = unmount(point, UnmountFlags::NOFOLLOW) {
                failed.push(format!("{point}: {error}"));
            }
        }
        if failed.is_empty() {
            return;
        }
        if round == 2 {
            say(format!("still mounted: {}", failed.join(", ")));
        }
    }
    rustix::fs::sync();
    let _ = mount_remount(spec::paths::STATE_DIR, MountFlags::RDONLY, c"");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_of_the_kernel_s_list() {
        let text = "36 35 98:0 / / ro - erofs /dev/dm-0 ro\n40 36 8:6 / /var rw,noatime shared:1 - ext4 /dev/vda6 rw\n41 40 0:9 / /var/lib/a\\040b rw - tmpfs tmpfs rw\n";
        assert_eq!(mount_points(text), ["/", "/var", "/var/lib/a b"]);
        assert_eq!(unescape("a\\134b\\"), "a\\b\\");
    }
}
