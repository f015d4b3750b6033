//! Control groups (cgroup v2): init and each service in a leaf of its own, containerd's shims in one
//! that no restart touches, kubelet's pods beside them.

use crate::files::{at, poke};
use crate::mounts::CGROUP_ROOT;
use spec::service::Limits;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// What outlives its service: containerd's shims.
pub const RUNTIME: &str = "/sys/fs/cgroup/runtime";
/// kubelet's pods (cgroupfs driver).
pub const PODS: &str = "/sys/fs/cgroup/kubepods";
const SYSTEM: &str = "/sys/fs/cgroup/system";

/// Makes the groups, moves init into its own and passes the controllers down.
///
/// # Errors
/// With the path in the text.
pub fn set_up() -> io::Result<()> {
    for folder in ["/sys/fs/cgroup/init", SYSTEM, RUNTIME] {
        std::fs::create_dir_all(folder).map_err(at(folder))?;
    }
    poke("/sys/fs/cgroup/init/cgroup.procs", "1")?;
    delegate(Path::new(CGROUP_ROOT))?;
    delegate(Path::new(SYSTEM))
}

/// Each controller on its own: one that this kernel cannot pass down must not take the others with it.
fn delegate(folder: &Path) -> io::Result<()> {
    let controllers = std::fs::read_to_string(folder.join("cgroup.controllers")).map_err(at(folder))?;
    for controller in controllers.split_whitespace() {
        let _ = poke(folder.join("cgroup.subtree_control"), &format!("+{controller}"));
    }
    Ok(())
}

/// Group of a service.
pub fn of_service(name: &str) -> PathBuf {
    Path::new(SYSTEM).join(name)
}

/// Makes a service's group with its limits and opens its list of processes for the child to enter.
///
/// # Errors
/// With the path in the text.
pub fn prepare(name: &str, limits: &Limits) -> io::Result<File> {
    let folder = of_service(name);
    std::fs::create_dir_all(&folder).map_err(at(&folder))?;
    let set = |file: &str, value: Option<String>| value.map_or(Ok(()), |value| poke(folder.join(file), &value));
    set("memory.max", limits.memory_max.map(|bytes| bytes.to_string()))?;
    set("cpu.weight", limits.cpu_weight.map(|weight| weight.to_string()))?;
    set("pids.max", limits.pids_max.map(|count| count.to_string()))?;
    let list = folder.join("cgroup.procs");
    File::options().write(true).open(&list).map_err(at(&list))
}

/// Kills every process of a group and of those below it.
pub fn kill(folder: &Path) {
    let _ = poke(folder.join("cgroup.kill"), "1");
}

/// Processes of a group and of those below it live.
pub fn populated(folder: &Path) -> bool {
    std::fs::read_to_string(folder.join("cgroup.events"))
        .is_ok_and(|text| text.lines().any(|line| line == "populated 1"))
}

/// Moves what a service left behind to where restarts do not reach.
pub fn move_to_runtime(folder: &Path) {
    let list = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    for process in list.lines() {
        let _ = poke(Path::new(RUNTIME).join("cgroup.procs"), process);
    }
}

/// Moves the children that live, all but the main process.
pub fn move_children_to_runtime(folder: &Path, main: u32) {
    let list = std::fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    for process in list.lines().filter(|process| process.parse() != Ok(main)) {
        let _ = poke(Path::new(RUNTIME).join("cgroup.procs"), process);
    }
}

/// Name of the service that a process belongs to.
pub fn service_of(process: u32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/system/"))?;
    path.split('/').next().map(str::to_owned)
}
