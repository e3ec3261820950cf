//! From a tree of nodes to typed documents. Decoding goes on after a mistake, to report them all.

mod cluster;
mod exposure;
mod feed;
mod networks;
mod push;
mod service;
mod site;
mod values;
mod words;

pub(super) use values::written_duration;

use std::collections::BTreeSet;

use super::diagnostic::{Sink, Span, quoted};
use super::document::Document;
use super::schema::{Shape, Table};
use super::yaml::{Entry, Node, Value};
use crate::Kind;

/// The names that a document may refer to.
#[derive(Debug, Default)]
pub(super) struct Scope {
    pub(super) tenants: BTreeSet<String>,
    pub(super) providers: BTreeSet<String>,
    pub(super) lists: BTreeSet<String>,
    /// Lists that hold a prefix as wide as the world, or that are as wide together.
    pub(super) wide_lists: BTreeSet<String>,
    /// A source could not be read to its end: a name that is not here may be there.
    pub(super) incomplete: bool,
}

/// A decoded document.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) document: Document,
    /// A list's `file:`.
    pub(super) file: Option<(String, Span)>,
}

/// Decodes one document after the other into one sink.
pub(super) struct Decoder<'d> {
    pub(super) sink: &'d mut Sink,
    /// Without it, references and exposure are not checked: a stored document was checked when
    /// it came in.
    pub(super) scope: Option<&'d Scope>,
}

/// The kind and name of a document, even if the rest of it is wrong.
#[derive(Debug)]
pub(super) struct Identity<'n> {
    pub(super) kind: Option<Kind>,
    pub(super) name: Option<(&'n str, Span)>,
}

/// The kind and the name that a document gives itself.
pub(super) fn identity<'n>(root: &'n Node<'_>) -> Identity<'n> {
    let scalar = |key: &str| -> Option<(&'n str, Span)> {
        let Value::Mapping(entries) = &root.value else {
            return None;
        };
        let entry = entries.iter().find(|entry| entry.key == key)?;
        match &entry.value.value {
            Value::Scalar { text, .. } => Some((text.as_ref(), entry.value.span)),
            _ => None,
        }
    };
    Identity {
        kind: scalar("kind")
            .and_then(|(kind, _)| Kind::ALL.into_iter().find(|k| k.as_str() == kind)),
        name: scalar("name").filter(|(name, _)| voipfleet_ruleset::identifiers::is_name(name)),
    }
}

/// The fields of a mapping, by the names of its table.
pub(super) struct Fields<'n, 's> {
    table: &'static Table,
    entries: Vec<(&'static str, &'n Entry<'s>)>,
}

impl<'n, 's> Fields<'n, 's> {
    /// The value of a field, if it is given.
    pub(super) fn get(&self, name: &str) -> Option<&'n Node<'s>> {
        self.entry(name).map(|entry| &entry.value)
    }

    fn entry(&self, name: &str) -> Option<&'n Entry<'s>> {
        debug_assert!(
            self.table.field(name).is_some(),
            "{name} is not in the table"
        );
        self.entries
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, entry)| *entry)
    }
}

impl Decoder<'_> {
    /// Decodes a document. None: not even its kind and name are right.
    pub(super) fn document(&mut self, root: &Node<'_>) -> Option<Decoded> {
        let Value::Mapping(entries) = &root.value else {
            self.sink.error(
                first_line(root),
                format!("a document must be a mapping, and this is {}", root.what()),
                "",
                "start it with `kind: Site`, `kind: Tenant`, `kind: Provider` or `kind: List`",
            );
            return None;
        };
        let kind = self.kind(root, entries)?;
        let fields = self.fields(root, Table::of(kind))?;
        match kind {
            Kind::Site => self.site(&fields).map(|site| Decoded {
                document: Document::Site(Box::new(site)),
                file: None,
            }),
            Kind::Tenant => self.tenant(&fields).map(|tenant| Decoded {
                document: Document::Tenant(tenant),
                file: None,
            }),
            Kind::Provider => self.provider(&fields).map(|provider| Decoded {
                document: Document::Provider(provider),
                file: None,
            }),
            Kind::List => self.list(&fields),
        }
    }

    fn kind(&mut self, root: &Node<'_>, entries: &[Entry<'_>]) -> Option<Kind> {
        const HELP: &str = "a document is a Site, a Tenant, a Provider or a List";
        let Some(entry) = entries.iter().find(|entry| entry.key == "kind") else {
            self.sink.error(
                head(root),
                "this document has no `kind`",
                "",
                format!("{HELP}: put `kind: …` first"),
            );
            return None;
        };
        let text = self.scalar(&entry.value, "kind")?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == text);
        if kind.is_none() {
            let help = match self.sink.nearest(text, Kind::ALL.map(Kind::as_str)) {
                Some(meant) => format!("did you mean `{meant}`? ({HELP})"),
                None => HELP.to_owned(),
            };
            self.sink.error(
                entry.value.span,
                format!("{} is not a kind of document", quoted(text)),
                "",
                help,
            );
        }
        kind
    }

    /// The fields of a mapping. Reports unknown, missing and empty ones.
    fn fields<'n, 's>(
        &mut self,
        node: &'n Node<'s>,
        table: &'static Table,
    ) -> Option<Fields<'n, 's>> {
        let entries = self.mapping(node, table.what)?;
        let mut known: Vec<(&'static str, &'n Entry<'s>)> = Vec::with_capacity(table.fields.len());
        let mut meant: Vec<&'static str> = Vec::new();
        for entry in entries {
            if entry.key.is_empty() {
                continue;
            }
            match table.field(&entry.key) {
                Some(field) => known.push((field.name, entry)),
                None => meant.extend(self.unknown_field(entry, table)),
            }
        }
        for field in table.fields.iter().filter(|field| field.required) {
            // A misspelt field is reported once.
            let there = known.iter().any(|(name, _)| *name == field.name);
            if !there && !meant.contains(&field.name) {
                self.sink.error(
                    head(node),
                    format!("{} needs the field `{}`", table.what, field.name),
                    format!("`{}` is missing", field.name),
                    format!("add `{}`: {}", field.name, field.about),
                );
            }
        }
        known.retain(|(name, entry)| {
            // A required list has a message of its own if it is empty.
            let told_elsewhere = table.field(name).is_some_and(|field| {
                field.required && matches!(field.shape, Shape::AddressWords | Shape::Ports)
            });
            if entry.value.is_null() && !told_elsewhere {
                self.sink.error(
                    entry.key_span,
                    format!("`{name}` has no value"),
                    "it has no value",
                    "write a value, `[]` for an empty list, or remove the line",
                );
                return false;
            }
            true
        });
        Some(Fields {
            table,
            entries: known,
        })
    }

    /// Reports a field that does not exist, and gives back the one that was probably meant.
    fn unknown_field(&mut self, entry: &Entry<'_>, table: &'static Table) -> Option<&'static str> {
        let names = table.fields.iter().map(|field| field.name);
        let all = names.clone().collect::<Vec<_>>().join(", ");
        let meant = self.sink.nearest(&entry.key, names);
        let help = match meant {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("the fields are: {all}"),
        };
        self.sink.error(
            entry.key_span,
            format!("{} has no field {}", table.what, quoted(&entry.key)),
            "unknown field",
            help,
        );
        meant
    }

    /// The entries of a mapping.
    fn mapping<'n, 's>(&mut self, node: &'n Node<'s>, what: &str) -> Option<&'n [Entry<'s>]> {
        match &node.value {
            Value::Mapping(entries) => Some(entries),
            Value::Refused => None,
            _ => {
                self.wrong_type(node, what, "a mapping", "write `{field: value}`");
                None
            }
        }
    }

    /// The items of a list of mappings.
    fn sequence<'n, 's>(&mut self, node: &'n Node<'s>, what: &str) -> &'n [Node<'s>] {
        match &node.value {
            Value::Sequence(items) => items,
            Value::Refused => &[],
            _ => {
                self.wrong_type(node, what, "a list", "start each item with `- `");
                &[]
            }
        }
    }

    /// The items of a list; a single value is a list of one.
    fn one_or_many<'n, 's>(&mut self, node: &'n Node<'s>, what: &str) -> &'n [Node<'s>] {
        match &node.value {
            _ if node.is_null() => &[],
            Value::Sequence(items) => items,
            Value::Scalar { .. } => std::slice::from_ref(node),
            Value::Refused => &[],
            Value::Mapping(_) => {
                self.wrong_type(node, what, "a list", "write `[a, b]`");
                &[]
            }
        }
    }

    /// The text of a single value.
    fn scalar<'n>(&mut self, node: &'n Node<'_>, what: &str) -> Option<&'n str> {
        match &node.value {
            Value::Scalar { text, .. } => Some(text),
            Value::Refused => None,
            Value::Sequence(_) | Value::Mapping(_) => {
                let help = if looks_like_ipv6(node) {
                    "put an IPv6 address that ends with `:` into quotes"
                } else if matches!(node.value, Value::Mapping(_)) {
                    "write one value, without braces"
                } else {
                    "write one value, without brackets"
                };
                self.wrong_type(node, what, "a single value", help);
                None
            }
        }
    }

    fn wrong_type(&mut self, node: &Node<'_>, what: &str, wanted: &str, help: &str) {
        self.sink.error(
            first_line(node),
            format!(
                "{} must be {wanted}, and this is {}",
                subject(what),
                node.what()
            ),
            format!("expected {wanted}"),
            help,
        );
    }
}

/// Where something is missing in a mapping: its first key, or the whole of an empty one.
fn head(node: &Node<'_>) -> Span {
    match &node.value {
        Value::Mapping(entries) => entries.first().map_or(node.span, |entry| entry.key_span),
        _ => node.span,
    }
}

/// What is underlined of a value of the wrong type: a whole mapping would be too much.
fn first_line(node: &Node<'_>) -> Span {
    match &node.value {
        Value::Scalar { .. } | Value::Refused => node.span,
        Value::Mapping(_) => head(node),
        Value::Sequence(items) => items.first().map_or(node.span, |item| {
            if matches!(item.value, Value::Scalar { .. }) {
                Span {
                    start: node.span.start,
                    end: item.span.end,
                }
            } else {
                node.span.part(0, 1)
            }
        }),
    }
}

/// A field's name in a message, or words that need no quotes.
fn subject(what: &str) -> String {
    if what.starts_with("a ") {
        what.to_owned()
    } else {
        format!("`{what}`")
    }
}

/// `[2001:db8::]` is a list of a mapping to YAML.
fn looks_like_ipv6(node: &Node<'_>) -> bool {
    match &node.value {
        Value::Mapping(entries) => entries
            .iter()
            .all(|entry| entry.key.contains(':') && entry.value.is_null()),
        _ => false,
    }
}
