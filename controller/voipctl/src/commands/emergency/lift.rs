//! `voipctl unblock ADDR` and `voipctl disallow ADDR`.

use voipfleet_proto::v1;

use super::Place;
use super::outcome::{Outcome, show};
use crate::Session;
use crate::failure::{Failure, Status};

/// `voipctl unblock`, `voipctl disallow`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The address or prefix, exactly as `voipctl blocks` shows it
    address: String,

    #[command(flatten)]
    place: Place,
}

impl Args {
    fn on_the_wire(self) -> v1::LiftRequest {
        v1::LiftRequest {
            scope: self.place.on_the_wire(),
            address: self.address,
        }
    }
}

/// Takes blocks back, wherever they were said.
pub async fn unblock(args: Args, session: &mut Session<'_>) -> Result<Status, Failure> {
    let controller = session.controller().await?;
    let call = async { controller.calls().unblock(args.on_the_wire()).await };
    let answer = controller.answer(call).await?;
    tell("blocked", answer, session)
}

/// Takes allows back, wherever they were said.
pub async fn disallow(args: Args, session: &mut Session<'_>) -> Result<Status, Failure> {
    let controller = session.controller().await?;
    let call = async { controller.calls().disallow(args.on_the_wire()).await };
    let answer = controller.answer(call).await?;
    tell("allowed", answer, session)
}

fn tell(
    was: &str,
    answer: v1::EmergencyResponse,
    session: &mut Session<'_>,
) -> Result<Status, Failure> {
    let outcome = Outcome::of(answer);
    let now = session.now;
    let lines = outcome.exceptions.iter().map(|entry| {
        format!(
            "{} is no longer {was} {} (said {} by {}: {})\n",
            entry.address,
            entry.place(),
            entry.at.relative(now),
            entry.by,
            entry.reason
        )
    });
    let text: String = lines.collect();
    show(&outcome, &text, session)
}
