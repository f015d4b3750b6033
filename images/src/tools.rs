//! Programs of a tools root: an unpacked tree of Debian packages whose `/usr` takes the place of the
//! host's in a private mount namespace of the program. Everything else of the host stays in view:
//! home, work folder, /dev, /proc, /tmp. So a machine needs no host package for mkfs.erofs or QEMU.

use crate::sys::{PrivateView, enter_before_exec};
use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use thiserror::Error;

/// Where the dynamic loader looks first: a host's own ld.so.cache may name other folders.
const LIBRARY_PATH: &str = "/usr/lib/x86_64-linux-gnu:/usr/lib64:/usr/lib";
const PROGRAM_PATH: &str = "/usr/sbin:/usr/bin";
/// Folders that are links into /usr on a merged-usr host; on another host they are covered too.
const FOLDERS_BESIDE_USR: [&str; 4] = ["lib", "lib64", "bin", "sbin"];

#[derive(Debug, Error)]
pub enum ToolsError {
    #[error("tools root {0}: it has no `usr` folder; wanted an unpacked tree of packages")]
    NotARoot(PathBuf),
    #[error("tools root {root}: {source}")]
    Open { root: PathBuf, source: io::Error },
    #[error("tools root {root} has no {program}: add the package that holds it to the tools profile")]
    Missing { root: PathBuf, program: String },
    #[error("{program} did not start: {source}.{hint}")]
    Start { program: String, source: io::Error, hint: String },
    #[error("{program} ended with {status}:\n{output}")]
    Failed { program: String, status: String, output: String },
}

/// An unpacked tree of packages to run programs of; `/` means the host's own programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolsRoot {
    root: PathBuf,
}

impl ToolsRoot {
    /// The tree at `root` (any path; it is made absolute).
    ///
    /// # Errors
    /// `root` cannot be read or has no `usr` folder.
    pub fn new(root: &Path) -> Result<Self, ToolsError> {
        let absolute = root.canonicalize();
        let root = absolute.map_err(|source| ToolsError::Open { root: root.to_owned(), source })?;
        if root.join("usr").is_dir() { Ok(ToolsRoot { root }) } else { Err(ToolsError::NotARoot(root)) }
    }

    /// The host's own programs, in no namespace.
    pub fn host() -> Self {
        ToolsRoot { root: PathBuf::from("/") }
    }

    /// The tree's folder, absolute.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Whether the tree has this program or file (absolute path below /usr).
    pub fn has(&self, file: &str) -> bool {
        self.root.join(file.trim_start_matches('/')).symlink_metadata().is_ok()
    }

    /// A file of the tree, for reading: `/usr/share/OVMF/OVMF_CODE_4M.fd` and the like.
    pub fn file(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// A command that runs `program` (absolute path below /usr) inside the tree, with an environment
    /// that does not depend on the host's locale, time zone and library paths.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("PATH", PROGRAM_PATH).env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
        for name in ["LANG", "LANGUAGE", "LD_PRELOAD", "PYTHONHOME", "PYTHONPATH"] {
            command.env_remove(name);
        }
        if self.root == Path::new("/") {
            return command;
        }
        command.env("LD_LIBRARY_PATH", LIBRARY_PATH).env("PYTHONDONTWRITEBYTECODE", "1");
        enter_before_exec(&mut command, self.view());
        command
    }

    /// Runs a command made by [`ToolsRoot::command`] to its end, without input; gives its standard
    /// output.
    ///
    /// # Errors
    /// The program is not in the tree, does not start (with what to do about it), or fails (with
    /// what it printed).
    pub fn run(&self, mut command: Command) -> Result<Vec<u8>, ToolsError> {
        let program = command.get_program().to_string_lossy().into_owned();
        if !self.has(&program) {
            return Err(ToolsError::Missing { root: self.root.clone(), program });
        }
        let output = command.stdin(Stdio::null()).output();
        self.judge(&program, output)
    }

    /// Turns what [`Command::output`] or a finished child gave into output or a readable error.
    ///
    /// # Errors
    /// As [`ToolsRoot::run`].
    pub fn judge(&self, program: &str, output: io::Result<Output>) -> Result<Vec<u8>, ToolsError> {
        let output = output.map_err(|source| self.start_error(program, source))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let printed = [output.stdout, output.stderr].concat();
        Err(ToolsError::Failed {
            program: program.to_owned(),
            status: output.status.to_string(),
            output: String::from_utf8_lossy(&printed).trim_end().to_owned(),
        })
    }

    /// The readable form of an error of [`Command::spawn`].
    pub fn start_error(&self, program: &str, source: io::Error) -> ToolsError {
        let hint = match source.kind() {
            io::ErrorKind::NotFound if self.has(program) => {
                " It is there: its interpreter or loader is not. On a host without /lib64, make it a link to usr/lib64"
                    .to_owned()
            }
            io::ErrorKind::NotFound => format!(" It is not in the tools root {}", self.root.display()),
            _ => namespace_hint(),
        };
        ToolsError::Start { program: program.to_owned(), source, hint }
    }

    fn view(&self) -> PrivateView {
        let mut binds = vec![(self.root.join("usr"), PathBuf::from("/usr"))];
        for folder in FOLDERS_BESIDE_USR {
            let target = Path::new("/").join(folder);
            let source = self.root.join("usr").join(folder);
            if is_plain_folder(&target) && source.is_dir() {
                binds.push((source, target));
            }
        }
        let alternatives = Path::new("etc/alternatives");
        if self.root.join(alternatives).is_dir() && Path::new("/").join(alternatives).is_dir() {
            binds.push((self.root.join(alternatives), Path::new("/").join(alternatives)));
        }
        let user = rustix::process::geteuid();
        let group = rustix::process::getegid();
        PrivateView {
            binds: binds.into_iter().map(|(from, to)| (c_string(from.as_os_str()), c_string(to.as_os_str()))).collect(),
            user_map: c_string(OsStr::new(&format!("{0} {0} 1", user.as_raw()))),
            group_map: c_string(OsStr::new(&format!("{0} {0} 1", group.as_raw()))),
            privileged: user.is_root(),
        }
    }
}

fn is_plain_folder(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
}

/// A path of an existing file holds no NUL.
fn c_string(text: &OsStr) -> CString {
    CString::new(text.as_bytes()).unwrap_or_default()
}

/// What on this host may forbid the namespace, and the command that allows it.
fn namespace_hint() -> String {
    let setting = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    let general = " Tools run in a private mount namespace, which needs root or unprivileged user namespaces";
    let cause = if setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1" {
        ": AppArmor forbids these here; allow them by `sysctl kernel.apparmor_restrict_unprivileged_userns=0`"
    } else if setting("/proc/sys/kernel/unprivileged_userns_clone") == "0" {
        ": these are off here; allow them by `sysctl kernel.unprivileged_userns_clone=1`"
    } else if setting("/proc/sys/user/max_user_namespaces") == "0" {
        ": none may be made here; allow some by `sysctl user.max_user_namespaces=10000`"
    } else {
        "; in a container, start it with the rights to make them (for example `--security-opt seccomp=unconfined`)"
    };
    format!("{general}{cause}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_usr_is_no_tools_root() {
        let folder = tempfile::tempdir().unwrap();
        let message = ToolsRoot::new(folder.path()).unwrap_err().to_string();
        assert!(message.contains("no `usr` folder"), "{message}");
        let missing = ToolsRoot::new(&folder.path().join("none")).unwrap_err().to_string();
        assert!(missing.contains("none"), "{missing}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("usr")).unwrap();
        let tools = ToolsRoot::new(folder.path()).unwrap();
        let message = tools.run(tools.command("/usr/bin/mkfs.erofs")).unwrap_err().to_string();
        assert!(message.contains("has no /usr/bin/mkfs.erofs"), "{message}");
    }

    #[test]
    fn a_failing_host_program_says_what_it_printed() {
        let tools = ToolsRoot::host();
        let mut command = tools.command("/bin/sh");
        command.args(["-c", "echo wrong >&2; exit 3"]);
        let message = tools.run(command).unwrap_err().to_string();
        assert!(message.contains("exit status: 3") && message.contains("wrong"), "{message}");
    }
}
