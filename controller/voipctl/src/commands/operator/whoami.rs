//! `voipctl operator whoami`: our own name and rights.

use serde::Serialize;
use voipfleet_proto::v1;

use super::Operator;
use crate::Session;
use crate::failure::{ExitStatus, Failure};

/// Runs it.
pub(super) async fn run(session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    #[derive(Serialize)]
    struct Me {
        #[serde(flatten)]
        operator: Operator,
        /// Our address, as the controller sees it.
        peer: String,
    }
    let controller = session.controller().await?;
    let mut calls = controller.calls();
    let answer = controller.answer(calls.who_am_i(v1::WhoAmIRequest {}));
    let answer = answer.await?;
    let mut report = answer.report.unwrap_or_default();
    report.certificate_expires_ms = answer.certificate_expires_ms;
    let me = Me {
        operator: report.into(),
        peer: answer.peer,
    };
    if !session.print(&me)? {
        let expires = me.operator.certificate_expires;
        session.console.data(&format!(
            "operator     {}\nrights       {}\ncertificate  expires {} ({expires})\nfrom         {}\n",
            me.operator.name,
            me.operator.rights(),
            expires.relative(session.now),
            me.peer,
        ));
    }
    Ok(ExitStatus::Done)
}
