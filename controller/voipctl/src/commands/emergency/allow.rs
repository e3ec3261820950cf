//! `voipctl allow ADDR`.

use voipfleet_proto::v1;

use super::{ScopeArgs, Ttl, show_added, ttl};
use crate::Session;
use crate::failure::{ExitStatus, Failure};

/// `voipctl allow`
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
}

/// Runs it. The scope has no default, since an allow opens.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let Some(scope) = args.place.on_the_wire() else {
        return Err(Failure::input("no site given")
            .hint("pass --site with a site's name, or --all for every site"));
    };
    let (ttl_ms, forever) = args.ttl.on_the_wire();
    let request = v1::AllowRequest {
        address: args.address,
        scope: Some(scope),
        ttl_ms,
        forever,
        reason: args.reason,
    };
    let controller = session.controller().await?;
    let answer = controller.answer(controller.calls().allow(request)).await?;
    show_added("allowed", answer, session)
}
