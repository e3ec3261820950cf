//! Writing what was decided: each change is one transaction, and of two at once none is lost.

use crate::server::rpc_status::conflict;
use ipnet::IpNet;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::Status;
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1::Reason;
use voipfleet_ruleset::identifiers::SiteName;

use super::order::Order;
use crate::records::{self, ExceptionKind, ExceptionRecord, OpenRecord, Read, SiteScope, is_over};
use crate::server::api::{Caller, EmergencyApi, failed};
use crate::site_inputs::MAX_EXCEPTIONS;
use crate::store::{Expect, Outcome, Revision, Store, Txn, keys};

/// Tries against concurrent changes of the same key.
const TRIES: usize = 16;

fn contended() -> Status {
    conflict("this address or site")
}

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
        for _ in 0..TRIES {
            let held = self.store.get(&key).await.map_err(failed)?;
            if held.is_none() {
                self.has_room(kind, &order.scope).await?;
            }
            let txn = Txn::new()
                .expect(&key, (&held).into())
                .put(&key, records::to_json(&key, &record).map_err(failed)?);
            if let Outcome::Committed { revision } = self.store.commit(txn).await.map_err(failed)? {
                return Ok((record, revision));
            }
        }
        Err(contended())
    }

    async fn has_room(&self, kind: ExceptionKind, scope: &SiteScope) -> Result<(), Status> {
        let prefix = keys::exceptions(kind, scope);
        let page = self.store.range(&prefix, None, MAX_EXCEPTIONS).await;
        if page.map_err(failed)?.entries.len() < MAX_EXCEPTIONS {
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
        for _ in 0..TRIES {
            let all =
                all_of::<ExceptionRecord>(self.store.as_ref(), &keys::all_exceptions(kind)).await?;
            let mut txn = Txn::new();
            let mut lifted = Vec::new();
            for (key, read) in &all {
                let wanted = match (scope, &read.record.scope) {
                    (Some(scope), found) => scope == found,
                    (None, SiteScope::All) => caller.sight.is_all(),
                    (None, SiteScope::One(site)) => caller.sight.whole_site(site),
                };
                if read.record.net == net && wanted {
                    txn = txn.expect(key, Expect::At(read.revision)).delete(key);
                    lifted.push(read.record.clone());
                }
            }
            if lifted.is_empty() {
                // Nothing about other sites is revealed.
                let mut seen = all;
                seen.retain(|(_, read)| match &read.record.scope {
                    SiteScope::All => true,
                    SiteScope::One(site) => caller.sight.whole_site(site),
                });
                return Err(not_there(kind, net, &seen));
            }
            if let Outcome::Committed { revision } = self.store.commit(txn).await.map_err(failed)? {
                return Ok((lifted, revision));
            }
        }
        Err(contended())
    }

    /// Opens a site to everyone, or changes its end.
    pub(super) async fn put_open(
        &self,
        site: &SiteName,
        record: OpenRecord,
    ) -> Result<(OpenRecord, Revision), Status> {
        let key = keys::open(site);
        let now_ms = self.clock.now_ms();
        for _ in 0..TRIES {
            let held = self.store.get(&key).await.map_err(failed)?;
            let before = match &held {
                Some(held) => Some(records::from_json::<OpenRecord>(&key, held).map_err(failed)?),
                None => None,
            };
            // It is open since it was first opened.
            let since = before.filter(|before| !is_over(before.until, now_ms));
            let record = OpenRecord {
                at_ms: since.map_or(record.at_ms, |before| before.at_ms),
                ..record.clone()
            };
            let txn = Txn::new()
                .expect(&key, (&held).into())
                .put(&key, records::to_json(&key, &record).map_err(failed)?);
            if let Outcome::Committed { revision } = self.store.commit(txn).await.map_err(failed)? {
                return Ok((record, revision));
            }
        }
        Err(contended())
    }

    /// Closes a site that was opened; none: it is not open.
    pub(super) async fn take_open(
        &self,
        site: &SiteName,
    ) -> Result<Option<(OpenRecord, Revision)>, Status> {
        let key = keys::open(site);
        for _ in 0..TRIES {
            let read = records::read::<OpenRecord>(self.store.as_ref(), &key).await;
            let Some(Read { revision, record }) = read.map_err(failed)? else {
                return Ok(None);
            };
            let txn = Txn::new().expect(&key, Expect::At(revision)).delete(&key);
            if let Outcome::Committed { revision } = self.store.commit(txn).await.map_err(failed)? {
                return Ok(Some((record, revision)));
            }
        }
        Err(contended())
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
    /// Of all scopes together.
    const MOST: usize = 20 * MAX_EXCEPTIONS;
    let entries = store.all(prefix, MOST).await.map_err(failed)?;
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
