//! A machine that runs: QEMU's process, its console and its monitor.
//!
//! QEMU dies with us, whatever happens: [`Running`] kills it when dropped, and a small watcher (a
//! shell that reads a pipe we hold open) kills its process group when we end without dropping, by a
//! signal too. QEMU runs in a process group of its own so that this reaches what it was wrapped in,
//! and so that a terminal's Ctrl-C goes to us alone.

use crate::console::{Console, Observer};
use crate::machine::Sockets;
use crate::network::parse_forwards;
use crate::{Accelerator, Error, Machine, Patience, Programs, QEMU_PROGRAM, Qmp, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Seconds for QEMU to come up far enough to connect to us (it may be read from a cold disk).
const CONNECT_SECONDS: u64 = 120;

/// Names of the files that a machine leaves in its folder.
pub const CONSOLE_LOG: &str = "console.log";
pub const QMP_LOG: &str = "qmp.log";
pub const QEMU_LOG: &str = "qemu.log";
pub const COMMAND_FILE: &str = "command";

/// How to start a machine.
pub struct StartOptions<'a> {
    pub programs: Programs<'a>,
    /// Gets `console.log`, `qmp.log` (both appended to), `qemu.log` and `command`; must exist.
    pub folder: &'a Path,
    /// Sees the console's text as it comes.
    pub observer: Option<Observer>,
}

/// A running machine. Dropping it cuts its power.
#[derive(Debug)]
pub struct Running {
    machine: Machine,
    folder: PathBuf,
    process: Process,
    console: Console,
    qmp: Qmp,
    /// Holds the sockets.
    _sockets: tempfile::TempDir,
}

/// Starts a machine and returns as soon as its console and its monitor are connected.
///
/// # Errors
/// [`Error::Configuration`], [`Error::Start`], and [`Error::Died`] with what QEMU said.
pub fn start(machine: &Machine, options: StartOptions) -> Result<Running> {
    let socket_folder = socket_folder()?;
    let sockets =
        Sockets { console: socket_folder.path().join("console"), monitor: socket_folder.path().join("monitor") };
    let console = listen(&sockets.console)?;
    let monitor = listen(&sockets.monitor)?;
    for log in machine.disks.iter().filter_map(|disk| disk.write_log.as_ref()) {
        File::create(log).map_err(Error::file(log, "create"))?;
    }

    let mut process = Process::spawn(machine.arguments(&sockets)?, options.programs, options.folder)?;
    let deadline = connect_deadline(machine.accelerator);
    let console = process.accept(&console, deadline)?;
    let console = Console::new(console, &options.folder.join(CONSOLE_LOG), options.observer)?;
    let qmp = process.monitor(&monitor, deadline, options.folder)?;
    Ok(Running {
        machine: machine.clone(),
        folder: options.folder.into(),
        process,
        console,
        qmp,
        _sockets: socket_folder,
    })
}

/// A folder for sockets, with a short name: a socket's path has at most 107 bytes.
pub(crate) fn socket_folder() -> Result<tempfile::TempDir> {
    let folder = std::env::temp_dir();
    tempfile::Builder::new().prefix("vm-").tempdir_in(&folder).map_err(Error::file(&folder, "make a folder in"))
}

pub(crate) fn connect_deadline(accelerator: Accelerator) -> Instant {
    Instant::now() + Patience::new(accelerator).seconds(CONNECT_SECONDS)
}

pub(crate) fn listen(path: &Path) -> Result<UnixListener> {
    UnixListener::bind(path).map_err(Error::file(path, "listen on"))
}

impl Running {
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Folder of its logs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn console(&self) -> &Console {
        &self.console
    }

    pub fn qmp(&self) -> &Qmp {
        &self.qmp
    }

    /// The host's port (on 127.0.0.1) that leads to this TCP port of the guest.
    pub fn forwarded_port(&self, guest_port: u16) -> Result<u16> {
        let listing = self.qmp.human("info usernet")?;
        let found = parse_forwards(&listing).into_iter().find(|forwarded| forwarded.guest_port == guest_port);
        found.map(|forwarded| forwarded.host_port).ok_or_else(|| Error::Configuration {
            machine: self.machine.name.clone(),
            problem: format!("port {guest_port} is not forwarded: name it in the network card's forwards"),
        })
    }

    /// Presses the power button; the guest decides what follows.
    pub fn power_button(&self) -> Result<()> {
        self.qmp.system_powerdown()
    }

    /// Presses Ctrl-Alt-Del on the machine's keyboard.
    pub fn ctrl_alt_delete(&self) -> Result<()> {
        self.qmp.send_keys(&["ctrl", "alt", "delete"])
    }

    /// Writes what the screen shows, as PNG. The machine must have a graphics card.
    pub fn screenshot(&self, path: &Path) -> Result<()> {
        self.qmp.screendump(path)
    }

    /// Waits until QEMU has ended by itself: after a power-off of the guest, for example.
    ///
    /// # Errors
    /// [`Error::Timeout`] with the console's last lines; the machine runs on then.
    pub fn wait_exit(&mut self, within: Duration) -> Result<ExitStatus> {
        match self.process.wait(Instant::now() + within)? {
            Some(status) => Ok(status),
            None => Err(Error::Timeout { wanted: "power off".into(), within, last_lines: self.console.last_lines() }),
        }
    }

    /// `None` while the machine runs.
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        self.process.wait(Instant::now())
    }

    /// Ends the machine from one moment to the next. What the guest wrote is in the host's page
    /// cache and survives: for power cuts that lose writes see [`crate::writelog`].
    pub fn power_cut(mut self) -> Result<()> {
        self.process.kill().map(drop)
    }

    /// Ends the machine at once but lets QEMU close its files, so that a write log is complete.
    pub fn quit(mut self, within: Duration) -> Result<()> {
        self.qmp.quit()?;
        self.wait_exit(within).map(drop)
    }
}

/// QEMU's process and the watcher that ends it with us.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pidfd: OwnedFd,
    watcher: Child,
    log: PathBuf,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts QEMU; `folder` gets `qemu.log` and `command`.
    pub(crate) fn spawn(arguments: Vec<String>, programs: Programs, folder: &Path) -> Result<Process> {
        let mut command = programs(QEMU_PROGRAM);
        command.args(arguments);
        let command_file = folder.join(COMMAND_FILE);
        std::fs::write(&command_file, shell_text(&command)).map_err(Error::file(command_file, "write"))?;
        let log = folder.join(QEMU_LOG);
        let output = File::create(&log).map_err(Error::file(&log, "create"))?;
        let errors = output.try_clone().map_err(Error::file(&log, "share"))?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
        let program = command.get_program().to_string_lossy().into_owned();
        let start_error = |source| Error::Start { program: program.clone(), source };
        let child = command.spawn().map_err(start_error)?;
        Process::watch(child, log).map_err(start_error)
    }

    /// From here on the child is killed when anything fails.
    fn watch(mut child: Child, log: PathBuf) -> std::io::Result<Process> {
        let watched = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())
            .map_err(std::io::Error::from)
            .and_then(|pidfd| Ok((pidfd, watcher(child.id())?)));
        match watched {
            Ok((pidfd, watcher)) => Ok(Process { child, pidfd, watcher, log, status: None }),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    /// The next connection, unless QEMU ends first.
    fn accept(&mut self, listener: &UnixListener, deadline: Instant) -> Result<UnixStream> {
        let connected = {
            let mut waiting = [
                PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.pidfd.as_fd(), PollFlags::IN),
            ];
            poll_until(&mut waiting, deadline).map_err(Error::file(&self.log, "wait for the socket beside"))?;
            waiting[0].revents().contains(PollFlags::IN)
        };
        if connected {
            let (stream, _) = listener.accept().map_err(|source| Error::Console { action: "accept", source })?;
            return Ok(stream);
        }
        Err(self.died()?)
    }

    /// The monitor that QEMU connects to us; `folder` gets the transcript.
    pub(crate) fn monitor(&mut self, listener: &UnixListener, deadline: Instant, folder: &Path) -> Result<Qmp> {
        let stream = self.accept(listener, deadline)?;
        match Qmp::new(stream, &folder.join(QMP_LOG)) {
            Err(Error::QmpClosed { .. }) => Err(self.died()?),
            other => other,
        }
    }

    /// What to report of a process that did not come up; it is ended if it still runs.
    fn died(&mut self) -> Result<Error> {
        // A process that is dead already keeps its own status; SIGKILL is ours.
        let status = match self.kill()? {
            Some(status) if status.signal() != Some(Signal::KILL.as_raw()) => status.to_string(),
            _ => "no sign of life on its console and monitor".into(),
        };
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        Ok(Error::Died { program: QEMU_PROGRAM.into(), status, said })
    }

    /// Waits for the end; `None` at the deadline.
    fn wait(&mut self, deadline: Instant) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            let mut waiting = [PollFd::from_borrowed_fd(self.pidfd.as_fd(), PollFlags::IN)];
            poll_until(&mut waiting, deadline).map_err(Error::file(&self.log, "wait for the process of"))?;
            if !waiting[0].revents().is_empty() {
                self.reap()?;
            }
        }
        Ok(self.status)
    }

    fn kill(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.reap()?;
        }
        Ok(self.status)
    }

    /// Ends the whole group, then takes the status. In this order the group's number cannot have
    /// passed to another: our unreaped child still holds it.
    fn reap(&mut self) -> Result<()> {
        let failed = |source| Error::Start { program: "the end of QEMU".into(), source };
        self.watcher.kill().and_then(|()| self.watcher.wait()).map_err(failed)?;
        match kill_process_group(Pid::from_child(&self.child), Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(failed(error.into())),
        }
        self.status = Some(self.child.wait().map_err(failed)?);
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            tracing::warn!("{error}");
        }
    }
}

/// A shell that waits for the end of our side of a pipe, then kills the group. Every file we open is
/// closed on exec, so that no other child of ours keeps the pipe open.
fn watcher(group: u32) -> std::io::Result<Child> {
    Command::new("/bin/sh")
        .args(["-c", "read -r line; kill -s KILL -- \"-$1\"", "watcher", &group.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}

fn poll_until(waiting: &mut [PollFd], deadline: Instant) -> std::io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(std::io::Error::other)?;
        match poll(waiting, Some(&timeout)) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The command as a line for a shell, so that a person can start the same machine.
fn shell_text(command: &Command) -> String {
    let quoted = std::iter::once(command.get_program()).chain(command.get_args()).map(|word| {
        let word = word.to_string_lossy();
        let plain = |character: char| character.is_ascii_alphanumeric() || "-_./:=,+@%".contains(character);
        if !word.is_empty() && word.chars().all(plain) {
            word.into_owned()
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    });
    quoted.collect::<Vec<_>>().join(" ") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options<'a>(programs: Programs<'a>, folder: &'a Path) -> StartOptions<'a> {
        StartOptions { programs, folder, observer: None }
    }

    /// A QEMU that does not get far: a shell script that ignores its arguments.
    fn script(text: &'static str) -> impl Fn(&str) -> Command {
        move |_| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", text]);
            command
        }
    }

    #[test]
    fn a_qemu_that_dies_at_once_is_reported_in_its_own_words() {
        let folder = tempfile::tempdir().unwrap();
        let programs = script("echo 'could not open disk.img' >&2; exit 1");
        let error = start(&Machine::new("m"), options(&programs, folder.path())).unwrap_err().to_string();
        assert!(error.contains("exit status: 1") && error.contains("could not open disk.img"), "{error}");
        assert!(std::fs::read_to_string(folder.path().join(COMMAND_FILE)).unwrap().contains("-machine q35"));
    }

    #[test]
    fn a_missing_program_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let programs = |_: &str| Command::new("/nowhere/qemu");
        let error = start(&Machine::new("m"), options(&programs, folder.path())).unwrap_err().to_string();
        assert!(error.starts_with("cannot start /nowhere/qemu") && error.contains("tools profile"), "{error}");
    }

    fn sleeper(log: PathBuf) -> (Process, Pid) {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "sleep 600 & wait"]).process_group(0);
        let process = Process::watch(command.spawn().unwrap(), log).unwrap();
        let group = Pid::from_child(&process.child);
        (process, group)
    }

    fn group_ends(group: Pid) -> bool {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if rustix::process::test_kill_process_group(group).is_err() {
                return true;
            }
            std::thread::yield_now();
        }
        false
    }

    #[test]
    fn dropping_a_process_ends_its_whole_group() {
        let folder = tempfile::tempdir().unwrap();
        let (process, group) = sleeper(folder.path().join("log"));
        drop(process);
        assert!(group_ends(group));
    }

    #[test]
    fn the_watcher_ends_the_group_when_we_are_gone() {
        let folder = tempfile::tempdir().unwrap();
        let (mut process, _) = sleeper(folder.path().join("log"));
        // What our death does: the pipe closes.
        drop(process.watcher.stdin.take());
        let status = process.wait(Instant::now() + Duration::from_secs(20)).unwrap().unwrap();
        assert_eq!(status.signal(), Some(9));
    }

    #[test]
    fn waiting_stops_at_the_deadline() {
        let folder = tempfile::tempdir().unwrap();
        let (mut process, _) = sleeper(folder.path().join("log"));
        assert_eq!(process.wait(Instant::now() + Duration::from_millis(10)).unwrap(), None);
    }

    #[test]
    fn the_command_file_is_a_line_for_a_shell() {
        let mut command = Command::new("qemu");
        command.args(["-append", "a b", "it's", "", "id=x,y"]);
        assert_eq!(shell_text(&command), "qemu -append 'a b' 'it'\\''s' '' id=x,y\n");
    }
}
