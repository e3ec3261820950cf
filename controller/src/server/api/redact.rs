//! Answers without what their caller may not see.

use std::collections::BTreeMap;

use voipfleet_proto::v1::{
    DriftRequest, DriftResponse, DriftSum, GetDocumentsResponse, HistoryResponse, NodeDrift,
    NodeReport, StatusResponse,
};
use voipfleet_protocol::identity::rights::Visibility;
use voipfleet_ruleset::identifiers::SiteName;

/// How much of a site an operator sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    /// As far as it concerns one of its tenants.
    Tenants,
    Nothing,
}

fn part(sight: &Visibility, site: &str) -> Part {
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
        // It reveals whether anything of others changed.
        digest: Vec::new(),
        flows_cut: 0,
        ..node
    };
    hide(&mut node.error);
    hide(&mut node.drift_detail);
    node
}

/// Sites that the caller sees, and of them what it sees.
pub(super) fn status(sight: &Visibility, mut answer: StatusResponse) -> StatusResponse {
    answer
        .sites
        .retain(|site| part(sight, &site.site) != Part::Nothing);
    for site in &mut answer.sites {
        if part(sight, &site.site) == Part::Tenants {
            let nodes = std::mem::take(&mut site.nodes);
            site.nodes = nodes.into_iter().map(for_tenants).collect();
            site.cluster = None;
            if let Some(open) = &mut site.open {
                // That and since when it is open concerns its tenants; operator and reason may name others.
                hide(&mut open.reason);
                hide(&mut open.by);
            }
            // The documents of others.
            site.unpushed = None;
            site.unpushed_documents.clear();
        }
    }
    answer
}

/// The request for what is shown of drift: sums are of all records, not of the newest.
pub(super) fn drift_request(sight: &Visibility, request: DriftRequest) -> DriftRequest {
    match part(sight, &request.site) {
        Part::Tenants => DriftRequest {
            limit: u32::MAX,
            ..request
        },
        Part::Whole | Part::Nothing => request,
    }
}

/// Drift of sites that the caller sees. Rules and sets name networks of all tenants: a tenant's
/// operator sees how often and when a node was changed, not what.
pub(super) fn drift(sight: &Visibility, answer: DriftResponse) -> DriftResponse {
    let mut records = Vec::with_capacity(answer.records.len());
    let mut sums: BTreeMap<(String, String), DriftSum> = BTreeMap::new();
    for found in answer.records {
        match part(sight, &found.site) {
            Part::Whole => records.push(found),
            Part::Tenants => add(&mut sums, found),
            Part::Nothing => {}
        }
    }
    DriftResponse {
        records,
        more: answer.more,
        sums: sums.into_values().collect(),
    }
}

/// Counts a record in the sum of its node.
fn add(sums: &mut BTreeMap<(String, String), DriftSum>, found: NodeDrift) {
    let record = found.record.unwrap_or_default();
    let key = (found.site.clone(), found.node.clone());
    let sum = sums.entry(key).or_insert_with(|| DriftSum {
        site: found.site,
        node: found.node,
        ..DriftSum::default()
    });
    sum.records = sum.records.saturating_add(1);
    if record.all_repaired_after_ms().is_none() {
        sum.unrepaired = sum.unrepaired.saturating_add(1);
    }
    sum.newest_ms = sum.newest_ms.max(record.at_ms);
}

/// Generations without the names of documents that the caller may not read.
pub(super) fn history(sight: &Visibility, mut answer: HistoryResponse) -> HistoryResponse {
    if part(sight, &answer.site) == Part::Whole {
        return answer;
    }
    for entry in &mut answer.generations {
        entry.changed_document_count = None;
        entry.changed_documents.retain(|document| {
            let named = document.split_once('/');
            named.is_some_and(|(kind, name)| {
                kind.parse().is_ok_and(|kind| sight.document(kind, name))
            })
        });
    }
    answer
}

/// Documents that the caller may read.
///
/// Whether there are others is not revealed, only that there may be: what is not in the answer is not
/// known to be gone.
pub(super) fn documents(
    sight: &Visibility,
    mut answer: GetDocumentsResponse,
) -> GetDocumentsResponse {
    answer.complete &= sight.is_all();
    answer.documents.retain(|found| {
        found
            .kind
            .parse()
            .is_ok_and(|kind| sight.document(kind, &found.name))
    });
    answer
}

#[cfg(test)]
mod tests {
    use voipfleet_proto::v1::{
        Author, ClusterReport, Difference, DriftDifference, DriftRecord, HistoryEntry, NodeDrift,
        NodeFacts, OpenSite, PendingAddress, SiteStatus, StoredDocument,
    };
    use voipfleet_protocol::identity::rights::{Binding, OperatorRole, Scope, Use, Uses};

    use super::*;

    /// Text about others in these tests.
    const SECRET: &str = "globex 192.0.2.0/24";

    /// A tenant of site-a; site-b serves another one.
    fn acme() -> Visibility {
        let serves = |tenant: &str| Use {
            tenants: [tenant.parse().unwrap()].into(),
            ..Use::default()
        };
        let uses = Uses::from([
            ("site-a".parse().unwrap(), serves("acme")),
            ("site-b".parse().unwrap(), serves("globex")),
        ]);
        let binding = Binding {
            role: OperatorRole::Viewer,
            scope: Scope::Tenants(["acme".parse().unwrap()].into()),
        };
        Visibility::new(&[binding], OperatorRole::Viewer, &uses)
    }

    fn site(name: &str) -> SiteStatus {
        let node = NodeReport {
            node: "sip1".to_owned(),
            error: SECRET.to_owned(),
            drift_detail: SECRET.to_owned(),
            peer: SECRET.to_owned(),
            facts: Some(NodeFacts {
                warnings: vec![SECRET.to_owned()],
                ..NodeFacts::default()
            }),
            differences: vec![Difference {
                found: SECRET.to_owned(),
                ..Difference::default()
            }],
            ..NodeReport::default()
        };
        SiteStatus {
            site: name.to_owned(),
            generation: 4,
            nodes: vec![node],
            cluster: Some(ClusterReport {
                pending: vec![PendingAddress {
                    address: SECRET.to_owned(),
                    ..PendingAddress::default()
                }],
                ..ClusterReport::default()
            }),
            open: Some(OpenSite {
                at_ms: 7,
                by: SECRET.to_owned(),
                reason: SECRET.to_owned(),
                ..OpenSite::default()
            }),
            ..SiteStatus::default()
        }
    }

    #[test]
    fn tenants_see_their_nodes_states_and_nothing_of_others() {
        let sites = vec![site("site-a"), site("site-b"), site("")];
        let seen = status(
            &acme(),
            StatusResponse {
                sites,
                ..StatusResponse::default()
            },
        );
        assert_eq!(seen.sites.len(), 1);
        assert_eq!(
            (seen.sites[0].generation, seen.sites[0].nodes.len()),
            (4, 1)
        );
        assert_eq!(seen.sites[0].open.as_ref().unwrap().at_ms, 7);
        assert!(!format!("{seen:?}").contains(SECRET), "{seen:?}");
    }

    #[test]
    fn tenants_see_how_often_nodes_drifted() {
        let found = |site: &str| NodeDrift {
            site: site.to_owned(),
            node: "sip1".to_owned(),
            record: Some(DriftRecord {
                at_ms: 7,
                chain: SECRET.to_owned(),
                rule: SECRET.to_owned(),
                wanted: SECRET.to_owned(),
                observed: SECRET.to_owned(),
                more: vec![DriftDifference {
                    chain: SECRET.to_owned(),
                    rule: SECRET.to_owned(),
                    wanted: SECRET.to_owned(),
                    observed: SECRET.to_owned(),
                    ..DriftDifference::default()
                }],
                by: Some(Author {
                    comm: SECRET.to_owned(),
                    ..Author::default()
                }),
                ..DriftRecord::default()
            }),
        };
        let records = vec![found("site-a"), found("site-b"), found("site-a")];
        let answer = DriftResponse {
            records,
            ..DriftResponse::default()
        };
        let seen = drift(&acme(), answer);
        assert!(seen.records.is_empty());
        let sum = DriftSum {
            site: "site-a".to_owned(),
            node: "sip1".to_owned(),
            records: 2,
            unrepaired: 2,
            newest_ms: 7,
        };
        assert_eq!(seen.sums, [sum]);
        assert!(!format!("{seen:?}").contains(SECRET), "{seen:?}");
    }

    #[test]
    fn history_names_only_documents_of_its_reader() {
        let entry = HistoryEntry {
            generation: 4,
            changed_documents: vec!["Tenant/globex".to_owned(), "Tenant/acme".to_owned()],
            changed_document_count: Some(2),
            ..HistoryEntry::default()
        };
        let answer = HistoryResponse {
            site: "site-a".to_owned(),
            current: 4,
            generations: vec![entry],
        };
        let seen = history(&acme(), answer);
        assert_eq!(seen.generations[0].changed_documents, ["Tenant/acme"]);
        assert_eq!(seen.generations[0].changed_document_count, None);
    }

    #[test]
    fn hides_documents_of_unknown_kind_from_bound_operators() {
        let document = |kind: &str, name: &str| StoredDocument {
            kind: kind.to_owned(),
            name: name.to_owned(),
            ..StoredDocument::default()
        };
        let documents_of = vec![
            document("Tenant", "acme"),
            document("Tenant", "globex"),
            document("Site", "site-a"),
            document("Later", "acme"),
        ];
        let answer = GetDocumentsResponse {
            documents: documents_of,
            complete: true,
            ..GetDocumentsResponse::default()
        };
        let seen = documents(&acme(), answer);
        assert_eq!(seen.documents, [document("Tenant", "acme")]);
        assert!(!seen.complete);
    }
}
