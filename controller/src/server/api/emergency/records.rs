//! Writing what was decided: each change is one transaction, and of two at once none is lost.

use ipnet::IpNet;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::Status;
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1::Reason;
use voipfleet_ruleset::identifiers::SiteName;

use super::order::Order;
use crate::limits::MAX_EXCEPTIONS;
use crate::records::{self, ExceptionKind, ExceptionRecord, OpenRecord, Read, SiteScope, is_over};
use crate::server::api::{Caller, EmergencyApi, failed};
use crate::server::rpc_status::Failed;
use crate::store::{Expect, Revision, Store, every, keys, transact_at};

/// Blocks or allows of one address, in different sites, that one transaction deletes.
const AT_ONCE: usize = 40;

impl EmergencyApi {
    /// Stores a block or allow; an existing one takes the newer end.
    pub(super) async fn put_exception(
        &self,
        caller: &Caller,
        kind: ExceptionKind,
        order: &Order,
    ) -> Result<(ExceptionRecord, Revision), Status> {
        let key = keys::exception(kind, &order.scope, &order.net);
        let record = ExceptionRecord {
            net: order.net,
            scope: order.scope.clone(),
            at_ms: self.clock.now_ms(),
            until: order.until,
            by: caller.name.to_string(),
            reason: order.reason.clone(),
            forced: order.forced,
        };
        let ((), revision) = transact_at(
            self.store.as_ref(),
            kind.word(),
            async |mut tx| -> Result<_, Failed> {
                if tx.get(&key).await?.is_none() {
                    self.has_room(kind, &order.scope).await?;
                }
                tx.put_json(&key, &record)?;
                Ok(tx.done(()))
            },
        )
        .await?;
        Ok((record, revision.unwrap_or_default()))
    }

    async fn has_room(&self, kind: ExceptionKind, scope: &SiteScope) -> Result<(), Status> {
        let prefix = keys::exceptions(kind, scope);
        let page = self.store.range(&prefix, None, MAX_EXCEPTIONS).await;
        if page.map_err(failed)?.entries.len() < MAX_EXCEPTIONS {
            return Ok(());
        }
        // Those that have ended stay for a while, and do not count.
        let all = all_of::<ExceptionRecord>(self.store.as_ref(), &prefix).await?;
        let now_ms = self.clock.now_ms();
        let count = all
            .iter()
            .filter(|(_, read)| !is_over(read.record.until, now_ms));
        if count.count() < MAX_EXCEPTIONS {
            return Ok(());
        }
        let said = match kind {
            ExceptionKind::Block => "blocked",
            ExceptionKind::Allow => "allowed",
        };
        let message = format!("{MAX_EXCEPTIONS} addresses are already {said} there");
        Err(Refusal::new(Reason::LimitReached, message)
            .hint("put long lists into a List that the site's document names, and push the site")
            .into())
    }

    /// Every block or allow that is not over.
    pub(super) async fn exceptions(
        &self,
        kind: ExceptionKind,
    ) -> Result<Vec<ExceptionRecord>, Status> {
        let now_ms = self.clock.now_ms();
        let prefix = keys::all_exceptions(kind);
        let all = all_of::<ExceptionRecord>(self.store.as_ref(), &prefix).await?;
        let mut records: Vec<_> = all
            .into_iter()
            .map(|(_, read)| read.record)
            .filter(|record| !is_over(record.until, now_ms))
            .collect();
        records.sort_by(|a, b| (a.net, &a.scope).cmp(&(b.net, &b.scope)));
        Ok(records)
    }

    /// Takes out what was said of exactly `net`, in `scope` or wherever the caller may; and says
    /// what that was.
    pub(super) async fn take_exception(
        &self,
        caller: &Caller,
        kind: ExceptionKind,
        net: IpNet,
        scope: Option<&SiteScope>,
    ) -> Result<(Vec<ExceptionRecord>, Revision), Status> {
        let mut all = Vec::new();
        loop {
            match transact_at(
                self.store.as_ref(),
                kind.word(),
                async |mut tx| -> Result<_, Failed> {
                    let prefix = keys::all_exceptions(kind);
                    let mut all = all_of::<ExceptionRecord>(self.store.as_ref(), &prefix).await?;
                    let now_ms = self.clock.now_ms();
                    all.retain(|(_, read)| !is_over(read.record.until, now_ms));
                    let mut lifted = Vec::new();
                    for (key, read) in &all {
                        let wanted = match (scope, &read.record.scope) {
                            (Some(scope), found) => scope == found,
                            (None, SiteScope::All) => caller.sight.is_all(),
                            (None, SiteScope::One(site)) => caller.sight.whole_site(site),
                        };
                        // As many as one transaction takes: the caller may ask again for the rest.
                        if read.record.net == net && wanted && lifted.len() < AT_ONCE {
                            tx.expect(key, Expect::At(read.revision));
                            tx.delete(key);
                            lifted.push(read.record.clone());
                        }
                    }
                    if lifted.is_empty() {
                        // Nothing is shown of other sites.
                        let mut seen = all;
                        seen.retain(|(_, read)| match &read.record.scope {
                            SiteScope::All => true,
                            SiteScope::One(site) => caller.sight.whole_site(site),
                        });
                        return Err(Failed(not_there(kind, net, &seen)));
                    }
                    Ok(tx.done(lifted))
                },
            )
            .await
            {
                Ok((lifted, revision)) => {
                    let more = lifted.len() == AT_ONCE;
                    all.extend(lifted);
                    if !more {
                        return Ok((all, revision.unwrap_or_default()));
                    }
                }
                Err(_) if !all.is_empty() => {
                    let revision = self.store.revision().await.map_err(failed)?;
                    return Ok((all, revision));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Opens a site to everyone, or changes its end.
    pub(super) async fn put_open(
        &self,
        site: &SiteName,
        record: OpenRecord,
    ) -> Result<(OpenRecord, Revision), Status> {
        let key = keys::open(site);
        let now_ms = self.clock.now_ms();
        let (record, revision) = transact_at(
            self.store.as_ref(),
            site.as_str(),
            async |mut tx| -> Result<_, Failed> {
                let before = tx.read::<OpenRecord>(&key).await?;
                // It is open since it was first opened.
                let since = before.filter(|before| !is_over(before.until, now_ms));
                let record = OpenRecord {
                    at_ms: since.map_or(record.at_ms, |before| before.at_ms),
                    ..record.clone()
                };
                tx.put_json(&key, &record)?;
                Ok(tx.done(record))
            },
        )
        .await?;
        Ok((record, revision.unwrap_or_default()))
    }

    /// Closes a site that was opened; none: it is not open.
    pub(super) async fn take_open(
        &self,
        site: &SiteName,
    ) -> Result<Option<(OpenRecord, Revision)>, Status> {
        let key = keys::open(site);
        let (record, revision) = transact_at(
            self.store.as_ref(),
            site.as_str(),
            async |mut tx| -> Result<_, Failed> {
                let record = tx.read::<OpenRecord>(&key).await?;
                if record.is_some() {
                    tx.delete(&key);
                }
                Ok(tx.done(record))
            },
        )
        .await?;
        Ok(record.map(|record| (record, revision.unwrap_or_default())))
    }
}

/// The sites that are open to everyone.
pub(in crate::server::api) async fn open_sites(
    store: &dyn Store,
    now_ms: u64,
) -> Result<Vec<(SiteName, OpenRecord)>, Status> {
    let all = all_of::<OpenRecord>(store, keys::ALL_OPEN).await?;
    let open = all.into_iter().filter_map(|(key, read)| {
        let site = key.strip_prefix(keys::ALL_OPEN)?.parse().ok()?;
        (!is_over(read.record.until, now_ms)).then_some((site, read.record))
    });
    Ok(open.collect())
}

async fn all_of<T: DeserializeOwned + Serialize>(
    store: &dyn Store,
    prefix: &str,
) -> Result<Vec<(String, Read<T>)>, Status> {
    let entries = every(store, prefix).await.map_err(failed)?;
    let read = entries.into_iter().map(|entry| {
        let record = records::from_json(&entry.key, &entry.held).map_err(failed)?;
        let revision = entry.held.revision;
        Ok((entry.key, Read { revision, record }))
    });
    read.collect()
}

fn not_there(kind: ExceptionKind, net: IpNet, all: &[(String, Read<ExceptionRecord>)]) -> Status {
    let (said, list) = match kind {
        ExceptionKind::Block => ("blocked", "voipctl blocks"),
        ExceptionKind::Allow => ("allowed", "voipctl allows"),
    };
    let shown = written(&net);
    let mut records = all.iter().map(|(_, read)| &read.record);
    let message = match records.find(|record| record.net.contains(&net)) {
        Some(same) if same.net == net => format!("{shown} is {said} only {}", place(&same.scope)),
        Some(wider) => format!(
            "{shown} is {said} only as part of {} ({})",
            written(&wider.net),
            place(&wider.scope)
        ),
        None => format!("{shown} is not {said}"),
    };
    Refusal::new(Reason::UnknownException, message)
        .hint(format!("list them: {list}"))
        .into()
}

/// Where something holds, in words.
pub(super) fn place(scope: &SiteScope) -> String {
    match scope {
        SiteScope::All => "on every site".to_owned(),
        SiteScope::One(site) => format!("in {site}"),
    }
}

/// A host without the length of its prefix.
pub(super) fn written(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() {
        net.addr().to_string()
    } else {
        net.to_string()
    }
}
