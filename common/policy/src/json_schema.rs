//! The JSON schema of the documents, from the table of their fields.

use serde_json::{Map, Value, json};

use super::schema::{Shape, Table, WORDS};
use crate::Kind;

/// The JSON schema of the documents (draft 2020-12). It knows forms, not references.
pub fn json_schema() -> Value {
    let mut definitions = Map::new();
    for kind in Kind::ALL {
        let mut schema = Table::of(kind).schema();
        if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
            properties.insert("kind".to_owned(), json!({"const": kind.as_str()}));
        }
        definitions.insert(kind.as_str().to_owned(), schema);
    }
    definitions.insert(
        "port".to_owned(),
        json!({"anyOf": [
            {"type": "integer", "minimum": 1, "maximum": 65_535},
            {"type": "string", "pattern": "^[0-9]+(-[0-9]+)?(, *[0-9]+(-[0-9]+)?)*$"},
        ]}),
    );
    definitions.insert(
        "network".to_owned(),
        json!({
            "type": "string",
            "pattern": "^[0-9A-Fa-f.:]+(/[0-9.]+)?$",
            "description": "an IPv4 or IPv6 address, a prefix, or an IPv4 address with a dotted \
                            mask",
        }),
    );
    definitions.insert(
        "peer".to_owned(),
        json!({"anyOf": [
            reference("network"),
            {
                "type": "string",
                "pattern": "^([A-Za-z0-9-]+\\.)+[A-Za-z][A-Za-z0-9-]+\\.?$",
                "description": "a DNS name",
            },
        ]}),
    );
    definitions.insert(
        "name".to_owned(),
        json!({"type": ["string", "integer"], "pattern": "^[a-z0-9][a-z0-9._-]{0,62}$"}),
    );
    definitions.insert(
        "addressWord".to_owned(),
        json!({"anyOf": [
            {"enum": WORDS},
            {"type": "string", "pattern": "^(tenant|provider|list):[a-z0-9][a-z0-9._-]{0,62}$"},
            reference("network"),
        ]}),
    );
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Voipfleet documents",
        "oneOf": Kind::ALL.map(|kind| reference(kind.as_str())),
        "$defs": definitions,
    })
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/$defs/{name}")})
}

fn peer(dated: &Table) -> Value {
    json!({"anyOf": [reference("peer"), dated.schema()]})
}

fn one_or_many(item: &Value) -> Value {
    let list = json!({"type": "array", "items": item});
    json!({"anyOf": [item, list]})
}

impl Table {
    fn schema(&self) -> Value {
        let properties: Map<String, Value> = self
            .fields
            .iter()
            .map(|field| {
                let mut schema = field.shape.schema();
                if let Some(object) = schema.as_object_mut() {
                    object.insert("description".to_owned(), json!(field.about));
                }
                (field.name.to_owned(), schema)
            })
            .collect();
        let needed: Vec<&str> = self
            .fields
            .iter()
            .filter(|field| field.required)
            .map(|field| field.name)
            .collect();
        json!({
            "type": "object",
            "properties": properties,
            "required": needed,
            "additionalProperties": false,
        })
    }
}

impl Shape {
    fn schema(&self) -> Value {
        match self {
            Shape::Kind => json!({"enum": Kind::ALL.map(Kind::as_str)}),
            Shape::Name => reference("name"),
            Shape::Names => one_or_many(&reference("name")),
            Shape::Text => json!({"type": "string", "minLength": 1}),
            Shape::Flag => json!({"type": "boolean"}),
            Shape::Count { least, most } => {
                json!({"type": "integer", "minimum": least, "maximum": most})
            }
            Shape::Choice(words) => json!({"enum": words}),
            Shape::Choices(words) => one_or_many(&json!({"enum": words})),
            // A number is read as its text: `batch: 5`.
            Shape::Pattern(pattern) => {
                json!({"type": ["string", "integer"], "pattern": pattern})
            }
            Shape::Address => json!({"type": "string", "pattern": "^[0-9A-Fa-f.:]+$"}),
            Shape::Network => reference("network"),
            Shape::Entries(table) => {
                one_or_many(&json!({"anyOf": [reference("network"), table.schema()]}))
            }
            Shape::Time => json!({
                "type": "string",
                "format": "date-time",
                "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$",
            }),
            Shape::Peers(table) => one_or_many(&peer(table)),
            Shape::Networks => one_or_many(&reference("network")),
            Shape::Patterns(pattern) => {
                one_or_many(&json!({"type": ["string", "integer"], "pattern": pattern}))
            }
            Shape::AddressWords => one_or_many(&reference("addressWord")),
            Shape::Ports => one_or_many(&reference("port")),
            Shape::Mapping(table) => table.schema(),
            Shape::Mappings(table) => json!({"type": "array", "items": table.schema()}),
            Shape::MappingByWord(words, table) => json!({
                "type": "object",
                "propertyNames": {"enum": words},
                "additionalProperties": table.schema(),
            }),
            Shape::MappingByName(table) => {
                json!({"type": "object", "additionalProperties": table.schema()})
            }
            Shape::PeersByName(table) => json!({
                "type": "object",
                "propertyNames": reference("name"),
                "additionalProperties": one_or_many(&peer(table)),
            }),
            Shape::NoneOrMapping(table) => json!({"anyOf": [{"const": "none"}, table.schema()]}),
        }
    }
}
