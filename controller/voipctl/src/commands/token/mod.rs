//! `voipctl token create|list|revoke`: the tokens with which nodes enrol.

mod create;
mod list;
mod revoke;

use voipfleet_ruleset::identifiers::SiteName;

use crate::Session;
use crate::failure::{ExitStatus, Failure};

/// `voipctl token`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Create a token; it is shown once, and enrols one node
    Create(create::Args),
    /// List the tokens
    List {
        /// Only tokens of this site
        #[arg(long)]
        site: Option<SiteName>,
    },
    /// Revoke a token
    Revoke {
        /// The token's id, as `voipctl token list` shows it
        id: String,
    },
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    match args.verb {
        Verb::Create(args) => create::run(args, session).await,
        Verb::List { site } => list::run(site, session).await,
        Verb::Revoke { id } => revoke::run(id, session).await,
    }
}
