//! Two states of a document, compared field by field.

use std::collections::{BTreeMap, BTreeSet};

use super::document::Document;
use super::print::Tree;

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
    /// A single value, or a whole part; none: it is not written.
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
    let empty_map = Tree::Map(Vec::new());
    let empty_list = Tree::List(Vec::new());
    match (before, after) {
        (Some(Tree::Map(_)), None) => compare(at, before, Some(&empty_map), changes),
        (None, Some(Tree::Map(_))) => compare(at, Some(&empty_map), after, changes),
        (Some(Tree::List(_)), None) => compare(at, before, Some(&empty_list), changes),
        (None, Some(Tree::List(_))) => compare(at, Some(&empty_list), after, changes),
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
        let others: BTreeSet<&String> = others.iter().collect();
        let these = these.iter().filter(|entry| !others.contains(entry));
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

/// Entries that have names, by them; none: some have not, or share one.
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
    use crate::compile::fixtures::{any_documents, documents, nets};
    use crate::policy::Kind;
    use crate::ruleset::{Rate, RateUnit};

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
        site.rules[0].from = vec![crate::compile::fixtures::word("10.30.0.0/16")];
        site.tenants.reverse();
        let tenant = after.tenants.values_mut().next().unwrap();
        let offices = tenant.networks.get_mut("offices").unwrap();
        offices.push("198.18.9.0/24".parse().unwrap());
        tenant
            .networks
            .insert("hq".to_owned(), nets(&["198.18.1.0/24"]));
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

    proptest! {
        /// What is stored and what is given differ, or nothing is told.
        #[test]
        fn documents_that_differ_are_told(before in any_documents(), after in any_documents()) {
            for document in before.iter() {
                let new = after.get(document.kind(), document.name());
                let told = differences(Some(&document), new.as_ref());
                let same_text = new.as_ref().is_some_and(|new| new.to_yaml() == document.to_yaml());
                prop_assert_eq!(told.is_empty(), same_text, "{:?}", told);
                prop_assert!(differences(Some(&document), Some(&document)).is_empty());
            }
        }
    }
}
