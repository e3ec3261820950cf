//! `voipctl nodes [SITE]`: the hosts: addresses, versions, certificates, other firewalls.

mod host;

use std::net::IpAddr;

use jiff::Timestamp;
use serde::Serialize;
use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::SiteName;

use self::host::{DifferenceEntry, Listener, Neighbour, VoipNow};
use super::status::{fetch_compared, seen};
use super::{clock_skew, expiries};
use crate::Session;
use crate::console::style::Tone;
use crate::failure::{ExitStatus, Failure};
use crate::format::{Moment, by_text, count, node_list, or_dash, or_null, printable, thousands};
use crate::table::{Cell, Table};

/// A certificate that expires within so many days is marked.
const EXPIRES_SOON_DAYS: i64 = 14;

/// `voipctl nodes`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The site [default: every site]
    site: Option<SiteName>,
}

#[derive(Serialize)]
struct Nodes {
    nodes: Vec<NodeEntry>,
}

#[derive(Serialize)]
struct NodeEntry {
    site: String,
    node: String,
    roles: Vec<String>,
    addresses: Vec<Address>,
    hostname: Option<String>,
    backend: Option<String>,
    iptables_version: Option<String>,
    agent_version: Option<String>,
    connected: bool,
    peer: Option<String>,
    last_seen: Moment,
    enrolled: Moment,
    certificate_expires: Moment,
    clock_skew_ms: Option<i64>,
    warnings: Vec<String>,
    neighbours: Vec<Neighbour>,
    voipnow: Option<VoipNow>,
    listeners: Vec<Listener>,
    differences: Vec<DifferenceEntry>,
}

#[derive(Serialize)]
struct Address {
    interface: String,
    address: String,
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let sites = fetch_compared(args.site.as_ref(), session).await?;
    if session.format.is_table() {
        for (index, site) in sites.iter().enumerate() {
            let gap = if index > 0 { "\n" } else { "" };
            let nodes = count(site.nodes.len(), "node");
            let connected = site.nodes.iter().filter(|node| node.connected).count();
            let text = format!(
                "{gap}{}: {nodes}, {} connected\n{}",
                site.site,
                thousands(connected as u64),
                render(site, session)
            );
            session.console.data(&text);
        }
        expiries::warn(sites.iter().map(|site| site.expiries.as_slice()), session);
    } else {
        let nodes = sites.iter().flat_map(|site| {
            site.nodes
                .iter()
                .map(|node| as_json(&site.site, node.clone()))
        });
        session.print(&Nodes {
            nodes: nodes.collect(),
        })?;
    }
    Ok(ExitStatus::Done)
}

fn as_json(site: &str, node: v1::NodeReport) -> NodeEntry {
    let facts = node.facts.unwrap_or_default();
    let address = |address: &v1::InterfaceAddress| Address {
        interface: address.interface.clone(),
        address: written(address),
    };
    NodeEntry {
        site: site.to_owned(),
        node: node.node,
        roles: node.roles,
        addresses: facts.addresses.iter().map(address).collect(),
        hostname: or_null(facts.hostname),
        backend: or_null(facts.backend),
        iptables_version: or_null(facts.iptables_version),
        agent_version: or_null(node.agent_version),
        connected: node.connected,
        peer: or_null(node.peer),
        last_seen: Moment::of(node.last_seen_ms),
        enrolled: Moment::of(node.enrolled_ms),
        certificate_expires: Moment::of(node.certificate_expires_ms),
        clock_skew_ms: node.clock_skew_ms,
        warnings: facts.warnings,
        neighbours: facts.neighbours.into_iter().map(Into::into).collect(),
        voipnow: facts.voipnow.map(Into::into),
        listeners: facts.listeners.into_iter().map(Into::into).collect(),
        differences: node.differences.into_iter().map(Into::into).collect(),
    }
}

fn written(address: &v1::InterfaceAddress) -> String {
    network(&address.address, address.prefix_length)
}

/// `192.0.2.1 (+3)`: the first one, IPv4 before IPv6, and how many more there are.
fn first_address(addresses: &[v1::InterfaceAddress]) -> String {
    let first = addresses.iter().min_by_key(|address| address.address.len());
    let more = match addresses.len().saturating_sub(1) {
        0 => String::new(),
        more => format!(" (+{more})"),
    };
    first.map_or_else(String::new, |first| {
        let net = written(first);
        let address = net
            .split_once('/')
            .map_or(net.as_str(), |(address, _)| address);
        format!("{address}{more}")
    })
}

/// `192.0.2.1/24`; the raw bytes if they are not an address.
fn network(bytes: &[u8], prefix_length: u32) -> String {
    let ip = <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from));
    match ip {
        Ok(ip) => format!("{ip}/{prefix_length}"),
        Err(_) => format!("0x{}", hex::encode(bytes)),
    }
}

fn render(site: &v1::SiteStatus, session: &Session<'_>) -> String {
    let mut table = Table::new(&[
        "node",
        "roles",
        "addresses",
        "backend",
        "agent",
        "seen",
        "cert expires",
    ]);
    let mut problems = Vec::new();
    let mut notes = Vec::new();
    for node in &site.nodes {
        let facts = node.facts.clone().unwrap_or_default();
        let backend = [facts.backend.as_str(), facts.iptables_version.as_str()].join(" ");
        table.row([
            node.node.as_str().into(),
            node.roles.join(",").into(),
            or_dash(&first_address(&facts.addresses)).into(),
            or_dash(backend.trim()).into(),
            or_dash(&node.agent_version).into(),
            seen(node, session),
            certificate(node.certificate_expires_ms, session.now),
        ]);
        let name = node.node.as_str();
        problems.extend(clock_skew::warning(node).map(|warning| (name, warning)));
        problems.extend(facts.warnings.iter().map(|warning| (name, warning.clone())));
        problems.extend(host::problems(node, &facts).map(|text| (name, text)));
        notes.extend(host::remarks(&facts).map(|text| (name, text)));
    }
    let lines = |texts: Vec<(&str, String)>| -> String {
        let groups = by_text(texts).into_iter();
        let lines =
            groups.map(|(nodes, text)| format!("{}: {}\n", node_list(&nodes), printable(&text)));
        lines.collect::<Vec<_>>().concat()
    };
    lines(problems) + &table.render(session.console.out()) + &lines(notes)
}

fn certificate(expires_ms: u64, now: Timestamp) -> Cell {
    let expires = Moment::of(expires_ms);
    let when = expires.relative(now);
    let soon = jiff::SignedDuration::from_hours(24 * EXPIRES_SOON_DAYS);
    if !expires.is_known() {
        "-".into()
    } else if expires.is_past(now) {
        Cell::toned(when, Tone::Bad)
    } else if now
        .checked_add(soon)
        .is_ok_and(|then| expires.is_past(then))
    {
        Cell::toned(format!("{when} (soon)"), Tone::Attention)
    } else {
        when.into()
    }
}
