//! Answers without what their caller may not see.

use voipfleet_common::identity::rights::Sight;
use voipfleet_common::names::SiteName;
use voipfleet_proto::v1::{DriftResponse, GetDocumentsResponse, NodeReport, StatusResponse};

/// How much of a site an operator sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    /// As far as it concerns one of its tenants.
    Tenants,
    Nothing,
}

fn part(sight: &Sight, site: &str) -> Part {
    match site.parse::<SiteName>() {
        Ok(site) if sight.whole_site(&site) => Part::Whole,
        Ok(site) if sight.site(&site) => Part::Tenants,
        _ => Part::Nothing,
    }
}

/// Words that may name what belongs to others.
const NOT_SHOWN: &str = "not shown: it may concern others than your tenants";

fn hide(words: &mut String) {
    if !words.is_empty() {
        NOT_SHOWN.clone_into(words);
    }
}

/// What a tenant's operator sees of a node that serves it: whether it runs what it should.
fn for_tenants(node: NodeReport) -> NodeReport {
    let mut node = NodeReport {
        facts: None,
        peer: String::new(),
        differences: Vec::new(),
        sets: None,
        // It tells whether something of anybody changed.
        digest: Vec::new(),
        flows_cut: 0,
        ..node
    };
    hide(&mut node.error);
    hide(&mut node.drift_detail);
    node
}

/// Sites that the caller sees, and of them what it sees.
pub(super) fn status(sight: &Sight, mut answer: StatusResponse) -> StatusResponse {
    answer
        .sites
        .retain(|site| part(sight, &site.site) != Part::Nothing);
    for site in &mut answer.sites {
        if part(sight, &site.site) == Part::Tenants {
            let nodes = std::mem::take(&mut site.nodes);
            site.nodes = nodes.into_iter().map(for_tenants).collect();
        }
    }
    answer
}

/// Drift of sites that the caller sees. Rules name networks of everybody: a tenant's operator
/// sees that and when a node was changed, not what.
pub(super) fn drift(sight: &Sight, mut answer: DriftResponse) -> DriftResponse {
    answer
        .records
        .retain(|found| part(sight, &found.site) != Part::Nothing);
    for found in &mut answer.records {
        if part(sight, &found.site) == Part::Tenants
            && let Some(record) = &mut found.record
        {
            hide(&mut record.rule);
            hide(&mut record.wanted);
            hide(&mut record.observed);
            record.by = None;
        }
    }
    answer
}

/// Documents that the caller may read.
pub(super) fn documents(sight: &Sight, mut answer: GetDocumentsResponse) -> GetDocumentsResponse {
    answer.documents.retain(|found| {
        found
            .kind
            .parse()
            .is_ok_and(|kind| sight.document(kind, &found.name))
    });
    answer
}
