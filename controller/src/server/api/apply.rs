//! Apply: documents in, and those that a folder no longer has out, all of it or nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use tonic::Status;
use voipfleet_policy::{self as policy, Document, Documents, Kind, Source};
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1::Reason;
use voipfleet_proto::v1::{
    ApplyRequest, ApplyResponse, Change, Diagnostic, DocumentChange, DocumentConflict,
    DocumentRevision, Severity,
};

use super::documents::{broken, concern_sites, in_use};
use super::fields::{invalid, parse, sources};
use super::{Caller, DocumentsApi, source_quotas};
use crate::documents::{Change as Step, Stored};
use crate::limits::MAX_DOCUMENTS;
use crate::server::rpc_status::Failed;
use crate::store::{Decision, Revision, Transaction, transact};

/// Documents in conflict that the audit log names.
const NAMED: usize = 5;

/// A document by kind and name.
type Name = (Kind, String);

/// What was asked for, understood.
struct Order {
    sources: Vec<Source>,
    /// What a document must be at.
    expected: BTreeMap<Name, Revision>,
    /// What goes, as it was shown.
    prune: BTreeMap<Name, Revision>,
    /// Of the others none may be there yet.
    rest_is_new: bool,
}

/// What an order comes to.
struct Outcome {
    diagnostics: Vec<policy::Diagnostic>,
    changes: Vec<DocumentChange>,
    steps: Vec<Step>,
    /// Documents that are not what the caller saw, with the revision that they are at.
    conflicts: Vec<(Name, Revision, Revision)>,
    /// Documents that would go and are used, with the sites.
    used: Vec<(Name, Vec<String>)>,
    /// Documents that there would be.
    total: usize,
    /// Why there would be too many names or feeds.
    beyond: Option<String>,
}

impl DocumentsApi {
    /// Checks documents and stores what changed.
    pub(super) async fn apply(
        &self,
        caller: &Caller,
        request: ApplyRequest,
    ) -> Result<ApplyResponse, Status> {
        let dry_run = request.dry_run;
        let order = Arc::new(Order::of(request)?);
        let _turn = self.documents.turn().await;
        let apply = async |tx| self.apply_once(tx, caller, &order, dry_run).await;
        let store = self.store.as_ref();
        let (answer, changed) = transact(store, "the set of documents", apply).await?;
        if let Some(before) = changed {
            let count = answer.changes.len();
            tracing::info!(operator = %caller.name, count, "documents applied");
            // They are stored, whether or not they can be read again.
            let after = self.read_documents().await.ok();
            let states = [Some(&before), after.as_ref()];
            note(caller, &answer.changes, &states);
            self.prune_documents(&before);
        }
        Ok(answer)
    }

    /// The answer, and the documents before where they are changed.
    async fn apply_once<'s>(
        &self,
        mut tx: Transaction<'s>,
        caller: &Caller,
        order: &Arc<Order>,
        dry_run: bool,
    ) -> Result<Decision<'s, (ApplyResponse, Option<Stored>)>, Failed> {
        let stored = self.read_documents().await?;
        // Large files take a while: off the async threads.
        let (by, order) = (caller.clone(), Arc::clone(order));
        let checking = tokio::task::spawn_blocking(move || {
            let outcome = order.check(&by, &stored);
            (stored, outcome)
        });
        let (stored, outcome) = checking.await.map_err(|_| broken())?;
        let outcome = outcome?;
        if let Some((name, sites)) = outcome.used.first() {
            return Err(in_use(name, sites, outcome.used.len()).into());
        }
        if outcome.total > MAX_DOCUMENTS {
            let message = format!("there would be more than {MAX_DOCUMENTS} documents");
            return Err(Refusal::new(Reason::LimitReached, message).into());
        }
        if let Some(beyond) = outcome.beyond {
            return Err(Refusal::new(Reason::LimitReached, beyond).into());
        }
        let mut answer = ApplyResponse {
            diagnostics: outcome.diagnostics.into_iter().map(diagnostic).collect(),
            changes: outcome.changes,
            conflicts: Vec::new(),
        };
        if !outcome.conflicts.is_empty() {
            answer.changes.clear();
            answer.conflicts = conflicts(&stored, outcome.conflicts);
            caller.changed_nothing(refused(&answer.conflicts));
            return Ok(tx.done((answer, None)));
        }
        for site in outcome.steps.iter().filter_map(Step::deleted_site) {
            self.refuse_site_with_nodes(&site).await?;
        }
        if outcome.steps.is_empty() || dry_run {
            let mut found = answer.diagnostics.iter();
            if found.any(|found| found.severity() == Severity::Error) {
                caller.changed_nothing("the documents have mistakes; nothing was stored");
            }
            return Ok(tx.done((answer, None)));
        }
        let change = self.change(&mut tx, caller, &stored, outcome.steps);
        let revision = change.await?;
        for change in &mut answer.changes {
            if matches!(change.change(), Change::Created | Change::Changed) {
                change.revision = revision;
            }
        }
        Ok(tx.done((answer, Some(stored))))
    }
}

/// Who changed documents that are not what a caller saw.
fn conflicts(stored: &Stored, conflicts: Vec<(Name, Revision, Revision)>) -> Vec<DocumentConflict> {
    let conflict = |((kind, name), expected, found): (Name, Revision, Revision)| {
        let last = stored.last_change(kind, &name);
        DocumentConflict {
            kind: kind.to_string(),
            expected,
            found,
            changed_ms: last.map_or(0, |last| last.at_ms),
            changed_by: last.map(|last| last.by.clone()).unwrap_or_default(),
            name,
        }
    };
    conflicts.into_iter().map(conflict).collect()
}

/// What the audit log says of conflicts.
fn refused(conflicts: &[DocumentConflict]) -> String {
    let names: Vec<String> = conflicts
        .iter()
        .take(NAMED)
        .map(|conflict| format!("{}/{}", conflict.kind, conflict.name))
        .collect();
    format!(
        "nothing was stored: {} changed by others since, {} among them",
        conflicts.len(),
        names.join(", ")
    )
}

/// Which documents were changed, and the sites that used one of them or do now, for the audit
/// log.
fn note(caller: &Caller, changes: &[DocumentChange], states: &[Option<&Stored>]) {
    for change in changes {
        if change.change() != Change::Unchanged {
            caller.concerns(format!("{}/{}", change.kind, change.name));
            if let Ok(kind) = change.kind.parse() {
                let states = states.iter().flatten();
                let documents = states.map(|state| state.documents.as_ref());
                concern_sites(caller, kind, &change.name, documents);
            }
        }
    }
}

impl Order {
    fn of(request: ApplyRequest) -> Result<Self, Status> {
        let named = |revisions: Vec<DocumentRevision>| {
            if revisions.len() > MAX_DOCUMENTS {
                return Err(invalid(format!(
                    "an installation has at most {MAX_DOCUMENTS} documents"
                )));
            }
            let of_one = |one: DocumentRevision| Ok(((parse(&one.kind)?, one.name), one.revision));
            revisions.into_iter().map(of_one).collect()
        };
        Ok(Self {
            sources: sources(request.sources)?,
            expected: named(request.expected)?,
            prune: named(request.prune)?,
            rest_is_new: request.rest_is_new,
        })
    }

    fn check(&self, caller: &Caller, stored: &Stored) -> Result<Outcome, Status> {
        let prune = self.prune.keys().map(|(kind, name)| (*kind, name.as_str()));
        caller.may_delete(&stored.documents, prune)?;
        let seen = caller.sees(&stored.documents);
        let mut outcome = Outcome {
            diagnostics: Vec::new(),
            changes: Vec::new(),
            steps: Vec::new(),
            conflicts: Vec::new(),
            used: Vec::new(),
            total: stored.len(),
            beyond: None,
        };
        // What is gone already needs no pruning.
        let prune: Vec<(&Name, Revision)> = self
            .prune
            .iter()
            .filter(|((kind, name), _)| stored.documents.contains(*kind, name))
            .map(|(name, revision)| (name, *revision))
            .collect();
        let mut left: Option<Documents> = None;
        for ((kind, name), _) in &prune {
            let left = left.get_or_insert_with(|| Documents::clone(&seen));
            left.remove(*kind, name);
        }
        // A document that names a pruned one is shown with the line that does.
        let left = left.as_ref().unwrap_or(&seen);
        let checked = policy::check(&self.sources, left);
        // Also of a document with mistakes: what is not theirs is refused first.
        let puts = checked.documents.iter();
        let puts = puts.map(|document| (document.kind(), document.name()));
        caller.may_put(&stored.documents, puts)?;
        let errors = checked.has_errors();
        outcome.diagnostics = checked.diagnostics;
        if errors {
            return Ok(outcome);
        }
        for document in &checked.documents {
            self.put(stored, document, &mut outcome);
        }
        let goes = |kind, name: &str| {
            let mut prune = prune.iter();
            prune.any(|((pruned, text), _)| *pruned == kind && text == name)
        };
        outcome.beyond = source_quotas::beyond(&stored.documents, &checked.documents, goes);
        if prune.is_empty() {
            return Ok(outcome);
        }
        let mut after = left.clone();
        after.extend(checked.documents);
        for (name, revision) in prune {
            outcome.prune(stored, &after, name, revision);
        }
        Ok(outcome)
    }

    fn put(&self, stored: &Stored, document: &Document, outcome: &mut Outcome) {
        let (kind, name) = (document.kind(), document.name().to_owned());
        let found = stored.revision(kind, &name);
        let change = match stored.documents.get(kind, &name) {
            None => Change::Created,
            Some(before) if before == *document => Change::Unchanged,
            Some(_) => Change::Changed,
        };
        let name = (kind, name);
        if change != Change::Unchanged {
            let new = self.rest_is_new.then_some(0);
            let expected = self.expected.get(&name).copied().or(new);
            if let Some(expected) = expected.filter(|expected| *expected != found) {
                outcome.conflicts.push((name.clone(), expected, found));
            }
            outcome.steps.push(Step::Put(document.clone()));
        }
        outcome.total += usize::from(change == Change::Created);
        outcome.changes.push(DocumentChange {
            kind: kind.to_string(),
            name: name.1,
            change: change.into(),
            revision: found,
        });
    }
}

impl Outcome {
    /// Takes a document away; `after` is what there will be.
    fn prune(&mut self, stored: &Stored, after: &Documents, name: &Name, expected: Revision) {
        let (kind, text) = name;
        if after.contains(*kind, text) {
            // It is among the sources too; what is written there counts.
            return;
        }
        let found = stored.revision(*kind, text);
        if found != expected {
            self.conflicts.push((name.clone(), expected, found));
        }
        let users = after.users_of(*kind, text);
        if !users.is_empty() {
            self.used.push((name.clone(), users));
        }
        self.total = self.total.saturating_sub(1);
        self.steps.push(Step::Delete(*kind, text.clone()));
        self.changes.push(DocumentChange {
            kind: kind.to_string(),
            name: text.clone(),
            change: Change::Deleted.into(),
            revision: 0,
        });
    }
}

/// A mistake in a document.
fn diagnostic(found: policy::Diagnostic) -> Diagnostic {
    Diagnostic {
        severity: match found.severity {
            policy::Severity::Error => Severity::Error,
            policy::Severity::Warning => Severity::Warning,
        }
        .into(),
        path: found.path,
        offset: found.offset as u64,
        length: found.length as u64,
        line: found.line,
        column: found.column,
        message: found.message,
        label: found.label,
        help: found.help,
    }
}
