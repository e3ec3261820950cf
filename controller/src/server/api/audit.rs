//! The audit log, as far as its reader may see it.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::server::rpc_status::conflict;
use tonic::Status;
use voipfleet_policy as policy;
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1;
use voipfleet_proto::v1::Reason;
use voipfleet_protocol::audit::{Kind, Link, Record};

use super::fields::{invalid, parse};
use super::{Caller, failed};
use crate::audit;
use crate::clock::Clock;
use crate::store::{Expect, Outcome, Store, StoreError, Txn, keys};

/// Records in an answer by default.
const DEFAULT_LIMIT: usize = 100;
/// The most records in an answer.
const MAX_LIMIT: usize = 1000;
/// Records that are read at once.
const PAGE: u64 = 500;
/// Records that one call reads; then the caller asks for more.
const LOOKED_AT: u64 = 100_000;
/// So many records in a row that are older than what is asked for, by more than a clock is set
/// back, end the search.
const OLDER: usize = 10_000;
const STEP_MS: u64 = 24 * 3_600_000;
/// Records in one answer of the whole log.
const CHAIN_PAGE: usize = 2000;
/// Results that are awaited at the same time.
const MAX_OPEN: usize = 100_000;
/// Records that are removed in one transaction.
const PRUNED: usize = 90;

struct Wanted<'r> {
    request: &'r v1::AuditRequest,
    /// Unix time.
    since_ms: u64,
    until_ms: u64,
    reader: &'r Caller,
    /// What was asked for and has no result yet.
    open: BTreeSet<u64>,
}

impl Wanted<'_> {
    /// What of a record is shown; none: nothing.
    fn shown(&self, record: Record) -> Option<Record> {
        let request = self.request;
        let who = record.who.as_ref().map(|who| who.operator.as_str());
        let asked_only = record.kind == Kind::Asked && !self.open.contains(&record.seq);
        let wanted = !asked_only
            && (request.site.is_empty() || record.sites.contains(&request.site))
            && (request.request.is_empty() || record.request.as_ref() == Some(&request.request))
            && (request.who.is_empty() || who == Some(request.who.as_str()))
            && (request.what.is_empty() || record.what.eq_ignore_ascii_case(&request.what))
            && (self.since_ms..self.until_ms).contains(&record.at_ms);
        wanted.then(|| restricted(record, self.reader)).flatten()
    }
}

/// A record without what its reader may not see; none: all of it is of others.
fn restricted(mut record: Record, reader: &Caller) -> Option<Record> {
    let sight = &reader.sight;
    let by = record.who.as_ref().map(|who| who.operator.as_str());
    // Their own actions hide nothing from them.
    if sight.is_all() || by == Some(reader.name.as_str()) {
        return Some(record);
    }
    let count = |record: &Record| (record.sites.len(), record.objects.len());
    let of_documents = !record.objects.is_empty() && record.objects.iter().all(|o| is_document(o));
    let before = count(&record);
    record
        .sites
        .retain(|site| site.parse().is_ok_and(|site| sight.site(&site)));
    let whole = !record.sites.is_empty()
        && record
            .sites
            .iter()
            .all(|site| site.parse().is_ok_and(|site| sight.whole_site(&site)));
    record.objects.retain(|object| {
        let document = object.split_once('/').and_then(|(kind, name)| {
            let kind: policy::Kind = kind.parse().ok()?;
            Some(sight.document(kind, name))
        });
        // Nodes and tokens are of the record's sites.
        document.unwrap_or(whole)
    });
    // A change of documents that are all of others is none of its reader's, though it concerns a
    // site that serves them too.
    let of_others = of_documents && record.objects.is_empty() && !whole;
    if of_others || (record.sites.is_empty() && record.objects.is_empty()) {
        return None;
    }
    if !whole || count(&record) != before {
        // The text may be about what was left out, and where an operator of another part of the
        // installation called from is not shown either.
        record.detail = None;
        record.message = None;
        if let Some(who) = record.who.as_mut() {
            who.peer.clear();
            who.serial.clear();
        }
    }
    Some(record)
}

fn is_document(object: &str) -> bool {
    let kind = object.split_once('/').map(|(kind, _)| kind);
    kind.is_some_and(|kind| kind.parse::<policy::Kind>().is_ok())
}

fn link(link: Link) -> v1::AuditLink {
    v1::AuditLink {
        seq: link.seq,
        hash: link.hash.to_string(),
    }
}

/// Reading and pruning the audit log.
#[derive(Debug, Clone)]
pub(super) struct AuditApi {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
}

impl AuditApi {
    /// Records by what is asked for, newest first.
    pub(super) async fn records(
        &self,
        caller: &Caller,
        request: &v1::AuditRequest,
    ) -> Result<v1::AuditResponse, Status> {
        let limit = match request.limit {
            0 => DEFAULT_LIMIT,
            limit => usize::try_from(limit).unwrap_or(MAX_LIMIT).min(MAX_LIMIT),
        };
        let store = self.store.as_ref();
        let open = store
            .all(keys::ALL_AUDIT_OPEN, MAX_OPEN)
            .await
            .map_err(failed)?;
        let now_ms = self.clock.now_ms();
        let ago = |ms: u64| (ms > 0).then(|| now_ms.saturating_sub(ms));
        let until_ms = Some(request.until_ms).filter(|until| *until > 0);
        let wanted = Wanted {
            request,
            since_ms: ago(request.since_ago_ms).unwrap_or(request.since_ms),
            until_ms: ago(request.until_ago_ms).or(until_ms).unwrap_or(u64::MAX),
            reader: caller,
            open: open
                .iter()
                .filter_map(|entry| keys::number(&entry.key))
                .collect(),
        };
        let newest = audit::head(store).await.map_err(failed)?.seq;
        let first = audit::anchor(store).await.map_err(failed)?.seq;
        // Numbers have no gaps, so that a page backwards is one forwards from further back.
        let mut end = match request.before {
            0 => newest,
            before => newest.min(before - 1),
        };
        let mut answer = v1::AuditResponse::default();
        let stop = end.saturating_sub(LOOKED_AT).max(first);
        let mut older = 0;
        while end > stop {
            let start = end.saturating_sub(PAGE).max(stop);
            let count = usize::try_from(end - start).unwrap_or(usize::MAX);
            let after = keys::audit(start);
            let page = store.range(keys::ALL_AUDIT, Some(&after), count).await;
            for entry in page.map_err(failed)?.entries.iter().rev() {
                // One that cannot be read is for `audit verify`.
                let Ok(record) = serde_json::from_slice::<Record>(&entry.held.value) else {
                    continue;
                };
                // One that is older than what is asked for may stand before others that are not:
                // the clock was set back between them.
                let seq = record.seq;
                if record.at_ms.saturating_add(STEP_MS) < wanted.since_ms {
                    older += 1;
                    if older >= OLDER {
                        return Ok(answer);
                    }
                } else {
                    older = 0;
                }
                if let Some(record) = wanted.shown(record) {
                    let bytes = serde_json::to_vec(&record).map_err(invalid)?;
                    answer.records.push(bytes);
                    if answer.records.len() == limit {
                        answer.next = if seq > first + 1 { seq } else { 0 };
                        return Ok(answer);
                    }
                }
            }
            end = start;
        }
        answer.next = if end > first { end + 1 } else { 0 };
        Ok(answer)
    }

    /// Records as they are stored, for checking the chain.
    pub(super) async fn chain(
        &self,
        request: &v1::AuditChainRequest,
    ) -> Result<v1::AuditChainResponse, Status> {
        let store = self.store.as_ref();
        // The ends first: what is read after them is at least as new.
        let head = audit::head(store).await.map_err(failed)?;
        let mut anchor = audit::anchor(store).await.map_err(failed)?;
        let page = loop {
            let after = keys::audit(request.after.max(anchor.seq));
            let page = store.range(keys::ALL_AUDIT, Some(&after), CHAIN_PAGE).await;
            let page = page.map_err(failed)?;
            // Pruned while it was read: what is missing then is not missing.
            let now = audit::anchor(store).await.map_err(failed)?;
            if now == anchor {
                break page;
            }
            anchor = now;
        };
        // A log may just have begun; one that has records and no end has lost it.
        let head = match head.seq {
            0 => audit::head(store).await.map_err(failed)?,
            _ => head,
        };
        let entries = page.entries.into_iter();
        let record = |entry: crate::store::Entry| v1::AuditChainRecord {
            seq: keys::number(&entry.key).unwrap_or_default(),
            record: entry.held.value,
        };
        Ok(v1::AuditChainResponse {
            records: entries.map(record).collect(),
            head: Some(link(head)),
            anchor: Some(link(anchor)),
        })
    }

    /// Removes the oldest records up to one that the caller has, and keeps its hash: the chain
    /// goes on from there.
    pub(super) async fn prune(
        &self,
        caller: &Caller,
        request: &v1::PruneAuditRequest,
    ) -> Result<v1::PruneAuditResponse, Status> {
        let asked = request.last.clone().unwrap_or_default();
        let last = Link {
            seq: asked.seq,
            hash: parse(&asked.hash)?,
        };
        caller.concerns(voipfleet_protocol::audit::pruned(last));
        let store = self.store.as_ref();
        let held = store.get(&keys::audit(last.seq)).await.map_err(failed)?;
        let held = held.ok_or_else(|| {
            let message = format!("the audit log has no record {}", last.seq);
            Status::from(Refusal::new(Reason::UnknownAuditRecord, message))
        })?;
        if voipfleet_protocol::audit::Hash::of(&held.value) != last.hash {
            let message = format!("record {} of the audit log has another hash", last.seq);
            return Err(Refusal::new(Reason::AuditRecordDiffers, message)
                .hint("check the log: voipctl audit verify")
                .into());
        }
        let mut removed = 0;
        loop {
            let held = store.get(keys::AUDIT_ANCHOR).await.map_err(failed)?;
            let from = audit::anchor(store).await.map_err(failed)?;
            let after = keys::audit(from.seq);
            let page = store.range(keys::ALL_AUDIT, Some(&after), PRUNED).await;
            let mut anchor = from;
            let mut txn = Txn::new();
            for entry in page.map_err(failed)?.entries {
                let seq = keys::number(&entry.key).unwrap_or(u64::MAX);
                if seq > last.seq {
                    break;
                }
                let hash = voipfleet_protocol::audit::Hash::of(&entry.held.value);
                anchor = Link { seq, hash };
                txn = txn.delete(entry.key);
                removed += 1;
            }
            if anchor == from {
                break;
            }
            let value = crate::records::to_json(keys::AUDIT_ANCHOR, &anchor);
            // Of two at once none sets back what the other has done.
            let txn = txn
                .expect(keys::AUDIT_ANCHOR, Expect::from(&held))
                .put(keys::AUDIT_ANCHOR, value.map_err(failed)?);
            let outcome: Result<_, StoreError> = store.commit(txn).await;
            if outcome.map_err(failed)? == Outcome::Conflict {
                return Err(conflict("the audit log"));
            }
        }
        tracing::info!(operator = %caller.name, removed, "audit log pruned");
        Ok(v1::PruneAuditResponse { removed })
    }
}
