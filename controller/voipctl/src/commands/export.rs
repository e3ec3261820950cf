//! `voipctl export DIR`: writes every stored document into a folder, one file each.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use voipfleet_policy::Kind;
use voipfleet_proto::v1;

use crate::Session;
use crate::atomic_file::{self, Access};
use crate::failure::{ExitStatus, Failure};
use crate::format::{count, first_names, thousands};
use crate::workspace::{self, Files, KnownDocument, Revisions, sha256};

/// How many files an error names.
const NAMED: usize = 20;

/// `voipctl export`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder; created if missing
    folder: PathBuf,

    /// Also overwrite and remove files that were edited locally
    #[arg(long)]
    force: bool,
}

/// What an export did.
#[derive(Debug, Default, Serialize)]
struct Exported {
    folder: PathBuf,
    /// New and changed files.
    written: Vec<String>,
    /// Files of documents that are no longer stored.
    removed: Vec<String>,
    /// Files that were edited locally, and whose stored document has not changed.
    kept: Vec<String>,
    /// Files of documents that are not stored, or not visible to this operator: left alone.
    unseen: Vec<String>,
    unchanged: usize,
}

/// What happens to the file of one document.
enum FileAction {
    Write(Vec<u8>),
    Remove,
    Keep,
    /// The document may have been deleted, or not be visible to this operator.
    Unseen,
    Nothing,
    /// It was edited locally, and the stored document was changed or deleted.
    Conflict,
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let ca = session.context()?.ca;
    let mut revisions = Revisions::load(&args.folder, &ca)?;
    refuse_other_layout(&args.folder)?;
    let controller = session.controller().await?;
    let stored = controller.documents("", "").await?;
    let complete = stored.complete;
    let mut documents = BTreeMap::new();
    for document in stored.documents {
        documents.insert(document_key(&document)?, document);
    }
    let names: BTreeSet<String> = documents.keys().cloned().chain(revisions.names()).collect();
    let mut actions = Vec::new();
    let mut conflicts = Vec::new();
    for shown in names {
        let path = args.folder.join(format!("{shown}.yaml"));
        let document = documents.get(&shown);
        let action = if document.is_none() && !complete {
            FileAction::Unseen
        } else {
            file_action(&path, document, revisions.get(&shown), args.force)?
        };
        if matches!(action, FileAction::Conflict) {
            conflicts.push(path.display().to_string());
        }
        actions.push((shown, path, action));
    }
    if !conflicts.is_empty() {
        return Err(conflict(&conflicts));
    }
    let mut exported = Exported {
        folder: args.folder.clone(),
        ..Exported::default()
    };
    for (shown, path, action) in actions {
        perform(&action, &path, &mut exported)?;
        if matches!(action, FileAction::Unseen) {
            continue;
        }
        let mut known = revisions.get(&shown).and_then(|known| known.sha256.clone());
        if let FileAction::Write(bytes) = &action {
            known = Some(sha256(bytes));
        }
        match documents.get(&shown) {
            Some(document) => revisions.set(
                &shown,
                KnownDocument {
                    revision: document.revision,
                    sha256: known,
                },
            ),
            None => revisions.remove(&shown),
        }
    }
    revisions.save()?;
    show(&exported, session)?;
    Ok(ExitStatus::Done)
}

/// `tenant/acme`, from which the file's path is made; never a path out of the folder.
fn document_key(document: &v1::StoredDocument) -> Result<String, Failure> {
    let kind: Option<Kind> = document.kind.parse().ok();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let valid = document.name.chars().all(plain)
        && document
            .name
            .starts_with(|c: char| c.is_ascii_alphanumeric());
    match kind {
        Some(kind) if valid => Ok(workspace::shown(kind.as_str(), &document.name)),
        _ => Err(Failure::controller(format!(
            "cannot export a {} whose name is not a file name: {:?}",
            document.kind, document.name
        ))),
    }
}

/// Refuses a folder with files of another layout: documents would be in it twice.
fn refuse_other_layout(folder: &Path) -> Result<(), Failure> {
    if !folder.exists() {
        return Ok(());
    }
    let kinds: Vec<String> = Kind::ALL
        .iter()
        .map(|kind| kind.as_str().to_ascii_lowercase())
        .collect();
    let place = |path: &PathBuf| {
        let inside = path.strip_prefix(folder).unwrap_or(path);
        let mut parts = inside.iter();
        let kind = parts.next().and_then(|part| part.to_str());
        let file = parts.next().and_then(|part| part.to_str());
        kind.is_some_and(|kind| kinds.iter().any(|known| known == kind))
            && file.is_some_and(|file| file.strip_suffix(".yaml").is_some())
            && parts.next().is_none()
    };
    let files = Files::of(folder)?.documents;
    let Some(other) = files.iter().find(|path| !place(path)) else {
        return Ok(());
    };
    Err(Failure::input(format!(
        "{} was not written by an export: its documents would be in the folder twice",
        other.display()
    ))
    .hint("export into an empty folder; an export contains only KIND/NAME.yaml files"))
}

/// Decides, without writing anything.
fn file_action(
    path: &Path,
    document: Option<&v1::StoredDocument>,
    known: Option<&KnownDocument>,
    force: bool,
) -> Result<FileAction, Failure> {
    let there = match fs::read(path) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            let message = format!("cannot read {}", path.display());
            return Err(Failure::input(message).because(error));
        }
    };
    let own = there
        .as_ref()
        .is_some_and(|bytes| known.and_then(|known| known.sha256.as_ref()) == Some(&sha256(bytes)));
    let Some(document) = document else {
        return Ok(match there {
            None => FileAction::Nothing,
            Some(_) if own || force => FileAction::Remove,
            Some(_) => FileAction::Conflict,
        });
    };
    let yaml = document.yaml.trim_start_matches("---\n").as_bytes();
    let same = known.is_some_and(|known| known.revision == document.revision);
    Ok(match there {
        Some(bytes) if bytes == yaml && own => FileAction::Nothing,
        Some(bytes) if bytes == yaml || own || force => FileAction::Write(yaml.to_vec()),
        // A file that was removed locally is an edit too, for the next apply to prune.
        None if known.is_none() || force => FileAction::Write(yaml.to_vec()),
        _ if same => FileAction::Keep,
        _ => FileAction::Conflict,
    })
}

fn conflict(files: &[String]) -> Failure {
    Failure::input(format!(
        "conflict: edited locally and changed in the controller: {}; no file was written",
        first_names(files, NAMED)
    ))
    .hint(
        "to compare, export into another folder; to take the controller's version, pass --force; \
         to keep yours, apply the folder with --overwrite",
    )
}

fn perform(action: &FileAction, path: &Path, exported: &mut Exported) -> Result<(), Failure> {
    let inside = path.strip_prefix(&exported.folder).unwrap_or(path);
    let shown = inside.display().to_string();
    match action {
        FileAction::Write(bytes) => {
            if fs::read(path).is_ok_and(|there| there == *bytes) {
                exported.unchanged += 1;
            } else {
                atomic_file::write(path, bytes, Access::Shared)?;
                exported.written.push(shown);
            }
        }
        FileAction::Remove => {
            fs::remove_file(path).map_err(|error| {
                Failure::input(format!("cannot remove {}", path.display())).because(error)
            })?;
            exported.removed.push(shown);
        }
        FileAction::Keep => exported.kept.push(shown),
        FileAction::Unseen => exported.unseen.extend(path.exists().then_some(shown)),
        FileAction::Nothing => exported.unchanged += usize::from(path.exists()),
        // Refused before anything is written.
        FileAction::Conflict => {}
    }
    Ok(())
}

fn show(exported: &Exported, session: &mut Session<'_>) -> Result<(), Failure> {
    let Exported {
        written,
        removed,
        kept,
        unchanged,
        unseen,
        folder,
    } = exported;
    let all = written.len() + kept.len() + unchanged;
    let counts: Vec<String> = [
        (written.len(), "written"),
        (removed.len(), "removed"),
        (kept.len(), "kept (edited locally)"),
        (*unchanged, "unchanged"),
    ]
    .into_iter()
    .filter(|(number, _)| *number > 0)
    .map(|(number, word)| format!("{} {word}", thousands(number as u64)))
    .collect();
    let counts = if counts.is_empty() {
        "nothing is stored yet".to_owned()
    } else {
        counts.join(", ")
    };
    session.console.note(&format!(
        "{} in {}: {counts}",
        count(all, "document"),
        folder.display()
    ));
    if !session.print(exported)? {
        for (word, files) in [("written", written), ("removed", removed), ("kept", kept)] {
            for file in files {
                session.console.data(&format!("{word:7}  {file}\n"));
            }
        }
    }
    if !unseen.is_empty() {
        session.console.note(&format!(
            "left alone: {} of documents that were deleted, or that you may not see",
            count(unseen.len(), "file")
        ));
        session
            .console
            .hint("show your rights: voipctl operator whoami");
    }
    Ok(())
}
