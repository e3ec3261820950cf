//! Get and delete documents, and how they are changed.

use std::sync::Arc;

use crate::server::rpc_status::{conflict, internal};
use tonic::Status;
use voipfleet_policy::{Document, Kind};
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1::Reason;
use voipfleet_proto::v1::{
    DeleteRequest, GetDocumentsRequest, GetDocumentsResponse, StoredDocument,
};
use voipfleet_ruleset::identifiers::SiteName;

use super::fields::parse;
use super::tokens::MAX_STORED as MAX_TOKENS;
use super::{Caller, failed};
use crate::clock::Clock;
use crate::documents::{self, Cache, Change as Step, Stored};
use crate::errors::chain;
use crate::records::{self, ExceptionKind, SiteScope, TokenRecord};
use crate::site_inputs::{MAX_EXCEPTIONS, MAX_NODES};
use crate::store::{Expect, Outcome, Revision, Store, Txn, keys};

/// Tries to win against others that change documents.
const TRIES: usize = 10;
/// Changes of documents between two prunings of their versions; pushes prune them too.
const PRUNE_EVERY: u64 = 100;

pub(super) fn contended() -> Status {
    conflict("a document")
}

pub(super) fn broken() -> Status {
    internal("the documents could not be checked")
}

fn unknown_document(kind: &dyn std::fmt::Display, name: &str, hint: &str) -> Status {
    let name = shown(name);
    Refusal::new(
        Reason::UnknownDocument,
        format!("there is no {kind} {name}"),
    )
    .hint(hint)
    .fact("kind", kind)
    .fact("name", name)
    .into()
}

/// Documents: reading, storing and deleting them.
#[derive(Debug, Clone)]
pub(super) struct DocumentsApi {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) documents: Cache,
}

impl DocumentsApi {
    /// Documents as YAML that Apply takes back.
    pub(super) async fn get(
        &self,
        request: &GetDocumentsRequest,
    ) -> Result<GetDocumentsResponse, Status> {
        let kind: Option<Kind> = match request.kind.as_str() {
            "" => None,
            kind => Some(parse(kind)?),
        };
        let stored = self.read_documents().await?;
        let name = request.name.clone();
        // Long lists take a while: off the async threads.
        let reading = tokio::task::spawn_blocking(move || {
            let wanted = |document: &Document| {
                kind.is_none_or(|kind| kind == document.kind())
                    && (name.is_empty() || name == document.name())
            };
            let found = stored.documents.iter().filter(wanted);
            found
                .map(|document| StoredDocument {
                    kind: document.kind().to_string(),
                    name: document.name().to_owned(),
                    revision: stored.revision(document.kind(), document.name()),
                    yaml: document.to_yaml(),
                })
                .collect::<Vec<_>>()
        });
        let documents = reading.await.map_err(|_| broken())?;
        if documents.is_empty() && !request.name.is_empty() {
            let kind = kind.map_or("document".to_owned(), |kind| kind.to_string());
            return Err(unknown_document(
                &kind,
                &request.name,
                "list the documents: voipctl get",
            ));
        }
        Ok(GetDocumentsResponse {
            documents,
            // Unless the caller may not see them all.
            complete: true,
        })
    }

    /// Deletes an unused document.
    pub(super) async fn delete(
        &self,
        caller: &Caller,
        request: &DeleteRequest,
    ) -> Result<(), Status> {
        let kind: Kind = parse(&request.kind)?;
        let name = &request.name;
        let _turn = self.documents.turn().await;
        for _ in 0..TRIES {
            let stored = self.read_documents().await?;
            if !stored.documents.contains(kind, name) {
                let hint = format!("list them: voipctl get {kind}");
                return Err(unknown_document(&kind, name, &hint));
            }
            caller.may_delete(&stored.documents, [(kind, name.as_str())])?;
            let users = stored.documents.users_of(kind, name);
            if !users.is_empty() {
                return Err(in_use(&(kind, name.clone()), &users, 1));
            }
            let mut txn = self.change(caller, &stored, [Step::Delete(kind, name.clone())])?;
            if kind == Kind::Site {
                // Tokens first: one that is used after that makes the commit a conflict.
                txn = self.with_what_is_of_site(name, txn).await?;
                self.refuse_site_with_nodes(name).await?;
            }
            if self.commit_documents(&stored, txn).await?.is_some() {
                tracing::info!(operator = %caller.name, %kind, name, "document deleted");
                return Ok(());
            }
        }
        Err(contended())
    }

    /// Removes what belongs to a deleted site: no machine may enrol into it, and one that gets
    /// its name later begins without its blocks and allows, and closed.
    pub(super) async fn with_what_is_of_site(
        &self,
        site: &str,
        mut txn: Txn,
    ) -> Result<Txn, Status> {
        let name: SiteName = parse(site)?;
        txn = txn.delete(keys::open(&name));
        for kind in ExceptionKind::ALL {
            let prefix = keys::exceptions(kind, &SiteScope::One(name.clone()));
            for entry in self
                .store
                .all(&prefix, 2 * MAX_EXCEPTIONS)
                .await
                .map_err(failed)?
            {
                txn = txn.delete(entry.key);
            }
        }
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

    pub(super) async fn refuse_site_with_nodes(&self, site: &str) -> Result<(), Status> {
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
        let message = format!("site {site} still has nodes: {}", nodes.join(", "));
        Err(Refusal::new(Reason::SiteHasNodes, message)
            .hint(format!(
                "delete each of them first: voipctl delete node {site}/NODE"
            ))
            .fact("site", site)
            .into())
    }

    pub(super) async fn read_documents(&self) -> Result<Stored, Status> {
        self.documents.read().await.map_err(failed)
    }

    pub(super) fn change(
        &self,
        caller: &Caller,
        stored: &Stored,
        steps: impl IntoIterator<Item = Step>,
    ) -> Result<Txn, Status> {
        let by = caller.name.as_str();
        let txn = stored.change(by, self.clock.now_ms(), steps);
        txn.map_err(failed)
    }

    /// Commits a change of documents; none: they were modified concurrently.
    pub(super) async fn commit_documents(
        &self,
        stored: &Stored,
        txn: Txn,
    ) -> Result<Option<Revision>, Status> {
        let outcome = self.store.commit(txn).await.map_err(failed)?;
        let Outcome::Committed { revision } = outcome else {
            return Ok(None);
        };
        if stored.version.version.is_multiple_of(PRUNE_EVERY) {
            let store = Arc::clone(&self.store);
            tokio::spawn(async move {
                if let Err(error) = documents::prune(store.as_ref()).await {
                    tracing::warn!(error = %chain(&error), "old document versions not removed");
                }
            });
        }
        Ok(Some(revision))
    }
}

/// What an operator typed, short enough to repeat.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The refusal to take away what sites still need.
pub(super) fn in_use((kind, name): &(Kind, String), sites: &[String], more: usize) -> Status {
    let also = match more.saturating_sub(1) {
        0 => String::new(),
        more => format!(" (and {more} more documents are in use)"),
    };
    let message = format!(
        "{kind} {} is used by site {}{also}",
        shown(name),
        sites.join(", ")
    );
    Refusal::new(Reason::DocumentInUse, message)
        .hint("remove it from the site's document first")
        .fact("kind", kind)
        .fact("name", shown(name))
        .into()
}
