//! `voipctl operator list`: operators and their rights.

use serde::Serialize;
use voipfleet_proto::v1;

use super::Operator;
use crate::Session;
use crate::console::style::Tone;
use crate::failure::{ExitStatus, Failure};
use crate::table::{Cell, Table};

/// Runs it.
pub(super) async fn run(session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    #[derive(Serialize)]
    struct Operators {
        operators: Vec<Operator>,
    }
    let controller = session.controller().await?;
    let request = v1::ListOperatorsRequest {};
    let mut calls = controller.calls();
    let answer = controller.answer(calls.list_operators(request));
    let operators = answer.await?.operators.into_iter().map(Operator::from);
    let listed = Operators {
        operators: operators.collect(),
    };
    if session.print(&listed)? {
        return Ok(ExitStatus::Done);
    }
    let mut table = Table::new(&["operator", "cert expires", "added", "by", "rights"]);
    for operator in &listed.operators {
        let expires = operator.certificate_expires;
        let when = expires.relative(session.now);
        let certificate = if !expires.is_known() {
            Cell::from("-")
        } else if expires.is_past(session.now) {
            Cell::toned(when, Tone::Bad)
        } else {
            Cell::from(when)
        };
        let added = if operator.added.is_known() {
            operator.added.relative(session.now)
        } else {
            "-".to_owned()
        };
        let mut rights = operator.rights();
        if operator.first_admin {
            rights += " (first admin)";
        }
        table.row([
            operator.name.as_str().into(),
            certificate,
            added.into(),
            operator.added_by.as_deref().unwrap_or("-").into(),
            rights.into(),
        ]);
    }
    let text = table.render(session.console.out());
    session.console.data(&text);
    Ok(ExitStatus::Done)
}
