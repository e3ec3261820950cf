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

    /// The document's name [default: all of the kind]
    name: Option<String>,
}

/// A kind, or every kind (`None`).
#[derive(Debug, Clone, Copy)]
struct KindFilter(Option<Kind>);

impl FromStr for KindFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("all") {
            return Ok(KindFilter(None));
        }
        text.parse()
            .map(|kind| KindFilter(Some(kind)))
            .map_err(|_| {
                "expected site, tenant, provider, list or all (for nodes: voipctl nodes)".to_owned()
            })
    }
}

#[derive(Serialize)]
struct StoredDocuments {
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
    let name = args.name.as_deref().unwrap_or_default();
    let documents = controller.documents(&kind, name).await?.documents;
    if documents.is_empty() {
        return report_none(args.kind, args.name.as_deref(), session);
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
                    Cell::id(Some(document.revision)),
                ]);
            }
            let text = table.render(session.console.out());
            session.console.data(&text);
        }
        Format::Table | Format::Yaml => {
            // With its revision, so that an apply of it does not overwrite a newer one.
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

fn report_none(
    kind: KindFilter,
    name: Option<&str>,
    session: &mut Session<'_>,
) -> Result<ExitStatus, Failure> {
    let word = kind.0.map_or_else(
        || "document".to_owned(),
        |kind| kind.as_str().to_lowercase(),
    );
    if let Some(name) = name {
        let listed = if kind.0.is_some() {
            word.as_str()
        } else {
            "all"
        };
        return Err(Failure::input(format!("no {word} named {name}"))
            .hint(format!("to list what is stored: voipctl get {listed}")));
    }
    session.print(&StoredDocuments {
        documents: Vec::new(),
    })?;
    session.console.note(&format!("no {word} is stored yet"));
    session
        .console
        .hint("to store documents, see: voipctl apply --help");
    Ok(ExitStatus::Done)
}

fn as_json(documents: Vec<v1::StoredDocument>) -> Result<StoredDocuments, Failure> {
    let stored = |document: v1::StoredDocument| {
        // The length of an answer is already bounded; a list may have any number of addresses.
        let options = serde_saphyr::options! { budget: None };
        let yaml = document.yaml.trim_start_matches("---\n");
        let value = serde_saphyr::from_str_with_options(yaml, options);
        let value = value.map_err(|error| {
            Failure::controller(format!(
                "cannot parse the stored {} {}",
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
    Ok(StoredDocuments {
        documents: documents
            .into_iter()
            .map(stored)
            .collect::<Result<_, Failure>>()?,
    })
}
