//! The revision that a document in a file says it was fetched at: a comment at its head, written by
//! `get -o yaml` and read by `apply`, so that nobody overwrites what somebody else has changed since.

use std::fs;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use voipfleet_policy::{Kind, Source};
use voipfleet_proto::v1;

use crate::failure::Failure;
use crate::workspace::write_whole;

const HEAD: &str = "# revision:";

/// The line above a document.
pub fn line(revision: u64) -> String {
    format!("{HEAD} {revision}\n")
}

/// Which document it is.
#[derive(Deserialize)]
struct Named {
    kind: String,
    name: String,
}

/// A document that says at which revision it was fetched, and where it says so.
#[derive(Debug)]
pub struct Noted {
    /// The document, and the revision.
    pub document: v1::DocumentRevision,
    number: Range<usize>,
}

/// The documents of a file that say it. What cannot be read is left to the check of the documents,
/// which shows the place.
pub fn of(text: &str) -> Vec<Noted> {
    let mut found = Vec::new();
    let mut document = Document::default();
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

/// Writes into a file where its documents are now; `now` is asked for each that says where it was.
pub fn moved(
    source: &Source,
    now: impl Fn(&v1::DocumentRevision) -> Option<u64>,
) -> Result<(), Failure> {
    let mut text = source.text.clone();
    // From behind: the places before stay where they are.
    for noted in of(&source.text).into_iter().rev() {
        if let Some(revision) = now(&noted.document) {
            text.replace_range(noted.number, &revision.to_string());
        }
    }
    // What somebody has edited since is not touched; nor is stdin.
    let path = Path::new(&source.path);
    if text == source.text || !fs::read_to_string(path).is_ok_and(|there| there == source.text) {
        return Ok(());
    }
    let failed =
        |error| Failure::input(format!("{} cannot be written", path.display())).because(error);
    let path = path.canonicalize().map_err(failed)?;
    let mode = fs::metadata(&path).map_err(failed)?.permissions();
    write_whole(&path, text.as_bytes())?;
    fs::set_permissions(&path, mode).map_err(failed)
}

/// The document that is being looked at.
#[derive(Default)]
struct Document {
    /// Where its text begins.
    body: usize,
    has_begun: bool,
    revision: Option<(u64, Range<usize>)>,
}

impl Document {
    /// Ends it; what stands above the first line of a document is that document's.
    fn end(&mut self, text: &str, end: usize) -> Option<Noted> {
        if !std::mem::take(&mut self.has_begun) {
            return None;
        }
        let (revision, number) = self.revision.take()?;
        // The length is bounded already; a list may have any number of addresses.
        let options = serde_saphyr::options! { budget: None };
        let body = text.get(self.body..end)?;
        let named: Named = serde_saphyr::from_str_with_options(body, options).ok()?;
        let document = v1::DocumentRevision {
            kind: named.kind.parse::<Kind>().ok()?.to_string(),
            name: named.name,
            revision,
        };
        Some(Noted { document, number })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Vec<(String, u64)> {
        let one = |noted: Noted| {
            let found = noted.document;
            (format!("{}/{}", found.kind, found.name), found.revision)
        };
        of(text).into_iter().map(one).collect()
    }

    #[test]
    fn only_a_documents_head_says_its_revision() {
        let text = "# ours\n# revision: 17\nkind: Tenant\nname: acme\nnetworks: {}\n---\n\
                    kind: Tenant\n# revision: 4\nname: globex\n---\n# revision: 9\n---\n\
                    # revision: 11\n\nname: 'site-a'\nkind: Site\n";
        let acme = ("Tenant/acme".to_owned(), 17);
        assert_eq!(told(text), [acme, ("Site/site-a".to_owned(), 11)]);
        for text in [
            "",
            "# revision: 4\n",
            "# revision: soon\nkind: Tenant\nname: acme\n",
            "# revision: 4\nkind: Later\nname: acme\n",
            "# revision: 4\nkind: [\n",
        ] {
            assert_eq!(told(text), []);
        }
    }

    #[test]
    fn a_file_says_where_its_documents_are_now() {
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
        moved(&source, now).unwrap();
        let after = text.replace("revision: 9", "revision: 100");
        assert_eq!(fs::read_to_string(&path).unwrap(), after);
        // Edited since it was read.
        moved(&source, |_| Some(7)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), after);
    }
}
