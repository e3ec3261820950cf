//! Files as operators write them: read as text within bounds, and found by the paths in `file:`.

use std::collections::BTreeSet;

use super::decode::identity;
use super::diagnostic::{Diagnostic, Severity, Sink, Span};
use super::yaml::{self, Parsed, Value};
use crate::Kind;

/// The largest source, in bytes: about half a million addresses.
pub const MAX_SOURCE_BYTES: usize = 8 * 1024 * 1024;

/// A file as an operator wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its path, as diagnostics show it and as `file:` finds it.
    pub path: String,
    /// Its text.
    pub text: String,
}

impl Source {
    /// The paths of the files that its Lists name with `file:`, as [`check`](super::check) looks
    /// for them among the sources.
    pub fn list_files(&self) -> Vec<String> {
        if self.text.len() > MAX_SOURCE_BYTES {
            return Vec::new();
        }
        let parsed = yaml::parse(&self.text, &mut Sink::default());
        named_files(&self.path, &parsed)
            .map(|(path, _)| path)
            .collect()
    }

    /// Whether it holds nothing but comments and the marks between documents.
    pub fn is_empty(&self) -> bool {
        self.text
            .lines()
            .map(str::trim)
            .all(|line| line.is_empty() || line.starts_with('#') || matches!(line, "---" | "..."))
    }

    /// Whether it is YAML by its name. `-` came through a pipe.
    pub(super) fn is_yaml_by_name(&self) -> bool {
        self.path == "-"
            || self.path.rsplit_once('.').is_some_and(|(_, extension)| {
                ["yaml", "yml", "json"]
                    .iter()
                    .any(|known| extension.eq_ignore_ascii_case(known))
            })
    }
}

/// Takes the bytes of a file as a source: at most [`MAX_SOURCE_BYTES`], and UTF-8.
///
/// A caller that reads the bytes itself should check the file's length first.
#[expect(
    clippy::result_large_err,
    reason = "once for each file of an operator, and the error is shown as it is"
)]
pub fn read(path: &str, bytes: Vec<u8>) -> Result<Source, Diagnostic> {
    if bytes.len() > MAX_SOURCE_BYTES {
        let (message, help) = too_large(bytes.len());
        return Err(at_start(path, message, help));
    }
    let text = String::from_utf8(bytes).map_err(|error| not_utf8(path, &error))?;
    Ok(Source {
        path: path.to_owned(),
        text,
    })
}

/// The refusal of a file of `length` bytes, for callers that check it before they read the file.
pub fn refuse_length(path: &str, length: u64) -> Option<Diagnostic> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    (length > MAX_SOURCE_BYTES).then(|| {
        let (message, help) = too_large(length);
        at_start(path, message, help)
    })
}

pub(super) fn too_large(length: usize) -> (String, String) {
    (
        format!("this file has {length} bytes, and {MAX_SOURCE_BYTES} (8 MiB) is the most"),
        "a policy is some kilobytes; split a very long list into several lists".to_owned(),
    )
}

fn at_start(path: &str, message: String, help: String) -> Diagnostic {
    Diagnostic {
        severity: Severity::Error,
        path: path.to_owned(),
        offset: 0,
        length: 0,
        line: 1,
        column: 1,
        message,
        label: String::new(),
        help,
    }
}

fn not_utf8(path: &str, error: &std::string::FromUtf8Error) -> Diagnostic {
    let bytes = error.as_bytes();
    let at = error.utf8_error().valid_up_to();
    let before = bytes.get(..at).unwrap_or_default();
    let line_start = before
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |newline| newline + 1);
    let lines = before.split(|byte| *byte == b'\n').count();
    // All of `before` is UTF-8: a character is a byte that continues none.
    let columns = before
        .get(line_start..)
        .unwrap_or_default()
        .iter()
        .filter(|byte| **byte & 0xc0 != 0x80)
        .count();
    let byte = bytes.get(at).copied().unwrap_or_default();
    let utf16 = matches!(bytes, [0xff, 0xfe, ..] | [0xfe, 0xff, ..]);
    Diagnostic {
        severity: Severity::Error,
        path: path.to_owned(),
        offset: at,
        length: error.utf8_error().error_len().unwrap_or(1),
        line: u32::try_from(lines).unwrap_or(u32::MAX),
        column: u32::try_from(columns + 1).unwrap_or(u32::MAX),
        message: format!("this file is not UTF-8: byte 0x{byte:02x} at offset {at}"),
        label: String::new(),
        help: if utf16 {
            "it is UTF-16: save it as UTF-8"
        } else {
            "save it as UTF-8"
        }
        .to_owned(),
    }
}

/// The files that the Lists of a parsed source name: resolved path, and where it is written.
pub(super) fn named_files(
    path: &str,
    parsed: &[Parsed<'_>],
) -> impl Iterator<Item = (String, Span)> {
    parsed.iter().filter_map(move |document| {
        let Value::Mapping(entries) = &document.root.value else {
            return None;
        };
        if identity(&document.root).kind != Some(Kind::List) {
            return None;
        }
        // With it, the file is one of the controller's host.
        if entries.iter().any(|entry| entry.key == "refresh") {
            return None;
        }
        let entry = entries.iter().find(|entry| entry.key == "file")?;
        match &entry.value.value {
            Value::Scalar { text, .. } => {
                let file = resolve(path, text);
                is_below(path, &file).then_some((file, entry.value.span))
            }
            _ => None,
        }
    })
}

/// The paths of the sources that are lists: a List among the others names them.
pub fn list_sources(sources: &[Source]) -> BTreeSet<&str> {
    let named: BTreeSet<String> = sources.iter().flat_map(Source::list_files).collect();
    let lists = sources
        .iter()
        .filter(|source| named.contains(&normal(&source.path)));
    lists.map(|source| source.path.as_str()).collect()
}

/// Whether a resolved `file` is in the folder of the document at `path`, or in one of its folders.
/// Others are not read: documents may come from strangers.
pub(super) fn is_below(path: &str, file: &str) -> bool {
    let folder = path.rsplit_once('/').map_or(String::new(), |(folder, _)| {
        // The root folder has no name.
        if folder.is_empty() {
            "/".to_owned()
        } else {
            normal(folder)
        }
    });
    let inside = if folder.is_empty() || folder == "." {
        (!file.starts_with('/')).then_some(file)
    } else if folder == "/" {
        file.strip_prefix('/')
    } else {
        file.strip_prefix(&folder)
            .and_then(|rest| rest.strip_prefix('/'))
    };
    inside.is_some_and(|inside| inside != ".." && !inside.starts_with("../"))
}

/// `file` as it is meant in the document at `path`: relative to the document's folder.
pub(super) fn resolve(path: &str, file: &str) -> String {
    if file.starts_with('/') {
        return normal(file);
    }
    match path.rsplit_once('/') {
        Some((folder, _)) => normal(&format!("{folder}/{file}")),
        None => normal(file),
    }
}

/// A path without `.`, without `..` behind a folder, and without doubled slashes.
pub(super) fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    let root = if path.starts_with('/') { "/" } else { "" };
    format!("{root}{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_from_the_documents_folder() {
        for (path, file, wanted) in [
            ("a.yaml", "x.txt", "x.txt"),
            ("site/a.yaml", "x.txt", "site/x.txt"),
            ("site/a.yaml", "../lists/x.txt", "lists/x.txt"),
            ("./site//a.yaml", "./x.txt", "site/x.txt"),
            ("/etc/vf/a.yaml", "x.txt", "/etc/vf/x.txt"),
            ("site/a.yaml", "/srv/x.txt", "/srv/x.txt"),
            ("../a.yaml", "../x.txt", "../../x.txt"),
        ] {
            assert_eq!(resolve(path, file), wanted, "{path} {file}");
        }
    }

    #[test]
    fn files_of_lists_stay_below_the_documents_folder() {
        for (path, file, wanted) in [
            ("a.yaml", "x.txt", true),
            ("a.yaml", "lists/x.txt", true),
            ("a.yaml", "lists/../x.txt", true),
            ("-", "x.txt", true),
            ("a.yaml", "../x.txt", false),
            ("a.yaml", "/etc/passwd", false),
            ("-", "../x.txt", false),
            ("site/a.yaml", "x.txt", true),
            ("./site/a.yaml", "x.txt", true),
            ("site/a.yaml", "../lists/x.txt", false),
            ("site/a.yaml", "../site-b/x.txt", false),
            ("site/a.yaml", "../sitex.txt", false),
            ("../site/a.yaml", "x.txt", true),
            ("../site/a.yaml", "../x.txt", false),
            ("../a.yaml", "../x.txt", false),
            ("/srv/site/a.yaml", "/srv/site/x.txt", true),
            ("/srv/site/a.yaml", "/srv/x.txt", false),
            ("/srv/site/a.yaml", "../../../etc/passwd", false),
            ("/a.yaml", "x.txt", true),
        ] {
            let found = is_below(path, &resolve(path, file));
            assert_eq!(found, wanted, "{path} {file}");
        }
    }

    #[test]
    fn bytes_are_text_within_bounds() {
        assert_eq!(read("a", b"kind: x".to_vec()).unwrap().text, "kind: x");

        let refused = read("a", "é: 1\nb: \u{fc}".as_bytes().to_vec()).map(|s| s.text);
        assert!(refused.is_ok());
        let latin1 = b"a: \xc3\xa9\nb\xc3\xa9: \xfcber\n".to_vec();
        let refused = read("a", latin1).unwrap_err();
        assert_eq!((refused.offset, refused.line, refused.column), (11, 2, 5));
        assert!(refused.message.contains("0xfc"), "{}", refused.message);

        let utf16 = read("a", vec![0xff, 0xfe, b'k', 0]).unwrap_err();
        assert!(utf16.help.contains("UTF-16"));

        let huge = read("a", vec![b'x'; MAX_SOURCE_BYTES + 1]).unwrap_err();
        assert!(huge.message.contains("8 MiB"), "{}", huge.message);
        assert!(refuse_length("a", 100_000_000).is_some());
        assert!(refuse_length("a", 1000).is_none());
    }
}
