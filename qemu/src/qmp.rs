//! QMP, QEMU's machine protocol: JSON lines over a socket, commands with answers, and events.

use crate::{Error, Result};
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// QEMU answers from its main loop, at once; a busy host gets this long.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// A connection to the monitor. Commands may be executed from several threads.
pub struct Qmp {
    shared: Arc<Shared>,
    writer: Mutex<Writer>,
}

struct Writer {
    stream: UnixStream,
    next_id: u64,
    transcript: Arc<Mutex<File>>,
}

/// An event of the machine, `SHUTDOWN`, `RESET`, `GUEST_PANICKED`, and so on.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub name: String,
    pub data: Value,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    greeted: bool,
    answers: HashMap<u64, Value>,
    events: VecDeque<Event>,
    closed: bool,
}

impl Qmp {
    /// Takes the greeting and negotiates; `transcript` gets every line of both sides appended.
    pub fn new(stream: UnixStream, transcript: &Path) -> Result<Qmp> {
        let file =
            File::options().create(true).append(true).open(transcript).map_err(Error::file(transcript, "open"))?;
        let transcript = Arc::new(Mutex::new(file));
        let problem = |error: std::io::Error| Error::QmpProtocol { problem: error.to_string() };
        let reader = BufReader::new(stream.try_clone().map_err(problem)?);
        let shared = Arc::new(Shared::default());
        let (for_thread, log) = (Arc::clone(&shared), Arc::clone(&transcript));
        std::thread::Builder::new()
            .name("qmp".into())
            .spawn(move || read_all(reader, &for_thread, &log))
            .map_err(problem)?;
        let qmp = Qmp { shared, writer: Mutex::new(Writer { stream, next_id: 1, transcript }) };
        qmp.wait("its greeting", ANSWER_WITHIN, |state| state.greeted.then_some(()))?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Executes a command and returns its answer's `return`.
    ///
    /// # Errors
    /// [`Error::Qmp`] with QEMU's own words, [`Error::QmpTimeout`], [`Error::QmpClosed`].
    pub fn execute(&self, command: &str, arguments: Value) -> Result<Value> {
        let id = self.send(command, arguments)?;
        let answer = self.wait(command, ANSWER_WITHIN, |state| state.answers.remove(&id))?;
        if let Some(error) = answer.get("error") {
            let field = |name| error.get(name).and_then(Value::as_str).unwrap_or("?").to_owned();
            return Err(Error::Qmp { command: command.into(), class: field("class"), description: field("desc") });
        }
        Ok(answer.get("return").cloned().unwrap_or(Value::Null))
    }

    fn send(&self, command: &str, arguments: Value) -> Result<u64> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let id = writer.next_id;
        writer.next_id += 1;
        let mut line = json!({"execute": command, "arguments": arguments, "id": id}).to_string();
        record(&writer.transcript, ">", &line);
        line.push('\n');
        writer.stream.write_all(line.as_bytes()).map_err(|_| Error::QmpClosed { command: command.into() })?;
        Ok(id)
    }

    /// Waits for an event of this name, or takes one that came since the last wait for it.
    pub fn wait_event(&self, name: &str, within: Duration) -> Result<Event> {
        self.wait(&format!("event {name}"), within, |state| {
            let index = state.events.iter().position(|event| event.name == name)?;
            state.events.remove(index)
        })
    }

    /// Events that nobody has waited for yet.
    pub fn pending_events(&self) -> Vec<Event> {
        self.shared.lock().events.iter().cloned().collect()
    }

    fn wait<T>(&self, what: &str, within: Duration, mut take: impl FnMut(&mut State) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + within;
        let mut state = self.shared.lock();
        loop {
            if let Some(value) = take(&mut state) {
                return Ok(value);
            }
            if state.closed {
                return Err(Error::QmpClosed { command: what.into() });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::QmpTimeout { command: what.into(), within });
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Presses the power button.
    pub fn system_powerdown(&self) -> Result<()> {
        self.execute("system_powerdown", json!({})).map(drop)
    }

    /// Presses the reset button.
    pub fn system_reset(&self) -> Result<()> {
        self.execute("system_reset", json!({})).map(drop)
    }

    /// Ends QEMU at once, its image files closed in order.
    pub fn quit(&self) -> Result<()> {
        match self.execute("quit", json!({})) {
            // QEMU may be gone before its answer is through.
            Ok(_) | Err(Error::QmpClosed { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// `running`, `paused`, `shutdown`, `guest-panicked`, and so on.
    pub fn status(&self) -> Result<String> {
        let answer = self.execute("query-status", json!({}))?;
        Ok(answer.get("status").and_then(Value::as_str).unwrap_or("unknown").to_owned())
    }

    /// Presses keys together, by QEMU's names (`ctrl`, `alt`, `delete`).
    pub fn send_keys(&self, keys: &[&str]) -> Result<()> {
        let keys: Vec<Value> = keys.iter().map(|key| json!({"type": "qcode", "data": key})).collect();
        self.execute("send-key", json!({"keys": keys})).map(drop)
    }

    /// Plugs a device in: its driver's name and properties, an `id` among them to unplug it by.
    pub fn device_add(&self, driver: &str, properties: Value) -> Result<()> {
        let mut arguments = json!({"driver": driver});
        if let (Value::Object(arguments), Value::Object(properties)) = (&mut arguments, properties) {
            arguments.extend(properties);
        }
        self.execute("device_add", arguments).map(drop)
    }

    /// Asks the guest to let a device go; the event DEVICE_DELETED tells when it is out.
    pub fn device_del(&self, id: &str) -> Result<()> {
        self.execute("device_del", json!({"id": id})).map(drop)
    }

    /// Writes what the graphics card shows, as PNG (QEMU 7.1 or later).
    pub fn screendump(&self, path: &Path) -> Result<()> {
        self.execute("screendump", json!({"filename": path, "format": "png"})).map(drop)
    }

    /// A command of the human monitor, and its text.
    pub fn human(&self, command: &str) -> Result<String> {
        let answer = self.execute("human-monitor-command", json!({"command-line": command}))?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }
}

impl std::fmt::Debug for Qmp {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        formatter.debug_struct("Qmp").finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_all(reader: BufReader<UnixStream>, shared: &Shared, transcript: &Mutex<File>) {
    for line in reader.lines() {
        let Ok(line) = line else { break };
        record(transcript, "<", line.trim_end());
        match serde_json::from_str(&line) {
            Ok(message) => shared.lock().take_in(message),
            Err(error) => tracing::warn!("QMP: a line that is not JSON ({error}): {line}"),
        }
        shared.changed.notify_all();
    }
    shared.lock().closed = true;
    shared.changed.notify_all();
}

impl State {
    fn take_in(&mut self, message: Value) {
        if message.get("QMP").is_some() {
            self.greeted = true;
        } else if let Some(name) = message.get("event").and_then(Value::as_str) {
            let data = message.get("data").cloned().unwrap_or(Value::Null);
            self.events.push_back(Event { name: name.into(), data });
        } else if let Some(id) = message.get("id").and_then(Value::as_u64) {
            self.answers.insert(id, message);
        }
    }
}

/// The transcript is for people: a full disk must not stop the machine.
fn record(transcript: &Mutex<File>, direction: &str, line: &str) {
    let mut file = transcript.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = writeln!(file, "{direction} {line}") {
        tracing::warn!("the QMP transcript is cut short: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A monitor that answers each command with the next of these lines (`ID` replaced).
    fn monitor(answers: &'static [&'static [&'static str]]) -> (Qmp, tempfile::TempDir) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            let mut writer = theirs.try_clone().unwrap();
            writer.write_all(b"{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n").unwrap();
            let mut commands = BufReader::new(theirs).lines();
            for answer in [&["{\"return\": {}, \"id\": ID}"] as &[&str]].iter().chain(answers) {
                let Some(Ok(command)) = commands.next() else { return };
                let command: Value = serde_json::from_str(&command).unwrap();
                for line in *answer {
                    let line = line.replace("ID", &command["id"].to_string());
                    writer.write_all(format!("{line}\r\n").as_bytes()).unwrap();
                }
            }
        });
        let folder = tempfile::tempdir().unwrap();
        (Qmp::new(ours, &folder.path().join("qmp.log")).unwrap(), folder)
    }

    #[test]
    fn a_command_gets_its_own_answer_among_events() {
        let (qmp, folder) = monitor(&[&[
            "{\"event\": \"RESET\", \"data\": {\"guest\": true}}",
            "{\"return\": {\"status\": \"running\"}, \"id\": ID}",
        ]]);
        assert_eq!(qmp.status().unwrap(), "running");
        let event = qmp.wait_event("RESET", Duration::from_secs(9)).unwrap();
        assert_eq!(event.data, json!({"guest": true}));
        assert_eq!(qmp.pending_events(), []);
        let transcript = std::fs::read_to_string(folder.path().join("qmp.log")).unwrap();
        assert!(transcript.contains("> {") && transcript.contains("< {\"event\": \"RESET\""), "{transcript}");
    }

    #[test]
    fn an_error_comes_in_qemus_words() {
        let (qmp, _folder) =
            monitor(&[&["{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such device\"}, \"id\": ID}"]]);
        assert_eq!(qmp.device_del("x").unwrap_err().to_string(), "QMP device_del: GenericError: no such device");
    }

    #[test]
    fn a_wait_ends_by_deadline_or_when_the_connection_closes() {
        let (qmp, _folder) = monitor(&[&["{\"event\": \"STOP\"}"]]);
        let error = qmp.wait_event("SHUTDOWN", Duration::from_millis(20)).unwrap_err();
        assert!(matches!(error, Error::QmpTimeout { .. }), "{error}");
        assert!(matches!(qmp.status().unwrap_err(), Error::QmpClosed { .. }));
        qmp.quit().unwrap();
    }
}
