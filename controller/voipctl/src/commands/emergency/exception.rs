//! `voipctl block ADDR` and `voipctl allow ADDR`.

use voipfleet_proto::v1;

use super::outcome::{Outcome, show};
use super::{Place, Ttl, everywhere, ttl, until};
use crate::Session;
use crate::failure::{Failure, Status};
use crate::wording::millis;

/// `voipctl block`
#[derive(Debug, clap::Args)]
pub struct Block {
    /// The address or prefix
    address: String,

    #[command(flatten)]
    place: Place,

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

/// `voipctl allow`
#[derive(Debug, clap::Args)]
pub struct Allow {
    /// The address or prefix
    address: String,

    #[command(flatten)]
    place: Place,

    /// How long: 30m, 12h, or forever
    #[arg(long, value_name = "D", default_value = "1h", value_parser = ttl)]
    ttl: Ttl,

    /// Why; it is kept with the entry
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

fn on_the_wire(ttl: Ttl) -> (u64, bool) {
    match ttl {
        Ttl::For(length) => (millis(length), false),
        Ttl::Forever => (0, true),
    }
}

/// Blocks, on every site where nothing else is said.
pub async fn block(args: Block, session: &mut Session<'_>) -> Result<Status, Failure> {
    let (ttl_ms, forever) = on_the_wire(args.ttl);
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
    tell("blocked", answer, session)
}

/// Allows; where is to be said, since it opens.
pub async fn allow(args: Allow, session: &mut Session<'_>) -> Result<Status, Failure> {
    let Some(scope) = args.place.on_the_wire() else {
        return Err(Failure::input("it is not said where to let it in")
            .hint("name one site with --site SITE, or mean every site with --all"));
    };
    let (ttl_ms, forever) = on_the_wire(args.ttl);
    let request = v1::AllowRequest {
        address: args.address,
        scope: Some(scope),
        ttl_ms,
        forever,
        reason: args.reason,
    };
    let controller = session.controller().await?;
    let answer = controller.answer(controller.calls().allow(request)).await?;
    tell("allowed", answer, session)
}

fn tell(
    done: &str,
    answer: v1::EmergencyResponse,
    session: &mut Session<'_>,
) -> Result<Status, Failure> {
    let outcome = Outcome::of(answer);
    let now = session.now;
    let lines = outcome.exceptions.iter().map(|entry| {
        let until = until(entry.until, now, "it is taken back");
        format!("{} is {done} {} {until}\n", entry.address, entry.place())
    });
    let text: String = lines.collect();
    show(&outcome, &text, session)
}
