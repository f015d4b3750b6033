//! Every error of the builder ends here: a problem with what somebody wrote (exit status 2) or a
//! failure of the work itself (exit status 1), printed by miette with the line that is wrong.

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Result with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a command stopped.
#[derive(Debug)]
pub enum Error {
    /// Something that a person wrote is wrong: exit status 2.
    BadInput(Box<Problem>),
    /// The work failed: exit status 1.
    Failure(Box<Problem>),
}

impl Error {
    /// Bad input without a place in a file.
    pub fn bad_input(message: impl Into<String>) -> Error {
        Error::BadInput(Box::new(Problem::new(message)))
    }

    /// A failure with nothing behind it.
    pub fn failure(message: impl Into<String>) -> Error {
        Error::Failure(Box::new(Problem::new(message)))
    }

    /// A failure with the error that made it.
    pub fn because(message: impl Into<String>, cause: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::Failure(Box::new(Problem::new(message).because(cause)))
    }

    /// A library's error as it is: its own text is the message, its sources are the causes.
    pub fn from_failure(error: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::Failure(Box::new(Problem::from_error(error)))
    }

    /// The same as bad input.
    pub fn from_bad_input(error: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::BadInput(Box::new(Problem::from_error(error)))
    }

    /// A file that could not be read, written, made or removed; `verb` is one of these words.
    pub fn io(verb: &str, path: &Path, cause: std::io::Error) -> Error {
        Error::because(format!("cannot {verb} {}", path.display()), cause)
    }

    /// What to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Error {
        self.problem_mut().help = Some(help.into());
        self
    }

    pub fn problem(&self) -> &Problem {
        match self {
            Error::BadInput(problem) | Error::Failure(problem) => problem,
        }
    }

    fn problem_mut(&mut self) -> &mut Problem {
        match self {
            Error::BadInput(problem) | Error::Failure(problem) => problem,
        }
    }

    /// Exit status of the program.
    pub const fn status(&self) -> u8 {
        match self {
            Error::BadInput(_) => 2,
            Error::Failure(_) => 1,
        }
    }

    /// All problems at once: one as it is, several below a common headline. `None` when there is none.
    pub fn of_problems(headline: impl Into<String>, mut problems: Vec<Problem>) -> Option<Error> {
        match problems.len() {
            0 => None,
            1 => problems.pop().map(|problem| Error::BadInput(Box::new(problem))),
            count => {
                let mut all = Problem::new(format!("{}: {count} problems", headline.into()));
                all.related = problems;
                Some(Error::BadInput(Box::new(all)))
            }
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problem().fmt(formatter)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.problem().source()
    }
}

impl From<Problem> for Error {
    /// A problem that nobody called a failure is bad input.
    fn from(problem: Problem) -> Error {
        Error::BadInput(Box::new(problem))
    }
}

/// A text file that a person wrote, kept to point into.
#[derive(Debug)]
pub struct Source {
    pub path: PathBuf,
    /// Path as it is shown.
    pub name: String,
    pub text: String,
}

impl Source {
    pub fn new(path: &Path, name: impl Into<String>, text: impl Into<String>) -> Arc<Source> {
        Arc::new(Source { path: path.to_owned(), name: name.into(), text: text.into() })
    }

    /// Line number, from 1, of a byte.
    pub fn line(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
    }
}

/// A place in a source: bytes of its text.
#[derive(Debug, Clone)]
pub struct Place {
    pub source: Arc<Source>,
    pub span: Range<usize>,
}

impl Place {
    /// Line number, from 1.
    pub fn line(&self) -> usize {
        self.source.line(self.span.start)
    }
}

impl fmt::Display for Place {
    /// `profiles/base.toml:12`
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.source.name, self.line())
    }
}

/// What is wrong, where, and what to do: a message and its surroundings.
#[derive(Debug)]
pub struct Problem {
    pub message: String,
    pub help: Option<String>,
    /// Where, with a word on what is there.
    place: Option<(Place, String)>,
    code: Option<NamedSource<String>>,
    cause: Option<Box<dyn std::error::Error + Send + Sync>>,
    pub related: Vec<Problem>,
}

impl Problem {
    pub fn new(message: impl Into<String>) -> Problem {
        Problem { message: message.into(), help: None, place: None, code: None, cause: None, related: Vec::new() }
    }

    fn from_error(error: impl std::error::Error + Send + Sync + 'static) -> Problem {
        let message = error.to_string();
        Problem { cause: Some(Box::new(Hidden(Box::new(error)))), ..Problem::new(message) }
    }

    /// Points at a place; `label` stands below the line.
    #[must_use]
    pub fn at(mut self, place: Option<&Place>, label: impl Into<String>) -> Problem {
        if let Some(place) = place {
            self.code = Some(NamedSource::new(&place.source.name, place.source.text.clone()));
            self.place = Some((place.clone(), label.into()));
        }
        self
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Problem {
        self.help = Some(help.into());
        self
    }

    #[must_use]
    pub fn because(mut self, cause: impl std::error::Error + Send + Sync + 'static) -> Problem {
        self.cause = Some(Box::new(cause));
        self
    }

    /// A TOML error, with its own place.
    pub fn of_toml(source: &Arc<Source>, error: &toml::de::Error) -> Problem {
        let place = error.span().map(|span| Place { source: source.clone(), span });
        // toml's enumeration of every known key is long: it goes into the help.
        let (message, help) = match error.message().split_once(", expected ") {
            Some((message, expected)) => (message.to_owned(), Some(format!("expected {expected}"))),
            None => (error.message().to_owned(), None),
        };
        let mut problem = Problem::new(format!("{}: {message}", source.name)).at(place.as_ref(), "here");
        problem.help = help;
        problem
    }

    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref().map(|(place, _)| place)
    }

    /// As a JSON object: `message`, `help`, `file`, `line`, `causes`, `problems`, each where it is known.
    pub fn to_json(&self) -> serde_json::Value {
        let mut object = serde_json::Map::new();
        object.insert("message".into(), self.message.clone().into());
        if let Some(help) = &self.help {
            object.insert("help".into(), help.clone().into());
        }
        if let Some((place, _)) = &self.place {
            object.insert("file".into(), place.source.name.clone().into());
            object.insert("line".into(), place.line().into());
        }
        let causes = self.causes();
        if !causes.is_empty() {
            object.insert("causes".into(), causes.into());
        }
        if !self.related.is_empty() {
            object.insert("problems".into(), self.related.iter().map(Problem::to_json).collect::<Vec<_>>().into());
        }
        object.into()
    }

    fn causes(&self) -> Vec<String> {
        let mut causes = Vec::new();
        let mut next = std::error::Error::source(self);
        while let Some(error) = next {
            causes.push(error.to_string());
            next = error.source();
        }
        causes
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Problem {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let cause = self.cause.as_deref()?;
        // An error that is itself the message is not its own cause.
        match cause.downcast_ref::<Hidden>() {
            Some(hidden) => hidden.0.source(),
            None => Some(cause),
        }
    }
}

impl Diagnostic for Problem {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.code.as_ref().map(|code| code as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let (place, label) = self.place.as_ref()?;
        let span = (place.span.start, place.span.len());
        Some(Box::new(std::iter::once(LabeledSpan::new_with_span(Some(label.clone()), span))))
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        if self.related.is_empty() {
            return None;
        }
        Some(Box::new(self.related.iter().map(|problem| problem as &dyn Diagnostic)))
    }
}

/// An error whose text is already the problem's message.
#[derive(Debug)]
struct Hidden(Box<dyn std::error::Error + Send + Sync>);

impl fmt::Display for Hidden {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl std::error::Error for Hidden {}

/// The error as a person reads it, ending in a newline. Lines are not wrapped, so that a message can
/// be searched for; colours only when the standard error is a terminal.
pub fn render(error: &Error, colours: bool) -> String {
    let theme = if colours { miette::GraphicalTheme::unicode() } else { miette::GraphicalTheme::unicode_nocolor() };
    let handler = miette::GraphicalReportHandler::new_themed(theme).with_wrap_lines(false).with_width(120);
    let mut text = String::new();
    match handler.render_report(&mut text, error.problem()) {
        Ok(()) => text,
        Err(fmt::Error) => format!("{error}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_place_is_counted_from_one() {
        let source = Source::new(Path::new("a"), "a.toml", "one\ntwo\nthree\n");
        assert_eq!(Place { source: source.clone(), span: 0..1 }.to_string(), "a.toml:1");
        assert_eq!(Place { source, span: 4..5 }.to_string(), "a.toml:2");
    }

    #[test]
    fn a_problem_shows_its_line_label_help_and_cause() {
        let source = Source::new(Path::new("a"), "a.toml", "one\ntwo = 3\n");
        let place = Place { source, span: 4..7 };
        let problem = Problem::new("two is wrong")
            .at(Some(&place), "this key")
            .help("write one")
            .because(std::io::Error::other("disk on fire"));
        let text = render(&problem.into(), false);
        for part in ["two is wrong", "a.toml:2:1", "this key", "write one", "disk on fire"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn an_error_that_is_the_message_is_shown_once() {
        let text = render(&Error::from_failure(std::io::Error::other("only once")), false);
        assert_eq!(text.matches("only once").count(), 1, "{text}");
    }
}
