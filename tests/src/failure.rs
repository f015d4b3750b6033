//! Why a story failed, in words.

use std::path::PathBuf;
use std::time::Duration;

pub type Result<T = ()> = std::result::Result<T, Failure>;

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Machine(#[from] qemu::Error),

    #[error("{0}")]
    Missing(String),

    /// Waiting any longer is of no use.
    #[error("the boot failed: {0}")]
    Boot(String),

    #[error("the builder: {0}")]
    Builder(String),

    #[error("{path}: cannot {action}: {source}", path = path.display())]
    File { path: PathBuf, action: &'static str, source: std::io::Error },

    #[error("{command} ended with {status}: {said}")]
    Command { command: String, status: String, said: String },

    #[error("{command} did not end within {} s", within.as_secs())]
    CommandTimeout { command: String, within: Duration },

    #[error("{request}: {problem}")]
    Http { request: String, problem: String },

    #[error("{what} did not come about within {} s; at last: {last}", within.as_secs())]
    NeverHappened { what: String, within: Duration, last: String },

    #[error("{0}")]
    Unexpected(String),
}

impl Failure {
    /// For `map_err`: the builder's error as it would show it.
    pub fn builder(error: imgbuild::error::Error) -> Failure {
        Failure::Builder(imgbuild::error::render(&error, false))
    }

    /// For `map_err`: an I/O error of a file.
    pub fn file(path: impl Into<PathBuf>, action: &'static str) -> impl FnOnce(std::io::Error) -> Failure {
        let path = path.into();
        move |source| Failure::File { path, action, source }
    }
}

/// Fails with what was found instead, unless the condition holds.
///
/// # Errors
/// [`Failure::Unexpected`].
pub fn expect(condition: bool, wanted: &str, found: impl std::fmt::Display) -> Result {
    if condition { Ok(()) } else { Err(Failure::Unexpected(format!("wanted {wanted}, found: {found}"))) }
}
