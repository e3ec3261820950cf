//! A folder of documents: its files, and which revisions of the controller's documents it stands
//! on, so that nobody overwrites what somebody else has changed since.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use voipfleet_proto::v1;

use crate::failure::Failure;

/// The file in a folder that says what it stands on.
pub const REVISIONS: &str = ".voipfleet-revisions.json";
const VERSION: u32 = 1;
/// The most files of a folder, and the deepest folder in it.
const MAX_FILES: usize = 100_000;
const MAX_DEPTH: usize = 32;

/// What a folder holds.
#[derive(Debug, Default)]
pub struct Files {
    /// `*.yaml` and `*.yml`, by path.
    pub documents: Vec<PathBuf>,
    /// The rest, by path. What is hidden is not even that.
    pub others: Vec<PathBuf>,
}

impl Files {
    /// Looks through a folder and those in it. Links to folders are not followed.
    pub fn of(folder: &Path) -> Result<Self, Failure> {
        let mut files = Self::default();
        files.look(folder, 0)?;
        files.documents.sort();
        files.others.sort();
        Ok(files)
    }

    fn look(&mut self, folder: &Path, depth: usize) -> Result<(), Failure> {
        let unreadable = |error: io::Error| {
            Failure::input(format!("{} cannot be read", folder.display())).because(error)
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
                        "{} lies more than {MAX_DEPTH} folders deep",
                        path.display()
                    )));
                }
                self.look(&path, depth + 1)?;
            } else if is_yaml(&path) && path.is_file() {
                self.documents.push(path);
            } else {
                self.others.push(path);
            }
            if self.documents.len() + self.others.len() > MAX_FILES {
                return Err(Failure::input(format!(
                    "{} holds more than {MAX_FILES} files",
                    folder.display()
                ))
                .hint("is this the folder of your documents?"));
            }
        }
        Ok(())
    }
}

fn is_yaml(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "yaml" || extension == "yml")
}

/// `tenant/acme`: how a document is named in the file, and on the command line.
pub fn shown(kind: &str, name: &str) -> String {
    format!("{}/{name}", kind.to_ascii_lowercase())
}

/// What a folder stands on.
#[derive(Debug)]
pub struct Revisions {
    path: PathBuf,
    content: Content,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    /// SHA-256 of the CA's certificate: revisions are one installation's own.
    installation: String,
    documents: BTreeMap<String, Known>,
}

/// A document as the folder knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// The controller's revision of it.
    pub revision: u64,
    /// SHA-256 of the file that an export wrote; none: the file is an operator's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

impl Revisions {
    /// Reads a folder's; one that stands on nothing yet, or on another installation, is empty.
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
                let message = format!("{} cannot be read", path.display());
                return Err(Failure::input(message).because(error));
            }
        };
        let damaged = || {
            Failure::input(format!("{} is damaged", path.display())).hint(
                "bring it back from your history, or delete it: the next apply then replaces \
                 what others changed without a word",
            )
        };
        let content: Content =
            serde_json::from_str(&text).map_err(|error| damaged().because(error))?;
        if content.version != VERSION {
            return Err(Failure::input(format!(
                "{} was written by a newer voipctl",
                path.display()
            ))
            .hint("update this voipctl"));
        }
        let content = if content.installation == installation {
            content
        } else {
            empty()
        };
        Ok(Self { path, content })
    }

    /// Whether it stands on nothing yet.
    pub fn is_empty(&self) -> bool {
        self.content.documents.is_empty()
    }

    /// What is known of a document.
    pub fn get(&self, shown: &str) -> Option<&Known> {
        self.content.documents.get(shown)
    }

    /// The names of the documents that it knows.
    pub fn names(&self) -> BTreeSet<String> {
        self.content.documents.keys().cloned().collect()
    }

    /// What a request says that it stands on.
    pub fn expected(&self) -> Vec<v1::DocumentRevision> {
        let documents = self.content.documents.iter();
        documents
            .filter_map(|(shown, known)| revision(shown, known.revision))
            .collect()
    }

    /// Notes a document.
    pub fn set(&mut self, shown: &str, known: Known) {
        self.content.documents.insert(shown.to_owned(), known);
    }

    /// Notes where a document is now; its file stays whose it was.
    pub fn moved(&mut self, shown: &str, revision: u64) {
        let sha256 = self.get(shown).and_then(|known| known.sha256.clone());
        self.set(shown, Known { revision, sha256 });
    }

    /// Forgets a document.
    pub fn remove(&mut self, shown: &str) {
        self.content.documents.remove(shown);
    }

    /// Writes the file, whole or not at all, if it says something new.
    pub fn save(&self) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(&self.content)
            .map_err(|error| Failure::input("the revisions cannot be written").because(error))?;
        let text = text + "\n";
        if fs::read_to_string(&self.path).is_ok_and(|there| there == text) {
            return Ok(());
        }
        write_whole(&self.path, text.as_bytes())
    }
}

/// A document's revision as a request carries it; none: the name is none.
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

/// Writes a file, whole or not at all, and the folders above it.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        Failure::input(format!("{} cannot be written", path.display())).because(error)
    };
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(failed)?;
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}.new", std::process::id()));
    let draft = PathBuf::from(draft);
    let write = || {
        let mut file = fs::File::create(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    write().map_err(|error| {
        // Best effort: the error that matters is the one above.
        let _ = fs::remove_file(&draft);
        failed(error)
    })
}
