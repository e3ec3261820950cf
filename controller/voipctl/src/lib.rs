//! voipctl, the operator's command.
//!
//! Data goes to stdout, everything else to stderr; the exit status is one of four.

pub mod atomic_file;
pub mod cli;
pub mod client;
pub mod commands;
pub mod console;
pub mod context;
pub mod cut_offs;
pub mod diagnostics;
pub mod document_files;
pub mod failure;
pub mod format;
pub mod grpc_errors;
pub mod labels;
pub mod output_format;
pub mod revision_comments;
pub mod table;
pub mod workspace;

use std::path::PathBuf;

use jiff::Timestamp;
use serde::Serialize;

use crate::cli::Cli;
use crate::client::Controller;
use crate::console::Console;
use crate::context::Context;
use crate::failure::{ExitStatus, Failure};
use crate::output_format::Format;

/// One run of a command, with what all commands share.
pub struct Session<'c> {
    pub console: &'c mut Console,
    /// `-o`.
    pub format: Format,
    /// `--yes`: do not ask for confirmation.
    pub yes: bool,
    /// The time at its start.
    pub now: Timestamp,
    context: Option<PathBuf>,
}

impl Session<'_> {
    /// The path of the context file, which need not exist.
    pub fn context_path(&self) -> Result<PathBuf, Failure> {
        self.context.clone().map_or_else(context::default_path, Ok)
    }

    /// The context file's content.
    pub fn context(&mut self) -> Result<Context, Failure> {
        let loaded = Context::load(&self.context_path()?)?;
        if let Some(warning) = &loaded.warning {
            self.console.warning(warning);
        }
        Ok(loaded.context)
    }

    /// Dials the controller.
    pub async fn controller(&mut self) -> Result<Controller, Failure> {
        let context = self.context()?;
        Controller::connect(&context, self.now).await
    }

    /// Prints `value` as JSON or YAML; false with `-o table`.
    pub fn print(&mut self, value: &impl Serialize) -> Result<bool, Failure> {
        self.print_one(value, false)
    }

    /// Prints one of several values.
    pub fn print_event(&mut self, value: &impl Serialize) -> Result<bool, Failure> {
        self.print_one(value, true)
    }

    fn print_one(&mut self, value: &impl Serialize, several: bool) -> Result<bool, Failure> {
        let Some(text) = self.format.value(value, several)? else {
            return Ok(false);
        };
        self.console.data(&text);
        Ok(true)
    }

    /// Asks before something that cannot be undone, unless `--yes` was given.
    pub fn confirm(&mut self, question: &str) -> Result<bool, Failure> {
        Ok(self.yes || self.console.confirm(question)?)
    }
}

/// Runs one command, prints its failure if any, and returns the exit status.
pub async fn run(cli: Cli, console: &mut Console, now: Timestamp) -> ExitStatus {
    let mut session = Session {
        console: &mut *console,
        format: cli.output,
        yes: cli.yes,
        now,
        context: cli.context,
    };
    let status = match cli.command.run(&mut session).await {
        Ok(status) => status,
        Err(failure) => {
            console.failure(&failure);
            failure.status
        }
    };
    console.close(status)
}
