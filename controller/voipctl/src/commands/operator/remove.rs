//! `voipctl operator remove`: removes an operator.

use serde::Serialize;
use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::OperatorName;

use crate::Session;
use crate::failure::{ExitStatus, Failure};
use crate::format::count;

/// Runs it.
pub(super) async fn run(
    name: &OperatorName,
    session: &mut Session<'_>,
) -> Result<ExitStatus, Failure> {
    #[derive(Serialize)]
    struct Removed {
        removed: String,
        revoked_tokens: Vec<String>,
    }
    let controller = session.controller().await?;
    let mut calls = controller.calls();
    let known = controller.answer(calls.list_operators(v1::ListOperatorsRequest {}));
    let known = known.await?.operators;
    if !known.iter().any(|operator| operator.name == name.as_str()) {
        return Err(Failure::input(format!("no operator named {name}"))
            .hint("to list the operators: voipctl operator list"));
    }
    let question = format!("remove operator {name}? (its certificate will be rejected at once)");
    if !session.confirm(&question)? {
        session.console.note("nothing was changed");
        return Ok(ExitStatus::NotEverywhere);
    }
    let removed = name.to_string();
    let request = v1::RemoveOperatorRequest {
        name: removed.clone(),
    };
    let mut calls = controller.calls();
    let answer = controller.answer(calls.remove_operator(request));
    let removed = Removed {
        removed,
        revoked_tokens: answer.await?.revoked_tokens,
    };
    if !session.print(&removed)? {
        let tokens = match removed.revoked_tokens.len() {
            0 => String::new(),
            made => format!(
                "; revoked {} of its making",
                count(made, "unused join token")
            ),
        };
        session
            .console
            .data(&format!("removed operator {name}{tokens}\n"));
    }
    Ok(ExitStatus::Done)
}
