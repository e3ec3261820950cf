//! The command line.

mod examples;
mod help;
mod usage_tips;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{FromArgMatches as _, Parser, Subcommand};

use crate::commands::{
    apply, audit, backup, catalogue, completions, context, delete, diff, drift, emergency, export,
    feeds, get, history, names, nodes, operator, plan, push, render, rollback, rollout, schema,
    show, status, token,
};
use crate::failure::{ExitStatus, Failure};
use crate::output_format::Format;

pub use help::command;

const GLOBAL: &str = "Global options";

/// Manage one firewall policy per VoipNow site, and enforce it on every node.
#[derive(Debug, Parser)]
#[command(name = "voipctl", version, propagate_version = true)]
pub struct Cli {
    /// The format of the data on stdout
    #[arg(
        short,
        long,
        value_enum,
        default_value_t,
        global = true,
        value_name = "FORMAT",
        help_heading = GLOBAL
    )]
    pub output: Format,

    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help_heading = GLOBAL,
        help = "The context file [default: $VOIPCTL_CONFIG, or in the XDG config folder]"
    )]
    pub context: Option<PathBuf>,

    /// Do not ask for confirmation
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    pub yes: bool,

    /// The subcommand.
    #[command(subcommand)]
    pub command: Command,
}

/// Reads the command line of this process; prints help or an error and exits where that is due.
pub fn parse() -> Cli {
    let line: Vec<OsString> = std::env::args_os().collect();
    let mut cli = read(&line).unwrap_or_else(|error| error.exit());
    if cli.context.is_none() {
        // Not by clap, which then shows the option in every usage line.
        let variable = std::env::var_os("VOIPCTL_CONFIG").filter(|value| !value.is_empty());
        cli.context = variable.map(PathBuf::from);
    }
    cli
}

/// Reads a command line; an error of use has a tip where the mistake is a known one.
pub fn read(line: &[OsString]) -> Result<Cli, clap::Error> {
    let read = command().try_get_matches_from(line);
    let matches = read.map_err(|error| usage_tips::with_tip(error, line))?;
    Cli::from_arg_matches(&matches)
}

/// The subcommands; `help.rs` groups them.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "made once for each run")]
pub enum Command {
    /// Check documents, and store them in the controller
    Apply(apply::Args),
    /// Show what a push would change
    Plan(plan::Args),
    /// Push the policy of sites to their nodes
    Push(push::Args),
    /// List the generations of a site
    History(history::Args),
    /// Show one generation: its nodes, result and documents
    Show(show::Args),
    /// Show the differences between two generations
    Diff(diff::Args),
    /// Show, watch, pause, resume or abort a rollout
    Rollout(rollout::Args),
    /// Push the content of an earlier generation again
    Rollback(rollback::Args),
    /// Show the state of each node
    Status(status::Args),
    /// Show changes on nodes that the controller did not make
    Drift(drift::Args),
    /// Block an address at once, without a push
    Block(emergency::block::Args),
    /// Lift a block
    Unblock(emergency::LiftArgs),
    /// Allow an address at once, like a tenant's, without a push
    Allow(emergency::allow::Args),
    /// Lift an allow
    Disallow(emergency::LiftArgs),
    /// List blocked and allowed addresses
    #[command(visible_alias = "allows")]
    Blocks(emergency::blocks::Args),
    /// Open a site to the world in an emergency
    PanicOpen(emergency::panic_open::Args),
    /// Close a site that was opened
    PanicClose(emergency::panic_close::Args),
    /// Show hosts: addresses, versions, certificates, other firewalls
    Nodes(nodes::Args),
    /// Show the addresses of DNS names in documents
    Names(names::Args),
    /// Show the lists that the controller fetches, or fetch one now
    Feeds(feeds::Args),
    /// Print stored documents
    Get(get::Args),
    /// Write every stored document into a folder
    Export(export::Args),
    /// Delete a document, or remove a node
    Delete(delete::Args),
    /// Save the controller's store in a file
    Backup(backup::Args),
    /// Create, list and revoke the tokens with which nodes enrol
    Token(token::Args),
    /// Manage operators and their rights
    Operator(operator::Args),
    /// Show who changed what, and verify the log
    Audit(audit::Args),
    /// Print the exact restore input of a site's nodes
    Render(render::Args),
    /// List the known services, with their ports and defaults
    Catalogue,
    /// Show or install the context: controller, name, certificate
    Context(context::Args),
    /// Print the JSON schema of documents, for editors
    Schema,
    /// Print a completion script for a shell
    Completions(completions::Args),
}

impl Command {
    /// Runs it.
    pub async fn run(self, session: &mut crate::Session<'_>) -> Result<ExitStatus, Failure> {
        match self {
            Command::Apply(args) => apply::run(args, session).await,
            Command::Plan(args) => plan::run(args, session).await,
            Command::Push(args) => push::run(args, session).await,
            Command::History(args) => history::run(args, session).await,
            Command::Show(args) => show::run(args, session).await,
            Command::Diff(args) => diff::run(args, session).await,
            Command::Rollout(args) => rollout::run(args, session).await,
            Command::Rollback(args) => rollback::run(args, session).await,
            Command::Status(args) => status::run(args, session).await,
            Command::Drift(args) => drift::run(args, session).await,
            Command::Block(args) => emergency::block::run(args, session).await,
            Command::Unblock(args) => emergency::unblock::run(args, session).await,
            Command::Allow(args) => emergency::allow::run(args, session).await,
            Command::Disallow(args) => emergency::disallow::run(args, session).await,
            Command::Blocks(args) => emergency::blocks::run(args, session).await,
            Command::PanicOpen(args) => emergency::panic_open::run(args, session).await,
            Command::PanicClose(args) => emergency::panic_close::run(args, session).await,
            Command::Nodes(args) => nodes::run(args, session).await,
            Command::Names(args) => names::run(args, session).await,
            Command::Feeds(args) => feeds::run(args, session).await,
            Command::Get(args) => get::run(args, session).await,
            Command::Export(args) => export::run(args, session).await,
            Command::Delete(args) => delete::run(args, session).await,
            Command::Backup(args) => backup::run(args, session).await,
            Command::Token(args) => token::run(args, session).await,
            Command::Operator(args) => operator::run(args, session).await,
            Command::Audit(args) => audit::run(args, session).await,
            Command::Render(args) => render::run(args, session).await,
            Command::Catalogue => catalogue::run(session),
            Command::Context(args) => context::run(args, session),
            Command::Schema => schema::run(session),
            Command::Completions(args) => completions::run(&args, &mut command(), session),
        }
    }
}
