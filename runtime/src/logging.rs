//! What the program says: its errors to standard error, and what `--log` and `--debug` ask for.

use std::{
    error::Error,
    fmt,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::Path,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use serde_json::{Map, Value, json};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use crate::sandbox::Id;

/// How a line is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, with `level`, `msg` and `time`.
    Json,
}

/// The log file, for what children write by themselves.
static FILE: OnceLock<File> = OnceLock::new();

/// Whether standard error is the caller's: a stand-in has a container's there.
static STDERR_IS_OURS: AtomicBool = AtomicBool::new(true);

/// Which container every line is about, and its sandbox.
static SUBJECT: OnceLock<(Id, Id)> = OnceLock::new();

static FORMAT_OF_STDERR: OnceLock<Format> = OnceLock::new();

/// Sets the log up, if there is to be one.
///
/// # Errors
/// The file cannot be opened.
pub fn set_up(file: Option<&Path>, format: Format, debug: bool) -> io::Result<()> {
    let level = if debug { Level::DEBUG } else { Level::WARN };
    let log = tracing_subscriber::fmt()
        .with_max_level(level)
        .event_format(Line(format));
    match file {
        Some(path) => {
            let file = open(path)?;
            if format == Format::Text {
                let _ = FILE.set(file.try_clone()?);
            }
            log.with_writer(file).init();
        }
        None => {
            let _ = FORMAT_OF_STDERR.set(format);
            if debug {
                log.with_writer(Stderr::new).init();
            }
        }
    }
    Ok(())
}

/// Opens the log. A pipe is opened for reading, too: then it can be written to while nobody else reads it, and when it is full
/// lines are lost rather than waited for.
fn open(path: &Path) -> io::Result<File> {
    let is_pipe = path
        .metadata()
        .is_ok_and(|metadata| metadata.file_type().is_fifo());
    OpenOptions::new()
        .create(!is_pipe)
        .append(true)
        .read(is_pipe)
        .custom_flags(if is_pipe { libc::O_NONBLOCK } else { 0 })
        .open(path)
}

/// Has every line name the container that the calling process is about from now on, and its sandbox.
pub fn set_subject(sandbox: &Id, container: &Id) {
    // A process is about one.
    let _ = SUBJECT.set((sandbox.clone(), container.clone()));
}

/// The names of what a line is about, as fields.
fn subject() -> impl Iterator<Item = (&'static str, &'static Id)> {
    let subject = SUBJECT.get();
    subject
        .into_iter()
        .flat_map(|(sandbox, container)| [("sandbox", sandbox), ("container", container)])
}

/// Writes nothing to standard error from now on: it has become a container's. A panic goes to the log.
pub fn leave_stderr() {
    STDERR_IS_OURS.store(false, Ordering::Relaxed);
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
}

/// Where a child process may write its standard error: the log, if it is text in a file, else nowhere.
///
/// # Errors
/// No file descriptors left.
pub fn of_children() -> io::Result<File> {
    match FILE.get() {
        Some(file) => file.try_clone(),
        None => OpenOptions::new().write(true).open("/dev/null"),
    }
}

/// Standard error as long as it is ours.
struct Stderr;

impl Stderr {
    fn new() -> Self {
        Self
    }
}

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if STDERR_IS_OURS.load(Ordering::Relaxed) {
            io::stderr().write(bytes)
        } else {
            Ok(bytes.len())
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Says an error on standard error, and in the log if there is one: one line, then the guest's last lines if it has any.
pub fn report(error: &dyn Error, console: &[String]) {
    report_text(&error.to_string(), console);
}

/// Says an error of which there is the text only, as [`report`] does.
pub fn report_text(error: &str, console: &[String]) {
    let mut text = String::new();
    let error = printable(error);
    let console: Vec<_> = console.iter().map(|line| printable(line)).collect();
    if FORMAT_OF_STDERR.get() == Some(&Format::Json) {
        text = json_line(Level::ERROR, &error, console_field(&console));
    } else {
        tracing::error!(console = console.join("\n"), "{error}");
        text.push_str(&format!("bulkhead: {error}\n"));
        for line in console {
            text.push_str(&format!("  guest: {line}\n"));
        }
    }
    // There is nobody to tell that nobody can be told.
    let _ = Stderr.write_all(text.as_bytes());
}

/// A line as it can be shown: the guest has a say in it, and is not to move the cursor of the reader's terminal.
fn printable(line: &str) -> String {
    line.trim_end()
        .chars()
        .map(|c| if c.is_control() && c != '\t' { ' ' } else { c })
        .collect()
}

fn console_field(console: &[String]) -> Map<String, Value> {
    let mut fields = Map::new();
    if !console.is_empty() {
        fields.insert("console".to_owned(), console.join("\n").into());
    }
    fields
}

fn json_line(level: Level, message: &str, mut fields: Map<String, Value>) -> String {
    let level = level.as_str().to_ascii_lowercase();
    for (name, id) in subject() {
        fields.insert(name.to_owned(), id.as_str().into());
    }
    fields.insert("level".to_owned(), level.into());
    fields.insert("msg".to_owned(), message.into());
    fields.insert(
        "time".to_owned(),
        humantime::format_rfc3339_nanos(SystemTime::now())
            .to_string()
            .into(),
    );
    format!("{}\n", Value::Object(fields))
}

/// Writes an event as one line.
struct Line(Format);

/// An event's message and its other fields.
#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            _ if value.is_empty() => {}
            name => drop(self.others.insert(name.to_owned(), json!(value))),
        }
    }
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = *event.metadata().level();
        if self.0 == Format::Json {
            return writer.write_str(&json_line(level, &fields.message, fields.others));
        }
        let time = humantime::format_rfc3339_micros(SystemTime::now());
        write!(writer, "{time} {level} {}", fields.message)?;
        for (name, id) in subject() {
            write!(writer, " {name}={id}")?;
        }
        for (name, value) in fields.others {
            write!(writer, " {name}={value}")?;
        }
        writeln!(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_line_is_one_line_and_moves_nothing() {
        assert_eq!(printable("a\x1b[2Jb\nc\td\r\n"), "a [2Jb c\td");
    }

    #[test]
    fn a_json_line_has_what_callers_read() {
        let line = json_line(
            Level::ERROR,
            "no \"such\" thing",
            console_field(&["a".to_owned(), "b".to_owned()]),
        );
        assert!(line.ends_with('\n'));
        let value: Value = serde_json::from_str(&line).expect("one JSON document");
        assert_eq!(value["level"], "error");
        assert_eq!(value["msg"], "no \"such\" thing");
        assert_eq!(value["console"], "a\nb");
        assert!(value["time"].as_str().is_some_and(|time| time.ends_with('Z')));
    }
}
