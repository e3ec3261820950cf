//! Tables of the manual that come from the code.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;

use serde_json::Value;
use voipfleet_policy::catalogue::{Direction, SERVICES, Service};

use super::root;

const START: &str = "<!-- generated: ";
const END: &str = "<!-- end -->";

/// Compares the tables of a page with those of the code, or rewrites them. Gives the names of all.
fn check(page: &str, table_of: impl Fn(&str) -> Option<String>) -> BTreeSet<String> {
    let path = root().join("docs").join(page);
    let text = fs::read_to_string(&path).unwrap();
    let mut parts = text.split(START);
    let mut made = parts.next().unwrap_or_default().to_owned();
    let mut names = BTreeSet::new();
    for part in parts {
        let (name, rest) = part.split_once(" -->").unwrap();
        let (_, after) = rest.split_once(END).unwrap();
        let table = table_of(name).unwrap_or_else(|| panic!("{page}: no table is called {name}"));
        let _infallible = write!(made, "{START}{name} -->\n{table}{END}{after}");
        names.insert(name.to_owned());
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, made).unwrap();
    } else {
        let line = made
            .lines()
            .zip(text.lines())
            .find(|(made, found)| made != found);
        assert!(
            made == text,
            "docs/{page} is not what the code says; run this test with UPDATE_DOCS=1: {line:?}"
        );
    }
    names
}

#[test]
fn ports_are_those_of_the_catalogue() {
    check("ports.md", |name| (name == "catalogue").then(catalogue));
}

fn catalogue() -> String {
    let mut text = "| service | ports | open to | roles |\n|---|---|---|---|\n".to_owned();
    let inbound = SERVICES
        .iter()
        .filter(|s| s.direction == Direction::Inbound);
    let egress = SERVICES.iter().filter(|s| s.direction == Direction::Egress);
    for service in inbound.chain(egress) {
        let ports: Vec<String> = service.openings.iter().map(ToString::to_string).collect();
        let ports = match (ports.is_empty(), service.icmp.is_empty()) {
            (false, _) => ports.join("; "),
            (true, false) => icmp_types(service),
            (true, true) => "as the carriers name them".to_owned(),
        };
        let roles = &service.roles;
        let _infallible = writeln!(
            text,
            "| {} | {ports} | {} | {roles} |",
            service.name,
            sources(service)
        );
    }
    text
}

fn icmp_types(service: &Service) -> String {
    let types: Vec<String> = service
        .icmp
        .iter()
        .map(|icmp| icmp.icmp_type.to_string())
        .collect();
    format!("types {}", types.join(", "))
}

fn sources(service: &Service) -> String {
    if service.direction == Direction::Egress {
        return "(outbound)".to_owned();
    }
    let words: Vec<String> = service
        .default_from
        .iter()
        .map(ToString::to_string)
        .collect();
    let mut text = if words.is_empty() {
        "off".to_owned()
    } else {
        words.join(", ")
    };
    if service.never_world {
        text.push_str("; never world");
    }
    text
}

#[test]
fn the_policy_reference_has_every_field() {
    let schema = voipfleet_policy::json_schema();
    let mut mappings = BTreeSet::new();
    for kind in ["Site", "Tenant", "Provider", "List"] {
        collect(&schema["$defs"][kind], kind, &mut mappings);
    }
    let names = check("policy-reference.md", |name| {
        find(&schema, name).map(|mapping| fields(mapping, name))
    });
    assert_eq!(
        names, mappings,
        "the mappings of the schema each have a table"
    );
}

/// The names of all mappings below one: `Site.rules.accept`.
fn collect(mapping: &Value, name: &str, found: &mut BTreeSet<String>) {
    found.insert(name.to_owned());
    for (field, schema) in mapping["properties"].as_object().into_iter().flatten() {
        if let Some(inner) = inner(schema) {
            collect(inner, &format!("{name}.{field}"), found);
        }
    }
}

fn find<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    let mut parts = name.split('.');
    let kind = schema["$defs"].get(parts.next()?)?;
    parts.try_fold(kind, |mapping, field| {
        inner(mapping["properties"].get(field)?)
    })
}

/// The mapping that a field holds: itself, one of a list, or one by name.
fn inner(schema: &Value) -> Option<&Value> {
    if schema.get("properties").is_some() {
        return Some(schema);
    }
    let more = [&schema["items"], &schema["additionalProperties"]];
    let choices = schema["anyOf"].as_array().into_iter().flatten();
    more.into_iter()
        .chain(choices)
        .find_map(|part| part.is_object().then(|| inner(part))?)
}

fn fields(mapping: &Value, name: &str) -> String {
    let required: Vec<&str> = mapping["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let mut text = "| field | value | meaning |\n|---|---|---|\n".to_owned();
    let mut properties: Vec<_> = mapping["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .collect();
    properties.sort_by_key(|(field, _)| {
        let (field, is_optional) = (field.as_str(), !required.contains(&field.as_str()));
        (field != "kind", field != "name", is_optional)
    });
    for (field, schema) in properties {
        let must = if required.contains(&field.as_str()) {
            ", required"
        } else {
            ""
        };
        let about = schema["description"].as_str().unwrap_or_default();
        let about = if field == "kind" { "" } else { about };
        let _infallible = writeln!(
            text,
            "| `{field}` | {}{must} | {about} |",
            value(schema, name, field)
        );
    }
    text
}

/// What a field takes, in words.
fn value(schema: &Value, mapping: &str, field: &str) -> String {
    if let Some(word) = schema["const"].as_str() {
        return format!("`{word}`");
    }
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<String> = words
            .iter()
            .filter_map(Value::as_str)
            .map(|word| format!("`{word}`"))
            .collect();
        return words.join(", ");
    }
    if let Some(reference) = schema["$ref"].as_str() {
        return match reference {
            "#/$defs/name" => "a name",
            "#/$defs/network" => "an address or prefix",
            "#/$defs/peer" => "an address, prefix or DNS name",
            "#/$defs/addressWord" => "an [address word](#address-words)",
            "#/$defs/port" => "a port or range",
            other => panic!("{other} has no words"),
        }
        .to_owned();
    }
    if let [one, list] = schema["anyOf"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
        && list["type"] == "array"
    {
        return match value(one, mapping, field)
            .strip_prefix("an ")
            .map(str::to_owned)
        {
            Some(word) => format!("one {word}, or a list"),
            None => format!("{}, or a list", value(one, mapping, field)),
        };
    }
    if let [one, _mapping] = schema["anyOf"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
    {
        return format!(
            "{}, or a [mapping](#{})",
            value(one, mapping, field),
            anchor(mapping, field)
        );
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        return match pattern {
            "^[0-9]+(ms|s|m|h|d|w)$" => {
                "a duration: `500ms`, `30s`, `10m`, `2h`, `7d`, `2w`".to_owned()
            }
            "^[0-9]+/(s|m|h)$" => "a rate: `20/s`".to_owned(),
            "^.+:[0-9]+$" => "`HOST:PORT`".to_owned(),
            "^https?://.+$" => "a URL".to_owned(),
            "^[1-9][0-9]*%?$" => "a number, or a percentage: `25%`".to_owned(),
            "^[0-9A-Fa-f.:]+$" => "an address".to_owned(),
            "^([a-z][a-z0-9.-]*|[0-9]{1,3})$" => "an IP protocol: `vrrp`, `112`".to_owned(),
            "^(tcp|udp|any|[a-z][a-z0-9.-]*|[0-9]{1,3})$" => {
                "`tcp`, `udp`, `any`, or an IP protocol: `vrrp`, `112`".to_owned()
            }
            _ if schema["format"] == "date-time" => {
                "a time in UTC: `2026-12-01T00:00:00Z`".to_owned()
            }
            other => format!("text: `{}`", other.replace('|', "\\|")),
        };
    }
    match schema["type"].as_str() {
        Some("boolean") => "`true` or `false`".to_owned(),
        Some("integer") => format!("{} to {}", schema["minimum"], schema["maximum"]),
        Some("string") => "text".to_owned(),
        Some("array") => format!("a list of [mappings](#{})", anchor(mapping, field)),
        Some("object") if schema.get("properties").is_some() => {
            format!("a [mapping](#{})", anchor(mapping, field))
        }
        Some("object") if schema.pointer("/additionalProperties/anyOf").is_some() => format!(
            "lists of addresses, prefixes, DNS names and [mappings](#{}), by name",
            anchor(mapping, field)
        ),
        Some("object") if inner(schema).is_some() => {
            format!("[mappings](#{}) by name", anchor(mapping, field))
        }
        _ => panic!("{mapping}.{field} has no words"),
    }
}

/// Of the heading above a mapping's table.
fn anchor(mapping: &str, field: &str) -> String {
    let inside = mapping.split_once('.').map_or("", |(_, inside)| inside);
    let name = match mapping {
        "Tenant" | "Provider" | "List" => format!("{}-{field}", mapping.to_lowercase()),
        _ => field.to_owned(),
    };
    if inside.is_empty() {
        name
    } else {
        format!("{}-{name}", inside.replace('.', "-"))
    }
}
