//! Canonical YAML: one way to write a document, which parses back to the same document.

use std::fmt::Write as _;

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

/// What fits a line is written on one.
const WIDTH: usize = 96;

/// A document without types, its fields in canonical order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tree {
    Text(String),
    Number(u32),
    Flag(bool),
    List(Vec<Tree>),
    Map(Vec<(String, Tree)>),
}

impl Tree {
    /// The document as YAML. `self` is a mapping.
    pub(super) fn to_yaml(&self) -> String {
        let mut out = String::new();
        if let Tree::Map(entries) = self {
            block_map(entries, 0, &mut out);
        }
        out
    }

    /// The value on one line, however long.
    pub(super) fn to_line(&self) -> String {
        flow(self, usize::MAX).unwrap_or_default()
    }
}

/// Writes `key: value` lines, each indented by `indent`.
fn block_map(entries: &[(String, Tree)], indent: usize, out: &mut String) {
    for (key, value) in entries {
        out.extend(std::iter::repeat_n(' ', indent));
        out.push_str(&scalar(key));
        out.push(':');
        block_value(value, indent, out);
    }
}

/// Writes what follows `key:` on the same line, or below it.
fn block_value(value: &Tree, indent: usize, out: &mut String) {
    let used = out.len() - out.rfind('\n').map_or(0, |at| at + 1);
    if let Some(line) = flow(value, WIDTH.saturating_sub(used + 1)) {
        out.push(' ');
        out.push_str(&line);
        out.push('\n');
        return;
    }
    out.push('\n');
    match value {
        Tree::Map(entries) => block_map(entries, indent + 2, out),
        Tree::List(items) => {
            for item in items {
                out.extend(std::iter::repeat_n(' ', indent + 2));
                out.push_str("- ");
                block_item(item, indent + 4, out);
            }
        }
        Tree::Text(_) | Tree::Number(_) | Tree::Flag(_) => {}
    }
}

/// Writes what follows `- `.
fn block_item(item: &Tree, indent: usize, out: &mut String) {
    if let Some(line) = flow(item, WIDTH.saturating_sub(indent)) {
        out.push_str(&line);
        out.push('\n');
        return;
    }
    if let Tree::Map(entries) = item {
        let mut block = String::new();
        block_map(entries, indent, &mut block);
        // The first line follows the dash.
        out.push_str(block.trim_start_matches(' '));
    }
}

/// The value on one line of at most `width` characters. A single value has no other form.
fn flow(value: &Tree, width: usize) -> Option<String> {
    let mut line = String::new();
    let fits = write_flow(value, width, &mut line);
    let single = !matches!(value, Tree::List(_) | Tree::Map(_));
    (fits || single).then_some(line)
}

fn write_flow(value: &Tree, width: usize, out: &mut String) -> bool {
    match value {
        Tree::Text(text) => out.push_str(&scalar(text)),
        Tree::Number(number) => out.push_str(&number.to_string()),
        Tree::Flag(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Tree::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                if !write_flow(item, width, out) {
                    return false;
                }
            }
            out.push(']');
        }
        Tree::Map(entries) => {
            out.push('{');
            for (index, (key, item)) in entries.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                out.push_str(&scalar(key));
                out.push_str(": ");
                if !write_flow(item, width, out) {
                    return false;
                }
            }
            out.push('}');
        }
    }
    // Counting bytes is enough; a text that is long enough is not read to its end.
    out.len() <= width
}

/// A text as YAML reads it back as a text, whichever version of YAML reads it.
fn scalar(text: &str) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                out.push('\\');
                out.push(character);
            }
            ' '..='~' => out.push(character),
            _ if character.is_alphanumeric() => out.push(character),
            _ => {
                let _ = write!(out, "\\U{:08x}", u32::from(character));
            }
        }
    }
    out.push('"');
    out
}

fn is_plain(text: &str) -> bool {
    let reference = ["tenant:", "provider:", "list:"]
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix));
    let body = reference.unwrap_or(text);
    let formed = body.starts_with(|c: char| c.is_ascii_alphanumeric())
        && body
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '%'));
    formed && (reference.is_some() || !is_another_type(text))
}

/// Whether a reader of YAML 1.1 or 1.2 takes the plain text for something else than a text.
fn is_another_type(text: &str) -> bool {
    const WORDS: [&str; 9] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    // `1e3`, `0x1f`, `1_000`, `2026-11-23` and the like. Addresses, rates and ranges of ports
    // have a character that no number or date has, or are split by one.
    let number = text.starts_with(|c: char| c.is_ascii_digit())
        && !text.contains(['/', '%'])
        && text.matches('.').count() < 2
        && text.strip_suffix(['s', 'm', 'h']).is_none()
        && !is_port_range(text);
    number || WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
}

fn is_port_range(text: &str) -> bool {
    text.split_once('-').is_some_and(|(first, last)| {
        [first, last]
            .iter()
            .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
    })
}

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Tree::Text(text) => serializer.serialize_str(text),
            Tree::Number(number) => serializer.serialize_u32(*number),
            Tree::Flag(flag) => serializer.serialize_bool(*flag),
            Tree::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    list.serialize_element(item)?;
                }
                list.end()
            }
            Tree::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_reader_would_take_for_something_else_is_quoted() {
        for plain in [
            "site-a",
            "203.0.113.0/24",
            "20/s",
            "25%",
            "30s",
            "10000-20000",
            "list:x",
        ] {
            assert_eq!(scalar(plain), plain);
        }
        for text in [
            "",
            "no",
            "123",
            "1e3",
            "2001:db8::",
            "phones register",
            "-a",
            "0x10",
            "a: b",
        ] {
            assert_eq!(scalar(text), format!("\"{text}\""));
        }
        assert_eq!(scalar("a\"\n\u{feff}é"), "\"a\\\"\\U0000000a\\U0000feffé\"");
    }
}
