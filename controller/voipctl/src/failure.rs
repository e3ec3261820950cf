//! How a command ends: the exit status, and the error that an operator sees.

use std::error::Error;
use std::process::ExitCode;
pub use voipfleet_protocol::errors::chain;

/// The exit status; the numbers are a contract with scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ExitStatus {
    /// Done.
    Done = 0,
    /// It did not succeed on every node, or `--exit-code` found what it checks for.
    NotEverywhere = 1,
    /// Bad usage or bad input; nothing was changed.
    BadInput = 2,
    /// The controller cannot be reached, or refuses us.
    NoController = 3,
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        ExitCode::from(status as u8)
    }
}

/// A command that could not do its work.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The exit status.
    pub status: ExitStatus,
    /// What happened, lower case, without a full stop.
    pub message: String,
    /// Further lines below the message.
    pub details: Vec<String>,
    /// What to do next, the best first.
    pub hints: Vec<String>,
    /// The request's id in the controller's audit log.
    pub request: Option<String>,
    #[source]
    cause: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    /// Bad usage or bad input.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(ExitStatus::BadInput, message)
    }

    /// The controller cannot be reached, or refuses us.
    pub fn controller(message: impl Into<String>) -> Self {
        Self::new(ExitStatus::NoController, message)
    }

    fn new(status: ExitStatus, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            details: Vec::new(),
            hints: Vec::new(),
            request: None,
            cause: None,
        }
    }

    /// Changes the exit status.
    #[must_use]
    pub fn status(mut self, status: ExitStatus) -> Self {
        self.status = status;
        self
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds several hints.
    #[must_use]
    pub fn with_hints(mut self, hints: impl IntoIterator<Item = String>) -> Self {
        self.hints.extend(hints);
        self
    }

    /// Adds a line below the message.
    #[must_use]
    pub fn detail(mut self, line: impl Into<String>) -> Self {
        self.details.push(line.into());
        self
    }

    /// Adds the request's id.
    #[must_use]
    pub fn request(mut self, number: impl Into<String>) -> Self {
        self.request = Some(number.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }
}
