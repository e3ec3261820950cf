//! Documents as the store keeps them: JSON of the same shape as the YAML, read by the same decoder.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

use super::decode::Decoder;
use super::diagnostic::{Sink, Span};
use super::document::Document;
use super::yaml::{Entry, Node, Value};

impl Serialize for Document {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.tree().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Document {
    /// Forms are checked; references and exposure are not: they were when the document came in.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Untyped(root) = Untyped::deserialize(deserializer)?;
        let mut sink = Sink::default();
        let decoded = Decoder {
            sink: &mut sink,
            scope: None,
        }
        .document(&root);
        if let Some(message) = sink.first_error() {
            return Err(D::Error::custom(message));
        }
        match decoded {
            Some(decoded) if decoded.file.is_none() => Ok(decoded.document),
            Some(_) => Err(D::Error::custom(
                "a stored list holds its addresses, not a file",
            )),
            None => Err(D::Error::custom("not a document")),
        }
    }
}

/// A node without a place.
struct Untyped(Node<'static>);

impl Untyped {
    fn scalar(text: impl Into<Cow<'static, str>>, plain: bool) -> Self {
        let text = text.into();
        Self::new(Value::Scalar { text, plain })
    }

    fn new(value: Value<'static>) -> Self {
        let span = Span::default();
        Self(Node { span, value })
    }
}

impl<'de> Deserialize<'de> for Untyped {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UntypedVisitor)
    }
}

struct UntypedVisitor;

impl<'de> Visitor<'de> for UntypedVisitor {
    type Value = Untyped;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a document")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Untyped, E> {
        Ok(Untyped::scalar(if value { "true" } else { "false" }, true))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Untyped, E> {
        Ok(Untyped::scalar(value.to_string(), true))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Untyped, E> {
        Ok(Untyped::scalar(value.to_string(), true))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Untyped, E> {
        Ok(Untyped::scalar(value.to_string(), true))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Untyped, E> {
        Ok(Untyped::scalar(value.to_owned(), false))
    }

    fn visit_unit<E: Error>(self) -> Result<Untyped, E> {
        Ok(Untyped::scalar("", true))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Untyped, A::Error> {
        let mut nodes = Vec::new();
        while let Some(Untyped(node)) = items.next_element()? {
            nodes.push(node);
        }
        Ok(Untyped::new(Value::Sequence(nodes)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Untyped, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, Untyped(value))) = fields.next_entry::<String, Untyped>()? {
            entries.push(Entry {
                key: Cow::Owned(key),
                key_span: Span::default(),
                value,
            });
        }
        Ok(Untyped::new(Value::Mapping(entries)))
    }
}
