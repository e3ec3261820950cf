//! `voipctl operator rights`: the table by which the controller decides.

use serde::Serialize;
use voipfleet_protocol::identity::rights::{Call, ScopeKind};

use crate::Session;
use crate::failure::{ExitStatus, Failure};
use crate::table::Table;

#[derive(Serialize)]
struct Rights {
    calls: Vec<Right>,
}

#[derive(Serialize)]
struct Right {
    call: &'static str,
    does: &'static str,
    role: &'static str,
    /// The scopes in which the role is sufficient: `all`, `site`, `tenant`.
    of: &'static [&'static str],
    audited: bool,
}

fn scopes(call: Call) -> &'static [&'static str] {
    match call.scope() {
        ScopeKind::All => &["all"],
        ScopeKind::Sites => &["all", "site"],
        ScopeKind::Tenants => &["all", "site", "tenant"],
    }
}

/// Runs it, without a controller.
pub(super) fn run(session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let right = |call: &Call| Right {
        call: call.as_str(),
        does: call.words(),
        role: call.role().as_str(),
        of: scopes(*call),
        audited: call.changes(),
    };
    let rights = Rights {
        calls: Call::ALL.iter().map(right).collect(),
    };
    if session.print(&rights)? {
        return Ok(ExitStatus::Done);
    }
    let mut table = Table::new(&["to", "needs role", "of", "audited"]);
    for right in &rights.calls {
        table.row([
            right.does.into(),
            right.role.into(),
            right.of.join(", ").into(),
            if right.audited { "yes" } else { "refusals" }.into(),
        ]);
    }
    let text = table.render(session.console.out());
    session.console.data(&text);
    session.console.note(
        "deleting a site or a node needs the role admin; providers, lists, and tenants of several \
         sites can be changed by operators of everything only",
    );
    Ok(ExitStatus::Done)
}
