//! DNS names that documents use, resolved on a timer. What was once known is kept until a
//! better answer comes.

mod answer;
mod due;
mod resolver;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use voipfleet_ruleset::ruleset::DnsName;

pub use answer::{Answer, Event, GRACE_MS, Heard, MAX_ADDRESSES};
pub use resolver::Resolver;

use super::references::Used;
use super::upkeep::{self, Upkeep};
use crate::audit::{self, Audit};
use crate::clock::Clock;
use crate::limits::MAX_DNS_NAMES;
use crate::records::{self, ResolvedRecord};
use crate::store::{Pages, Store, StoreError, keys, write_batched};

/// Records that are read at once.
const PAGE: usize = 1000;
/// Questions at once.
const AT_ONCE: usize = 16;
/// How old a stored record may become while every answer is the same, milliseconds: each one
/// stored is a write to disk.
const REFRESH_MS: u64 = 300 * 1000;
/// How long a first answer may take before it is stored that none has come, milliseconds.
const FIRST_ANSWER_MS: u64 = 5000;
/// How long an unused name is remembered, milliseconds: a document that names it again the same
/// day starts with its last addresses.
const UNUSED_MS: u64 = 24 * 3600 * 1000;

/// Resolves names and keeps the records.
#[derive(Debug)]
pub struct Names {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    resolver: Arc<Resolver>,
    held: BTreeMap<DnsName, Held>,
    asked: JoinSet<(DnsName, Answer)>,
    audit: Audit,
    told: Vec<audit::Event>,
}

#[derive(Debug, Default)]
struct Held {
    record: ResolvedRecord,
    /// As it is in the store, and since when.
    stored: Option<(ResolvedRecord, u64)>,
    /// It is in use, and among those that are resolved.
    used: bool,
    asking: bool,
    due_ms: u64,
    failures: u32,
}

impl Names {
    /// Over `store`, with what was known before.
    pub async fn open(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        resolver: Resolver,
        audit: Audit,
    ) -> Result<Self, StoreError> {
        let mut held = BTreeMap::new();
        let mut pages = Pages::new(store.as_ref(), keys::ALL_RESOLVED, PAGE);
        while let Some(page) = pages.next().await? {
            for entry in page {
                let record: ResolvedRecord = records::from_json(&entry.key, &entry.held)?;
                let host = entry.key.strip_prefix(keys::ALL_RESOLVED);
                let Some(host) = host.and_then(|host| host.parse().ok()) else {
                    continue;
                };
                let known = Held {
                    stored: Some((record.clone(), 0)),
                    record,
                    ..Held::default()
                };
                held.insert(host, known);
            }
        }
        Ok(Self {
            store,
            clock,
            resolver: Arc::new(resolver),
            held,
            asked: JoinSet::new(),
            audit,
            told: Vec::new(),
        })
    }

    /// Resolves the names in use until `stop`.
    pub async fn run(self, used: watch::Receiver<Option<Arc<Used>>>, stop: CancellationToken) {
        // Names are never asked for at once.
        let (_, requests) = mpsc::channel(1);
        upkeep::run(self, used, requests, stop).await;
    }

    /// Which of the names in use are resolved: where there are too many, those that were before,
    /// then those with a record: new names must not displace old ones.
    fn names_to_resolve(&self, used: &Used) -> Vec<DnsName> {
        let mut names: Vec<&DnsName> = used.names.iter().collect();
        names.sort_by_key(|name| match self.held.get(*name) {
            Some(held) if held.used => 0,
            Some(_) => 1,
            None => 2,
        });
        names.into_iter().take(MAX_DNS_NAMES).cloned().collect()
    }

    fn take(&mut self, name: &DnsName, answer: Answer) {
        let now_ms = self.clock.now_ms();
        let Some(held) = self.held.get_mut(name) else {
            return;
        };
        held.asking = false;
        held.record.asked_since_ms = None;
        let event = answer::take(&mut held.record, now_ms, answer);
        // A family that keeps failing is asked for again soon, too.
        held.failures = match held.record.failing_since_ms {
            Some(_) => held.failures.saturating_add(1),
            None => 0,
        };
        let wait = due::wait_ms(held.record.ttl_s, held.failures, rand::random::<u8>());
        held.due_ms = now_ms.saturating_add(wait);
        if let Some(event) = event {
            self.told.push(tell(name, &held.record, event));
        }
    }

    /// The names that nothing has used for long; and of more than [`MAX_DNS_NAMES`] unused ones those
    /// that were unused for longest: otherwise changing names again and again fills the store.
    fn outlived(&self, now_ms: u64) -> BTreeSet<DnsName> {
        let unused = self.held.iter().filter_map(|(name, held)| {
            let since = held.record.unused_since_ms?;
            Some((since, name))
        });
        let mut unused: Vec<(u64, &DnsName)> = unused.collect();
        unused.sort_unstable();
        let beyond = unused.len().saturating_sub(MAX_DNS_NAMES);
        let gone = unused
            .into_iter()
            .enumerate()
            .filter(|(place, (since, _))| {
                *place < beyond || now_ms.saturating_sub(*since) >= UNUSED_MS
            });
        gone.map(|(_, (_, name))| name.clone()).collect()
    }
}

impl Upkeep for Names {
    const WHAT: &'static str = "DNS names";
    type Request = Infallible;
    type Answer = (DnsName, Answer);

    fn hurry(&mut self, request: Infallible) {
        match request {}
    }

    fn questions(&mut self) -> &mut JoinSet<(DnsName, Answer)> {
        &mut self.asked
    }

    /// Asks for names that are due, new ones first.
    fn ask_due(&mut self) {
        let now_ms = self.clock.now_ms();
        let mut due: Vec<(&DnsName, &mut Held)> = self
            .held
            .iter_mut()
            .filter(|(_, held)| held.used && !held.asking && held.due_ms <= now_ms)
            .collect();
        due.sort_by_key(|(_, held)| held.due_ms);
        let room = AT_ONCE.saturating_sub(self.asked.len());
        for (name, held) in due.into_iter().take(room) {
            held.asking = true;
            let (resolver, name) = (Arc::clone(&self.resolver), name.clone());
            self.asked.spawn(async move {
                let answer = resolver.ask(name.as_str()).await;
                (name, answer)
            });
        }
    }

    /// How long until a name is due or a record is to be removed.
    fn pause(&self) -> Duration {
        let now_ms = self.clock.now_ms();
        let idle = self.held.values().filter(|held| held.used && !held.asking);
        let due = idle.map(|held| held.due_ms);
        let silent = self.held.values().filter_map(Held::silent_from_ms);
        let next = due.chain(silent.filter(|at| *at > now_ms)).min();
        let wait = next.map_or(due::MOST_MS, |due| due.saturating_sub(now_ms));
        Duration::from_millis(wait.clamp(1, due::MOST_MS))
    }

    /// Takes over which names are in use.
    fn set_used(&mut self, used: &Used) {
        let now_ms = self.clock.now_ms();
        for (name, held) in &mut self.held {
            if used.names.contains(name) {
                held.record.unused_since_ms = None;
            } else {
                held.record.unused_since_ms.get_or_insert(now_ms);
            }
        }
        let resolved = self.names_to_resolve(used);
        if resolved.len() < used.names.len() {
            let names = used.names.len();
            tracing::error!(
                names,
                most = MAX_DNS_NAMES,
                "too many DNS names; the excess is not refreshed"
            );
        }
        for held in self.held.values_mut() {
            held.used = false;
        }
        for name in resolved {
            let held = self.held.entry(name).or_default();
            held.used = true;
            if held.record == ResolvedRecord::default() {
                held.record.asked_since_ms = Some(now_ms);
            }
        }
    }

    /// Takes an answer, and those that came with it.
    fn hear(&mut self, first: Option<(DnsName, Answer)>) {
        let mut next = first;
        loop {
            if let Some((name, answer)) = next {
                self.take(&name, answer);
            }
            match self.asked.try_join_next() {
                Some(answer) => next = answer.ok(),
                None => return,
            }
        }
    }

    /// Stores what has changed, and removes what nothing has used for long.
    async fn store_changes(&mut self) -> Result<(), StoreError> {
        let now_ms = self.clock.now_ms();
        let mut writes = Vec::new();
        let mut written = Vec::new();
        let gone = self.outlived(now_ms);
        for name in &gone {
            writes.push((keys::resolved(name), None));
        }
        for (name, held) in &self.held {
            let key = keys::resolved(name);
            if !gone.contains(name) && held.must_be_stored(now_ms) {
                let value = records::to_json(&key, &held.record)?;
                writes.push((key, Some(value)));
                written.push(name.clone());
            }
        }
        write_batched(self.store.as_ref(), writes).await?;
        for name in written {
            if let Some(held) = self.held.get_mut(&name) {
                held.stored = Some((held.record.clone(), now_ms));
            }
        }
        for name in gone {
            self.held.remove(&name);
        }
        for event in self.told.drain(..) {
            self.audit.note_some("names", event).await;
        }
        Ok(())
    }
}

impl Held {
    /// From when on it counts that its first answer has not come yet.
    fn silent_from_ms(&self) -> Option<u64> {
        let asked_since_ms = self.record.asked_since_ms.filter(|_| self.used)?;
        Some(asked_since_ms.saturating_add(FIRST_ANSWER_MS))
    }

    fn must_be_stored(&self, now_ms: u64) -> bool {
        // Most answers come at once, and are stored then.
        if self.silent_from_ms().is_some_and(|at| now_ms < at) {
            return false;
        }
        let Some((stored, at_ms)) = &self.stored else {
            return self.record != ResolvedRecord::default();
        };
        if *stored == self.record {
            return false;
        }
        now_ms.saturating_sub(*at_ms) >= REFRESH_MS || essence(stored) != essence(&self.record)
    }
}

/// A record without what changes with every answer.
fn essence(record: &ResolvedRecord) -> ResolvedRecord {
    let mut essence = record.clone();
    essence.resolved_ms = 0;
    // Resolvers give out what is left of a TTL.
    essence.ttl_s = 0;
    for seen in essence.addresses.values_mut() {
        seen.last_ms = 0;
    }
    essence
}

/// Logs a change, once, and words it for the audit log.
fn tell(name: &DnsName, record: &ResolvedRecord, event: Event) -> audit::Event {
    let noted = |what| audit::Event::new(what).object(format!("Name/{name}"));
    match event {
        Event::Changed { added, removed } => {
            tracing::info!(%name, ?added, ?removed, "DNS name has new addresses");
            let listed = |mark: &str, addresses: Vec<IpAddr>| {
                let addresses = addresses.iter().map(|address| format!("{mark}{address}"));
                addresses.collect::<Vec<_>>()
            };
            let changes = [listed("+", added), listed("-", removed)].concat();
            noted("NameChanged").detail(changes.join(" "))
        }
        Event::Failing => {
            let (error, addresses) = (&record.error, record.addresses.len());
            tracing::warn!(%name, error, addresses, "DNS name not resolved; keeping its last good addresses");
            noted("NameFailing").failed(error)
        }
        Event::Recovered => {
            tracing::info!(%name, "DNS name resolved again after failures");
            noted("NameRecovered")
        }
    }
}
