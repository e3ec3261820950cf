//! `voipctl block ADDR`.

use voipfleet_proto::v1;

use super::{ScopeArgs, Ttl, all_sites, show_added, ttl};
use crate::Session;
use crate::failure::{ExitStatus, Failure};

/// `voipctl block`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The address or prefix
    address: String,

    #[command(flatten)]
    place: ScopeArgs,

    /// How long: 30m, 12h, 7d, or forever
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = ttl)]
    ttl: Ttl,

    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    reason: String,

    /// Block it even if it belongs to admins, the cluster, a provider or a tenant
    #[arg(long)]
    force: bool,
}

/// Runs it; without `--site`, for every site.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let (ttl_ms, forever) = args.ttl.on_the_wire();
    let request = v1::BlockRequest {
        address: args.address,
        scope: args.place.on_the_wire().or_else(|| Some(all_sites())),
        ttl_ms,
        forever,
        reason: args.reason,
        force: args.force,
    };
    let controller = session.controller().await?;
    let answer = controller.answer(controller.calls().block(request)).await?;
    show_added("blocked", answer, session)
}
