//! The only place that prints: stdout for data, stderr for the rest.
//!
//! Both are held as writers, so that a test reads what an operator would see.

mod progress;
pub mod style;

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
    /// An output that is no terminal: no colour, any width.
    pub fn plain(writer: impl Write + Send + 'static) -> Self {
        Self {
            writer: Box::new(writer),
            terminal: false,
            colour: false,
            width: None,
        }
    }

    /// A terminal of so many columns.
    pub fn terminal(writer: impl Write + Send + 'static, width: usize, colour: bool) -> Self {
        Self {
            writer: Box::new(writer),
            terminal: true,
            colour,
            width: Some(width),
        }
    }

    /// Columns of the terminal; none: it is no terminal, and lines may be of any length.
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

/// Where a command speaks and listens.
pub struct Console {
    out: Pane,
    err: Pane,
    input: Box<dyn BufRead + Send>,
    answers: bool,
    lost: Option<io::Error>,
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

    /// A console over these; `answers` says whether a person sits at `input`.
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

    /// What stands at stdin, for `-f -`.
    pub fn input(&mut self) -> &mut dyn BufRead {
        &mut self.input
    }

    /// Prints data, exactly as given. A reader that has gone away (`| head`) is no error: the
    /// command goes on, and its exit status still says how it ended.
    pub fn data(&mut self, text: &str) {
        if self.lost.is_some() {
            return;
        }
        let written = self.out.writer.write_all(text.as_bytes());
        if let Err(error) = written.and_then(|()| self.out.writer.flush()) {
            self.lost = Some(error);
        }
    }

    /// Says something on stderr.
    pub fn note(&mut self, text: &str) {
        // Nobody is left to tell when stderr itself is gone.
        let _ = writeln!(self.err.writer, "{text}").and_then(|()| self.err.writer.flush());
    }

    /// Says what an operator should look at.
    pub fn warning(&mut self, text: &str) {
        let title = self.err.painted("1;33", "warning:");
        self.note(&format!("{title} {}", printable(text)));
    }

    /// Says what to do next.
    pub fn hint(&mut self, text: &str) {
        let title = self.err.painted("1;36", "hint:");
        self.note(&format!("{title} {}", printable(text)));
    }

    /// Says why a command failed.
    pub fn failure(&mut self, failure: &Failure) {
        let title = self.err.painted("1;31", "error:");
        self.note(&format!("{title} {}", printable(&chain(failure))));
        if let Some(hint) = &failure.hint {
            self.hint(hint);
        }
        if let Some(request) = &failure.request {
            self.note(&format!("request {}", printable(request)));
        }
    }

    /// Asks a question; only a `y` or `yes` is a yes. Without a person at stdin it refuses and
    /// names `--yes`.
    pub fn confirm(&mut self, question: &str) -> Result<bool, Failure> {
        if !self.answers {
            return Err(
                Failure::input(format!("nobody is there to answer: {question}"))
                    .hint("stdin is no terminal; add --yes if you mean it"),
            );
        }
        let _ = write!(self.err.writer, "{question} [y/N] ").and_then(|()| self.err.writer.flush());
        let mut answer = String::new();
        self.input
            .read_line(&mut answer)
            .map_err(|error| Failure::input("the answer cannot be read").because(error))?;
        Ok(matches!(
            answer.trim().to_ascii_lowercase().as_str(),
            "y" | "yes"
        ))
    }

    /// Whether a person can answer a question.
    pub fn answers(&self) -> bool {
        self.answers && self.err.terminal
    }

    /// A live area on stderr for so many `things`; nothing is drawn when it is no terminal.
    pub fn progress(&self, number: u64, things: &str) -> Progress {
        Progress::new(self.err.terminal, self.err.colour, number, things)
    }

    /// The status to exit with: `status`, unless data was lost on its way out.
    pub fn close(&mut self, status: ExitStatus) -> ExitStatus {
        match self.lost.take() {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                self.failure(&Failure::input("the output cannot be written").because(error));
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
