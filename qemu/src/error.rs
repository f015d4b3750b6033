//! What can go wrong with a virtual machine. Every variant names the machine, the file or the command.

use std::path::PathBuf;
use std::time::Duration;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("machine {machine}: {problem}")]
    Configuration { machine: String, problem: String },

    #[error("{}: cannot {action}: {source}", path.display())]
    File { path: PathBuf, action: &'static str, source: std::io::Error },

    #[error("cannot start {program}: {source}; install it or use the tools profile")]
    Start { program: String, source: std::io::Error },

    #[error("{program} ended with {status} before the machine came up; it said:\n{said}")]
    Died { program: String, status: String, said: String },

    #[error("{program} failed with {status}: {said}")]
    Tool { program: String, status: String, said: String },

    #[error("the console did not show {wanted} within {} s; its last lines:\n{last_lines}", within.as_secs_f32())]
    ConsoleTimeout { wanted: String, within: Duration, last_lines: String },

    #[error("the console closed before it showed {wanted}; its last lines:\n{last_lines}")]
    ConsoleClosed { wanted: String, last_lines: String },

    #[error("the machine did not {wanted} within {} s; the console's last lines:\n{last_lines}", within.as_secs_f32())]
    Timeout { wanted: String, within: Duration, last_lines: String },

    #[error("QMP {command}: {class}: {description}")]
    Qmp { command: String, class: String, description: String },

    #[error("QMP: no answer to {command} within {} s", within.as_secs_f32())]
    QmpTimeout { command: String, within: Duration },

    #[error("QMP: the connection closed while waiting for {command}")]
    QmpClosed { command: String },

    #[error("QMP: {problem}")]
    QmpProtocol { problem: String },

    #[error("console: cannot {action}: {source}")]
    Console { action: &'static str, source: std::io::Error },

    #[error("{}: not a write log: {problem} (found {found}, wanted {wanted})", path.display())]
    WriteLog { path: PathBuf, problem: &'static str, found: String, wanted: String },
}

impl Error {
    /// For `map_err`: an I/O error of a file.
    pub(crate) fn file(path: impl Into<PathBuf>, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { path, action, source }
    }
}
