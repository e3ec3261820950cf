//! A host's other firewalls, its VoipNow, and its differences from the documents.

use std::fmt::Write as _;

use serde::Serialize;
use voipfleet_proto::v1::{self, DifferenceKind};
use voipfleet_ruleset::foreign::describe as describe_hits;

use super::network;
use crate::format::or_null;
use crate::labels;

#[derive(Serialize)]
pub(super) struct Neighbour {
    kind: &'static str,
    detail: String,
    /// What to do; null if it can stay.
    advice: Option<String>,
    /// Whom it refuses what the policy opens to them, the first ones.
    cut_off: Vec<CutOff>,
    cut_off_more: u32,
    /// What the policy opens and this refuses to everybody.
    closed_ports: Vec<String>,
}

#[derive(Serialize)]
struct CutOff {
    kind: &'static str,
    name: Option<String>,
    network: String,
    ports: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct VoipNow {
    node_id: Option<String>,
    version: Option<String>,
    roles: Vec<String>,
    back_ends: Vec<BackEnd>,
    trusted_networks: Vec<String>,
    not_understood: Vec<String>,
}

#[derive(Serialize)]
struct BackEnd {
    service: String,
    host: String,
    port: u32,
}

#[derive(Serialize)]
pub(super) struct Listener {
    port: u32,
    process: Option<String>,
}

#[derive(Serialize)]
pub(super) struct DifferenceEntry {
    kind: &'static str,
    found: Option<String>,
    documented: Option<String>,
}

impl From<v1::Neighbour> for Neighbour {
    fn from(neighbour: v1::Neighbour) -> Self {
        Self {
            kind: labels::neighbour(neighbour.kind),
            cut_off: neighbour.cut_off.into_iter().map(Into::into).collect(),
            cut_off_more: neighbour.cut_off_more,
            closed_ports: neighbour.closed_ports,
            detail: neighbour.detail,
            advice: or_null(neighbour.advice),
        }
    }
}

impl From<v1::CutOff> for CutOff {
    fn from(one: v1::CutOff) -> Self {
        let net = one.network.as_ref();
        Self {
            kind: labels::cut_off(one.kind()),
            network: net.map_or_else(String::new, |net| network(&net.address, net.prefix_length)),
            name: or_null(one.name),
            ports: one.ports,
        }
    }
}

impl From<v1::VoipNow> for VoipNow {
    fn from(voipnow: v1::VoipNow) -> Self {
        let back_end = |back_end: v1::BackEnd| BackEnd {
            service: back_end.service,
            host: back_end.host,
            port: back_end.port,
        };
        Self {
            node_id: or_null(voipnow.node_id),
            version: or_null(voipnow.version),
            roles: voipnow.roles,
            back_ends: voipnow.back_ends.into_iter().map(back_end).collect(),
            trusted_networks: voipnow
                .trusted_networks
                .iter()
                .map(|found| network(&found.address, found.prefix_length))
                .collect(),
            not_understood: voipnow.not_understood,
        }
    }
}

impl From<v1::Listener> for Listener {
    fn from(listener: v1::Listener) -> Self {
        Self {
            port: listener.port,
            process: or_null(listener.process),
        }
    }
}

impl From<v1::Difference> for DifferenceEntry {
    fn from(difference: v1::Difference) -> Self {
        Self {
            kind: labels::difference(difference.kind),
            found: or_null(difference.found),
            documented: or_null(difference.documented),
        }
    }
}

/// Problems of a host, with what to do about each.
pub(super) fn problems(
    node: &v1::NodeReport,
    facts: &v1::NodeFacts,
) -> impl Iterator<Item = String> {
    let neighbours = facts.neighbours.iter();
    let neighbours = neighbours
        .filter(|neighbour| !neighbour.advice.is_empty())
        .map(|neighbour| {
            let kind = labels::neighbour(neighbour.kind);
            let hits = describe_hits(neighbour).map_or_else(String::new, |hits| format!(" {hits}"));
            format!(
                "{kind}: {}{hits}\n  fix: {}",
                neighbour.detail, neighbour.advice
            )
        });
    let differences = joined(&node.differences).into_iter().map(|difference| {
        let (what, fix) = describe(&difference);
        format!("{what}\n  fix: {fix}")
    });
    neighbours.chain(differences)
}

/// The differences, with listeners that the same part of the policy opens as one: a daemon may
/// have many ports.
fn joined(differences: &[v1::Difference]) -> Vec<v1::Difference> {
    let mut all: Vec<v1::Difference> = Vec::new();
    for one in differences {
        let alike = |known: &&mut v1::Difference| {
            one.kind() == DifferenceKind::OpenListener
                && known.kind == one.kind
                && known.documented == one.documented
        };
        match all.iter_mut().find(alike) {
            Some(known) => {
                known.found.push_str(", ");
                known.found.push_str(&one.found);
            }
            None => all.push(one.clone()),
        }
    }
    all
}

/// Other facts about a host.
pub(super) fn remarks(facts: &v1::NodeFacts) -> impl Iterator<Item = String> {
    let neighbours = facts.neighbours.iter();
    let tolerated = neighbours
        .filter(|neighbour| neighbour.advice.is_empty())
        .map(|neighbour| {
            let kind = labels::neighbour(neighbour.kind);
            format!("{kind} (can stay): {}", neighbour.detail)
        });
    let voipnow = facts.voipnow.iter().map(|voipnow| {
        let mut text = headline(voipnow);
        for file in &voipnow.not_understood {
            let _ = write!(text, "\n  no host and port found in {file}");
        }
        text
    });
    tolerated.chain(voipnow)
}

/// `VoipNow 5.5.6, node 12, runs sip, pbx; sql 10.0.0.5:3306; trusts 10.10.33.0/24`
fn headline(voipnow: &v1::VoipNow) -> String {
    let mut text = "VoipNow".to_owned();
    if !voipnow.version.is_empty() {
        let _ = write!(text, " {}", voipnow.version);
    }
    if !voipnow.node_id.is_empty() {
        let _ = write!(text, ", node {}", voipnow.node_id);
    }
    if !voipnow.roles.is_empty() {
        let _ = write!(text, ", runs {}", voipnow.roles.join(", "));
    }
    for back_end in &voipnow.back_ends {
        let v1::BackEnd {
            service,
            host,
            port,
        } = back_end;
        let _ = write!(text, "; {service} {host}:{port}");
    }
    let networks = voipnow.trusted_networks.iter();
    let networks: Vec<String> = networks
        .map(|found| network(&found.address, found.prefix_length))
        .collect();
    if !networks.is_empty() {
        let _ = write!(text, "; trusts {}", networks.join(", "));
    }
    text
}

/// A difference, and what to do about it.
fn describe(difference: &v1::Difference) -> (String, &'static str) {
    let (found, documented) = (&difference.found, &difference.documented);
    match difference.kind() {
        DifferenceKind::RoleNotEnrolled => (
            format!("{found} is running, but the node was enrolled without that role"),
            "enrol it again with all its roles, or stop the service",
        ),
        DifferenceKind::RoleNotRunning => (
            format!("enrolled with role {documented}, but no service of that role is running"),
            "start the service, or enrol the node again without that role",
        ),
        DifferenceKind::Port => (
            format!("{found}, but the documents open {documented}"),
            "set `ports` of that service in the site's document",
        ),
        DifferenceKind::TrustedNetwork => (
            format!("TRUSTED_NET contains {found}, which is in no document"),
            "add it to a tenant or to the admins, or remove it from /etc/voipnow/local.conf",
        ),
        DifferenceKind::OpenListener => (
            format!("open to the world through {documented}: {found}"),
            "bind it to a private address, or move it to another port",
        ),
        DifferenceKind::Unspecified => (
            format!("{found} on the host, {documented} in the documents"),
            "update voipctl: it does not know this kind of difference",
        ),
    }
}
