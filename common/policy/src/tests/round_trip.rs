//! Parse, print, parse: the same documents. And the table of fields against what is printed.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::Value;
use voipfleet_ruleset::role::Role;
use voipfleet_ruleset::ruleset::{Probe, ProbeCheck, Scheduled, Until};

use super::super::*;
use super::generate::document;
use super::{checked, rendered, samples, sources};

/// Documents that satisfy the references of `document`.
fn needed(document: &Document) -> Documents {
    let mut stored = Documents::default();
    let Document::Site(site) = document else {
        return stored;
    };
    let tenant = |name: &voipfleet_ruleset::identifiers::TenantName| {
        Document::Tenant(Tenant {
            name: name.clone(),
            networks: BTreeMap::new(),
            names: BTreeMap::new(),
            dated: BTreeMap::new(),
        })
    };
    let provider = |name: &voipfleet_ruleset::identifiers::ProviderName| {
        Document::Provider(Provider {
            name: name.clone(),
            signalling: vec![],
            media: vec![],
            signalling_names: vec![],
            media_names: vec![],
            signalling_dated: Dated::default(),
            media_dated: Dated::default(),
        })
    };
    stored.extend(site.tenants.iter().map(tenant));
    stored.extend(site.providers.iter().map(provider));
    stored.extend(site.address_words().filter_map(|word| match word {
        AddressWord::Tenant(name) => Some(tenant(name)),
        AddressWord::Provider(name) => Some(provider(name)),
        AddressWord::List(name) => Some(Document::List(List {
            name: name.clone(),
            addresses: vec![],
            dated: Dated::default(),
            feed: None,
        })),
        _ => None,
    }));
    stored
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_is_printed_parses_to_the_same(document in document()) {
        let yaml = document.to_yaml();
        let all = sources(&[("a.yaml", &yaml)]);
        let checked = check(&all, &needed(&document));
        prop_assert!(!checked.has_errors(), "{}\n{yaml}", rendered(&all, &checked));
        prop_assert_eq!(checked.documents, vec![document.clone()], "{}", yaml);

        let json = serde_json::to_string(&document).unwrap();
        let back: Document = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(&back, &document);
        // JSON is YAML: what the store exports can be applied.
        let all = sources(&[("a.json", &json)]);
        let checked = check(&all, &needed(&document));
        prop_assert_eq!(checked.documents, vec![document], "{}", json);
    }
}

#[test]
fn a_stored_document_that_is_none_is_refused() {
    for (json, why) in [
        ("{}", "kind"),
        ("[]", "mapping"),
        (r#"{"kind":"Site","name":"a","admins":[]}"#, "admins"),
        (
            r#"{"kind":"List","name":"a","addresses":["10.0.0.300"]}"#,
            "10.0.0.300",
        ),
        (r#"{"kind":"List","name":"a","file":"x.txt"}"#, "file"),
        (
            r#"{"kind":"List","name":"a","addresses":[],"colour":1}"#,
            "colour",
        ),
    ] {
        let error = serde_json::from_str::<Document>(json)
            .unwrap_err()
            .to_string();
        assert!(error.contains(why), "{json}: {error}");
    }
}

/// Field paths of a JSON value: `services.*.limit.burst`, with `*` for names of one's own.
fn paths(value: &Value, schema: &Value, at: &str, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            // Of several forms, the mapping.
            let forms = schema.get("anyOf").and_then(|_| mapping_in(schema));
            let schema = forms.unwrap_or(schema);
            for (name, inner) in fields {
                let known = schema.pointer("/properties").and_then(|p| p.get(name));
                let other = schema.get("additionalProperties").filter(|s| s.is_object());
                let (schema, name) = match (known, other) {
                    (Some(known), _) => (known, name.as_str()),
                    (None, Some(other)) => (other, "*"),
                    (None, None) => panic!("{at}.{name} is not in the schema"),
                };
                let path = format!("{at}.{name}");
                paths(inner, schema, &path, into);
                into.insert(path);
            }
        }
        Value::Array(items) => {
            let inner = mapping_in(schema).unwrap_or(&Value::Null);
            for item in items {
                paths(item, inner, at, into);
            }
        }
        _ => {}
    }
}

/// The mapping that a value or an item of it may be.
fn mapping_in(schema: &Value) -> Option<&Value> {
    if schema.get("properties").is_some() {
        return Some(schema);
    }
    let forms = schema.get("anyOf").and_then(Value::as_array);
    let forms = forms.into_iter().flatten().chain(schema.get("items"));
    forms.into_iter().find_map(mapping_in)
}

fn schema_paths(schema: &Value, at: &str, into: &mut BTreeSet<String>) {
    for form in schema
        .get("anyOf")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        schema_paths(form, at, into);
    }
    if let Some(Value::Object(properties)) = schema.get("properties") {
        for (name, inner) in properties {
            let path = format!("{at}.{name}");
            schema_paths(inner, &path, into);
            into.insert(path);
        }
    }
    for (keyword, suffix) in [("additionalProperties", ".*"), ("items", "")] {
        if let Some(inner) = schema.get(keyword).filter(|inner| inner.is_object()) {
            let path = format!("{at}{suffix}");
            schema_paths(inner, &path, into);
            if !suffix.is_empty() {
                into.insert(path);
            }
        }
    }
}

#[test]
fn the_schema_has_exactly_the_fields_that_documents_print() {
    let schema = json_schema();
    let mut printed = BTreeSet::new();
    let mut known = BTreeSet::new();
    for kind in Kind::ALL {
        schema_paths(&schema["$defs"][kind.as_str()], kind.as_str(), &mut known);
    }
    let mut documents = checked(&samples::FILES).documents;
    for check in ["udp-sip", "dns", "icmp"] {
        let probe = match check {
            "udp-sip" => ProbeCheck::UdpSip("a:1".parse().unwrap()),
            "dns" => ProbeCheck::Dns("a:1".parse().unwrap()),
            _ => ProbeCheck::Icmp("a".parse().unwrap()),
        };
        if let Document::Site(site) = &mut documents[0] {
            site.services.get_mut("rtp").unwrap().notrack = true;
            site.probes.push(Probe {
                name: check.parse().unwrap(),
                check: probe,
            });
        }
    }
    let moment = |at| Until::from_unix(at).unwrap();
    let dated = Dated {
        expiring: Vec::new(),
        scheduled: vec![Scheduled {
            net: "198.18.128.0/18".parse().unwrap(),
            from: moment(1_800_000_000),
            until: Some(moment(1_900_000_000)),
        }],
    };
    for document in &mut documents {
        match document {
            Document::Site(site) => {
                site.ipv6 = Ipv6::NoneOn {
                    nodes: ["sql1".parse().unwrap()].into(),
                    roles: [Role::Sql].into(),
                };
            }
            Document::Tenant(tenant) => {
                let network = tenant.networks.keys().next().unwrap().clone();
                tenant.dated.insert(network, dated.clone());
            }
            Document::Provider(provider) => {
                provider.signalling_dated = dated.clone();
                provider.media_dated = dated.clone();
            }
            Document::List(list) => list.dated.scheduled.clone_from(&dated.scheduled),
        }
    }
    for document in &documents {
        let kind = document.kind().as_str();
        let json = serde_json::to_value(document).unwrap();
        paths(&json, &schema["$defs"][kind], kind, &mut printed);
    }
    assert_eq!(printed, known);
}
