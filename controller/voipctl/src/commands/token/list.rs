//! `voipctl token list`.

use serde::Serialize;
use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::SiteName;

use crate::Session;
use crate::console::style::Tone;
use crate::failure::{ExitStatus, Failure};
use crate::format::{Moment, or_dash, or_null};
use crate::table::{Cell, Table};

#[derive(Serialize)]
struct Tokens {
    tokens: Vec<Listed>,
}

#[derive(Serialize)]
struct Listed {
    id: String,
    site: String,
    roles: Vec<String>,
    node: Option<String>,
    created: Moment,
    created_by: String,
    expires: Moment,
    used_by: Option<String>,
}

/// Runs it.
pub(super) async fn run(
    site: Option<SiteName>,
    session: &mut Session<'_>,
) -> Result<ExitStatus, Failure> {
    let controller = session.controller().await?;
    let request = v1::ListTokensRequest {
        site: site.map(String::from).unwrap_or_default(),
    };
    let tokens = controller
        .answer(controller.calls().list_tokens(request))
        .await?
        .tokens;
    let listed = |token: v1::TokenReport| Listed {
        id: token.id,
        site: token.site,
        roles: token.roles,
        node: or_null(token.node),
        created: Moment::of(token.created_ms),
        created_by: token.created_by,
        expires: Moment::of(token.expires_ms),
        used_by: or_null(token.used_by),
    };
    let tokens = Tokens {
        tokens: tokens.into_iter().map(listed).collect(),
    };
    if session.print(&tokens)? {
        return Ok(ExitStatus::Done);
    }
    if tokens.tokens.is_empty() {
        session.console.note("no tokens");
        session
            .console
            .hint("to create one, see: voipctl token create --help");
    }
    let text = tokens.table(session.now).render(session.console.out());
    session.console.data(&text);
    Ok(ExitStatus::Done)
}

impl Tokens {
    fn table(&self, now: jiff::Timestamp) -> Table {
        let mut table = Table::new(&[
            "id",
            "site",
            "roles",
            "node",
            "state",
            "expires",
            "created by",
        ]);
        for token in &self.tokens {
            let state = match &token.used_by {
                Some(node) => Cell::from(format!("used by {node}")),
                None if token.expires.is_past(now) => Cell::from("expired"),
                None => Cell::toned("open", Tone::Good),
            };
            table.row([
                token.id.as_str().into(),
                token.site.as_str().into(),
                token.roles.join(",").into(),
                token.node.as_deref().unwrap_or("any").into(),
                state,
                token.expires.relative(now).into(),
                or_dash(&token.created_by).into(),
            ]);
        }
        table
    }
}
