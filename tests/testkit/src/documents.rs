//! Policy documents for tests, in place of edits of YAML text.
//!
//! A document prints one line a field, its value in YAML's flow form. Where a test wants a wrong
//! document, [`Document::set`] takes any field and any value.

use std::fmt;
use std::ops::Add;

use serde_json::{Map, Value};

/// A document: its fields in the order in which they were set.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    kind: String,
    name: String,
    fields: Vec<(String, Value)>,
}

impl Document {
    pub fn new(kind: &str, name: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            name: name.to_owned(),
            fields: Vec::new(),
        }
    }

    /// Reads a file's documents; files of the product's samples among them.
    pub fn read_all(yaml: &str) -> Vec<Self> {
        let documents: Vec<Map<String, Value>> = serde_saphyr::from_multiple(yaml).unwrap();
        let read = |mut fields: Map<String, Value>| {
            let mut text = |key| match fields.remove(key) {
                Some(Value::String(text)) => text,
                other => panic!("{key}: {other:?}"),
            };
            Self {
                kind: text("kind"),
                name: text("name"),
                fields: fields.into_iter().collect(),
            }
        };
        documents.into_iter().map(read).collect()
    }

    /// Sets a field; `/` leads into mappings: `cluster/trust`.
    #[must_use]
    pub fn set(mut self, path: &str, value: impl Into<Value>) -> Self {
        let (field, inner) = path.split_once('/').unwrap_or((path, ""));
        let at = self.fields.iter().position(|(key, _)| key == field);
        let at = at.unwrap_or_else(|| {
            self.fields.push((field.to_owned(), Value::Null));
            self.fields.len() - 1
        });
        let mut place = &mut self.fields[at].1;
        for key in inner.split('/').filter(|key| !key.is_empty()) {
            place = &mut place[key];
        }
        *place = value.into();
        self
    }

    /// Removes a field of the document itself.
    #[must_use]
    pub fn without(mut self, key: &str) -> Self {
        self.get(key).expect("the field");
        self.fields.retain(|(other, _)| other != key);
        self
    }

    pub fn kind(&self) -> &str {
        &self.kind
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        let field = self.fields.iter().find(|(other, _)| other == key);
        field.map(|(_, value)| value)
    }
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "kind: {}\nname: {}", self.kind, self.name)?;
        for (key, value) in &self.fields {
            writeln!(f, "{key}: {value}")?;
        }
        Ok(())
    }
}

/// The text of several documents.
pub fn yaml<'a>(documents: impl IntoIterator<Item = &'a Document>) -> String {
    let texts: Vec<String> = documents.into_iter().map(Document::to_string).collect();
    texts.join("---\n")
}

macro_rules! builder {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name(Document);

        impl $name {
            pub fn new(name: &str) -> Self {
                Self(Document::new($kind, name))
            }

            /// Sets any field, as [`Document::set`].
            #[must_use]
            pub fn set(self, path: &str, value: impl Into<Value>) -> Self {
                Self(self.0.set(path, value))
            }
        }

        impl From<$name> for Document {
            fn from(builder: $name) -> Self {
                builder.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        /// The text of one document after the other.
        impl<T: fmt::Display> Add<T> for $name {
            type Output = String;

            fn add(self, other: T) -> String {
                format!("{self}---\n{other}")
            }
        }
    };
}

builder!(
    /// A site.
    SiteBuilder,
    "Site"
);
builder!(
    /// A customer.
    TenantBuilder,
    "Tenant"
);
builder!(
    /// A SIP carrier.
    ProviderBuilder,
    "Provider"
);
builder!(
    /// A list of addresses.
    ListBuilder,
    "List"
);

impl SiteBuilder {
    #[must_use]
    pub fn admins(self, networks: &[&str]) -> Self {
        self.set("admins", networks)
    }

    #[must_use]
    pub fn tenants(self, names: &[&str]) -> Self {
        self.set("tenants", names)
    }

    /// How a push goes through the nodes: `json!({"canary": 1})`.
    #[must_use]
    pub fn rollout(self, staging: Value) -> Self {
        self.set("rollout", staging)
    }
}

impl TenantBuilder {
    #[must_use]
    pub fn networks(self, office: &str, networks: &[&str]) -> Self {
        self.set(&format!("networks/{office}"), networks)
    }
}

impl ProviderBuilder {
    #[must_use]
    pub fn signalling(self, networks: &[&str]) -> Self {
        self.set("signalling", networks)
    }
}

impl ListBuilder {
    #[must_use]
    pub fn addresses(self, networks: &[&str]) -> Self {
        self.set("addresses", networks)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_print_one_line_a_field() {
        let site = SiteBuilder::new("site-a")
            .admins(&["198.51.100.10"])
            .rollout(json!({"canary": 1}))
            .tenants(&["acme"]);
        let tenant = TenantBuilder::new("acme").networks("offices", &["203.0.113.0/24"]);
        let text = site.clone() + tenant.clone();
        assert_eq!(
            text,
            "kind: Site\nname: site-a\nadmins: [\"198.51.100.10\"]\nrollout: {\"canary\":1}\n\
             tenants: [\"acme\"]\n---\nkind: Tenant\nname: acme\n\
             networks: {\"offices\":[\"203.0.113.0/24\"]}\n"
        );
        // The fields above are in alphabetical order: the parser may sort them.
        let read = Document::read_all(&text);
        assert_eq!(read, [site.into(), tenant.into()]);
        let changed = read[1]
            .clone()
            .set("networks/offices", json!(["192.0.2.1"]));
        assert_eq!(
            changed.get("networks"),
            Some(&json!({"offices": ["192.0.2.1"]}))
        );
        assert_eq!(yaml(&read), text);
    }
}
