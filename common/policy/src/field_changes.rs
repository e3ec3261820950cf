//! Two states of a document, compared field by field.

use std::collections::{BTreeMap, BTreeSet};

use super::document::Document;
use super::yaml_writer::Tree;

/// A field that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldChange {
    /// Where: `services.sip.limit.per_source`, `rules.monitoring.accept.from`.
    pub field: String,
    /// What.
    pub change: Difference,
}

/// How a field differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// A single value, or a whole part; `None`: it is not written.
    Value {
        /// Before, as documents write it.
        before: Option<String>,
        /// After.
        after: Option<String>,
    },
    /// A list: what it no longer has, and what it has now, each in its order.
    Entries {
        /// Before only.
        removed: Vec<String>,
        /// After only.
        added: Vec<String>,
    },
    /// A list of the same entries in another order.
    Order,
}

/// The fields in which two states of a document differ, in the documents' order of fields. Of a
/// document that is not there, every field differs.
pub fn differences(before: Option<&Document>, after: Option<&Document>) -> Vec<FieldChange> {
    if before == after {
        return Vec::new();
    }
    let none = || Tree::Map(Vec::new());
    let before = before.map_or_else(none, Document::tree);
    let after = after.map_or_else(none, Document::tree);
    let mut changes = Vec::new();
    compare("", Some(&before), Some(&after), &mut changes);
    changes.retain(|change| !matches!(change.field.as_str(), "kind" | "name"));
    changes
}

fn compare(at: &str, before: Option<&Tree>, after: Option<&Tree>, changes: &mut Vec<FieldChange>) {
    if before == after {
        return;
    }
    // An empty part that comes or goes is a value of its own: `networks.hq: none → []`.
    let empty_map = Tree::Map(Vec::new());
    let empty_list = Tree::List(Vec::new());
    match (before, after) {
        (Some(Tree::Map(fields)), None) if !fields.is_empty() => {
            compare(at, before, Some(&empty_map), changes);
        }
        (None, Some(Tree::Map(fields))) if !fields.is_empty() => {
            compare(at, Some(&empty_map), after, changes);
        }
        (Some(Tree::List(list)), None) if !list.is_empty() => {
            compare(at, before, Some(&empty_list), changes);
        }
        (None, Some(Tree::List(list))) if !list.is_empty() => {
            compare(at, Some(&empty_list), after, changes);
        }
        (Some(Tree::Map(before)), Some(Tree::Map(after))) => maps(at, before, after, changes),
        (Some(Tree::List(before)), Some(Tree::List(after))) => lists(at, before, after, changes),
        (before, after) => changes.push(FieldChange {
            field: at.to_owned(),
            change: Difference::Value {
                before: before.map(Tree::to_line),
                after: after.map(Tree::to_line),
            },
        }),
    }
}

type Entries = [(String, Tree)];

fn maps(at: &str, before: &Entries, after: &Entries, changes: &mut Vec<FieldChange>) {
    let known: BTreeMap<&str, &Tree> = before.iter().map(|(name, tree)| (&**name, tree)).collect();
    let stay: BTreeMap<&str, &Tree> = after.iter().map(|(name, tree)| (&**name, tree)).collect();
    let gone = before
        .iter()
        .filter(|(name, _)| !stay.contains_key(&**name));
    for (name, _) in after.iter().chain(gone) {
        let name = name.as_str();
        let field = joined(at, name);
        let (before, after) = (known.get(name).copied(), stay.get(name).copied());
        compare(&field, before, after, changes);
    }
}

fn lists(at: &str, before: &[Tree], after: &[Tree], changes: &mut Vec<FieldChange>) {
    if let (Some(old), Some(new)) = (by_name(before), by_name(after))
        && !(old.is_empty() && new.is_empty())
    {
        let count = changes.len();
        maps(at, &old, &new, changes);
        if changes.len() == count {
            changes.push(FieldChange {
                field: at.to_owned(),
                change: Difference::Order,
            });
        }
        return;
    }
    let (old, new): (Vec<String>, Vec<String>) = (
        before.iter().map(Tree::to_line).collect(),
        after.iter().map(Tree::to_line).collect(),
    );
    let only = |these: &[String], others: &[String]| -> Vec<String> {
        // Several texts may be one entry: 100.64.7.7/24 is 100.64.7.0/24.
        let mut known: BTreeSet<&String> = others.iter().collect();
        let these = these.iter().filter(|entry| known.insert(entry));
        these.cloned().collect()
    };
    let (removed, added) = (only(&old, &new), only(&new, &old));
    let change = if removed.is_empty() && added.is_empty() {
        Difference::Order
    } else {
        Difference::Entries { removed, added }
    };
    changes.push(FieldChange {
        field: at.to_owned(),
        change,
    });
}

/// Entries that have names, by them; `None`: some have not, or share one.
fn by_name(list: &[Tree]) -> Option<Vec<(String, Tree)>> {
    let mut seen = BTreeSet::new();
    let named = list.iter().map(|item| {
        let Tree::Map(fields) = item else { return None };
        let name = fields.iter().find_map(|(name, value)| match value {
            Tree::Text(text) if name == "name" => Some(text.clone()),
            _ => None,
        })?;
        let rest = fields.iter().filter(|(field, _)| field != "name");
        seen.insert(name.clone())
            .then(|| (name, Tree::Map(rest.cloned().collect())))
    });
    named.collect()
}

fn joined(at: &str, name: &str) -> String {
    if at.is_empty() {
        name.to_owned()
    } else {
        format!("{at}.{name}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use voipfleet_ruleset::ruleset::{Rate, RateUnit};

    use crate::tests::generate::document;
    use crate::{AddressWord, Documents, Kind, Source, check};

    const DOCUMENTS: &str = "
kind: Site
name: site-a
tenants: [acme, globex]
providers: [trunkco]
admins: [198.51.100.10]
services: {sip: {limit: {per_source: 20/s, burst: 60}}}
rules:
  - {name: monitoring, accept: {proto: tcp, ports: [9100], from: [10.20.0.0/16]}}
---
{kind: Tenant, name: acme, networks: {offices: [203.0.113.0/24]}}
---
{kind: Tenant, name: globex, networks: {hq: [203.0.113.128/25, 198.18.7.0/24]}}
---
{kind: Provider, name: trunkco, signalling: [192.0.2.0/28]}
";

    fn documents() -> Documents {
        let source = Source {
            path: "all.yaml".to_owned(),
            text: DOCUMENTS.to_owned(),
        };
        let checked = check(&[source], &Documents::default());
        assert!(!checked.has_errors(), "{:?}", checked.diagnostics);
        checked.documents.into_iter().collect()
    }

    fn shown(before: Option<&Document>, after: Option<&Document>) -> Vec<String> {
        let one = |change: FieldChange| {
            let field = change.field;
            match change.change {
                Difference::Value { before, after } => format!(
                    "{field}: {} → {}",
                    before.unwrap_or_default(),
                    after.unwrap_or_default()
                ),
                Difference::Entries { removed, added } => {
                    format!("{field}: - {} + {}", removed.join(" "), added.join(" "))
                }
                Difference::Order => format!("{field}: order"),
            }
        };
        differences(before, after).into_iter().map(one).collect()
    }

    #[test]
    fn a_field_is_named_by_its_path() {
        let before = documents();
        let mut after = before.clone();
        let site = after.sites.values_mut().next().unwrap();
        let sip = site.services.get_mut("sip").unwrap();
        sip.limit = Rate::new(40, RateUnit::Second, 60);
        site.rules[0].from = vec![AddressWord::Net("10.30.0.0/16".parse().unwrap())];
        site.tenants.reverse();
        let tenant = after.tenants.values_mut().next().unwrap();
        let offices = tenant.networks.get_mut("offices").unwrap();
        offices.push("198.18.9.0/24".parse().unwrap());
        tenant
            .networks
            .insert("hq".to_owned(), vec!["198.18.1.0/24".parse().unwrap()]);
        let of = |kind, name| {
            let (before, after) = (before.get(kind, name), after.get(kind, name));
            shown(before.as_ref(), after.as_ref())
        };
        assert_eq!(
            of(Kind::Site, "site-a"),
            [
                "tenants: order",
                "services.sip.limit.per_source: 20/s → 40/s",
                "rules.monitoring.accept.from: - 10.20.0.0/16 + 10.30.0.0/16",
            ]
        );
        assert_eq!(
            of(Kind::Tenant, "acme"),
            [
                "networks.hq: -  + 198.18.1.0/24",
                "networks.offices: -  + 198.18.9.0/24",
            ]
        );
        assert!(of(Kind::Provider, "trunkco").is_empty());
        let tenant = before.get(Kind::Tenant, "globex");
        assert_eq!(
            shown(tenant.as_ref(), None),
            ["networks.hq: - 203.0.113.128/25 198.18.7.0/24 + "]
        );
    }

    #[test]
    fn entry_that_is_written_twice_is_one_change() {
        let before = documents();
        let mut after = before.clone();
        let tenant = after.tenants.values_mut().next().unwrap();
        let offices = tenant.networks.get_mut("offices").unwrap();
        for _ in 0..2 {
            offices.push("100.64.7.0/24".parse().unwrap());
        }
        let of = |documents: &Documents| documents.get(Kind::Tenant, "acme");
        assert_eq!(
            shown(of(&before).as_ref(), of(&after).as_ref()),
            ["networks.offices: -  + 100.64.7.0/24"]
        );
    }

    /// The same document after an edit: another of its kind, under its name.
    fn renamed(mut document: Document, name: &str) -> Document {
        match &mut document {
            Document::Site(site) => site.name = name.parse().unwrap(),
            Document::Tenant(tenant) => tenant.name = name.parse().unwrap(),
            Document::Provider(provider) => provider.name = name.parse().unwrap(),
            Document::List(list) => list.name = name.parse().unwrap(),
        }
        document
    }

    proptest! {
        /// Two documents of one name differ in some field exactly if their texts do.
        #[test]
        fn differences_are_empty_for_equal_texts_only(
            documents in prop::collection::vec(document(), 2..8),
        ) {
            for before in &documents {
                prop_assert!(differences(Some(before), Some(before)).is_empty());
                for after in &documents {
                    if after.kind() != before.kind() {
                        continue;
                    }
                    let after = renamed(after.clone(), before.name());
                    let found = differences(Some(before), Some(&after));
                    let same_text = after.to_yaml() == before.to_yaml();
                    prop_assert_eq!(found.is_empty(), same_text, "{:?}", found);
                }
            }
        }
    }
}
