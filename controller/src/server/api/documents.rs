//! Get and delete documents, and how they are changed.

use std::sync::Arc;

use crate::server::answers::MAX_ANSWER_BYTES;
use crate::server::rpc_status::{conflict, internal};
use tonic::Status;
use voipfleet_policy::{Document, Documents, Kind};
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1::Reason;
use voipfleet_proto::v1::{
    DeleteRequest, GetDocumentsRequest, GetDocumentsResponse, StoredDocument,
};
use voipfleet_ruleset::identifiers::SiteName;

use super::fields::parse;
use super::{Caller, failed};
use crate::clock::Clock;
use crate::documents::{self, Cache, Change as Step, Stored};
use crate::errors::chain;
use crate::limits::MAX_NODES_PER_SITE;
use crate::records::{self, ExceptionKind, SiteScope, TokenRecord};
use crate::server::rpc_status::Failed;
use crate::store::{Entry, Expect, Pages, Revision, Store, Transaction, Txn, keys, transact};

/// Entries in one read.
const PAGE: usize = 500;
/// An answer in pages ends with the document that reaches so many bytes.
const PAGE_BYTES: usize = 8 * 1024 * 1024;
/// Entries of a site that are deleted in one transaction: each takes two operations.
const WITH_SITE: usize = 30;
/// Changes of documents between two prunings of their versions; pushes prune them too.
const PRUNE_EVERY: u64 = 100;

/// Documents up to a page full of them, and whether there are more.
fn page(documents: impl Iterator<Item = StoredDocument>) -> (Vec<StoredDocument>, bool) {
    let mut page = Vec::new();
    let mut bytes = 0;
    for document in documents {
        if bytes >= PAGE_BYTES {
            return (page, true);
        }
        bytes += document.yaml.len();
        page.push(document);
    }
    (page, false)
}

/// All documents, or a refusal before they are more than one answer may hold.
fn whole(documents: impl Iterator<Item = StoredDocument>) -> Result<Vec<StoredDocument>, Status> {
    let mut all = Vec::new();
    let mut bytes = 0;
    for document in documents {
        bytes += document.yaml.len();
        if bytes > MAX_ANSWER_BYTES {
            let message = "the documents are more than one answer may hold";
            return Err(Refusal::new(Reason::LimitReached, message)
                .hint("ask for one kind or name, or with a voipctl of this version")
                .into());
        }
        all.push(document);
    }
    Ok(all)
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
        let state = stored.version.version;
        if request.after > 0 && request.state != state {
            return Err(conflict("the set of documents"));
        }
        let (name, paged) = (request.name.clone(), request.paged);
        let after = usize::try_from(request.after).unwrap_or(usize::MAX);
        // Long lists take a while: off the async threads.
        let reading = tokio::task::spawn_blocking(move || {
            let wanted = |document: &Document| {
                kind.is_none_or(|kind| kind == document.kind())
                    && (name.is_empty() || name == document.name())
            };
            let found = stored.documents.iter().filter(wanted).skip(after);
            let shown = found.map(|document| StoredDocument {
                kind: document.kind().to_string(),
                name: document.name().to_owned(),
                revision: stored.revision(document.kind(), document.name()),
                yaml: document.to_yaml(),
            });
            if paged {
                Ok(page(shown))
            } else {
                whole(shown).map(|all| (all, false))
            }
        });
        let (documents, more) = reading.await.map_err(|_| broken())??;
        let next = if more {
            request.after + documents.len() as u64
        } else {
            0
        };
        if documents.is_empty() && !request.name.is_empty() {
            let kind = kind.map_or("document".to_owned(), |kind| kind.to_string());
            return Err(unknown_document(
                &kind,
                &request.name,
                "list the documents: voipctl get all",
            ));
        }
        Ok(GetDocumentsResponse {
            documents,
            // Unless the caller may not see them all.
            complete: true,
            next,
            state,
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
        let delete = async |mut tx| {
            let stored = self.read_documents().await?;
            if !stored.documents.contains(kind, name) {
                let hint = format!("list them: voipctl get {kind}");
                return Err(Failed(unknown_document(&kind, name, &hint)));
            }
            caller.may_delete(&stored.documents, [(kind, name.as_str())])?;
            let users = stored.documents.users_of(kind, name);
            if !users.is_empty() {
                return Err(Failed(in_use(&(kind, name.clone()), &users, 1)));
            }
            if kind == Kind::Site {
                self.refuse_site_with_nodes(name).await?;
            }
            let step = Step::Delete(kind, name.clone());
            self.change(&mut tx, caller, &stored, vec![step]).await?;
            Ok(tx.done(stored))
        };
        let store = self.store.as_ref();
        let before = transact(store, "the set of documents", delete).await?;
        concern_sites(caller, kind, name, [before.documents.as_ref()]);
        tracing::info!(operator = %caller.name, %kind, name, "document deleted");
        self.prune_documents(&before);
        Ok(())
    }

    /// Deletes what belongs to a site that is deleted: its unused tokens, and its blocks, allows
    /// and opening. A site that gets the name later begins without them.
    async fn delete_site(&self, tx: &mut Transaction<'_>, site: &str) -> Result<(), Failed> {
        let store = self.store.as_ref();
        let name: SiteName = parse(site)?;
        tx.delete(keys::open(&name));
        let mut useless = Vec::new();
        for kind in ExceptionKind::ALL {
            let prefix = keys::exceptions(kind, &SiteScope::One(name.clone()));
            let mut pages = Pages::new(store, &prefix, PAGE);
            while let Some(entries) = pages.next().await? {
                useless.extend(entries);
            }
        }
        let mut pages = Pages::new(store, keys::ALL_TOKENS, PAGE);
        while let Some(entries) = pages.next().await? {
            for entry in entries {
                let token: TokenRecord = records::from_json(&entry.key, &entry.held)?;
                if token.site.as_str() == site && token.used.is_none() {
                    useless.push(entry);
                }
            }
        }
        // Most sites have few. Those beyond that go first, in transactions of their own.
        let first = useless.len().saturating_sub(WITH_SITE);
        let first: Vec<Entry> = useless.drain(..first).collect();
        for batch in first.chunks(WITH_SITE) {
            let txn = batch.iter().fold(Txn::new(), |txn, entry| {
                txn.expect(entry.key.clone(), Expect::At(entry.held.revision))
                    .delete(entry.key.clone())
            });
            store.commit(txn).await?;
        }
        // A token that is used meanwhile makes the commit a conflict.
        for entry in useless {
            tx.expect(entry.key.clone(), Expect::At(entry.held.revision));
            tx.delete(entry.key);
        }
        Ok(())
    }

    pub(super) async fn refuse_site_with_nodes(&self, site: &str) -> Result<(), Status> {
        let nodes = self.store.all(&keys::nodes(site), MAX_NODES_PER_SITE).await;
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
        let first = nodes.iter().take(1);
        let refusal = Refusal::new(Reason::SiteHasNodes, message);
        let refusal = first.fold(refusal, |refusal, node| {
            refusal.hint(format!(
                "delete each of them first, such as: voipctl delete node {site}/{node}"
            ))
        });
        Err(refusal.fact("site", site).into())
    }

    pub(super) async fn read_documents(&self) -> Result<Stored, Status> {
        self.documents.read().await.map_err(failed)
    }

    /// Changes documents in a transaction, and deletes what belongs to sites that are deleted.
    pub(super) async fn change(
        &self,
        tx: &mut Transaction<'_>,
        caller: &Caller,
        stored: &Stored,
        steps: Vec<Step>,
    ) -> Result<Revision, Failed> {
        for site in steps.iter().filter_map(Step::deleted_site) {
            self.delete_site(tx, &site).await?;
        }
        let (by, now_ms) = (caller.name.as_str(), self.clock.now_ms());
        Ok(stored.change(tx, by, now_ms, steps).await?)
    }

    /// Removes old states in the background, once in a while.
    pub(super) fn prune_documents(&self, before: &Stored) {
        if before.version.version.is_multiple_of(PRUNE_EVERY) {
            let store = Arc::clone(&self.store);
            tokio::spawn(async move {
                if let Err(error) = documents::prune(store.as_ref()).await {
                    tracing::warn!(error = %chain(&error), "old states of documents not removed");
                }
            });
        }
    }
}

/// Adds the sites to the audit record that a document is of, or that use it.
pub(super) fn concern_sites<'d>(
    caller: &Caller,
    kind: Kind,
    name: &str,
    states: impl IntoIterator<Item = &'d Documents>,
) {
    if kind == Kind::Site {
        return caller.concerns_sites([name.to_owned()]);
    }
    for documents in states {
        caller.concerns_sites(documents.users_of(kind, name));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(bytes: &[usize]) -> Vec<StoredDocument> {
        let document = |bytes: &usize| StoredDocument {
            yaml: "x".repeat(*bytes),
            ..StoredDocument::default()
        };
        bytes.iter().map(document).collect()
    }

    #[test]
    fn a_page_ends_when_it_is_full() {
        let all = documents(&[PAGE_BYTES - 1, 1, 5, 2 * PAGE_BYTES, 7]);
        let mut sizes = Vec::new();
        let mut after = 0;
        loop {
            let (found, more) = page(all.clone().into_iter().skip(after));
            after += found.len();
            sizes.push(found.len());
            if !more {
                break;
            }
        }
        assert_eq!(sizes, [2, 2, 1]);
        assert_eq!(after, all.len());
    }

    #[test]
    fn more_than_an_answer_may_hold_is_refused_early() {
        let half = MAX_ANSWER_BYTES / 2;
        assert_eq!(
            whole(documents(&[half, half]).into_iter()).unwrap().len(),
            2
        );
        // An endless number of them is not made.
        let endless = std::iter::repeat_with(|| documents(&[half]).remove(0));
        let status = whole(endless).unwrap_err();
        assert_eq!(Refusal::of(&status).reason, Some(Reason::LimitReached));
    }
}
