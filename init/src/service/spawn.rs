//! Starting a service's program: environment, folders, user, capabilities, limits, cgroup, log pipe.

use super::cgroup;
use crate::files::at;
use crate::sys;
use rustix::fd::OwnedFd;
use rustix::pipe::PipeFlags;
use rustix::process::{Gid, Resource, Rlimit, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use spec::paths;
use spec::service::{Directory, Ready, Service};
use std::ffi::OsStr;
use std::io;
use std::process::{Command, Stdio};

const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// A program that runs, and the end of the pipe that its output comes from.
pub struct Started {
    pub process: u32,
    pub output: OwnedFd,
}

/// A user as /etc/passwd and /etc/group know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: String,
}

/// Finds a user in the texts of passwd(5) and group(5).
pub fn find_user(name: &str, passwd: &str, group: &str) -> Option<User> {
    let fields: Vec<&str> = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&name) && fields.len() >= 6)?;
    let (uid, gid) = (fields[2].parse().ok()?, fields[3].parse().ok()?);
    let member =
        |line: &&str| line.split(':').nth(3).is_some_and(|members| members.split(',').any(|member| member == name));
    let groups = group
        .lines()
        .filter(member)
        .filter_map(|line| line.split(':').nth(2)?.parse().ok())
        .filter(|other| *other != gid)
        .collect();
    Some(User { uid, gid, groups, home: fields[5].to_owned() })
}

fn user(name: &str) -> io::Result<User> {
    let passwd = std::fs::read_to_string("/etc/passwd").map_err(at("/etc/passwd"))?;
    let group = std::fs::read_to_string("/etc/group").unwrap_or_default();
    find_user(name, &passwd, &group)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("/etc/passwd has no user `{name}`")))
}

/// A capability by its name, `CAP_NET_BIND_SERVICE`.
///
/// # Errors
/// In words, for a name that the kernel does not know.
pub fn capability(name: &str) -> Result<CapabilitySet, String> {
    let short = name.strip_prefix("CAP_").unwrap_or_default();
    let known = CapabilitySet::all().iter_names().find(|(known, _)| *known == short);
    known.map(|(_, set)| set).ok_or_else(|| format!("capabilities: the kernel has no `{name}`"))
}

/// Starts the service.
///
/// # Errors
/// In words that name what is missing.
pub fn start(name: &str, service: &Service) -> io::Result<Started> {
    service.directories.iter().try_for_each(make_directory)?;
    let user = service.user.as_deref().map(user).transpose()?;
    let mut command = command(service, user.as_ref())?;
    let output = collect_output(&mut command)?;
    let group = cgroup::prepare(name, &service.limits)?;
    let privileges = Privileges::of(service, user.as_ref()).map_err(io::Error::other)?;
    let open_files = service.limits.open_files;
    let child = sys::spawn_with(&mut command, move || {
        rustix::io::write(&group, b"0")?;
        sys::unblock_signals()?;
        rustix::process::setsid()?;
        if let Some(files) = open_files {
            rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum: Some(files) })?;
        }
        privileges.take()
    });
    let child = child.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", service.exec[0])))?;
    if let Some(adjust) = service.limits.oom_score_adjust {
        let _ = crate::files::poke(format!("/proc/{}/oom_score_adj", child.id()), &adjust.to_string());
    }
    Ok(Started { process: child.id(), output })
}

/// Starts what is run before the service gets SIGTERM; nothing where nothing is.
///
/// # Errors
/// The program cannot be started.
pub fn before_stop(service: &Service) -> io::Result<Option<Started>> {
    let Some((program, arguments)) = service.before_stop.split_first() else { return Ok(None) };
    helper(program, arguments).map(Some)
}

/// Starts a program that is no service, as root and in init's own group.
///
/// # Errors
/// The program cannot be started.
pub fn helper(program: &str, arguments: &[impl AsRef<OsStr>]) -> io::Result<Started> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("PATH", PATH).current_dir("/");
    let output = collect_output(&mut command)?;
    let child = sys::spawn_with(&mut command, sys::unblock_signals);
    let child = child.map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
    Ok(Started { process: child.id(), output })
}

/// Gives a program nothing to read and one pipe for all that it writes; returns the end to read from, which never blocks.
fn collect_output(command: &mut Command) -> io::Result<OwnedFd> {
    let (output, input) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&output, true)?;
    command.stdin(Stdio::null()).stdout(Stdio::from(input.try_clone()?)).stderr(Stdio::from(input));
    Ok(output)
}

fn command(service: &Service, user: Option<&User>) -> io::Result<Command> {
    let (program, arguments) = service.exec.split_first().ok_or_else(|| io::Error::other("exec is empty"))?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().current_dir("/");
    if let Some(path) = &service.arguments_file {
        let text = std::fs::read_to_string(path).map_err(at(path))?;
        command.args(text.lines().map(str::trim).filter(|line| !line.is_empty()));
    }
    command.env("PATH", PATH).env("HOME", user.map_or("/root", |user| user.home.as_str()));
    if service.ready == Ready::Notify {
        command.env("NOTIFY_SOCKET", paths::NOTIFY_SOCKET);
    }
    command.envs(&service.environment);
    if let Some(text) = service.environment_file.as_ref().and_then(|path| std::fs::read_to_string(path).ok()) {
        command.envs(assignments(&text));
    }
    Ok(command)
}

/// KEY=VALUE lines; `#` comments and empty lines are skipped.
fn assignments(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim().to_owned(), value.to_owned()))
        .collect()
}

fn make_directory(directory: &Directory) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let path = &directory.path;
    std::fs::create_dir_all(path).map_err(at(path))?;
    let mode = u32::from_str_radix(&directory.mode, 8)
        .map_err(|_| io::Error::other(format!("{path}: mode `{}` is not octal", directory.mode)))?;
    if let Some(name) = &directory.user {
        let user = user(name)?;
        std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid)).map_err(at(path))?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(at(path))
}

/// What the child becomes. Everything is computed before the fork: the child only makes system calls.
struct Privileges {
    identity: Option<(Uid, Gid, Vec<Gid>)>,
    /// `None`: as they are.
    kept: Option<CapabilitySet>,
    dropped: Vec<CapabilitySet>,
    ambient: Vec<CapabilitySet>,
}

impl Privileges {
    fn of(service: &Service, user: Option<&User>) -> Result<Privileges, String> {
        let mut named = CapabilitySet::empty();
        for name in service.capabilities.iter().flatten() {
            named |= capability(name)?;
        }
        let root = user.is_none_or(|user| user.uid == 0);
        let kept = (service.capabilities.is_some() || !root).then_some(named);
        let all = || CapabilitySet::all().iter_names().map(|(_, set)| set);
        Ok(Privileges {
            identity: user.map(|user| {
                (
                    Uid::from_raw(user.uid),
                    Gid::from_raw(user.gid),
                    user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect(),
                )
            }),
            kept,
            dropped: if kept.is_some() { all().filter(|one| !named.contains(*one)).collect() } else { Vec::new() },
            ambient: if root { Vec::new() } else { all().filter(|one| named.contains(*one)).collect() },
        })
    }

    fn take(&self) -> io::Result<()> {
        for capability in &self.dropped {
            // The kernel may be older than our list.
            let _ = rustix::thread::remove_capability_from_bounding_set(*capability);
        }
        if let Some((uid, gid, groups)) = &self.identity {
            rustix::thread::set_keep_capabilities(true)?;
            rustix::thread::set_thread_groups(groups)?;
            rustix::thread::set_thread_res_gid(*gid, *gid, *gid)?;
            rustix::thread::set_thread_res_uid(*uid, *uid, *uid)?;
        }
        if let Some(kept) = self.kept {
            rustix::thread::set_capabilities(
                None,
                CapabilitySets { effective: kept, permitted: kept, inheritable: kept },
            )?;
        }
        for capability in &self.ambient {
            rustix::thread::configure_capability_in_ambient_set(*capability, true)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_come_from_the_files() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\netcd:x:900:901:etcd:/var/lib/etcd:/usr/sbin/nologin\nbroken:x\n";
        let group = "root:x:0:\netcd:x:901:etcd\nssl:x:950:other,etcd\n";
        assert_eq!(
            find_user("etcd", passwd, group),
            Some(User { uid: 900, gid: 901, groups: vec![950], home: "/var/lib/etcd".into() })
        );
        assert_eq!(find_user("broken", passwd, group), None);
        assert_eq!(find_user("nobody", passwd, group), None);
    }

    #[test]
    fn environment_files_have_comments() {
        assert_eq!(assignments("# x\nA=1\n\nB=a=b\n"), [("A".into(), "1".into()), ("B".into(), "a=b".into())]);
    }

    #[test]
    fn capabilities_by_name() {
        assert_eq!(capability("CAP_NET_BIND_SERVICE"), Ok(CapabilitySet::NET_BIND_SERVICE));
        assert!(capability("NET_BIND_SERVICE").is_err());
    }
}
