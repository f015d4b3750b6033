//! Progress of a build, in one place: bars on a terminal, plain lines elsewhere, JSON events for scripts.
//!
//! A `Progress` is cheap to clone and may be used from several threads. Bars and plain lines go to
//! standard error, JSON events (one object a line) to standard output.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Moving bars, for a terminal.
    Bars,
    /// One line for each stage, finished task, note and warning.
    Plain,
    /// One JSON object a line.
    Json,
    /// Warnings alone.
    Quiet,
}

impl Mode {
    /// JSON when asked for, bars when standard error is a terminal, plain lines otherwise.
    pub fn choose(json: bool, quiet: bool) -> Self {
        match (json, quiet) {
            (true, _) => Mode::Json,
            (false, true) => Mode::Quiet,
            (false, false) if std::io::stderr().is_terminal() => Mode::Bars,
            (false, false) => Mode::Plain,
        }
    }
}

/// What a task's numbers count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Items,
}

/// Where every stage of the builder reports to.
#[derive(Clone)]
pub struct Progress {
    inner: Arc<Inner>,
}

struct Inner {
    mode: Mode,
    bars: MultiProgress,
    writer: Mutex<Box<dyn Write + Send>>,
    started: Instant,
}

impl Progress {
    pub fn new(mode: Mode) -> Self {
        let writer: Box<dyn Write + Send> = match mode {
            Mode::Json => Box::new(std::io::stdout()),
            _ => Box::new(std::io::stderr()),
        };
        Self::with_writer(mode, writer)
    }

    /// For tests and for callers that keep a log: lines and events go to `writer`.
    pub fn with_writer(mode: Mode, writer: Box<dyn Write + Send>) -> Self {
        let target = match mode {
            Mode::Bars => ProgressDrawTarget::stderr_with_hz(10),
            _ => ProgressDrawTarget::hidden(),
        };
        let bars = MultiProgress::with_draw_target(target);
        Progress { inner: Arc::new(Inner { mode, bars, writer: Mutex::new(writer), started: Instant::now() }) }
    }

    /// Shows nothing but warnings.
    pub fn quiet() -> Self {
        Self::new(Mode::Quiet)
    }

    pub fn mode(&self) -> Mode {
        self.inner.mode
    }

    /// A stage of the pipeline begins: "Locking", "Fetching", and so on.
    pub fn stage(&self, name: &str) {
        self.say("stage", name, &[], &format!("==> {name}"), Mode::Plain);
    }

    /// Something worth knowing that is no cause for worry.
    pub fn note(&self, text: &str) {
        self.say("note", text, &[], &format!("    {text}"), Mode::Plain);
    }

    /// Something the operator should look at; shown in every mode.
    pub fn warn(&self, text: &str) {
        self.say("warning", text, &[], &format!("warning: {text}"), Mode::Quiet);
    }

    /// A piece of work of `total` bytes or items; a total of 0 means unknown.
    pub fn task(&self, label: &str, total: u64, unit: Unit) -> Task {
        let bar = match self.inner.mode {
            Mode::Bars => self.inner.bars.add(ProgressBar::new(total)),
            _ => ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden()),
        };
        bar.set_style(style(total, unit));
        bar.set_message(label.to_owned());
        self.event("task", label, &[("total", total)]);
        Task { progress: self.clone(), bar, label: label.to_owned(), unit, started: Instant::now(), open: true }
    }

    /// Runs `action` with the bars hidden, so that a program or a prompt may use the terminal.
    pub fn suspend<T>(&self, action: impl FnOnce() -> T) -> T {
        self.inner.bars.suspend(action)
    }

    fn say(&self, event: &str, text: &str, numbers: &[(&str, u64)], line: &str, least: Mode) {
        match self.inner.mode {
            Mode::Json => self.event(event, text, numbers),
            Mode::Bars => {
                // A line that cannot be drawn is lost on purpose: progress never stops a build.
                let _ = self.inner.bars.println(line);
            }
            Mode::Plain => self.line(line),
            Mode::Quiet if least == Mode::Quiet => self.line(line),
            Mode::Quiet => {}
        }
    }

    fn event(&self, event: &str, text: &str, numbers: &[(&str, u64)]) {
        if self.inner.mode != Mode::Json {
            return;
        }
        let mut object = serde_json::Map::new();
        object.insert("event".into(), event.into());
        object.insert("text".into(), text.into());
        object.insert("elapsed_ms".into(), (self.inner.started.elapsed().as_millis() as u64).into());
        for (name, value) in numbers {
            object.insert((*name).into(), (*value).into());
        }
        self.line(&serde_json::Value::Object(object).to_string());
    }

    fn line(&self, line: &str) {
        let mut writer = self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner);
        // A closed pipe must not stop a build.
        let _ = writeln!(writer, "{line}").and_then(|()| writer.flush());
    }
}

fn style(total: u64, unit: Unit) -> ProgressStyle {
    let template = match (total, unit) {
        (0, Unit::Bytes) => "    {spinner} {msg:40!} {bytes} {bytes_per_sec}",
        (0, Unit::Items) => "    {spinner} {msg:40!} {pos}",
        (_, Unit::Bytes) => "    {msg:40!} {bar:24} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        (_, Unit::Items) => "    {msg:40!} {bar:24} {pos}/{len}",
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A piece of work under way. Dropped without `done`, its bar goes away without a line.
pub struct Task {
    progress: Progress,
    bar: ProgressBar,
    label: String,
    unit: Unit,
    started: Instant,
    open: bool,
}

impl Task {
    /// `amount` more bytes or items are done.
    pub fn advance(&self, amount: u64) {
        self.bar.inc(amount);
    }

    /// Sets the position, for work that resumes or starts again.
    pub fn set(&self, position: u64) {
        self.bar.set_position(position);
    }

    /// The total became known.
    pub fn set_total(&self, total: u64) {
        self.bar.set_length(total);
        self.bar.set_style(style(total, self.unit));
    }

    /// Names what is being worked on now.
    pub fn message(&self, text: &str) {
        self.bar.set_message(text.to_owned());
    }

    /// The work is finished.
    pub fn done(mut self) {
        self.open = false;
        let amount = self.bar.position();
        let milliseconds = self.started.elapsed().as_millis() as u64;
        self.bar.finish_and_clear();
        let line = format!("    {} ({}, {:.1} s)", self.label, self.amount_text(amount), milliseconds as f64 / 1000.0);
        self.progress.say("done", &self.label, &[("amount", amount), ("took_ms", milliseconds)], &line, Mode::Plain);
    }

    fn amount_text(&self, amount: u64) -> String {
        match self.unit {
            Unit::Bytes => format!("{:.1} MB", amount as f64 / 1e6),
            Unit::Items => amount.to_string(),
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if self.open {
            self.bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn text(mode: Mode) -> String {
        let sink = Sink::default();
        let progress = Progress::with_writer(mode, Box::new(sink.clone()));
        progress.stage("Fetching");
        let task = progress.task("crun", 10, Unit::Items);
        task.advance(10);
        task.done();
        progress.warn("old index");
        String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn json_events_are_one_object_a_line() {
        let text = text(Mode::Json);
        let events: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let names: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
        assert_eq!(names, ["stage", "task", "done", "warning"]);
        assert_eq!(events[2]["amount"], 10);
    }

    #[test]
    fn quiet_still_warns() {
        assert_eq!(text(Mode::Quiet), "warning: old index\n");
    }

    #[test]
    fn plain_lines_name_stage_and_task() {
        let text = text(Mode::Plain);
        assert!(text.starts_with("==> Fetching\n    crun (10, "), "{text}");
    }
}
