//! `voipctl export DIR`: every stored document into a folder, one file each.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use voipfleet_policy::Kind;
use voipfleet_proto::v1;

use crate::Session;
use crate::failure::{ExitStatus, Failure};
use crate::format::count;
use crate::workspace::{self, Files, Known, Revisions, sha256, write_whole};

/// The most files that a refusal names.
const NAMED: usize = 20;

/// `voipctl export`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder; made where there is none
    folder: PathBuf,

    /// Also overwrite and remove files that were edited here
    #[arg(long)]
    force: bool,
}

/// What an export did.
#[derive(Debug, Default, Serialize)]
struct Exported {
    folder: PathBuf,
    /// Files that are new or other than before.
    written: Vec<String>,
    /// Files of documents that are gone.
    removed: Vec<String>,
    /// Files that were edited here, and of which nobody changed the document.
    kept: Vec<String>,
    /// Files of documents that are gone, or that this certificate may not see: left as they are.
    unseen: Vec<String>,
    /// Files that were as they should be.
    unchanged: usize,
}

/// What happens to one document's file.
enum Step {
    Write(Vec<u8>),
    Remove,
    Keep,
    /// The controller does not say whether the document is gone or only not ours to see.
    Unseen,
    Nothing,
    /// It was edited here, and the document was changed or deleted by somebody else.
    Edited,
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let ca = session.context()?.ca;
    let mut revisions = Revisions::load(&args.folder, &ca)?;
    refuse_others(&args.folder)?;
    let controller = session.controller().await?;
    let request = v1::GetDocumentsRequest::default();
    let stored = controller
        .answer(controller.calls().get_documents(request))
        .await?;
    let complete = stored.complete;
    let mut documents = BTreeMap::new();
    for document in stored.documents {
        documents.insert(name(&document)?, document);
    }
    let names: BTreeSet<String> = documents.keys().cloned().chain(revisions.names()).collect();
    let mut steps = Vec::new();
    let mut edited = Vec::new();
    for shown in names {
        let path = args.folder.join(format!("{shown}.yaml"));
        let document = documents.get(&shown);
        let step = if document.is_none() && !complete {
            Step::Unseen
        } else {
            step(&path, document, revisions.get(&shown), args.force)?
        };
        if matches!(step, Step::Edited) {
            edited.push(path.display().to_string());
        }
        steps.push((shown, path, step));
    }
    if !edited.is_empty() {
        return Err(refuse_edited(&edited));
    }
    let mut exported = Exported {
        folder: args.folder.clone(),
        ..Exported::default()
    };
    for (shown, path, step) in steps {
        take(&step, &path, &mut exported)?;
        if matches!(step, Step::Unseen) {
            continue;
        }
        let mut known = revisions.get(&shown).and_then(|known| known.sha256.clone());
        if let Step::Write(bytes) = &step {
            known = Some(sha256(bytes));
        }
        match documents.get(&shown) {
            Some(document) => revisions.set(
                &shown,
                Known {
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

/// `tenant/acme`, of which the file's path is made: never one that leads out of the folder.
fn name(document: &v1::StoredDocument) -> Result<String, Failure> {
    let kind: Option<Kind> = document.kind.parse().ok();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fit = document.name.chars().all(plain)
        && document
            .name
            .starts_with(|c: char| c.is_ascii_alphanumeric());
    match kind {
        Some(kind) if fit => Ok(workspace::shown(kind.as_str(), &document.name)),
        _ => Err(Failure::controller(format!(
            "the controller has a {} whose name is no file's: {:?}",
            document.kind, document.name
        ))),
    }
}

/// A document that stands in two files is one too many: a folder is an export's, or an operator's
/// own.
fn refuse_others(folder: &Path) -> Result<(), Failure> {
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
        "{} is no file of an export: its documents would then stand in the folder twice",
        other.display()
    ))
    .hint("export into a folder of its own; an export holds KIND/NAME.yaml files alone"))
}

/// Decides without writing anything.
fn step(
    path: &Path,
    document: Option<&v1::StoredDocument>,
    known: Option<&Known>,
    force: bool,
) -> Result<Step, Failure> {
    let there = match fs::read(path) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            let message = format!("{} cannot be read", path.display());
            return Err(Failure::input(message).because(error));
        }
    };
    let own = there
        .as_ref()
        .is_some_and(|bytes| known.and_then(|known| known.sha256.as_ref()) == Some(&sha256(bytes)));
    let Some(document) = document else {
        return Ok(match there {
            None => Step::Nothing,
            Some(_) if own || force => Step::Remove,
            Some(_) => Step::Edited,
        });
    };
    let yaml = document.yaml.trim_start_matches("---\n").as_bytes();
    let same = known.is_some_and(|known| known.revision == document.revision);
    Ok(match there {
        Some(bytes) if bytes == yaml && own => Step::Nothing,
        Some(bytes) if bytes == yaml || own || force => Step::Write(yaml.to_vec()),
        // A file that was removed here is an edit too, for the next apply to prune.
        None if known.is_none() || force => Step::Write(yaml.to_vec()),
        _ if same => Step::Keep,
        _ => Step::Edited,
    })
}

fn refuse_edited(edited: &[String]) -> Failure {
    let mut names: Vec<String> = edited.iter().take(NAMED).cloned().collect();
    if edited.len() > NAMED {
        names.push(format!("{} more", edited.len() - NAMED));
    }
    let files = if edited.len() == 1 {
        "this file was edited here, and its document was"
    } else {
        "these files were edited here, and their documents were"
    };
    Failure::input(format!(
        "{files} changed by somebody else too; nothing was written: {}",
        names.join(", ")
    ))
    .hint(
        "export into another folder and compare; to take what the controller has: add --force; \
         to keep your own: voipctl apply -f DIR --overwrite",
    )
}

fn take(step: &Step, path: &Path, exported: &mut Exported) -> Result<(), Failure> {
    let inside = path.strip_prefix(&exported.folder).unwrap_or(path);
    let shown = inside.display().to_string();
    match step {
        Step::Write(bytes) => {
            if fs::read(path).is_ok_and(|there| there == *bytes) {
                exported.unchanged += 1;
            } else {
                write_whole(path, bytes)?;
                exported.written.push(shown);
            }
        }
        Step::Remove => {
            fs::remove_file(path).map_err(|error| {
                Failure::input(format!("{} cannot be removed", path.display())).because(error)
            })?;
            exported.removed.push(shown);
        }
        Step::Keep => exported.kept.push(shown),
        Step::Unseen => exported.unseen.extend(path.exists().then_some(shown)),
        Step::Nothing => exported.unchanged += usize::from(path.exists()),
        // Refused before anything is taken.
        Step::Edited => {}
    }
    Ok(())
}

fn show(exported: &Exported, session: &mut Session<'_>) -> Result<(), Failure> {
    if !session.print(exported)? {
        for (word, files) in [
            ("written", &exported.written),
            ("removed", &exported.removed),
            ("kept", &exported.kept),
        ] {
            for file in files {
                session.console.data(&format!("{word:7}  {file}\n"));
            }
        }
    }
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
        (kept.len(), "kept as edited here"),
        (*unchanged, "as they were"),
    ]
    .into_iter()
    .filter(|(number, _)| *number > 0)
    .map(|(number, word)| format!("{number} {word}"))
    .collect();
    let counts = if counts.is_empty() {
        "none is stored yet".to_owned()
    } else {
        counts.join(", ")
    };
    session.console.note(&format!(
        "{} in {}: {counts}",
        count(all, "document"),
        folder.display()
    ));
    if !unseen.is_empty() {
        session.console.note(&format!(
            "left alone: {} of documents that are gone, or not yours to see",
            count(unseen.len(), "file")
        ));
        session.console.hint(
            "what you may see: voipctl operator whoami; who sees everything removes what is gone: \
             voipctl export DIR",
        );
    }
    Ok(())
}
