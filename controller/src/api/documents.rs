//! Apply, get and delete documents.

use tonic::Status;
use voipfleet_common::identity::rights::Target;
use voipfleet_common::policy::{self, Document, Documents, Kind, Source};
use voipfleet_proto::v1::{
    ApplyRequest, ApplyResponse, Change, DeleteRequest, DocumentChange, GetDocumentsRequest,
    GetDocumentsResponse, StoredDocument,
};

use super::convert::{diagnostic, parse, sources};
use super::tokens::MAX_STORED as MAX_TOKENS;
use super::{Api, Caller, failed};
use crate::documents::{self, Change as Step, MAX_DOCUMENTS, Stored};
use crate::errors::chain;
use crate::push::snapshot::MAX_NODES;
use crate::records::{self, TokenRecord};
use crate::store::{Expect, Outcome, Txn, keys};

/// Tries to win against others that change documents.
const TRIES: usize = 10;
/// Changes of documents between two prunings of their versions; pushes prune them too.
const PRUNE_EVERY: u64 = 100;

fn contended() -> Status {
    Status::aborted("the documents are being changed by others; try again")
}

fn broken() -> Status {
    Status::internal("the documents could not be checked; the controller's log says why")
}

/// What a request for documents is about.
pub(super) fn got(request: &GetDocumentsRequest) -> Result<Target, Status> {
    if request.kind.is_empty() || request.name.is_empty() {
        return Ok(Target::Visible);
    }
    Ok(Target::Document(
        parse(&request.kind)?,
        request.name.clone(),
    ))
}

impl Api {
    /// Checks documents and stores what changed, all of it or nothing.
    pub(super) async fn apply(
        &self,
        caller: &Caller,
        request: ApplyRequest,
    ) -> Result<ApplyResponse, Status> {
        let mut sources = sources(request.sources)?;
        for _ in 0..TRIES {
            let stored = self.read_documents().await?;
            // Large files take a while: off the async threads.
            let by = caller.clone();
            let checking = tokio::task::spawn_blocking(move || {
                let result = check(&by, &sources, &stored);
                (sources, stored, result)
            });
            let (given_back, stored, result) = checking.await.map_err(|_| broken())?;
            sources = given_back;
            let checked = result?;
            let answer = ApplyResponse {
                diagnostics: checked.diagnostics.into_iter().map(diagnostic).collect(),
                changes: checked.changes,
            };
            if checked.steps.is_empty() || request.dry_run {
                caller.detail("nothing was stored");
                return Ok(answer);
            }
            if checked.total > MAX_DOCUMENTS {
                return Err(Status::resource_exhausted(format!(
                    "there would be more than {MAX_DOCUMENTS} documents"
                )));
            }
            let count = checked.steps.len();
            let txn = self.change(caller, &stored, checked.steps)?;
            if self.commit_documents(&stored, txn).await? {
                tracing::info!(operator = %caller.name, count, "documents applied");
                note(caller, &answer.changes);
                return Ok(answer);
            }
        }
        Err(contended())
    }

    /// Documents as YAML that Apply takes back.
    pub(super) async fn get(
        &self,
        request: &GetDocumentsRequest,
    ) -> Result<GetDocumentsResponse, Status> {
        let kind: Option<Kind> = match request.kind.as_str() {
            "" => None,
            kind => Some(parse(kind)?),
        };
        let Stored { entries, .. } = self.read_documents().await?;
        let name = request.name.clone();
        let reading = tokio::task::spawn_blocking(move || {
            let mut found = Vec::new();
            for entry in &entries {
                let document: Document = records::from_json(&entry.key, &entry.held)?;
                if kind.is_some_and(|kind| kind != document.kind())
                    || !(name.is_empty() || name == document.name())
                {
                    continue;
                }
                found.push((
                    document.kind(),
                    StoredDocument {
                        kind: document.kind().to_string(),
                        name: document.name().to_owned(),
                        revision: entry.held.revision,
                        yaml: document.to_yaml(),
                    },
                ));
            }
            Ok(found)
        });
        let mut found = reading.await.map_err(|_| broken())?.map_err(failed)?;
        if found.is_empty() && !request.name.is_empty() {
            let kind = kind.map_or("document".to_owned(), |kind| kind.to_string());
            return Err(Status::not_found(format!(
                "there is no {kind} {}; `voipctl get` lists what there is",
                shown(&request.name)
            )));
        }
        found.sort_by(|(a, left), (b, right)| (a, &left.name).cmp(&(b, &right.name)));
        Ok(GetDocumentsResponse {
            documents: found.into_iter().map(|(_, document)| document).collect(),
        })
    }

    /// Deletes a document that nobody uses.
    pub(super) async fn delete_document(
        &self,
        caller: &Caller,
        request: &DeleteRequest,
    ) -> Result<(), Status> {
        let kind: Kind = parse(&request.kind)?;
        let name = &request.name;
        for _ in 0..TRIES {
            let read = self.read_documents().await?;
            let reading = tokio::task::spawn_blocking(move || (read.documents(), read));
            let (stored, read) = reading.await.map_err(|_| broken())?;
            let stored: Documents = stored.map_err(failed)?;
            if !stored.contains(kind, name) {
                return Err(Status::not_found(format!(
                    "there is no {kind} {}; `voipctl get {kind}` lists them",
                    shown(name)
                )));
            }
            caller.may_delete(&stored, [(kind, name.as_str())])?;
            let users = stored.users_of(kind, name);
            if !users.is_empty() {
                return Err(Status::failed_precondition(format!(
                    "{kind} {name} is used by site {}; take it out there first",
                    users.join(", ")
                )));
            }
            let mut txn = self.change(caller, &read, [Step::Delete(kind, name.clone())])?;
            if kind == Kind::Site {
                // Tokens first: one that is used after that makes the commit a conflict.
                txn = self.with_open_tokens(name, txn).await?;
                self.refuse_site_with_nodes(name).await?;
            }
            if self.commit_documents(&read, txn).await? {
                tracing::info!(operator = %caller.name, %kind, name, "document deleted");
                return Ok(());
            }
        }
        Err(contended())
    }

    /// Takes the unused tokens of a site along: nobody may enrol into a site that is gone.
    async fn with_open_tokens(&self, site: &str, mut txn: Txn) -> Result<Txn, Status> {
        let tokens = self.store.all(keys::ALL_TOKENS, MAX_TOKENS).await;
        for entry in tokens.map_err(failed)? {
            let token: TokenRecord = records::from_json(&entry.key, &entry.held).map_err(failed)?;
            if token.site.as_str() == site && token.used.is_none() {
                txn = txn
                    .expect(entry.key.clone(), Expect::At(entry.held.revision))
                    .delete(entry.key);
            }
        }
        Ok(txn)
    }

    async fn refuse_site_with_nodes(&self, site: &str) -> Result<(), Status> {
        let nodes = self.store.all(&keys::nodes(site), MAX_NODES).await;
        let nodes: Vec<String> = nodes
            .map_err(failed)?
            .iter()
            .filter_map(|entry| keys::site_and_node(&entry.key))
            .map(|(_, node)| node.to_owned())
            .collect();
        if nodes.is_empty() {
            return Ok(());
        }
        Err(Status::failed_precondition(format!(
            "site {site} still has nodes: {}; delete each first: voipctl delete node {site}/NODE",
            nodes.join(", ")
        )))
    }

    async fn read_documents(&self) -> Result<Stored, Status> {
        Stored::read(self.store.as_ref()).await.map_err(failed)
    }

    fn change(
        &self,
        caller: &Caller,
        stored: &Stored,
        steps: impl IntoIterator<Item = Step>,
    ) -> Result<Txn, Status> {
        let by = caller.name.as_str();
        let txn = stored.change(by, self.clock.now_ms(), steps);
        txn.map_err(failed)
    }

    /// Commits a change of documents; false: somebody else was faster.
    async fn commit_documents(&self, stored: &Stored, txn: Txn) -> Result<bool, Status> {
        let outcome = self.store.commit(txn).await.map_err(failed)?;
        if outcome == Outcome::Conflict {
            return Ok(false);
        }
        if stored.version.version.is_multiple_of(PRUNE_EVERY) {
            let store = std::sync::Arc::clone(&self.store);
            tokio::spawn(async move {
                if let Err(error) = documents::prune(store.as_ref()).await {
                    tracing::warn!(error = %chain(&error), "old versions of documents not removed");
                }
            });
        }
        Ok(true)
    }
}

/// Which documents were changed, for the audit log.
fn note(caller: &Caller, changes: &[DocumentChange]) {
    for change in changes {
        if change.change() != Change::Unchanged {
            caller.concerns(format!("{}/{}", change.kind, change.name));
        }
    }
}

/// What an operator typed, short enough to repeat.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

struct CheckedApply {
    diagnostics: Vec<policy::Diagnostic>,
    changes: Vec<DocumentChange>,
    steps: Vec<Step>,
    /// Documents that there would be.
    total: usize,
}

fn check(caller: &Caller, sources: &[Source], read: &Stored) -> Result<CheckedApply, Status> {
    let stored = read.documents().map_err(failed)?;
    let checked = policy::check(sources, &caller.sees(&stored));
    // Also of a document with mistakes: what is not theirs is refused first.
    let puts = checked.documents.iter();
    caller.may_put(
        &stored,
        puts.map(|document| (document.kind(), document.name())),
    )?;
    let mut result = CheckedApply {
        changes: Vec::new(),
        steps: Vec::new(),
        total: read.entries.len(),
        diagnostics: Vec::new(),
    };
    if !checked.has_errors() {
        for document in checked.documents {
            let change = match stored.get(document.kind(), document.name()) {
                None => Change::Created,
                Some(before) if before == document => Change::Unchanged,
                Some(_) => Change::Changed,
            };
            result.changes.push(DocumentChange {
                kind: document.kind().to_string(),
                name: document.name().to_owned(),
                change: change.into(),
            });
            result.total += usize::from(change == Change::Created);
            if change != Change::Unchanged {
                result.steps.push(Step::Put(document));
            }
        }
    }
    result.diagnostics = checked.diagnostics;
    Ok(result)
}
