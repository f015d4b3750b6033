//! The one place that polls. What runs behind a port or an API of the machine gives us no event to
//! wait for until it answers at all: a closed port, a connection that QEMU's network takes before
//! the guest listens, an API server that is still starting. Everything later waits for events
//! (`kubectl wait`, console patterns, QMP).

use crate::{Failure, Result};
use std::time::{Duration, Instant};

const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);

/// Tries until it succeeds or the deadline passes, with growing pauses.
///
/// # Errors
/// [`Failure::NeverHappened`] with the last failure.
pub fn until_it_works<T>(what: &str, within: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + within;
    let mut pause = FIRST_PAUSE;
    loop {
        let last = match attempt() {
            Ok(value) => return Ok(value),
            Err(final_word @ Failure::Boot(_)) => return Err(final_word),
            Err(failure) => failure,
        };
        if Instant::now() + pause > deadline {
            return Err(Failure::NeverHappened { what: what.into(), within, last: last.to_string() });
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_tries_again_and_tells_the_last_failure() {
        let mut attempts = 0;
        let mut attempt = || {
            attempts += 1;
            if attempts < 3 { Err(Failure::Unexpected(format!("attempt {attempts}"))) } else { Ok(attempts) }
        };
        assert_eq!(until_it_works("it", Duration::from_secs(20), &mut attempt).unwrap(), 3);
        let never = || Err::<(), _>(Failure::Unexpected("still not".into()));
        let text = until_it_works("the port", Duration::from_millis(300), never).unwrap_err().to_string();
        assert!(text.starts_with("the port did not come about") && text.ends_with("still not"), "{text}");
    }
}
