//! `voipctl disallow ADDR`.

use super::{LiftArgs, show_lifted};
use crate::Session;
use crate::failure::{ExitStatus, Failure};

/// Runs it; without `--site` and `--all`, for every entry of the address.
pub async fn run(args: LiftArgs, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let controller = session.controller().await?;
    let call = async { controller.calls().disallow(args.on_the_wire()).await };
    let answer = controller.answer(call).await?;
    show_lifted("allowed", answer, session)
}
