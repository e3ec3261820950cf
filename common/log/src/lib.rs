//! Log lines on standard error, for people, programs and the journal.
//!
//! systemd's journal dates every line itself, and takes a line's priority from `<4>` before it.

use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text,
    /// One JSON object per line, with the event's fields in `fields`.
    Json,
    /// One JSON object per line, with the event's fields beside the others.
    FlatJson,
}

/// Writes what happens to standard error from now on; `RUST_LOG` selects it. A second start in one
/// process keeps the first.
pub fn start(form: Form, with_target: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
        || std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
    let journal = is_journal(std::env::var("JOURNAL_STREAM").ok().as_deref(), stderr_id());
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_target(with_target);
    let flat = form == Form::FlatJson;
    let _started = match (form, journal) {
        (Form::Text, false) => lines
            .with_ansi(io::stderr().is_terminal() && !plain)
            .try_init(),
        (Form::Text, true) => lines
            .with_ansi(false)
            .event_format(Prioritised(
                Format::default().without_time().with_target(with_target),
            ))
            .try_init(),
        (_, false) => lines.json().flatten_event(flat).try_init(),
        (_, true) => lines
            .fmt_fields(JsonFields::new())
            .event_format(Prioritised(
                Format::default()
                    .json()
                    .flatten_event(flat)
                    .with_target(with_target),
            ))
            .try_init(),
    };
}

/// Whether standard error is the stream of the journal that systemd names: `DEVICE:INODE`. A child
/// whose output goes elsewhere inherits the variable too.
fn is_journal(variable: Option<&str>, stderr: Option<(u64, u64)>) -> bool {
    let named = variable.and_then(|variable| {
        let (device, inode) = variable.split_once(':')?;
        Some((device.parse().ok()?, inode.parse().ok()?))
    });
    named.is_some() && named == stderr
}

fn stderr_id() -> Option<(u64, u64)> {
    let stderr = io::stderr().as_fd().try_clone_to_owned().ok()?;
    let metadata = File::from(stderr).metadata().ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Lines with the priority that the journal reads.
struct Prioritised<F>(F);

impl<S, N, F> FormatEvent<S, N> for Prioritised<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// syslog's number.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn journal_lines_have_a_priority_and_no_date() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .event_format(Prioritised(
                Format::default().without_time().with_target(false),
            ))
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(node = "sip1", "drift");
            tracing::info!("agent started");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(
            text,
            "<4> WARN drift node=\"sip1\"\n<6> INFO agent started\n"
        );
    }

    #[test]
    fn the_journal_is_known_by_its_stream() {
        assert!(is_journal(Some("8:123"), Some((8, 123))));
        for variable in [None, Some(""), Some("8:124"), Some("9:123"), Some("x")] {
            assert!(!is_journal(variable, Some((8, 123))), "{variable:?}");
        }
        assert!(!is_journal(Some("x"), None));
    }
}
