//! `voipctl status [SITE]`: what each node runs.

use std::fmt::Write as _;

use serde::Serialize;
use voipfleet_proto::v1::{self, SyncState};
use voipfleet_ruleset::identifiers::SiteName;

use super::cluster::{ClusterEntry, pending_lines};
use super::plan::page::Page;
use super::{clock_skew, emergency, expiries};
use crate::Session;
use crate::console::style::Tone;
use crate::cut_offs::cut_offs;
use crate::failure::{ExitStatus, Failure};
use crate::format::{
    Moment, by_text, count, first_names, node_list, or_null, printable, thousands,
};
use crate::labels;
use crate::table::{Cell, Table};

/// `voipctl status`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The site [default: every site]
    site: Option<SiteName>,

    /// Exit with status 1 unless no site is open and every node is connected, synced and clean
    #[arg(long)]
    exit_code: bool,
}

/// One site; the names are a contract.
#[derive(Serialize)]
struct SiteEntry<'r> {
    site: &'r str,
    generation: u64,
    mode: Option<String>,
    /// Null: not open to the world.
    open: Option<emergency::OpenEntry>,
    /// Documents changed since the generation; null: not known.
    unpushed: Option<u32>,
    unpushed_documents: &'r [String],
    /// Why the controller's store cannot be written; null: it can.
    store_error: Option<&'r str>,
    /// Null: never pushed.
    cluster: Option<ClusterEntry>,
    nodes: Vec<NodeEntry<'r>>,
    /// Certificates that end within 60 days.
    expiries: Vec<expiries::Expiry<'r>>,
}

#[derive(Serialize)]
struct NodeEntry<'r> {
    node: &'r str,
    roles: &'r [String],
    state: &'static str,
    generation: u64,
    digest: Option<String>,
    backend: Option<String>,
    drift: Option<&'static str>,
    sets: Option<SetEntry<'r>>,
    drift_detail: Option<String>,
    last_seen: Moment,
    connected: bool,
    error: Option<String>,
    flows_cut: u64,
    /// How far the node's clock is ahead of the controller's; null: not known.
    clock_skew_ms: Option<i64>,
    warnings: Vec<String>,
}

/// Set elements in the node's kernel, and in its ruleset.
#[derive(Serialize)]
struct SetEntry<'r> {
    enforced: u64,
    wanted: u64,
    short: Vec<ShortEntry<'r>>,
}

#[derive(Serialize)]
struct ShortEntry<'r> {
    set: &'r str,
    enforced: u64,
    wanted: u64,
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let v1::StatusResponse { sites, store_error } = ask(args.site.as_ref(), false, session).await?;
    let store_error = (!store_error.is_empty()).then_some(store_error.as_str());
    for (index, site) in sites.iter().enumerate() {
        if !session.print_event(&as_json(site, store_error))? {
            let gap = if index > 0 { "\n" } else { "" };
            let width = session.console.out().width();
            let text = format!(
                "{gap}{}{}{}{}{}",
                headline(site, width),
                open_line(site, session),
                unpushed_line(site, session),
                render(site, session),
                pending(site, session)
            );
            session.console.data(&text);
        }
        if site.open.is_some() {
            let close = format!("close the site: voipctl panic-close {}", site.site);
            session.console.hint(&close);
        }
    }
    if session.format.is_table() {
        expiries::warn(sites.iter().map(|site| site.expiries.as_slice()), session);
    }
    let closed = sites.iter().all(|site| site.open.is_none());
    let right = closed && sites.iter().flat_map(|site| &site.nodes).all(is_right);
    Ok(if args.exit_code && (!right || store_error.is_some()) {
        ExitStatus::NotEverywhere
    } else {
        ExitStatus::Done
    })
}

/// Asks for one site or for all; reports what to do if there is nothing to show.
pub async fn fetch(
    site: Option<&SiteName>,
    session: &mut Session<'_>,
) -> Result<Vec<v1::SiteStatus>, Failure> {
    Ok(ask(site, false, session).await?.sites)
}

/// The same, with the differences between hosts and documents.
pub async fn fetch_compared(
    site: Option<&SiteName>,
    session: &mut Session<'_>,
) -> Result<Vec<v1::SiteStatus>, Failure> {
    Ok(ask(site, true, session).await?.sites)
}

async fn ask(
    site: Option<&SiteName>,
    compare: bool,
    session: &mut Session<'_>,
) -> Result<v1::StatusResponse, Failure> {
    let controller = session.controller().await?;
    let request = v1::StatusRequest {
        site: site.map(ToString::to_string).unwrap_or_default(),
        compare,
    };
    let answer = controller
        .answer(controller.calls().status(request))
        .await?;
    if !answer.store_error.is_empty() {
        let reason = printable(&answer.store_error);
        session.console.warning(&format!(
            "the controller's store cannot be written, so nothing can be changed: {reason}"
        ));
    }
    let sites = &answer.sites;
    if sites.is_empty() {
        if let Some(site) = site {
            return Err(Failure::input(format!("no site named {site}"))
                .hint("to list the sites: voipctl get site"));
        }
        session.console.note("no sites yet");
        session
            .console
            .hint("apply a document of kind Site; see: voipctl apply --help");
    }
    let empty: Vec<&str> = sites
        .iter()
        .filter(|site| site.nodes.is_empty())
        .map(|site| site.site.as_str())
        .collect();
    report_no_nodes(&empty, session);
    Ok(answer)
}

/// Reports sites without nodes, and how to enrol one.
pub fn report_no_nodes(sites: &[&str], session: &mut Session<'_>) {
    let Some(first) = sites.first() else { return };
    session
        .console
        .note(&format!("no nodes yet: {}", first_names(sites, 5)));
    session.console.hint(&format!(
        "to enrol one, for example with role sip: voipctl token create --site {first} --role sip"
    ));
}

fn is_right(node: &v1::NodeReport) -> bool {
    let whole = |sets: &v1::SetCount| sets.enforced == sets.wanted;
    node.connected
        && node.state() == SyncState::Synced
        && node.drift() == v1::DriftState::Clean
        && node.sets.as_ref().is_none_or(whole)
}

fn as_json<'r>(site: &'r v1::SiteStatus, store_error: Option<&'r str>) -> SiteEntry<'r> {
    SiteEntry {
        site: &site.site,
        generation: site.generation,
        mode: or_null(site.mode.clone()),
        open: site.open.clone().map(emergency::OpenEntry::of),
        unpushed: site.unpushed,
        unpushed_documents: &site.unpushed_documents,
        store_error,
        cluster: site.cluster.as_ref().map(ClusterEntry::of),
        nodes: site.nodes.iter().map(node_as_json).collect(),
        expiries: expiries::as_json(&site.expiries),
    }
}

fn node_as_json(node: &v1::NodeReport) -> NodeEntry<'_> {
    let backend = node.facts.as_ref().map(|facts| facts.backend.clone());
    NodeEntry {
        node: &node.node,
        roles: &node.roles,
        state: labels::sync(node.state).0,
        generation: node.generation,
        digest: or_null(hex::encode(&node.digest)),
        backend: backend.and_then(or_null),
        drift: labels::drift(node.drift).0,
        sets: node.sets.as_ref().map(|sets| SetEntry {
            enforced: sets.enforced,
            wanted: sets.wanted,
            short: sets
                .short
                .iter()
                .map(|short| ShortEntry {
                    set: &short.set,
                    enforced: short.enforced,
                    wanted: short.wanted,
                })
                .collect(),
        }),
        drift_detail: or_null(node.drift_detail.clone()),
        last_seen: Moment::of(node.last_seen_ms),
        connected: node.connected,
        error: or_null(node.error.clone()),
        flows_cut: node.flows_cut,
        clock_skew_ms: node.clock_skew_ms,
        warnings: warnings(node).collect(),
    }
}

/// `site-a: generation 7, enforce; 3 nodes: 2 synced, 1 offline; sets 1,204/1,204`, or a line for
/// each part if the terminal is narrow. The sets are those of the connected nodes together.
fn headline(site: &v1::SiteStatus, width: Option<usize>) -> String {
    let mut parts = Vec::new();
    for state in [
        SyncState::Synced,
        SyncState::Stale,
        SyncState::NotSent,
        SyncState::Unprotected,
        SyncState::Error,
        SyncState::Open,
        SyncState::Offline,
        SyncState::Unspecified,
    ] {
        let nodes = site.nodes.iter().filter(|node| node.state() == state);
        let number = nodes.count() as u64;
        if number > 0 {
            let word = labels::sync(state.into()).0;
            parts.push(format!("{} {word}", thousands(number)));
        }
    }
    let generation = match site.generation {
        0 => "never pushed".to_owned(),
        number => format!("generation {number}"),
    };
    let mode = match site.mode.as_str() {
        "" => String::new(),
        "observe" => ", observe: nothing is dropped".to_owned(),
        mode => format!(", {}", printable(mode)),
    };
    let nodes = count(site.nodes.len(), "node");
    let colon = if parts.is_empty() { "" } else { ": " };
    let mut lines = vec![
        format!("{}: {generation}{mode}", site.site),
        format!("{nodes}{colon}{}", parts.join(", ")),
    ];
    lines.extend(sets_together(&site.nodes));
    let one = lines.join("; ");
    let fits = width.is_none_or(|width| one.len() <= width);
    (if fits { one } else { lines.join("\n") }) + "\n"
}

/// `sets 1,204/1,204`: set elements in the kernels of the connected nodes, of those in their
/// rulesets. All nodes count, so that equal numbers mean that every node is complete.
fn sets_together(nodes: &[v1::NodeReport]) -> Option<String> {
    let known = nodes.iter().filter(|node| node.connected);
    let (enforced, wanted) =
        known
            .filter_map(|node| node.sets.as_ref())
            .fold((0, 0), |(enforced, wanted), sets| {
                (
                    sets.enforced.saturating_add(enforced),
                    sets.wanted.saturating_add(wanted),
                )
            });
    (wanted > 0).then(|| format!("sets {}/{}", thousands(enforced), thousands(wanted)))
}

/// Set elements that are missing in a node's kernel, a line for each set.
fn shortfall(sets: &v1::SetCount) -> Option<String> {
    let missing = sets.wanted.checked_sub(sets.enforced).filter(|n| *n > 0)?;
    let of = |enforced, wanted| format!("{} of {}", thousands(enforced), thousands(wanted));
    let mut text = format!(
        "incomplete sets in the kernel: {} elements",
        of(sets.enforced, sets.wanted)
    );
    let mut listed = 0_u64;
    for short in &sets.short {
        listed = listed.saturating_add(short.wanted.saturating_sub(short.enforced));
        let _ = write!(
            text,
            "\n{}: {}",
            short.set,
            of(short.enforced, short.wanted)
        );
    }
    if listed < missing {
        text.push_str("\nthe rest is missing in other sets");
    }
    Some(text)
}

/// The warning that a site is open, if it is.
fn open_line(site: &v1::SiteStatus, session: &Session<'_>) -> String {
    let Some(open) = &site.open else {
        return String::new();
    };
    let text = printable(&emergency::open_warning(open, session.now));
    session.console.out().toned(Tone::Bad, &text) + "\n"
}

/// Documents that were changed and not pushed, if there are any.
fn unpushed_line(site: &v1::SiteStatus, session: &Session<'_>) -> String {
    let Some(number) = site.unpushed.filter(|number| *number > 0) else {
        return String::new();
    };
    let mut names: Vec<String> = site
        .unpushed_documents
        .iter()
        .map(|name| printable(name).to_lowercase())
        .collect();
    let more = usize::try_from(number).unwrap_or(usize::MAX);
    if let more @ 1.. = more.saturating_sub(names.len()) {
        names.push(format!("{} more", thousands(more as u64)));
    }
    let documents = count(number, "document");
    let (generation, site) = (site.generation, &site.site);
    let text = format!(
        "{documents} changed since generation {generation} ({}): voipctl push {site}",
        names.join(", ")
    );
    session.console.out().toned(Tone::Attention, &text) + "\n"
}

/// Addresses that nodes report and that are no members of the cluster.
fn pending(site: &v1::SiteStatus, session: &Session<'_>) -> String {
    let mut page = Page::new(session.console.out());
    let Some(cluster) = site.cluster.as_ref().filter(|one| !one.pending.is_empty()) else {
        return String::new();
    };
    let members = count(cluster.members, "member address");
    page.line(0, Tone::Plain, &format!("cluster: {members}; not members:"));
    for line in pending_lines(&cluster.pending) {
        page.line(1, Tone::Plain, &line);
    }
    page.finish()
}

fn render(site: &v1::SiteStatus, session: &Session<'_>) -> String {
    let mut table = Table::new(&["node", "roles", "state", "gen", "drift", "seen"]);
    let mut problems = Vec::new();
    for node in &site.nodes {
        let (state, tone) = labels::sync(node.state);
        let (drift, drift_tone) = labels::drift(node.drift);
        table.row([
            node.node.as_str().into(),
            node.roles.join(",").into(),
            Cell::toned(state, tone),
            Cell::id((node.generation > 0).then_some(node.generation)),
            Cell::toned(drift.unwrap_or("-"), drift_tone),
            seen(node, session),
        ]);
        if let Some(problem) = problem(node) {
            problems.push((node.node.as_str(), problem));
        }
    }
    let problems = by_text(problems).into_iter();
    let problems = problems
        .map(|(nodes, text)| {
            let text = printable(&text).replace('\n', "\n  ");
            format!("{}:\n  {text}\n", node_list(&nodes))
        })
        .collect::<Vec<_>>();
    problems.concat() + &table.render(session.console.out())
}

/// What is wrong with a node: its error, drift and missing set elements, and its warnings.
fn problem(node: &v1::NodeReport) -> Option<String> {
    let mut parts: Vec<String> = or_null(node.error.clone()).into_iter().collect();
    parts.extend(or_null(node.drift_detail.clone()));
    parts.extend(node.sets.as_ref().and_then(shortfall));
    parts.extend(clock_skew::warning(node).map(|warning| format!("warning: {warning}")));
    parts.extend(warnings(node).map(|warning| format!("warning: {warning}")));
    or_null(parts.join("\n"))
}

/// A node's warnings, without those that its error repeats, and whom foreign firewalls cut off.
fn warnings(node: &v1::NodeReport) -> impl Iterator<Item = String> {
    let facts = node.facts.iter();
    let warnings = facts.clone().flat_map(|facts| &facts.warnings);
    let cut_offs = facts.flat_map(cut_offs);
    warnings
        .filter(|warning| node.error.lines().all(|line| line != *warning))
        .cloned()
        .chain(cut_offs)
}

/// `connected`, or how long ago the node was last seen.
pub fn seen(node: &v1::NodeReport, session: &Session<'_>) -> Cell {
    if node.connected {
        Cell::toned("connected", Tone::Good)
    } else {
        Moment::of(node.last_seen_ms).relative(session.now).into()
    }
}
