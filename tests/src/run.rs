//! Runs a program of the host to its end, with a deadline.

use crate::{Failure, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// What a program left: whether it succeeded, and what it said on both outputs.
#[derive(Debug)]
pub struct Outcome {
    pub success: bool,
    pub code: Option<i32>,
    pub output: String,
    pub errors: String,
    command: String,
}

impl Outcome {
    /// Standard output, or a failure with standard error.
    pub fn ok(self) -> Result<String> {
        if self.success {
            return Ok(self.output);
        }
        let status = self.code.map_or_else(|| "a signal".into(), |code| format!("status {code}"));
        let said = format!("{}{}", self.errors, self.output).trim().replace('\n', "; ");
        Err(Failure::Command { command: self.command, status, said })
    }
}

/// Runs a command with this standard input. Its outputs go to files, so that a program that writes
/// a lot never waits for us.
///
/// # Errors
/// The program cannot be started, or it has not ended at the deadline and was killed.
pub fn run(mut command: Command, input: &str, within: Duration) -> Result<Outcome> {
    let text = describe(&command);
    let io = |source| Failure::File { path: text.clone().into(), action: "run", source };
    let (mut stdin, mut stdout, mut stderr) =
        (tempfile::tempfile().map_err(io)?, tempfile::tempfile().map_err(io)?, tempfile::tempfile().map_err(io)?);
    stdin.write_all(input.as_bytes()).and_then(|()| stdin.rewind()).map_err(io)?;
    command.stdin(stdin);
    command.stdout(stdout.try_clone().map_err(io)?).stderr(stderr.try_clone().map_err(io)?);
    let mut child = command.spawn().map_err(io)?;
    if !ends_within(&child, within).map_err(io)? {
        child.kill().and_then(|()| child.wait()).map_err(io)?;
        return Err(Failure::CommandTimeout { command: text, within });
    }
    let status = child.wait().map_err(io)?;
    let mut outcome = Outcome {
        success: status.success(),
        code: status.code(),
        output: String::new(),
        errors: String::new(),
        command: text.clone(),
    };
    for (file, place) in [(&mut stdout, &mut outcome.output), (&mut stderr, &mut outcome.errors)] {
        let mut bytes = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut bytes)).map_err(io)?;
        *place = String::from_utf8_lossy(&bytes).into_owned();
    }
    Ok(outcome)
}

fn ends_within(child: &Child, within: Duration) -> std::io::Result<bool> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let deadline = Instant::now() + within;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(std::io::Error::other)?;
        let mut waiting = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
        match poll(&mut waiting, Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(text: &str, within: Duration) -> Result<Outcome> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", text]);
        run(command, "typed\n", within)
    }

    #[test]
    fn a_program_gets_its_input_and_gives_both_outputs() {
        let outcome = shell("read -r line; echo \"$line\"; echo no >&2; exit 3", Duration::from_secs(20)).unwrap();
        assert_eq!((outcome.output.as_str(), outcome.errors.as_str(), outcome.code), ("typed\n", "no\n", Some(3)));
        let text = outcome.ok().unwrap_err().to_string();
        assert!(text.ends_with("ended with status 3: no; typed"), "{text}");
    }

    #[test]
    fn a_program_that_does_not_end_is_killed_at_the_deadline() {
        let error = shell("sleep 600", Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, Failure::CommandTimeout { .. }), "{error}");
    }
}
