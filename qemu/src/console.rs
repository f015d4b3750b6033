//! A machine's serial console: kept in a file as it comes, readable by pattern with a deadline.
//!
//! A thread reads the socket and wakes whoever waits: nothing polls. Escape sequences are taken out
//! before matching; the log file keeps them.

use crate::{Error, Result};
use regex::Regex;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Lines of the console that an error message holds.
const ERROR_LINES: usize = 40;

/// What to wait for.
#[derive(Debug, Clone)]
pub enum Pattern {
    Text(String),
    Regex(Regex),
}

impl From<&str> for Pattern {
    fn from(text: &str) -> Pattern {
        Pattern::Text(text.into())
    }
}

impl From<String> for Pattern {
    fn from(text: String) -> Pattern {
        Pattern::Text(text)
    }
}

impl From<Regex> for Pattern {
    fn from(regex: Regex) -> Pattern {
        Pattern::Regex(regex)
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Pattern::Text(text) => write!(formatter, "{text:?}"),
            Pattern::Regex(regex) => write!(formatter, "/{regex}/"),
        }
    }
}

impl Pattern {
    /// Start and end of the first match.
    fn find(&self, text: &str) -> Option<(usize, usize)> {
        match self {
            Pattern::Text(wanted) => text.find(wanted).map(|start| (start, start + wanted.len())),
            Pattern::Regex(regex) => regex.find(text).map(|found| (found.start(), found.end())),
        }
    }
}

/// Called with the console's text, escape sequences taken out, as it comes.
pub type Observer = Box<dyn FnMut(&str) + Send>;

/// The console of a machine. Each successful wait moves on: the next one sees only what came after.
pub struct Console {
    shared: Arc<Shared>,
    writer: UnixStream,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    text: String,
    /// Where the next wait begins to look.
    seen: usize,
    closed: bool,
}

impl Shared {
    /// A thread that panicked while it held the lock leaves the text as it was: still good.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Console {
    /// Reads `stream` until it closes; `log` gets every byte appended.
    pub fn new(stream: UnixStream, log: &Path, observer: Option<Observer>) -> Result<Console> {
        let file = File::options().create(true).append(true).open(log).map_err(Error::file(log, "open"))?;
        let reader = stream.try_clone().map_err(|source| Error::Console { action: "share the socket", source })?;
        let shared = Arc::new(Shared::default());
        let for_thread = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("console".into())
            .spawn(move || read_all(reader, file, &for_thread, observer))
            .map_err(|source| Error::Console { action: "start its thread", source })?;
        Ok(Console { shared, writer: stream })
    }

    /// Waits until the pattern shows up after what earlier waits have seen, and returns what came
    /// before it.
    ///
    /// # Errors
    /// [`Error::ConsoleTimeout`] and [`Error::ConsoleClosed`], both with the last 40 lines.
    pub fn wait_for(&self, pattern: impl Into<Pattern>, within: Duration) -> Result<String> {
        let pattern = pattern.into();
        let deadline = Instant::now() + within;
        let mut state = self.shared.lock();
        loop {
            let unseen = &state.text[state.seen..];
            if let Some((start, end)) = pattern.find(unseen) {
                let before = unseen[..start].to_owned();
                state.seen += end;
                return Ok(before);
            }
            if state.closed {
                return Err(Error::ConsoleClosed {
                    wanted: pattern.to_string(),
                    last_lines: last_lines(&state.text, ERROR_LINES),
                });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let last_lines = last_lines(&state.text, ERROR_LINES);
                return Err(Error::ConsoleTimeout { wanted: pattern.to_string(), within, last_lines });
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Types on the console.
    pub fn send(&self, text: &str) -> Result<()> {
        (&self.writer).write_all(text.as_bytes()).map_err(|source| Error::Console { action: "write", source })
    }

    /// Everything shown so far, escape sequences taken out.
    pub fn text(&self) -> String {
        self.shared.lock().text.clone()
    }

    /// The last lines, for a message.
    pub fn last_lines(&self) -> String {
        last_lines(&self.shared.lock().text, ERROR_LINES)
    }
}

impl std::fmt::Debug for Console {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.debug_struct("Console").finish_non_exhaustive()
    }
}

fn read_all(mut stream: UnixStream, mut log: File, shared: &Shared, mut observer: Option<Observer>) {
    let mut cleaner = Cleaner::default();
    let mut buffer = [0; 8192];
    loop {
        let count = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        if let Err(error) = log.write_all(&buffer[..count]) {
            tracing::warn!("the console's log is cut short: {error}");
        }
        let text = cleaner.feed(&buffer[..count]);
        if let Some(observer) = &mut observer {
            observer(&text);
        }
        shared.lock().text += &text;
        shared.changed.notify_all();
    }
    shared.lock().closed = true;
    shared.changed.notify_all();
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// Takes escape sequences (ECMA-48) and control characters out of a byte stream that arrives in
/// pieces. A sequence that moves the cursor becomes a new line, so that words drawn in different
/// places of the screen do not run together.
#[derive(Default)]
struct Cleaner {
    mode: Mode,
    /// Bytes of a character that is not complete yet.
    partial: Vec<u8>,
}

#[derive(Default, Clone, Copy)]
enum Mode {
    #[default]
    Plain,
    Escape,
    /// CSI: parameters up to a final byte 0x40 to 0x7e.
    Control,
    /// OSC, DCS, and so on: up to BEL or ESC \.
    Text,
    TextEscape,
}

impl Cleaner {
    fn feed(&mut self, bytes: &[u8]) -> String {
        let mut kept = std::mem::take(&mut self.partial);
        for &byte in bytes {
            self.byte(byte, &mut kept);
        }
        self.decode(kept)
    }

    fn byte(&mut self, byte: u8, kept: &mut Vec<u8>) {
        self.mode = match (self.mode, byte) {
            (Mode::Plain | Mode::Control, 0x1b) => Mode::Escape,
            (Mode::Plain, b'\n' | b'\t' | 0x20..=0x7e | 0x80..) => {
                kept.push(byte);
                Mode::Plain
            }
            (Mode::Plain, _) => Mode::Plain,
            (Mode::Escape, b'[') => Mode::Control,
            (Mode::Escape, b']' | b'P' | b'X' | b'^' | b'_') => Mode::Text,
            // Intermediate bytes, as in ESC ( B.
            (Mode::Escape, 0x20..=0x2f) => Mode::Escape,
            (Mode::Escape, _) => Mode::Plain,
            (Mode::Control, b'H' | b'f' | b'E' | b'd') => {
                if kept.last().is_some_and(|&last| last != b'\n') {
                    kept.push(b'\n');
                }
                Mode::Plain
            }
            (Mode::Control, 0x40..=0x7e) => Mode::Plain,
            (Mode::Control, _) => Mode::Control,
            (Mode::Text, 0x07) => Mode::Plain,
            (Mode::Text, 0x1b) => Mode::TextEscape,
            (Mode::Text, _) => Mode::Text,
            (Mode::TextEscape, b'\\') => Mode::Plain,
            (Mode::TextEscape, _) => Mode::Text,
        };
    }

    /// UTF-8, an incomplete character at the end kept for the next piece.
    fn decode(&mut self, bytes: Vec<u8>) -> String {
        let mut text = String::new();
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text += chunk.valid();
            let incomplete = chunks.peek().is_none()
                && std::str::from_utf8(chunk.invalid()).is_err_and(|error| error.error_len().is_none());
            if incomplete {
                self.partial = chunk.invalid().to_vec();
            } else if !chunk.invalid().is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LONG: Duration = Duration::from_secs(20);

    fn pair() -> (Console, UnixStream, tempfile::TempDir) {
        let (ours, guest) = UnixStream::pair().unwrap();
        let folder = tempfile::tempdir().unwrap();
        (Console::new(ours, &folder.path().join("console.log"), None).unwrap(), guest, folder)
    }

    #[test]
    fn each_wait_returns_what_came_before_and_moves_on() {
        let (console, mut guest, _folder) = pair();
        guest.write_all(b"one\r\ntwo\r\nthree two\r\n").unwrap();
        assert_eq!(console.wait_for("two", LONG).unwrap(), "one\n");
        assert_eq!(console.wait_for(Regex::new("t.o").unwrap(), LONG).unwrap(), "\nthree ");
    }

    #[test]
    fn a_wait_is_woken_by_what_comes_later_even_in_pieces() {
        let (console, mut guest, _folder) = pair();
        let waiting = std::thread::spawn(move || console.wait_for("login:", LONG).map(|_| console));
        guest.write_all(b"log").unwrap();
        guest.write_all(b"in:").unwrap();
        let console = waiting.join().unwrap().unwrap();
        console.send("root\n").unwrap();
        let mut typed = [0; 5];
        guest.read_exact(&mut typed).unwrap();
        assert_eq!(&typed, b"root\n");
    }

    #[test]
    fn a_timeout_shows_the_last_forty_lines() {
        let (console, mut guest, _folder) = pair();
        for line in 1..=50 {
            guest.write_all(format!("line {line}\n").as_bytes()).unwrap();
        }
        console.wait_for("line 50\n", LONG).unwrap();
        let Err(Error::ConsoleTimeout { last_lines, wanted, .. }) =
            console.wait_for("Ready", Duration::from_millis(20))
        else {
            panic!("it should have timed out");
        };
        assert_eq!(wanted, "\"Ready\"");
        assert_eq!(last_lines.lines().count(), 40);
        assert!(last_lines.starts_with("line 11\n") && last_lines.ends_with("line 50"), "{last_lines}");
    }

    #[test]
    fn a_console_that_closes_ends_the_wait_at_once() {
        let (console, mut guest, _folder) = pair();
        guest.write_all(b"Kernel panic").unwrap();
        drop(guest);
        let error = console.wait_for("Ready", LONG).unwrap_err();
        assert!(matches!(&error, Error::ConsoleClosed { last_lines, .. } if last_lines == "Kernel panic"), "{error}");
    }

    #[test]
    fn escape_sequences_are_out_of_the_text_but_in_the_log() {
        let (console, mut guest, folder) = pair();
        let raw = b"\x1b[0;32mok\x1b[0m \x1b]0;title\x07a\x1b(Bb\x1b[2;5Hc\x00d\r\n";
        guest.write_all(raw).unwrap();
        drop(guest);
        console.wait_for("never", LONG).unwrap_err();
        assert_eq!(console.text(), "ok ab\ncd\n");
        assert_eq!(std::fs::read(folder.path().join("console.log")).unwrap(), raw);
    }

    proptest! {
        #[test]
        fn cleaning_does_not_depend_on_where_the_pieces_end(bytes: Vec<u8>, cuts in prop::collection::vec(0_usize..64, 0..6)) {
            let mut whole = Cleaner::default();
            let mut expected = whole.feed(&bytes);
            let mut pieces = Cleaner::default();
            let mut found = String::new();
            let mut rest = bytes.as_slice();
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                found += &pieces.feed(piece);
                rest = after;
            }
            found += &pieces.feed(rest);
            // A new line for a cursor movement depends on the piece's own last byte only at a piece's start.
            expected.retain(|character| character != '\n');
            found.retain(|character| character != '\n');
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn plain_text_passes_unchanged(text in "[ -~äöü\n\t€]*") {
            prop_assert_eq!(Cleaner::default().feed(text.as_bytes()), text);
        }
    }
}
