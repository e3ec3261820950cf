//! What of a plan its caller may see.
//!
//! Whoever may plan with documents of their own can name any provider and list in them. A plan shows
//! addresses only of documents that the caller may read, or gave; of others it shows how many.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use tonic::Status;
use voipfleet_policy::{self as policy, Documents, Kind};
use voipfleet_proto::v1;
use voipfleet_ruleset::ruleset::DynamicSetName;

use super::fields::sources;
use super::{Caller, DocumentsApi, failed};

/// In place of an address that is not shown.
const NOT_SHOWN: &str = "…";

/// Stored documents that a plan uses and its caller may not read.
#[derive(Debug, Default)]
pub(super) struct PlanSight {
    hidden: BTreeSet<(Kind, String)>,
    /// Their networks.
    nets: Vec<IpNet>,
    /// Their dynamic sets, as plans name them.
    dynamic: BTreeSet<String>,
}

impl DocumentsApi {
    /// What its caller may see of the plan that is asked for. Without documents of the caller's own
    /// that is all of it: what a stored site uses, whoever sees the site may read.
    pub(super) async fn plan_sight(
        &self,
        caller: &Caller,
        request: &v1::PlanRequest,
    ) -> Result<PlanSight, Status> {
        if request.sources.is_empty() || caller.sight.is_all() {
            return Ok(PlanSight::default());
        }
        let given = sources(request.sources.clone())?;
        let stored = self.documents.read().await.map_err(failed)?.documents;
        let caller = caller.clone();
        let finding = tokio::task::spawn_blocking(move || {
            let checked = policy::check(&given, &caller.sees(&stored));
            let given = Documents::from_iter(checked.documents);
            let needed = given.sites.values().flat_map(policy::Site::needs);
            let hidden = needed.filter(|(kind, name)| {
                !caller.sight.document(*kind, name) && !given.contains(*kind, name)
            });
            PlanSight::new(hidden.collect(), &stored)
        });
        finding.await.map_err(|_| super::documents::broken())
    }
}

impl PlanSight {
    fn new(hidden: BTreeSet<(Kind, String)>, stored: &Documents) -> Self {
        let mut nets: Vec<IpNet> = Vec::new();
        let mut dynamic = BTreeSet::new();
        for (kind, name) in &hidden {
            match stored.get(*kind, name) {
                Some(policy::Document::Provider(provider)) => {
                    nets.extend(provider.signalling.iter().chain(&provider.media));
                    let hosts = provider
                        .signalling_names
                        .iter()
                        .chain(&provider.media_names);
                    let names = hosts.map(|host| DynamicSetName::Name(host.clone()));
                    dynamic.extend(names.map(|name| name.to_string()));
                }
                Some(policy::Document::List(list)) => {
                    nets.extend(list.nets());
                    let of = [
                        DynamicSetName::Feed(list.name.clone()),
                        DynamicSetName::DenyFeed(list.name.clone()),
                    ];
                    dynamic.extend(of.map(|name| name.to_string()));
                }
                Some(policy::Document::Tenant(tenant)) => {
                    nets.extend(tenant.networks.values().flatten());
                    let names = tenant.names.values().flatten();
                    let names = names.map(|host| DynamicSetName::Name(host.clone()));
                    dynamic.extend(names.map(|name| name.to_string()));
                }
                Some(policy::Document::Site(_)) | None => {}
            }
        }
        Self {
            hidden,
            nets,
            dynamic,
        }
    }

    /// The plan without addresses of documents that are not shown; their number stays.
    pub(super) fn redact(&self, mut plan: v1::PlanResponse) -> v1::PlanResponse {
        if self.hidden.is_empty() {
            return plan;
        }
        for document in &mut plan.documents {
            let kind = document.kind.parse::<Kind>();
            if kind.is_ok_and(|kind| self.hidden.contains(&(kind, document.name.clone()))) {
                document.fields.clear();
            }
        }
        for source in &mut plan.dynamic {
            if self.dynamic.contains(&source.source) {
                source.addresses.clear();
            }
        }
        for set in plan
            .changes
            .iter_mut()
            .flat_map(|changes| &mut changes.sets)
        {
            for members in [&mut set.added, &mut set.removed] {
                let before = members.len();
                members.retain(|member| !self.hides(&member.network));
                set.more += (before - members.len()) as u64;
            }
        }
        for access in plan
            .changes
            .iter_mut()
            .flat_map(|changes| &mut changes.access)
        {
            let before = access.networks.len();
            access.networks.retain(|network| !self.hides(network));
            access.more += (before - access.networks.len()) as u64;
        }
        for rule in plan
            .changes
            .iter_mut()
            .flat_map(|changes| &mut changes.rules)
        {
            for line in rule.added.iter_mut().chain(&mut rule.removed) {
                *line = self.without_addresses(line);
            }
        }
        for warning in &mut plan.warnings {
            *warning = self.without_addresses(warning);
        }
        plan
    }

    /// Whether a network, or a part of it, is of a document that is not shown.
    fn hides(&self, network: &str) -> bool {
        let parsed = network.parse::<IpNet>();
        let parsed = parsed.or_else(|_| network.parse::<IpAddr>().map(IpNet::from));
        parsed.is_ok_and(|net| {
            let mut own = self.nets.iter();
            own.any(|own| own.contains(&net) || net.contains(own))
        })
    }

    fn without_addresses(&self, text: &str) -> String {
        let words = text.split_inclusive([' ', ',', '(', ')', ';']);
        let shown = words.map(|word| {
            let address = word.trim_end_matches([' ', ',', '(', ')', ';', ':']);
            if self.hides(address) {
                word.replacen(address, NOT_SHOWN, 1)
            } else {
                word.to_owned()
            }
        });
        shown.collect()
    }

    /// Whether a list may be named with examples of its entries.
    pub(super) fn shows_list(&self, list: &str) -> bool {
        !self.hidden.contains(&(Kind::List, list.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_hidden_documents_are_counted_and_not_shown() {
        let source = policy::Source {
            path: "a.yaml".to_owned(),
            text: "
kind: Provider
name: secretcarrier
signalling: [192.0.2.0/28, sip.secret.example]
media: [192.0.2.128/25]
"
            .to_owned(),
        };
        let checked = policy::check(&[source], &Documents::default());
        let stored = Documents::from_iter(checked.documents);
        let hidden = BTreeSet::from([(Kind::Provider, "secretcarrier".to_owned())]);
        let sight = PlanSight::new(hidden, &stored);
        let member = |network: &str| v1::SetMember {
            network: network.to_owned(),
            ..v1::SetMember::default()
        };
        let plan = v1::PlanResponse {
            documents: vec![v1::DocumentDifference {
                kind: "Provider".to_owned(),
                name: "secretcarrier".to_owned(),
                fields: vec![v1::FieldDifference::default()],
                ..v1::DocumentDifference::default()
            }],
            changes: Some(v1::RulesetDifferences {
                rules: vec![v1::RuleDifference {
                    added: vec!["ssh from 192.0.2.1/32, 203.0.113.9/32".to_owned()],
                    ..v1::RuleDifference::default()
                }],
                sets: vec![v1::SetDifference {
                    added: vec![member("192.0.2.0/28"), member("203.0.113.0/24")],
                    ..v1::SetDifference::default()
                }],
                access: vec![v1::AccessDifference {
                    networks: vec!["192.0.2.128/25".to_owned()],
                    ..v1::AccessDifference::default()
                }],
                ..v1::RulesetDifferences::default()
            }),
            dynamic: vec![v1::PlannedSource {
                source: "name:sip.secret.example".to_owned(),
                addresses: vec!["198.51.100.1".to_owned()],
                entries: 1,
                ..v1::PlannedSource::default()
            }],
            warnings: vec!["deny: (192.0.2.130) is of providers".to_owned()],
            ..v1::PlanResponse::default()
        };
        let seen = sight.redact(plan);
        let text = format!("{seen:?}");
        assert!(!text.contains("192.0.2."), "{text}");
        assert!(!text.contains("198.51.100.1"), "{text}");
        let changes = seen.changes.unwrap();
        assert_eq!(changes.sets[0].more, 1);
        assert_eq!(changes.sets[0].added[0].network, "203.0.113.0/24");
        assert_eq!(changes.access[0].more, 1);
        assert_eq!(changes.rules[0].added, ["ssh from …, 203.0.113.9/32"]);
    }
}
