//! Diagnostics of documents, shown as a compiler does.

use std::collections::BTreeSet;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use voipfleet_policy::{Diagnostic, Severity, Source};
use voipfleet_proto::v1;

use crate::console::{Console, Pane};
use crate::format::{count, printable, thousands};

/// How many diagnostics are shown in full; the rest is counted.
pub const MAX_SHOWN: usize = 50;

/// Characters of a line that are shown on either side of the marked text.
const REACH: usize = 80;

/// The most characters that are cut before the marked text; beyond that only the place is named.
const MAX_CUT: usize = 1 << 20;

/// Reads a diagnostic from the wire.
pub fn of_wire(diagnostic: v1::Diagnostic) -> Diagnostic {
    Diagnostic {
        severity: match diagnostic.severity() {
            v1::Severity::Warning => Severity::Warning,
            v1::Severity::Error | v1::Severity::Unspecified => Severity::Error,
        },
        path: diagnostic.path,
        offset: usize::try_from(diagnostic.offset).unwrap_or(usize::MAX),
        length: usize::try_from(diagnostic.length).unwrap_or(usize::MAX),
        line: diagnostic.line,
        column: diagnostic.column,
        message: diagnostic.message,
        label: diagnostic.label,
        help: diagnostic.help,
    }
}

/// Whether any of them stops an apply.
pub fn any_error(diagnostics: &[Diagnostic]) -> bool {
    diagnostics
        .iter()
        .any(|diagnostic| diagnostic.severity == Severity::Error)
}

/// Shows them on stderr, at most [`MAX_SHOWN`], errors before warnings where not all fit.
pub fn show(console: &mut Console, diagnostics: &[Diagnostic], sources: &[Source]) {
    let lists = voipfleet_policy::list_sources(sources);
    let mut chosen: Vec<&Diagnostic> = diagnostics.iter().collect();
    if chosen.len() > MAX_SHOWN {
        chosen.sort_by_key(|diagnostic| diagnostic.severity);
    }
    for diagnostic in chosen.iter().take(MAX_SHOWN) {
        if diagnostic.path.is_empty() && diagnostic.severity == Severity::Warning {
            // It concerns the whole policy, not a place in a file.
            console.warning(&diagnostic.message);
            continue;
        }
        let source = sources.iter().find(|source| source.path == diagnostic.path);
        // Of a list's file only the place: whoever has documents checked may not read it.
        let source = source.filter(|source| !lists.contains(source.path.as_str()));
        let text = render(
            diagnostic,
            source.map(|source| source.text.as_str()),
            console.err(),
        );
        console.rendered(&format!("{text}\n"));
    }
    if let Some(rest) = chosen.get(MAX_SHOWN..).filter(|rest| !rest.is_empty()) {
        console.note(&format!("and {} more\n", thousands(rest.len() as u64)));
    }
}

/// `3 errors, 1 warning in 2 files`; empty for none.
pub fn tally(diagnostics: &[Diagnostic]) -> String {
    let of = |severity| {
        diagnostics
            .iter()
            .filter(|found| found.severity == severity)
            .count()
    };
    let parts: Vec<String> = [
        (of(Severity::Error), "error"),
        (of(Severity::Warning), "warning"),
    ]
    .into_iter()
    .filter(|(number, _)| *number > 0)
    .map(|(number, noun)| count(number, noun))
    .collect();
    let files: BTreeSet<&str> = diagnostics
        .iter()
        .map(|found| found.path.as_str())
        .filter(|path| !path.is_empty())
        .collect();
    match (parts.is_empty(), files.len()) {
        (true, _) => String::new(),
        (false, 0) => parts.join(", "),
        (false, files) => format!("{} in {}", parts.join(", "), count(files, "file")),
    }
}

/// One diagnostic; `text` is that of its file.
fn render(diagnostic: &Diagnostic, text: Option<&str>, pane: &Pane) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut group = Group::with_title(level.primary_title(printable(&diagnostic.message)));
    if let Some(excerpt) = text.and_then(|text| Excerpt::of(text, diagnostic)) {
        let mut annotation = AnnotationKind::Primary.span(excerpt.marked);
        if !diagnostic.label.is_empty() {
            annotation = annotation.label(printable(&diagnostic.label));
        }
        let snippet = Snippet::source(excerpt.line)
            .path(diagnostic.path.as_str())
            .line_start(to_usize(diagnostic.line))
            .annotation(annotation);
        group = group.element(snippet);
    } else if !diagnostic.path.is_empty() {
        let (line, column) = (to_usize(diagnostic.line), to_usize(diagnostic.column));
        let mut origin = Origin::path(diagnostic.path.as_str());
        if line > 0 {
            origin = origin.line(line).char_column(column);
        }
        group = group.element(origin);
    }
    if !diagnostic.help.is_empty() {
        group = group.element(Level::HELP.message(printable(&diagnostic.help)));
    }
    let renderer = if pane.colour() {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    renderer
        .term_width(pane.width().unwrap_or(2 * REACH).max(40))
        .render(&[group])
}

fn to_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The marked line, cut to the surroundings of what is underlined.
struct Excerpt {
    line: String,
    marked: Range<usize>,
}

impl Excerpt {
    /// `None` if the place is not in the text: the file has changed.
    fn of(text: &str, diagnostic: &Diagnostic) -> Option<Self> {
        let head = text.get(..diagnostic.offset)?;
        let tail = text.get(diagnostic.offset..)?;
        let before = head.rsplit('\n').next().unwrap_or_default();
        let after = tail
            .split('\n')
            .next()
            .unwrap_or_default()
            .trim_end_matches('\r');
        let mut length = diagnostic.length.min(after.len());
        while !after.is_char_boundary(length) {
            length -= 1;
        }
        let (marked, after) = after.split_at(length);
        let (shown, cut) = last(before, REACH);
        // Blanks for what is cut keep the column right; they are not shown.
        let missing = if cut {
            before.chars().count() - REACH
        } else {
            0
        };
        if missing > MAX_CUT {
            return None;
        }
        let mut line = " ".repeat(missing);
        line.push_str(shown);
        let start = line.len();
        let (marked, long) = first(marked, REACH);
        line.push_str(marked);
        let end = line.len();
        let (after, cut) = if long {
            ("", true)
        } else {
            first(after, REACH)
        };
        line.push_str(after);
        line.push_str(if cut { "…" } else { "" });
        Some(Self {
            line,
            marked: start..end,
        })
    }
}

/// The first `most` characters, and whether there are more.
fn first(text: &str, most: usize) -> (&str, bool) {
    match text.char_indices().nth(most) {
        Some((at, _)) => (text.get(..at).unwrap_or(text), true),
        None => (text, false),
    }
}

/// The last `most` characters, and whether there are more.
fn last(text: &str, most: usize) -> (&str, bool) {
    match text.char_indices().rev().nth(most) {
        Some((at, c)) => (text.get(at + c.len_utf8()..).unwrap_or(text), true),
        None => (text, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diagnostic(text: &str, marked: &str) -> Diagnostic {
        let offset = text.find(marked).unwrap();
        let head = &text[..offset];
        Diagnostic {
            severity: Severity::Error,
            path: "site.yaml".to_owned(),
            offset,
            length: marked.len(),
            line: u32::try_from(head.matches('\n').count() + 1).unwrap(),
            column: u32::try_from(head.rsplit('\n').next().unwrap().chars().count() + 1).unwrap(),
            message: format!("`{marked}` is unknown"),
            label: "here".to_owned(),
            help: "write something else".to_owned(),
        }
    }

    fn shown(text: &str, marked: &str) -> String {
        render(
            &diagnostic(text, marked),
            Some(text),
            &Pane::plain(std::io::sink()),
        )
    }

    #[test]
    fn marked_text_is_underlined() {
        insta::assert_snapshot!(shown("kind: Site\ntennants: [acme]\n", "tennants"), @r"
        error: `tennants` is unknown
         --> site.yaml:2:1
          |
        2 | tennants: [acme]
          | ^^^^^^^^ here
          |
          = help: write something else
        ");
    }

    #[test]
    fn tabs_and_wide_characters_keep_the_underline_in_place() {
        insta::assert_snapshot!(shown("name:\t\"電話\" # é\twrong\n", "wrong"), @r#"
        error: `wrong` is unknown
         --> site.yaml:1:16
          |
        1 | name:    "電話" # é    wrong
          |                        ^^^^^ here
          |
          = help: write something else
        "#);
    }

    #[test]
    fn a_very_long_line_is_cut_and_its_column_kept() {
        let text = format!(
            "a: [{}wrong{}]\n",
            "10.0.0.1, ".repeat(5000),
            ", 10.0.0.2".repeat(5000)
        );
        let shown = shown(&text, "wrong");
        assert!(shown.len() < 1000, "{} bytes", shown.len());
        insta::assert_snapshot!(shown, @r"
        error: `wrong` is unknown
         --> site.yaml:1:50005
          |
        1 | ...   10.0.0.1, 10.0.0.1, 10.0.0.1, 10.0.0.1, 10.0.0.1, 10.0.0.1, 10.0.0.1, 10.0.0.1, wrong, 10.0.0.2, 10.0.0.2, 10.0.0.2, 10.0.0.2, 10.0.0.2, 10.0.0.2, ...
          |                                                                                       ^^^^^ here
          |
          = help: write something else
        ");
    }

    #[test]
    fn a_place_outside_the_text_is_named_without_excerpt() {
        let mut outside = diagnostic("kind: Site\n", "Site");
        outside.offset = 4000;
        let text = render(&outside, Some("é"), &Pane::plain(std::io::sink()));
        insta::assert_snapshot!(text, @r"
        error: `Site` is unknown
        --> site.yaml:1:7
         = help: write something else
        ");
    }

    #[test]
    fn escape_sequences_in_documents_are_not_printed() {
        let shown = shown("name: \"\u{1b}]0;owned\u{7}x\"\n", "x\"");
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
    }
}
