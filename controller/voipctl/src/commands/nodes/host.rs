//! What a machine says of its neighbours and of its VoipNow, and what differs.

use std::fmt::Write as _;

use serde::Serialize;
use voipfleet_proto::v1::{self, DifferenceKind};

use super::network;
use crate::format::{or_null, printable};
use crate::labels;

#[derive(Serialize)]
pub(super) struct Neighbour {
    kind: &'static str,
    detail: String,
    /// What to do; null: it is tolerated.
    advice: Option<String>,
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
            detail: neighbour.detail,
            advice: or_null(neighbour.advice),
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

/// The lines below the table: what to mend first, what is tolerated, then VoipNow.
pub(super) fn notes(node: &v1::NodeReport, facts: &v1::NodeFacts) -> String {
    let mut text = String::new();
    for neighbour in &facts.neighbours {
        let kind = labels::neighbour(neighbour.kind);
        let tolerated = if neighbour.advice.is_empty() {
            ", tolerated"
        } else {
            ""
        };
        let detail = &neighbour.detail;
        let _ = writeln!(text, "{}: {kind}{tolerated}: {detail}", node.node);
        if !neighbour.advice.is_empty() {
            let _ = writeln!(text, "  to do: {}", neighbour.advice);
        }
    }
    for difference in &node.differences {
        let (what, to_do) = told(difference);
        let _ = writeln!(text, "{}: differs: {what}\n  to do: {to_do}", node.node);
    }
    if let Some(voipnow) = &facts.voipnow {
        let _ = writeln!(text, "{}: {}", node.node, headline(voipnow));
        for file in &voipnow.not_understood {
            let _ = writeln!(text, "  {file} names no host and port that are understood");
        }
    }
    printable(&text)
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

/// A difference in words, and what to do about it.
fn told(difference: &v1::Difference) -> (String, String) {
    let (found, documented) = (&difference.found, &difference.documented);
    match difference.kind() {
        DifferenceKind::RoleNotEnrolled => (
            format!("{found} runs here, and the node was not enrolled with that role"),
            "enrol it again with all its roles, or stop what should not run".to_owned(),
        ),
        DifferenceKind::RoleNotRunning => (
            format!("the node was enrolled with role {documented}, and nothing of it runs"),
            "start it, or enrol the node again without that role".to_owned(),
        ),
        DifferenceKind::Port => (
            format!("{found}, and the documents open {documented}"),
            "set `ports` of that service in the site's document".to_owned(),
        ),
        DifferenceKind::TrustedNetwork => (
            format!("TRUSTED_NET has {found}, which no document names"),
            "add it to a tenant or to the admins, or take it out of /etc/voipnow/local.conf"
                .to_owned(),
        ),
        DifferenceKind::OpenListener => (
            format!("{found} is open to the world through {documented}"),
            "bind it to a private address, or move it to another port".to_owned(),
        ),
        DifferenceKind::Unspecified => (
            format!("{found} here, {documented} in the documents"),
            "voipctl of the controller's version says more".to_owned(),
        ),
    }
}
