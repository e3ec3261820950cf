//! Answers without what their caller may not see.

use voipfleet_proto::v1::{DriftResponse, GetDocumentsResponse, NodeReport, StatusResponse};
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
        }
    }
    answer
}

/// Drift of sites that the caller sees. Rules name networks of all tenants: a tenant's operator
/// sees that and when a node was changed, not what.
pub(super) fn drift(sight: &Visibility, mut answer: DriftResponse) -> DriftResponse {
    answer
        .records
        .retain(|found| part(sight, &found.site) != Part::Nothing);
    for found in &mut answer.records {
        if part(sight, &found.site) == Part::Tenants
            && let Some(record) = &mut found.record
        {
            // The place of a set's entry is the set, which may bear a name.
            hide(&mut record.chain);
            hide(&mut record.rule);
            hide(&mut record.wanted);
            hide(&mut record.observed);
            record.by = None;
        }
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
        Author, ClusterReport, Difference, DriftRecord, NodeDrift, NodeFacts, OpenSite,
        PendingAddress, SiteStatus, StoredDocument,
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
        let seen = status(&acme(), StatusResponse { sites });
        assert_eq!(seen.sites.len(), 1);
        assert_eq!(
            (seen.sites[0].generation, seen.sites[0].nodes.len()),
            (4, 1)
        );
        assert_eq!(seen.sites[0].open.as_ref().unwrap().at_ms, 7);
        assert!(!format!("{seen:?}").contains(SECRET), "{seen:?}");
    }

    #[test]
    fn tenants_see_drift_without_its_rules() {
        let found = |site: &str| NodeDrift {
            site: site.to_owned(),
            node: "sip1".to_owned(),
            record: Some(DriftRecord {
                at_ms: 7,
                chain: SECRET.to_owned(),
                rule: SECRET.to_owned(),
                wanted: SECRET.to_owned(),
                observed: SECRET.to_owned(),
                by: Some(Author {
                    comm: SECRET.to_owned(),
                    ..Author::default()
                }),
                ..DriftRecord::default()
            }),
        };
        let records = vec![found("site-a"), found("site-b")];
        let seen = drift(&acme(), DriftResponse { records });
        assert_eq!(seen.records.len(), 1);
        assert_eq!(seen.records[0].record.as_ref().unwrap().at_ms, 7);
        assert!(!format!("{seen:?}").contains(SECRET), "{seen:?}");
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
        };
        let seen = documents(&acme(), answer);
        assert_eq!(seen.documents, [document("Tenant", "acme")]);
        assert!(!seen.complete);
    }
}
