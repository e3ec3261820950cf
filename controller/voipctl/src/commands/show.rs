//! `voipctl show SITE@GEN`: one generation.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::SiteName;

use super::history::{Entry, cause, changed, result};
use crate::Session;
use crate::failure::{ExitStatus, Failure};
use crate::format::{Moment, count, or_dash, printable, short_digest};
use crate::table::{Cell, Table};

/// `voipctl show`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The generation: SITE@NUMBER
    generation: GenerationId,

    /// Print only its documents, as YAML for `voipctl apply`
    #[arg(long)]
    documents: bool,
}

/// A generation of a site: `site-a@12`.
#[derive(Debug, Clone)]
pub struct GenerationId {
    pub site: SiteName,
    /// 1 or more.
    pub generation: u64,
}

impl FromStr for GenerationId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let (site, generation) = text.split_once('@')?;
            Some(Self {
                site: site.parse().ok()?,
                generation: generation.parse().ok().filter(|number| *number > 0)?,
            })
        };
        read().ok_or_else(|| "expected a site and a generation, for example site-a@12".to_owned())
    }
}

impl fmt::Display for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.site, self.generation)
    }
}

#[derive(Serialize)]
struct Shown<'a> {
    site: &'a str,
    #[serde(flatten)]
    entry: Option<Entry<'a>>,
    content: Vec<Content<'a>>,
    documents_yaml: Vec<&'a str>,
}

#[derive(Serialize)]
struct Content<'a> {
    node: &'a str,
    digest: String,
    size: u64,
    running: Option<u64>,
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let controller = session.controller().await?;
    let GenerationId { site, generation } = &args.generation;
    let request = v1::ShowGenerationRequest {
        site: site.to_string(),
        generation: *generation,
    };
    let mut calls = controller.calls();
    let answer = controller.answer(calls.show_generation(request)).await?;
    if args.documents {
        return documents(&args.generation, &answer, session);
    }
    if session.print(&Shown::of(site.as_str(), &answer))? {
        return Ok(ExitStatus::Done);
    }
    let text = text(&args.generation, &answer, session);
    session.console.data(&text);
    if answer.documents.is_empty() {
        session
            .console
            .note("the documents of this generation are not recorded");
    } else {
        let documents = count(answer.documents.len(), "document");
        let at = &args.generation;
        session.console.hint(&format!(
            "to print its {documents}: voipctl show {at} --documents"
        ));
    }
    Ok(ExitStatus::Done)
}

impl<'a> Shown<'a> {
    fn of(site: &'a str, answer: &'a v1::ShowGenerationResponse) -> Self {
        let content = |node: &'a v1::GenerationNode| Content {
            node: &node.node,
            digest: hex::encode(&node.digest),
            size: node.size,
            running: (node.running > 0).then_some(node.running),
        };
        let documents = answer.documents.iter();
        Self {
            site,
            entry: answer.entry.as_ref().map(Entry::of),
            content: answer.nodes.iter().map(content).collect(),
            documents_yaml: documents.map(|one| one.yaml.as_str()).collect(),
        }
    }
}

fn text(
    which: &GenerationId,
    answer: &v1::ShowGenerationResponse,
    session: &Session<'_>,
) -> String {
    let mut text = String::new();
    if let Some(entry) = &answer.entry {
        let at = Moment::of(entry.at_ms);
        let (when, by) = (at.relative(session.now), printable(&entry.by));
        text = format!(
            "{which}: {} by {by}, {when} ({at})\nresult: {}; changed: {}\n",
            cause(entry),
            or_dash(&result(entry)),
            changed(entry)
        );
    }
    let mut table = Table::new(&["node", "digest", "bytes", "runs"]);
    for node in &answer.nodes {
        let runs = match node.running {
            0 => "no ruleset".to_owned(),
            running if running == which.generation => "this generation".to_owned(),
            running => format!("generation {running}"),
        };
        table.row([
            node.node.as_str().into(),
            short_digest(&node.digest).into(),
            Cell::quantity(node.size),
            runs.into(),
        ]);
    }
    text + &table.render(session.console.out())
}

fn documents(
    at: &GenerationId,
    answer: &v1::ShowGenerationResponse,
    session: &mut Session<'_>,
) -> Result<ExitStatus, Failure> {
    if answer.documents.is_empty() {
        return Err(
            Failure::input(format!("the documents of {at} are not recorded"))
                .hint(format!("to see its rulesets: voipctl show {at}")),
        );
    }
    let texts: Vec<&str> = answer
        .documents
        .iter()
        .map(|one| one.yaml.trim_end())
        .collect();
    session
        .console
        .data(&format!("{}\n", texts.join("\n---\n")));
    Ok(ExitStatus::Done)
}
