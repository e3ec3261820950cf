//! The documents that an operator names on the command line: files, folders, stdin.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use voipfleet_policy::{self as policy, Diagnostic, Source};

use crate::client::MAX_MESSAGE_BYTES;
use crate::console::Console;
use crate::failure::Failure;
use crate::format::first_names;
use crate::workspace::{Files, REVISIONS};

/// The hint where a file holds nothing.
const EMPTY: &str = "a document begins with `kind:` and `name:`; see: voipctl schema";

/// A path for people.
fn named(path: &Path) -> String {
    if path.as_os_str() == "-" {
        "stdin".to_owned()
    } else {
        path.display().to_string()
    }
}

/// The documents of a command, as read.
#[derive(Debug, Default)]
pub struct DocumentFiles {
    /// The files, each once.
    pub sources: Vec<Source>,
    /// Files that are not text, or too long.
    pub diagnostics: Vec<Diagnostic>,
    /// The folder of the documents: the only path given, or the folder with a revisions file that
    /// contains the only file given.
    pub folder: Option<PathBuf>,
    /// Whether these are all documents of the folder.
    pub whole: bool,
    seen: BTreeSet<PathBuf>,
    /// Bytes in a request so far.
    total: usize,
}

/// Reads every path: a file, the `*.yaml` and `*.yml` files of a folder and its subfolders, or `-`
/// for stdin; and the text files to which Lists refer with `file:`.
pub fn read(paths: &[PathBuf], console: &mut Console) -> Result<DocumentFiles, Failure> {
    let mut found = DocumentFiles::default();
    let mut skipped = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            let bytes = bounded(console.input())
                .map_err(|error| Failure::input("cannot read stdin").because(error))?;
            found.take("-", bytes)?;
        } else if path.is_dir() {
            let files = Files::of(path)?;
            if files.documents.is_empty() {
                return Err(
                    Failure::input(format!("no documents in {}", path.display())).hint(
                        "documents are the *.yaml and *.yml files of a folder and its subfolders",
                    ),
                );
            }
            files
                .documents
                .iter()
                .try_for_each(|file| found.read(file))?;
            skipped.push((path, files.others));
        } else {
            found.read(path)?;
        }
    }
    found.must_hold_documents(paths)?;
    found.read_lists()?;
    for (folder, mut others) in skipped {
        // Without the files that Lists refer to.
        others.retain(|path| !found.seen.contains(path));
        report_skipped(folder, &others, console);
    }
    if let [path] = paths {
        found.whole = path.is_dir();
        let knows = |folder: &&Path| folder.join(REVISIONS).is_file();
        found.folder = if found.whole {
            Some(path.clone())
        } else {
            path.ancestors().skip(1).find(knows).map(Path::to_owned)
        };
    }
    Ok(found)
}

impl DocumentFiles {
    fn read(&mut self, path: &Path) -> Result<(), Failure> {
        if !self.seen.insert(path.components().collect()) {
            return Ok(());
        }
        let unreadable = |error: io::Error| {
            Failure::input(format!("cannot read {}", path.display())).because(error)
        };
        let shown = path.to_string_lossy();
        let file = fs::File::open(path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        if let Some(diagnostic) = policy::refuse_length(&shown, length) {
            self.diagnostics.push(diagnostic);
            return Ok(());
        }
        self.take(&shown, bounded(file).map_err(unreadable)?)
    }

    /// Adds a file, as long as all of them fit into one request.
    fn take(&mut self, path: &str, bytes: Vec<u8>) -> Result<(), Failure> {
        match policy::read(path, bytes) {
            Ok(source) => {
                self.total += source.text.len() + 1024;
                self.sources.push(source);
            }
            Err(diagnostic) => self.diagnostics.push(diagnostic),
        }
        if self.total <= MAX_MESSAGE_BYTES {
            return Ok(());
        }
        Err(Failure::input(format!(
            "the documents are larger than {} MiB, the limit of one apply",
            MAX_MESSAGE_BYTES / (1024 * 1024)
        ))
        .hint("apply them in several steps, lists and tenants first"))
    }

    /// An empty file is a mistake of whoever wrote it, not a set of documents.
    fn must_hold_documents(&self, paths: &[PathBuf]) -> Result<(), Failure> {
        let empty = |source: &&Source| source.is_empty();
        if self.diagnostics.is_empty() && self.sources.iter().all(Source::is_empty) {
            let paths: Vec<String> = paths.iter().map(|path| named(path)).collect();
            return Err(
                Failure::input(format!("no documents in {}", paths.join(", "))).hint(EMPTY),
            );
        }
        let given = |source: &&Source| paths.iter().any(|path| *path == Path::new(&source.path));
        match self.sources.iter().filter(empty).find(given) {
            Some(source) => {
                let path = named(Path::new(&source.path));
                Err(Failure::input(format!("no document in {path}")).hint(EMPTY))
            }
            None => Ok(()),
        }
    }

    /// Reads the files to which Lists refer with `file:`. A missing file is left to the check,
    /// which reports the line.
    fn read_lists(&mut self) -> Result<(), Failure> {
        let mut named: Vec<(PathBuf, PathBuf)> = Vec::new();
        for source in &self.sources {
            let folder = Path::new(&source.path).parent().unwrap_or(Path::new(""));
            let files = source.list_files().into_iter().map(PathBuf::from);
            named.extend(files.map(|file| (folder.to_owned(), file)));
        }
        for (folder, file) in named {
            if file.is_file() {
                refuse_link(&folder, &file)?;
                self.read(&file)?;
            }
        }
        Ok(())
    }
}

/// A file may not be reached by a link that leads out of the document's folder: documents may come
/// from strangers.
fn refuse_link(folder: &Path, file: &Path) -> Result<(), Failure> {
    let unreadable =
        |error: io::Error| Failure::input(format!("cannot read {}", file.display())).because(error);
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let folder = folder.canonicalize().map_err(unreadable)?;
    let real = file.canonicalize().map_err(unreadable)?;
    if real.starts_with(&folder) {
        return Ok(());
    }
    Err(Failure::input(format!(
        "{} is a link that leads out of its document's folder",
        file.display()
    ))
    .hint("put the file itself there"))
}

/// Reads at most one byte more than a source may have: enough to see that it is too long.
fn bounded(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = u64::try_from(policy::MAX_SOURCE_BYTES)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    reader.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Names the files of a folder that are not documents; a long list is cut.
fn report_skipped(folder: &Path, skipped: &[PathBuf], console: &mut Console) {
    const NAMED: usize = 5;
    if skipped.is_empty() {
        return;
    }
    let short = |path: &PathBuf| {
        let path = path.strip_prefix(folder).unwrap_or(path);
        path.display().to_string()
    };
    let names: Vec<String> = skipped.iter().map(short).collect();
    console.note(&format!(
        "ignored in {} (not *.yaml or *.yml): {}",
        folder.display(),
        first_names(&names, NAMED)
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_stops_at_the_limit_of_one_apply() {
        let mut found = DocumentFiles::default();
        let file = vec![b'#'; policy::MAX_SOURCE_BYTES];
        assert!(found.take("a.yaml", file.clone()).is_ok());
        let refused = found.take("b.yaml", file).unwrap_err();
        assert!(format!("{refused:?}").contains("16 MiB"), "{refused:?}");
    }
}
