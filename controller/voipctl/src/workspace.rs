//! A folder of documents: its files, and the controller's revisions on which they are based, so
//! that an apply does not overwrite concurrent changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use voipfleet_proto::v1;

use crate::atomic_file::{self, Access};
use crate::failure::Failure;
use crate::format::thousands;

/// The file in a folder that records its base revisions.
pub const REVISIONS: &str = ".voipfleet-revisions.json";
const VERSION: u32 = 1;
/// The most files of a folder, and the deepest folder in it.
const MAX_FILES: usize = 100_000;
const MAX_DEPTH: usize = 32;

/// The files of a folder.
#[derive(Debug, Default)]
pub struct Files {
    /// `*.yaml` and `*.yml`, by path.
    pub documents: Vec<PathBuf>,
    /// The rest, by path, without hidden files.
    pub others: Vec<PathBuf>,
}

impl Files {
    /// Lists a folder and its subfolders. Links to folders are not followed.
    pub fn of(folder: &Path) -> Result<Self, Failure> {
        let mut files = Self::default();
        files.collect(folder, 0)?;
        files.documents.sort();
        files.others.sort();
        Ok(files)
    }

    fn collect(&mut self, folder: &Path, depth: usize) -> Result<(), Failure> {
        let unreadable = |error: io::Error| {
            Failure::input(format!("cannot read {}", folder.display())).because(error)
        };
        for entry in fs::read_dir(folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let path = entry.path();
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            if entry.file_type().map_err(unreadable)?.is_dir() {
                if depth >= MAX_DEPTH {
                    return Err(Failure::input(format!(
                        "{} is nested more than {MAX_DEPTH} folders deep",
                        path.display()
                    )));
                }
                self.collect(&path, depth + 1)?;
            } else if is_yaml(&path) && path.is_file() {
                self.documents.push(path);
            } else {
                self.others.push(path);
            }
            if self.documents.len() + self.others.len() > MAX_FILES {
                return Err(Failure::input(format!(
                    "{} has more than {} files",
                    folder.display(),
                    thousands(MAX_FILES as u64)
                ))
                .hint("check that it is the folder of your documents"));
            }
        }
        Ok(())
    }
}

fn is_yaml(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "yaml" || extension == "yml")
}

/// `tenant/acme`: a document's key in the revisions file and on the command line.
pub fn shown(kind: &str, name: &str) -> String {
    format!("{}/{name}", kind.to_ascii_lowercase())
}

/// The revisions on which a folder is based.
#[derive(Debug)]
pub struct Revisions {
    path: PathBuf,
    content: Content,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    /// SHA-256 of the CA's certificate: revisions are valid in one installation only.
    installation: String,
    documents: BTreeMap<String, KnownDocument>,
}

/// A document as the folder knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownDocument {
    /// The controller's revision of it.
    pub revision: u64,
    /// SHA-256 of the file that an export wrote; `None` for a file written by an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

impl Revisions {
    /// Reads a folder's revisions file; empty if there is none, or it is of another installation.
    pub fn load(folder: &Path, ca_pem: &str) -> Result<Self, Failure> {
        let path = folder.join(REVISIONS);
        let installation = sha256(ca_pem.trim().as_bytes());
        let empty = || Content {
            version: VERSION,
            installation: installation.clone(),
            documents: BTreeMap::new(),
        };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let content = empty();
                return Ok(Self { path, content });
            }
            Err(error) => {
                let message = format!("cannot read {}", path.display());
                return Err(Failure::input(message).because(error));
            }
        };
        let damaged = || {
            Failure::input(format!("{} is damaged", path.display())).hint(
                "restore it from version control, or delete it; without it, the next apply \
                 overwrites concurrent changes silently",
            )
        };
        let content: Content =
            serde_json::from_str(&text).map_err(|error| damaged().because(error))?;
        if content.version != VERSION {
            return Err(Failure::input(format!(
                "{} was written by a newer voipctl",
                path.display()
            ))
            .hint("update voipctl"));
        }
        let content = if content.installation == installation {
            content
        } else {
            empty()
        };
        Ok(Self { path, content })
    }

    /// Whether it has no base revisions yet.
    pub fn is_empty(&self) -> bool {
        self.content.documents.is_empty()
    }

    /// A document's entry.
    pub fn get(&self, shown: &str) -> Option<&KnownDocument> {
        self.content.documents.get(shown)
    }

    /// The names of the documents that it knows.
    pub fn names(&self) -> BTreeSet<String> {
        self.content.documents.keys().cloned().collect()
    }

    /// The revisions as a request carries them.
    pub fn expected(&self) -> Vec<v1::DocumentRevision> {
        let documents = self.content.documents.iter();
        documents
            .filter_map(|(shown, known)| revision(shown, known.revision))
            .collect()
    }

    /// Records a document.
    pub fn set(&mut self, shown: &str, known: KnownDocument) {
        self.content.documents.insert(shown.to_owned(), known);
    }

    /// Records a document's new revision, and leaves the hash of its file.
    pub fn moved(&mut self, shown: &str, revision: u64) {
        let sha256 = self.get(shown).and_then(|known| known.sha256.clone());
        self.set(shown, KnownDocument { revision, sha256 });
    }

    /// Forgets a document.
    pub fn remove(&mut self, shown: &str) {
        self.content.documents.remove(shown);
    }

    /// Writes the file atomically, if its content changes.
    pub fn save(&self) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(&self.content)
            .map_err(|error| Failure::input("cannot encode the revisions").because(error))?;
        let text = text + "\n";
        if fs::read_to_string(&self.path).is_ok_and(|there| there == text) {
            return Ok(());
        }
        atomic_file::write(&self.path, text.as_bytes(), Access::Shared)
    }
}

/// A document's revision as a request carries it; `None` if `shown` is not `KIND/NAME`.
pub fn revision(shown: &str, revision: u64) -> Option<v1::DocumentRevision> {
    let (kind, name) = shown.split_once('/')?;
    Some(v1::DocumentRevision {
        kind: kind.to_owned(),
        name: name.to_owned(),
        revision,
    })
}

/// SHA-256, hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
