//! The only place that prints: stdout for data, stderr for the rest.
//!
//! Both are held as writers, so that a test reads what an operator would see.

mod progress;
pub mod style;

use std::ffi::OsStr;
use std::io::{self, BufRead, IsTerminal as _, Write};

pub use progress::Progress;

use self::style::Tone;
use crate::failure::{ExitStatus, Failure, chain};
use crate::format::printable;

/// One of the two outputs.
pub struct Pane {
    writer: Box<dyn Write + Send>,
    terminal: bool,
    colour: bool,
    width: Option<usize>,
}

impl Pane {
    /// An output that is not a terminal: no colour, lines of any length.
    pub fn plain(writer: impl Write + Send + 'static) -> Self {
        Self {
            writer: Box::new(writer),
            terminal: false,
            colour: false,
            width: None,
        }
    }

    /// A terminal with `width` columns.
    pub fn terminal(writer: impl Write + Send + 'static, width: usize, colour: bool) -> Self {
        Self {
            writer: Box::new(writer),
            terminal: true,
            colour,
            width: Some(width),
        }
    }

    /// Columns of the terminal; `None`: not a terminal, lines may have any length.
    pub fn width(&self) -> Option<usize> {
        self.width
    }

    /// Whether it shows colours.
    pub fn colour(&self) -> bool {
        self.colour
    }

    /// `text` in the colour of its meaning.
    pub fn toned(&self, tone: Tone, text: &str) -> String {
        match tone {
            Tone::Plain => text.to_owned(),
            Tone::Good => self.painted("32", text),
            Tone::Attention => self.painted("33", text),
            Tone::Bad => self.painted("31", text),
        }
    }

    fn painted(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Where a command writes its output and reads answers.
pub struct Console {
    out: Pane,
    err: Pane,
    input: Box<dyn BufRead + Send>,
    answers: bool,
    lost: Option<io::Error>,
}

/// Whether the environment asks for no colour, by `NO_COLOR` and `TERM`.
pub fn is_plain(no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    no_color.is_some_and(|value| !value.is_empty()) || term.is_some_and(|term| term == "dumb")
}

impl Console {
    /// The console of this process. `no_colour` is whether `NO_COLOR` is set.
    pub fn of_process(no_colour: bool) -> Self {
        let width = || terminal_size::terminal_size().map_or(80, |(width, _)| width.0.into());
        let (out, err) = (io::stdout(), io::stderr());
        let out = if out.is_terminal() {
            Pane::terminal(out, width(), !no_colour)
        } else {
            Pane::plain(out)
        };
        let err = if err.is_terminal() {
            Pane::terminal(err, width(), !no_colour)
        } else {
            Pane::plain(err)
        };
        let answers = io::stdin().is_terminal();
        Self::new(out, err, io::BufReader::new(io::stdin()), answers)
    }

    /// A console over these; `answers` is whether a person can answer at `input`.
    pub fn new(out: Pane, err: Pane, input: impl BufRead + Send + 'static, answers: bool) -> Self {
        Self {
            out,
            err,
            input: Box::new(input),
            answers,
            lost: None,
        }
    }

    /// The output for data.
    pub fn out(&self) -> &Pane {
        &self.out
    }

    /// The output for everything else.
    pub fn err(&self) -> &Pane {
        &self.err
    }

    /// stdin, for `-f -`.
    pub fn input(&mut self) -> &mut dyn BufRead {
        &mut self.input
    }

    /// Prints data, exactly as given. A reader that has gone away (`| head`) is not an error: the
    /// command goes on, and its exit status still reports how it ended.
    pub fn data(&mut self, text: &str) {
        if self.lost.is_some() {
            return;
        }
        let written = self.out.writer.write_all(text.as_bytes());
        if let Err(error) = written.and_then(|()| self.out.writer.flush()) {
            self.lost = Some(error);
        }
    }

    /// Prints a line on stderr, with control characters replaced.
    pub fn note(&mut self, text: &str) {
        self.rendered(&printable(text));
    }

    /// Prints a text on stderr that is already free of foreign control characters: it may have
    /// colours of its own.
    pub fn rendered(&mut self, text: &str) {
        // An error has nowhere to go when stderr itself is gone.
        let _ = writeln!(self.err.writer, "{text}").and_then(|()| self.err.writer.flush());
    }

    /// Prints a warning.
    pub fn warning(&mut self, text: &str) {
        let title = self.err.painted("1;33", "warning:");
        self.rendered(&format!("{title} {}", printable(text)));
    }

    /// Prints what to do next.
    pub fn hint(&mut self, text: &str) {
        let title = self.err.painted("1;36", "hint:");
        self.rendered(&format!("{title} {}", printable(text)));
    }

    /// Prints why a command failed.
    pub fn failure(&mut self, failure: &Failure) {
        let title = self.err.painted("1;31", "error:");
        self.rendered(&format!("{title} {}", printable(&chain(failure))));
        for detail in &failure.details {
            self.note(&format!("  {detail}"));
        }
        for hint in &failure.hints {
            self.hint(hint);
        }
        if let Some(request) = &failure.request {
            self.note(&format!("request id: {request}"));
        }
    }

    /// Asks a question; only `y` and `yes` mean yes. Fails, with a hint to `--yes`, when stdin is
    /// not a terminal.
    pub fn confirm(&mut self, question: &str) -> Result<bool, Failure> {
        if !self.answers {
            return Err(
                Failure::input("cannot ask for confirmation: stdin is not a terminal")
                    .hint(format!("pass --yes to answer yes to: {question}")),
            );
        }
        let _ = write!(self.err.writer, "{question} [y/N] ").and_then(|()| self.err.writer.flush());
        let mut answer = String::new();
        self.input
            .read_line(&mut answer)
            .map_err(|error| Failure::input("cannot read the answer").because(error))?;
        Ok(matches!(
            answer.trim().to_ascii_lowercase().as_str(),
            "y" | "yes"
        ))
    }

    /// Whether a person can answer a question.
    pub fn answers(&self) -> bool {
        self.answers && self.err.terminal
    }

    /// A progress area on stderr for `number` things; nothing is drawn unless it is a terminal.
    pub fn progress(&self, number: u64, things: &str) -> Progress {
        Progress::new(self.err.terminal, self.err.colour, number, things)
    }

    /// The status to exit with: `status`, unless data was lost on its way out.
    pub fn close(&mut self, status: ExitStatus) -> ExitStatus {
        match self.lost.take() {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                self.failure(&Failure::input("cannot write the output").because(error));
                if status == ExitStatus::Done {
                    ExitStatus::BadInput
                } else {
                    status
                }
            }
            _ => status,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dumb_terminals_and_no_color_are_plain() {
        let plain = |no_color: Option<&str>, term: Option<&str>| {
            is_plain(no_color.map(OsStr::new), term.map(OsStr::new))
        };
        assert!(plain(Some("1"), Some("xterm")) && plain(None, Some("dumb")));
        assert!(!plain(None, None) && !plain(Some(""), Some("xterm-256color")));
    }
}
