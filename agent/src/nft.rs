//! Runs nft(8), in a thread of its own: on a busy machine it takes longer than connections may wait.

use std::io::{self, Write};
use std::process::{Command, Stdio};

const PROGRAM: &str = "/usr/sbin/nft";

/// Has nft carry out a script, all of it or nothing; its own message where it refuses.
pub async fn run(script: String) -> io::Result<()> {
    tokio::task::spawn_blocking(move || pipe(PROGRAM, &script)).await.map_err(io::Error::other)?
}

fn pipe(program: &str, script: &str) -> io::Result<()> {
    let mut child = Command::new(program)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    // It may end without reading everything; then its message says why.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(script.as_bytes()));
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(format!("nft: {}", message.lines().next().unwrap_or("no message"))));
    }
    written
}

#[cfg(test)]
pub mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// nft from the search path; says so where there is none.
    pub fn run_here(script: &str) -> Option<io::Result<()>> {
        match pipe("nft", script) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                eprintln!("skipped, this machine has no nft");
                None
            }
            other => Some(other),
        }
    }

    #[test]
    fn a_refusal_is_the_programs_own_first_line() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("refuses");
        std::fs::write(&program, "#!/bin/sh\necho 'no such table' >&2; echo more >&2; exit 1\n").unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let error = pipe(program.to_str().unwrap(), &"x".repeat(200_000)).unwrap_err();
        assert_eq!(error.to_string(), "nft: no such table");
    }
}
