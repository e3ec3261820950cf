//! Mistakes in documents, each with its place and what to do about it.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use strsim::osa_distance;

/// Mistakes of one severity that are reported for one source; the rest is counted.
pub const MAX_DIAGNOSTICS: usize = 500;

/// The longest text of a source that a message repeats, in characters.
const MAX_QUOTED: usize = 60;

/// Mistakes of one source for which a nearest name is searched, and among how many: each
/// comparison costs the product of two lengths.
const MAX_SUGGESTIONS: usize = 100;
const MAX_CANDIDATES: usize = 2000;

/// Whether a mistake stops an apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is stored.
    Error,
    /// It is reported, and the documents are accepted.
    Warning,
}

/// One mistake, with its place in a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// Whether it stops an apply.
    pub severity: Severity,
    /// The path of the source.
    pub path: String,
    /// Where the underlined text starts, in bytes.
    pub offset: usize,
    /// How much is underlined, in bytes; 0 where something is missing.
    pub length: usize,
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// A few words beside the underline; may be empty.
    pub label: String,
    /// What to do; may be empty.
    pub help: String,
}

impl Diagnostic {
    /// The mistake as a compiler shows it, without colour. `text` is the source's text; without
    /// it the line itself is left out.
    pub fn render(&self, text: Option<&str>) -> String {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let number = self.line.to_string();
        let gutter = " ".repeat(number.len());
        let mut out = format!(
            "{severity}: {}\n{gutter}--> {}:{}:{}\n",
            self.message, self.path, self.line, self.column
        );
        if let Some((line, before, marked)) = text.and_then(|text| self.excerpt(text)) {
            let padding: String = before
                .chars()
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            let marks = "^".repeat(marked.chars().count().max(1));
            let _ = writeln!(out, "{gutter} |\n{number} | {line}");
            let _ = writeln!(
                out,
                "{}",
                format!("{gutter} | {padding}{marks} {}", self.label).trim_end()
            );
        }
        if !self.help.is_empty() {
            let _ = writeln!(out, "{gutter} = help: {}", self.help);
        }
        out
    }

    /// The line of the mistake, the text before the underlined part, and that part as far as it
    /// is in the line. A very long line is cut to the neighbourhood of the mistake.
    fn excerpt<'t>(&self, text: &'t str) -> Option<(String, &'t str, &'t str)> {
        const REACH: usize = 120;
        let head = text.get(..self.offset)?;
        let tail = text.get(self.offset..)?;
        let start = head.rfind('\n').map_or(0, |at| at + 1);
        let before = head.get(start..)?;
        let before = last_chars(before, REACH);
        let rest = tail.lines().next().unwrap_or_default();
        let rest = first_chars(rest, REACH);
        let mut end = self.length.min(rest.len());
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        Some((format!("{before}{rest}"), before, rest.get(..end)?))
    }
}

fn first_chars(text: &str, count: usize) -> &str {
    text.char_indices()
        .nth(count)
        .map_or(text, |(at, _)| text.get(..at).unwrap_or(text))
}

fn last_chars(text: &str, count: usize) -> &str {
    text.char_indices()
        .rev()
        .nth(count.saturating_sub(1))
        .map_or(text, |(at, _)| text.get(at..).unwrap_or(text))
}

/// A text of a source between backticks, cut to what is worth showing.
pub(super) fn quoted(text: &str) -> String {
    let shown = first_chars(text, MAX_QUOTED);
    let ellipsis = if shown.len() < text.len() { "…" } else { "" };
    format!("`{}{ellipsis}`", shown.escape_debug())
}

/// A part of a source, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Span {
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Span {
    pub(super) fn new(start: usize, end: usize) -> Self {
        // Sources are at most `MAX_SOURCE_BYTES` long.
        let start = u32::try_from(start).unwrap_or(u32::MAX);
        let end = u32::try_from(end).unwrap_or(u32::MAX).max(start);
        Self { start, end }
    }

    /// `length` bytes that start `offset` bytes into this part.
    pub(super) fn part(self, offset: usize, length: usize) -> Self {
        let start = (self.start as usize + offset).min(self.end as usize);
        Self::new(start, (start + length).min(self.end as usize))
    }

    pub(super) fn len(self) -> usize {
        self.end.saturating_sub(self.start) as usize
    }
}

/// A mistake before its line and column are known.
#[derive(Debug)]
struct Found {
    severity: Severity,
    span: Span,
    message: String,
    label: String,
    help: String,
}

/// The mistakes of one source, at most [`MAX_DIAGNOSTICS`] of each severity.
#[derive(Debug, Default)]
pub(super) struct Sink {
    found: Vec<Found>,
    errors: usize,
    warnings: usize,
    suggestions: usize,
}

impl Sink {
    pub(super) fn error(
        &mut self,
        span: Span,
        message: impl Into<String>,
        label: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.errors += 1;
        if self.errors <= MAX_DIAGNOSTICS {
            self.push(Severity::Error, span, message, label, help);
        }
    }

    pub(super) fn warning(
        &mut self,
        span: Span,
        message: impl Into<String>,
        label: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.warnings += 1;
        if self.warnings <= MAX_DIAGNOSTICS {
            self.push(Severity::Warning, span, message, label, help);
        }
    }

    fn push(
        &mut self,
        severity: Severity,
        span: Span,
        message: impl Into<String>,
        label: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.found.push(Found {
            severity,
            span,
            message: message.into(),
            label: label.into(),
            help: help.into(),
        });
    }

    /// The one of `candidates` that was probably meant with `text`.
    pub(super) fn nearest<'c>(
        &mut self,
        text: &str,
        candidates: impl IntoIterator<Item = &'c str>,
    ) -> Option<&'c str> {
        self.suggestions += 1;
        if self.suggestions > MAX_SUGGESTIONS {
            return None;
        }
        nearest(text, candidates)
    }

    pub(super) fn errors(&self) -> usize {
        self.errors
    }

    /// The first error's message.
    pub(super) fn first_error(&self) -> Option<&str> {
        self.found
            .iter()
            .find(|found| found.severity == Severity::Error)
            .map(|found| found.message.as_str())
    }

    /// The mistakes in the order of the text, with lines and columns. One pass over `text`.
    pub(super) fn finish(mut self, path: &str, text: &str, into: &mut Vec<Diagnostic>) {
        self.found.sort_by_key(|found| found.span.start);
        let mut place = Place::default();
        for found in self.found {
            place.advance(text, found.span.start as usize);
            into.push(Diagnostic {
                severity: found.severity,
                path: path.to_owned(),
                offset: found.span.start as usize,
                length: found.span.len(),
                line: place.line + 1,
                column: place.column + 1,
                message: found.message,
                label: found.label,
                help: found.help,
            });
        }
        for (severity, count, word) in [
            (Severity::Error, self.errors, "mistakes"),
            (Severity::Warning, self.warnings, "warnings"),
        ] {
            if count > MAX_DIAGNOSTICS {
                into.push(Diagnostic {
                    severity,
                    path: path.to_owned(),
                    offset: 0,
                    length: 0,
                    line: 1,
                    column: 1,
                    message: format!(
                        "{} more {word} in this file are not shown",
                        count - MAX_DIAGNOSTICS
                    ),
                    label: String::new(),
                    help: "mend those that are shown, and run it again".to_owned(),
                });
            }
        }
    }
}

/// A place that moves forward through a text.
#[derive(Debug, Default)]
struct Place {
    offset: usize,
    line: u32,
    column: u32,
}

impl Place {
    fn advance(&mut self, text: &str, to: usize) {
        let to = to.min(text.len());
        for character in text.get(self.offset..to).unwrap_or_default().chars() {
            if character == '\n' {
                self.line += 1;
                self.column = 0;
            } else {
                self.column += 1;
            }
        }
        self.offset = to.max(self.offset);
    }
}

/// The nearest of `candidates` to `text`, if it is near enough to be what was meant.
fn nearest<'c>(text: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    if text.len() > voipfleet_ruleset::identifiers::MAX_NAME_LENGTH {
        return None;
    }
    let lower = text.to_lowercase();
    candidates
        .into_iter()
        .take(MAX_CANDIDATES)
        // Two letters in the wrong order are one mistake.
        .map(|candidate| (osa_distance(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| {
            *distance <= 1.max(candidate.chars().count().min(text.chars().count()) / 3)
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_mistake_is_near_and_another_word_is_not() {
        let fields = ["tenants", "providers", "admins", "services"];
        assert_eq!(nearest("tenant", fields), Some("tenants"));
        assert_eq!(nearest("amdins", fields), Some("admins"));
        assert_eq!(nearest("Services", fields), Some("services"));
        assert_eq!(nearest("colour", fields), None);
        assert_eq!(nearest(&"x".repeat(1_000_000), fields), None);
    }

    #[test]
    fn columns_count_characters_and_lines_count_from_one() {
        let text = "é: x\nab: y\n";
        let mut sink = Sink::default();
        sink.error(Span::new(10, 11), "second", "", "");
        sink.error(Span::new(4, 5), "first", "here", "do this");
        let mut out = Vec::new();
        sink.finish("a.yaml", text, &mut out);
        assert_eq!((out[0].line, out[0].column), (1, 4));
        assert_eq!((out[1].line, out[1].column), (2, 5));
        assert_eq!(
            out[0].render(Some(text)),
            "error: first\n --> a.yaml:1:4\n  |\n1 | é: x\n  |    ^ here\n  = help: do this\n"
        );
    }

    #[test]
    fn what_is_beyond_the_bound_is_counted() {
        let mut sink = Sink::default();
        for _ in 0..MAX_DIAGNOSTICS + 7 {
            sink.error(Span::default(), "x", "", "");
        }
        let mut out = Vec::new();
        sink.finish("a.yaml", "", &mut out);
        assert_eq!(out.len(), MAX_DIAGNOSTICS + 1);
        assert!(out.last().unwrap().message.starts_with("7 more mistakes"));
    }
}
