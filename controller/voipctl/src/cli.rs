//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::commands::{
    apply, audit, backup, catalogue, completions, context, delete, diff, drift, emergency, export,
    feeds, get, history, names, nodes, operator, plan, push, render, rollback, rollout, schema,
    show, status, token,
};
use crate::output_format::Format;

/// One firewall policy for each VoipNow site, pushed to its nodes and proved there.
#[derive(Debug, Parser)]
#[command(name = "voipctl", version, propagate_version = true, after_help = AFTER_HELP)]
pub struct Cli {
    /// The form of the data on stdout
    #[arg(
        short,
        long,
        value_enum,
        default_value_t,
        global = true,
        value_name = "FORM"
    )]
    pub output: Format,

    /// The context file: which controller, and who we are [default: in the XDG config folder]
    #[arg(
        long,
        env = "VOIPCTL_CONFIG",
        global = true,
        value_name = "FILE",
        hide_env_values = true
    )]
    pub context: Option<PathBuf>,

    /// Ask no questions
    #[arg(short, long, global = true)]
    pub yes: bool,

    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
Exit status: 0 done; 1 it did not succeed on every node; 2 bad usage or bad input;
3 the controller cannot be reached or refuses us.";

/// The subcommands.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "made once for each run")]
pub enum Command {
    /// Check documents and store them in the controller
    Apply(apply::Args),
    /// Show what a push would change, before anything is sent
    Plan(plan::Args),
    /// Bring a site's policy onto its nodes
    Push(push::Args),
    /// Show the earlier pushes of a site
    History(history::Args),
    /// Show one generation of a site: its nodes, result and documents
    Show(show::Args),
    /// Show how two generations of a site differ
    Diff(diff::Args),
    /// Show, hold, end or watch the rollout of a push
    Rollout(rollout::Args),
    /// Bring back what an earlier generation of a site held
    Rollback(rollback::Args),
    /// Show what each node runs
    Status(status::Args),
    /// Show what was changed on nodes behind the controller's back
    Drift(drift::Args),
    /// Block an address at once, without a push
    Block(emergency::block::Args),
    /// Take a block back
    Unblock(emergency::LiftArgs),
    /// Let an address in at once, as if it were a client's, without a push
    Allow(emergency::allow::Args),
    /// Take an allow back
    Disallow(emergency::LiftArgs),
    /// Show what is blocked and allowed
    #[command(visible_alias = "allows")]
    Blocks(emergency::blocks::Args),
    /// Open a site to everybody, in an emergency
    PanicOpen(emergency::panic_open::Args),
    /// Close a site that was opened
    PanicClose(emergency::panic_close::Args),
    /// Show the nodes themselves: addresses, backend, certificates, warnings
    Nodes(nodes::Args),
    /// Show what the DNS names in documents stand for
    Names(names::Args),
    /// Show the lists that the controller fetches, or fetch one now
    Feeds(feeds::Args),
    /// Show stored documents
    Get(get::Args),
    /// Write every stored document into a folder, fit for apply
    Export(export::Args),
    /// Delete a stored document, or forget a node
    Delete(delete::Args),
    /// Save everything that the controller knows in a file
    Backup(backup::Args),
    /// Let new nodes enrol
    Token(token::Args),
    /// Give people rights, and take them back
    Operator(operator::Args),
    /// Show who changed what, and check that the log was not tampered with
    Audit(audit::Args),
    /// Show the exact restore input of a site's nodes
    Render(render::Args),
    /// Show the services that the product knows, with their ports and defaults
    Catalogue,
    /// Show or choose the controller that voipctl speaks with
    Context(context::Args),
    /// Print the JSON schema of the documents, for editors
    Schema,
    /// Print a completion script for a shell
    Completions(completions::Args),
}

impl Command {
    /// Runs it.
    pub async fn run(
        self,
        session: &mut crate::Session<'_>,
    ) -> Result<crate::failure::ExitStatus, crate::failure::Failure> {
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
            Command::Completions(args) => completions::run(&args, session),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
