//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::commands::{
    apply, catalogue, completions, context, delete, drift, get, nodes, push, render, rollback,
    rollout, schema, status, token,
};
use crate::output::Format;

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
    /// Bring a site's policy onto its nodes
    Push(push::Args),
    /// Show, hold, end or watch the rollout of a push
    Rollout(rollout::Args),
    /// Bring back what an earlier generation of a site held
    Rollback(rollback::Args),
    /// Show what each node runs
    Status(status::Args),
    /// Show what was changed on nodes behind the controller's back
    Drift(drift::Args),
    /// Show the nodes themselves: addresses, backend, certificates, warnings
    Nodes(nodes::Args),
    /// Show stored documents
    Get(get::Args),
    /// Delete a stored document, or forget a node
    Delete(delete::Args),
    /// Let new nodes enrol
    Token(token::Args),
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
    ) -> Result<crate::failure::Status, crate::failure::Failure> {
        match self {
            Command::Apply(args) => apply::run(args, session).await,
            Command::Push(args) => push::run(args, session).await,
            Command::Rollout(args) => rollout::run(args, session).await,
            Command::Rollback(args) => rollback::run(args, session).await,
            Command::Status(args) => status::run(args, session).await,
            Command::Drift(args) => drift::run(args, session).await,
            Command::Nodes(args) => nodes::run(args, session).await,
            Command::Get(args) => get::run(args, session).await,
            Command::Delete(args) => delete::run(args, session).await,
            Command::Token(args) => token::run(args, session).await,
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
