//! `voipctl block ADDR`.

use voipfleet_proto::v1;

use super::{ScopeArgs, Ttl, everywhere, show_added, ttl};
use crate::Session;
use crate::failure::{ExitStatus, Failure};

/// `voipctl block`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The address or prefix
    address: String,

    #[command(flatten)]
    place: ScopeArgs,

    /// How long: 30m, 12h, or forever
    #[arg(long, value_name = "D", default_value = "1h", value_parser = ttl)]
    ttl: Ttl,

    /// Why; it is kept with the block
    #[arg(long, value_name = "TEXT")]
    reason: String,

    /// Also where it hits admins, the cluster, providers or tenants
    #[arg(long)]
    force: bool,
}

/// Blocks, on every site where nothing else is said.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let (ttl_ms, forever) = args.ttl.on_the_wire();
    let request = v1::BlockRequest {
        address: args.address,
        scope: args.place.on_the_wire().or_else(|| Some(everywhere())),
        ttl_ms,
        forever,
        reason: args.reason,
        force: args.force,
    };
    let controller = session.controller().await?;
    let answer = controller.answer(controller.calls().block(request)).await?;
    show_added("blocked", answer, session)
}
