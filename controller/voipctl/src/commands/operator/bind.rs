//! `voipctl operator bind`: replaces an operator's rights.

use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::OperatorName;

use super::{Grant, Operator};
use crate::Session;
use crate::failure::{ExitStatus, Failure};

/// `voipctl operator bind`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The operator
    name: OperatorName,

    #[command(flatten)]
    grant: Grant,

    /// Add to its present rights instead of replacing them
    #[arg(long)]
    also: bool,
}

/// Runs it.
pub(super) async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let controller = session.controller().await?;
    let mut bindings = args.grant.bindings();
    if args.also {
        let request = v1::ListOperatorsRequest {};
        let mut calls = controller.calls();
        let answer = controller.answer(calls.list_operators(request));
        let mut known = answer.await?.operators.into_iter();
        if let Some(known) = known.find(|known| known.name == args.name.as_str()) {
            let mut kept = known.bindings;
            bindings.retain(|new| !kept.contains(new));
            kept.append(&mut bindings);
            bindings = kept;
        }
    }
    let request = v1::BindOperatorRequest {
        name: args.name.to_string(),
        bindings,
    };
    let mut calls = controller.calls();
    let answer = controller.answer(calls.bind_operator(request));
    let operator = Operator::from(answer.await?.report.unwrap_or_default());
    if !session.print(&operator)? {
        let text = format!("operator {}: {}\n", operator.name, operator.rights());
        session.console.data(&text);
    }
    Ok(ExitStatus::Done)
}
