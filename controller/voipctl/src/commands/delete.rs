//! `voipctl delete KIND NAME`: forget a document or a node.

use serde::Serialize;
use voipfleet_policy::Kind;
use voipfleet_proto::v1;

use crate::Session;
use crate::failure::{ExitStatus, Failure};

/// `voipctl delete`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// site, tenant, provider, list, or node
    #[arg(value_parser = kind)]
    kind: String,

    /// The document's name; for a node SITE/NODE
    name: String,
}

fn kind(text: &str) -> Result<String, String> {
    if text.eq_ignore_ascii_case("node") || text.eq_ignore_ascii_case("nodes") {
        return Ok("Node".to_owned());
    }
    text.parse::<Kind>()
        .map(|kind| kind.to_string())
        .map_err(|_| "the kinds are site, tenant, provider, list and node".to_owned())
}

#[derive(Serialize)]
struct Deleted {
    deleted: Named,
}

#[derive(Serialize)]
struct Named {
    kind: String,
    name: String,
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let Args { kind, name } = args;
    let shown = format!("{} {name}", kind.to_lowercase());
    if kind == "Node" && !name.contains('/') {
        return Err(Failure::input(format!("{name:?} names no node"))
            .hint("a node is named with its site: voipctl delete node SITE/NODE"));
    }
    let question = if kind == "Node" {
        format!("forget {shown}, which keeps its rules and needs a new token to come back?")
    } else {
        format!("delete {shown}?")
    };
    if !session.confirm(&question)? {
        session.console.note("nothing was changed");
        return Ok(ExitStatus::NotEverywhere);
    }
    let controller = session.controller().await?;
    let request = v1::DeleteRequest {
        kind: kind.clone(),
        name: name.clone(),
    };
    controller
        .answer(controller.calls().delete(request))
        .await?;
    if !session.print(&Deleted {
        deleted: Named { kind, name },
    })? {
        session.console.data(&format!("deleted {shown}\n"));
    }
    Ok(ExitStatus::Done)
}
