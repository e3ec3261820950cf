//! The documents that an operator names on the command line: files, folders, stdin.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use voipfleet_policy::{self as policy, Diagnostic, Source};

use crate::client::MAX_MESSAGE_BYTES;
use crate::console::Console;
use crate::failure::Failure;
use crate::workspace::{Files, REVISIONS};

/// What was read.
#[derive(Debug, Default)]
pub struct DocumentFiles {
    /// The files, each once.
    pub sources: Vec<Source>,
    /// Files that are no text, or too long.
    pub diagnostics: Vec<Diagnostic>,
    /// The folder whose documents these are: that which was named, and nothing beside it, or
    /// the one that knows the file which was.
    pub folder: Option<PathBuf>,
    /// They are all documents of the folder.
    pub whole: bool,
    seen: BTreeSet<PathBuf>,
    /// What one message takes for what was read so far.
    total: usize,
}

/// Reads every path: a file, the `*.yaml` and `*.yml` of a folder and of those in it, or `-` for
/// stdin; and the text files that Lists among them name with `file:`.
pub fn read(paths: &[PathBuf], console: &mut Console) -> Result<DocumentFiles, Failure> {
    let mut found = DocumentFiles::default();
    let mut skipped = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            let bytes = bounded(console.input())
                .map_err(|error| Failure::input("stdin cannot be read").because(error))?;
            found.take("-", bytes)?;
        } else if path.is_dir() {
            let files = Files::of(path)?;
            if files.documents.is_empty() {
                return Err(
                    Failure::input(format!("{} holds no documents", path.display())).hint(
                        "voipctl reads the *.yaml and *.yml files of a folder and those in it",
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
    found.read_lists()?;
    for (folder, mut others) in skipped {
        // Not those that Lists name.
        others.retain(|path| !found.seen.contains(path));
        tell_skipped(folder, &others, console);
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
            Failure::input(format!("{} cannot be read", path.display())).because(error)
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

    /// Takes a file, as long as all of them fit the one message that the controller takes.
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
            "these documents are more than the {} MiB that one apply takes",
            MAX_MESSAGE_BYTES / (1024 * 1024)
        ))
        .hint("apply them in several steps, lists and tenants first"))
    }

    /// Reads what Lists name with `file:`. A file that is not there is left to the check, which
    /// shows the line that names it.
    fn read_lists(&mut self) -> Result<(), Failure> {
        let named: Vec<String> = self.sources.iter().flat_map(Source::list_files).collect();
        for path in named {
            let path = PathBuf::from(path);
            if path.is_file() {
                self.read(&path)?;
            }
        }
        Ok(())
    }
}

/// At most one byte more than a source may have: enough to see that it is too long.
fn bounded(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = u64::try_from(policy::MAX_SOURCE_BYTES)
        .unwrap_or(u64::MAX)
        .saturating_add(1);
    reader.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Names the files of a folder that were left out; a long list is cut.
fn tell_skipped(folder: &Path, skipped: &[PathBuf], console: &mut Console) {
    const NAMED: usize = 5;
    if skipped.is_empty() {
        return;
    }
    let short = |path: &PathBuf| {
        let path = path.strip_prefix(folder).unwrap_or(path);
        path.display().to_string()
    };
    let mut names: Vec<String> = skipped.iter().take(NAMED).map(short).collect();
    if skipped.len() > NAMED {
        names.push(format!("{} more", skipped.len() - NAMED));
    }
    console.note(&format!(
        "left out of {}, for they are no *.yaml or *.yml: {}",
        folder.display(),
        names.join(", ")
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_stops_where_one_apply_is_full() {
        let mut found = DocumentFiles::default();
        let file = vec![b'#'; policy::MAX_SOURCE_BYTES];
        assert!(found.take("a.yaml", file.clone()).is_ok());
        let refused = found.take("b.yaml", file).unwrap_err();
        assert!(format!("{refused:?}").contains("16 MiB"), "{refused:?}");
    }
}
