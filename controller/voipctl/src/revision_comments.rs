//! `# revision: N` comments above documents, written by `get -o yaml` and checked by `apply`, so
//! that an apply does not overwrite concurrent changes.

use std::fs;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use voipfleet_policy::{Kind, Source};
use voipfleet_proto::v1;

use crate::atomic_file::{self, Access};
use crate::failure::Failure;

const HEAD: &str = "# revision:";

/// The comment above a document.
pub fn line(revision: u64) -> String {
    format!("{HEAD} {revision}\n")
}

/// The fields that identify a document.
#[derive(Deserialize)]
struct DocumentId {
    kind: String,
    name: String,
}

/// A document's revision comment.
#[derive(Debug)]
pub struct RevisionComment {
    /// The document with its revision.
    pub document: v1::DocumentRevision,
    /// The bytes of the number in the file.
    number: Range<usize>,
}

/// The revision comments of a file. What cannot be parsed is left to the check of the documents,
/// which reports its place.
pub fn of(text: &str) -> Vec<RevisionComment> {
    let mut found = Vec::new();
    let mut document = DocumentScan::default();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let end = start + line.len();
        let words = line.trim_end();
        if words == "---" || words.starts_with("--- ") || words == "..." {
            found.extend(document.end(text, start));
            document.body = end;
        } else if document.has_begun || words.is_empty() {
            // Comments further down are the operator's own.
        } else if let Some(number) = words.strip_prefix(HEAD) {
            let number = number.trim_start();
            let from = start + words.len() - number.len();
            document.revision = number
                .parse()
                .ok()
                .map(|it| (it, from..from + number.len()));
        } else if !words.starts_with('#') {
            document.has_begun = true;
        }
        start = end;
    }
    found.extend(document.end(text, start));
    found
}

/// Updates the revision comments of a file; `now` gives a document's new revision.
pub fn update(
    source: &Source,
    now: impl Fn(&v1::DocumentRevision) -> Option<u64>,
) -> Result<(), Failure> {
    let mut text = source.text.clone();
    // Back to front: earlier positions stay valid.
    for noted in of(&source.text).into_iter().rev() {
        if let Some(revision) = now(&noted.document) {
            text.replace_range(noted.number, &revision.to_string());
        }
    }
    // A file that was edited since is left alone, and so is stdin.
    let path = Path::new(&source.path);
    if text == source.text || !fs::read_to_string(path).is_ok_and(|there| there == source.text) {
        return Ok(());
    }
    let failed = |error| Failure::input(format!("cannot write {}", path.display())).because(error);
    let path = path.canonicalize().map_err(failed)?;
    let mode = fs::metadata(&path).map_err(failed)?.permissions();
    atomic_file::write(&path, text.as_bytes(), Access::Shared)?;
    fs::set_permissions(&path, mode).map_err(failed)
}

/// The document that is being scanned.
#[derive(Default)]
struct DocumentScan {
    /// Where its text begins.
    body: usize,
    has_begun: bool,
    revision: Option<(u64, Range<usize>)>,
}

impl DocumentScan {
    /// Ends it: a comment belongs to the document below it.
    fn end(&mut self, text: &str, end: usize) -> Option<RevisionComment> {
        if !std::mem::take(&mut self.has_begun) {
            return None;
        }
        let (revision, number) = self.revision.take()?;
        // The length is already bounded; a list may have any number of addresses.
        let options = serde_saphyr::options! { budget: None };
        let body = text.get(self.body..end)?;
        let named: DocumentId = serde_saphyr::from_str_with_options(body, options).ok()?;
        let document = v1::DocumentRevision {
            kind: named.kind.parse::<Kind>().ok()?.to_string(),
            name: named.name,
            revision,
        };
        Some(RevisionComment { document, number })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revisions(text: &str) -> Vec<(String, u64)> {
        let one = |noted: RevisionComment| {
            let found = noted.document;
            (format!("{}/{}", found.kind, found.name), found.revision)
        };
        of(text).into_iter().map(one).collect()
    }

    #[test]
    fn only_comments_above_a_document_count() {
        let text = "# ours\n# revision: 17\nkind: Tenant\nname: acme\nnetworks: {}\n---\n\
                    kind: Tenant\n# revision: 4\nname: globex\n---\n# revision: 9\n---\n\
                    # revision: 11\n\nname: 'site-a'\nkind: Site\n";
        let acme = ("Tenant/acme".to_owned(), 17);
        assert_eq!(revisions(text), [acme, ("Site/site-a".to_owned(), 11)]);
        for text in [
            "",
            "# revision: 4\n",
            "# revision: soon\nkind: Tenant\nname: acme\n",
            "# revision: 4\nkind: Later\nname: acme\n",
            "# revision: 4\nkind: [\n",
        ] {
            assert_eq!(revisions(text), []);
        }
    }

    #[test]
    fn comments_are_updated_unless_the_file_was_edited() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("both.yaml");
        let text = "# revision: 9\nkind: Tenant\nname: acme\n---\n# revision: 17\r\n\
                    kind: Tenant\nname: globex # ours\n";
        fs::write(&path, text).unwrap();
        let source = Source {
            path: path.to_str().unwrap().to_owned(),
            text: text.to_owned(),
        };
        let now = |found: &v1::DocumentRevision| (found.name == "acme").then_some(100);
        update(&source, now).unwrap();
        let after = text.replace("revision: 9", "revision: 100");
        assert_eq!(fs::read_to_string(&path).unwrap(), after);
        // Edited since it was read.
        update(&source, |_| Some(7)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), after);
    }
}
