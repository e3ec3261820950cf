//! `voipctl delete KIND NAME`: deletes a document or removes a node.

use std::str::FromStr;

use serde::Serialize;
use voipfleet_policy::Kind;
use voipfleet_proto::v1;

use crate::Session;
use crate::client::Controller;
use crate::failure::{ExitStatus, Failure};

/// `voipctl delete`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// site, tenant, provider, list, or node
    kind: DeleteKind,

    /// The document's name; for a node, SITE/NODE
    name: String,
}

/// What is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DeleteKind {
    Document(Kind),
    Node,
}

impl FromStr for DeleteKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("node") || text.eq_ignore_ascii_case("nodes") {
            return Ok(Self::Node);
        }
        text.parse()
            .map(Self::Document)
            .map_err(|_| "expected site, tenant, provider, list or node".to_owned())
    }
}

impl DeleteKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Document(kind) => kind.as_str(),
            Self::Node => "Node",
        }
    }
}

#[derive(Serialize)]
struct Deleted {
    deleted: Target,
}

#[derive(Serialize)]
struct Target {
    kind: &'static str,
    name: String,
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let Args { kind, name } = args;
    let shown = format!("{} {name}", kind.as_str().to_lowercase());
    if kind == DeleteKind::Node && !name.contains('/') {
        return Err(
            Failure::input(format!("{name:?} is not a node: the site is missing"))
                .hint("write SITE/NODE, for example site-a/sip1; to list nodes: voipctl nodes"),
        );
    }
    let controller = session.controller().await?;
    must_exist(kind, &name, &controller).await?;
    let question = match kind {
        DeleteKind::Node => {
            format!("remove {shown}? (it keeps its rules, and needs a new token to enrol again)")
        }
        DeleteKind::Document(_) => format!("delete {shown}?"),
    };
    if !session.confirm(&question)? {
        session.console.note("nothing was changed");
        return Ok(ExitStatus::NotEverywhere);
    }
    let request = v1::DeleteRequest {
        kind: kind.as_str().to_owned(),
        name: name.clone(),
    };
    controller
        .answer(controller.calls().delete(request))
        .await?;
    let kind = kind.as_str();
    if !session.print(&Deleted {
        deleted: Target { kind, name },
    })? {
        session.console.data(&format!("deleted {shown}\n"));
    }
    Ok(ExitStatus::Done)
}

/// Fails before the question if there is nothing to delete.
async fn must_exist(kind: DeleteKind, name: &str, controller: &Controller) -> Result<(), Failure> {
    let mut calls = controller.calls();
    match kind {
        DeleteKind::Document(kind) => {
            // Where there is none the controller refuses.
            controller.documents(kind.as_str(), name).await?;
        }
        DeleteKind::Node => {
            let (site, node) = name.split_once('/').unwrap_or((name, ""));
            let request = v1::StatusRequest {
                site: site.to_owned(),
                compare: false,
            };
            let answer = controller.answer(calls.status(request)).await?;
            let mut nodes = answer.sites.iter().flat_map(|site| &site.nodes);
            if !nodes.any(|known| known.node == node) {
                return Err(Failure::input(format!("no node named {name}"))
                    .hint(format!("to list the nodes: voipctl nodes {site}")));
            }
        }
    }
    Ok(())
}
