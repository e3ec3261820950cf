//! `voipctl get KIND [NAME]`: stored documents.

use std::str::FromStr;

use serde::Serialize;
use voipfleet_policy::Kind;
use voipfleet_proto::v1;

use crate::Session;
use crate::failure::{ExitStatus, Failure};
use crate::output_format::Format;
use crate::revision_comments;
use crate::table::{Cell, Table};

/// `voipctl get`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// site, tenant, provider, list, or all
    kind: KindFilter,

    /// The document's name; all of the kind without it
    name: Option<String>,
}

/// A kind, or every kind.
#[derive(Debug, Clone, Copy)]
struct KindFilter(Option<Kind>);

impl FromStr for KindFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("all") {
            return Ok(KindFilter(None));
        }
        text.parse().map(|kind| KindFilter(Some(kind))).map_err(|_| {
            "the kinds are site, tenant, provider, list, and all; nodes are shown by: voipctl nodes"
                .to_owned()
        })
    }
}

#[derive(Serialize)]
struct Documents {
    documents: Vec<Stored>,
}

#[derive(Serialize)]
struct Stored {
    kind: String,
    name: String,
    revision: u64,
    document: serde_json::Value,
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let controller = session.controller().await?;
    let kind = args.kind.0.map(|kind| kind.to_string()).unwrap_or_default();
    let name = args.name.clone().unwrap_or_default();
    let request = v1::GetDocumentsRequest {
        kind: kind.clone(),
        name: name.clone(),
    };
    let documents = controller
        .answer(controller.calls().get_documents(request))
        .await?
        .documents;
    if documents.is_empty() {
        return nothing(&kind, &name, session);
    }
    match session.format {
        Format::Json => {
            session.print(&as_json(documents)?)?;
        }
        Format::Table if args.name.is_none() => {
            let mut table = Table::new(&["kind", "name", "revision"]);
            for document in documents {
                table.row([
                    document.kind.into(),
                    document.name.into(),
                    Cell::number(document.revision),
                ]);
            }
            let text = table.render(session.console.out());
            session.console.data(&text);
        }
        Format::Table | Format::Yaml => {
            // With its revision: an apply of it then overwrites nothing that is newer.
            let texts: Vec<String> = documents
                .iter()
                .map(|document| {
                    let yaml = document.yaml.trim_start_matches("---\n").trim_end();
                    revision_comments::line(document.revision) + yaml
                })
                .collect();
            session
                .console
                .data(&format!("{}\n", texts.join("\n---\n")));
        }
    }
    Ok(ExitStatus::Done)
}

fn nothing(kind: &str, name: &str, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let kind = if kind.is_empty() {
        "document".to_owned()
    } else {
        kind.to_lowercase()
    };
    if !name.is_empty() {
        return Err(Failure::input(format!("there is no {kind} named {name}"))
            .hint(format!("see which there are: voipctl get {kind}").replace("document", "all")));
    }
    session.print(&Documents {
        documents: Vec::new(),
    })?;
    session.console.note(&format!("no {kind} is stored yet"));
    session
        .console
        .hint("store documents: voipctl apply -f PATH");
    Ok(ExitStatus::Done)
}

fn as_json(documents: Vec<v1::StoredDocument>) -> Result<Documents, Failure> {
    let stored = |document: v1::StoredDocument| {
        // The length of an answer is bounded already; a list may have any number of addresses.
        let options = serde_saphyr::options! { budget: None };
        let yaml = document.yaml.trim_start_matches("---\n");
        let value = serde_saphyr::from_str_with_options(yaml, options);
        let value = value.map_err(|error| {
            Failure::controller(format!(
                "the controller's {} {} cannot be read",
                document.kind, document.name
            ))
            .because(error.to_string())
        })?;
        Ok(Stored {
            kind: document.kind,
            name: document.name,
            revision: document.revision,
            document: value,
        })
    };
    Ok(Documents {
        documents: documents
            .into_iter()
            .map(stored)
            .collect::<Result<_, Failure>>()?,
    })
}
