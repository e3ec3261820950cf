//! Lists that are fetched, once for every node. What was once good is kept until something
//! better comes.

mod fetch;
mod parse;
mod redirect;
mod take;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use voipfleet_policy::Feed;
use voipfleet_ruleset::identifiers::ListName;

pub use fetch::{FetchError, Fetched, Fetcher, Limits, system_roots};
pub use parse::{Parsed, Unfit, parse};
pub use redirect::{Astray, Inward};
pub use take::{Allowed, Event, take};
pub use ureq::tls::Certificate;

use super::references::Used;
use super::upkeep::{self, Upkeep};
use crate::audit::{self, Audit};
use crate::clock::Clock;
use crate::limits::MAX_FEEDS;
use crate::records::{self, FeedRecord};
use crate::store::{Pages, Store, StoreError, keys, transact};

/// Records that are read at once: each may be some MiB.
const PAGE: usize = 16;
/// Lists that are fetched at once: each may take some ten MiB meanwhile.
const AT_ONCE: usize = 4;
/// The wait after a first failure, milliseconds; it doubles up to the list's own.
const RETRY_MS: u64 = 60 * 1000;
/// How long a list stays that no document has, milliseconds.
const UNUSED_MS: u64 = 24 * 3600 * 1000;
/// Operators who wait for one list.
const MAX_WAITING: usize = 16;
/// The longest time that is slept at once.
const LONGEST: Duration = Duration::from_mins(10);

/// Fetch a list now.
#[derive(Debug)]
pub struct Asked {
    /// The list.
    pub list: ListName,
    /// It may have shrunk as much as it likes.
    pub shrink: bool,
    /// Where the record goes when that is done and stored; dropped if there is no such list.
    pub done: oneshot::Sender<FeedRecord>,
}

/// Fetches lists and keeps the records.
#[derive(Debug)]
pub struct Feeds {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    fetcher: Arc<Fetcher>,
    held: BTreeMap<ListName, Held>,
    fetching: JoinSet<Answer>,
    audit: Audit,
    told: Vec<audit::Event>,
}

/// Whether a list may have become as short as it likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Shrink {
    No,
    Yes,
}

/// What sites have a list for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Purpose {
    /// None opens anything to it.
    #[default]
    Denial,
    /// One does.
    Opening,
}

#[derive(Debug, Default)]
struct Held {
    record: FeedRecord,
    feed: Option<Feed>,
    fetching: bool,
    /// A generation names it.
    kept: bool,
    purpose: Purpose,
    asked: Option<Shrink>,
    unstored: bool,
    waiting: Vec<oneshot::Sender<FeedRecord>>,
    answered: Vec<oneshot::Sender<FeedRecord>>,
}

#[derive(Debug)]
pub(super) struct Answer {
    list: ListName,
    feed: Feed,
    shrink: bool,
    fetched: Result<Fetched, FetchError>,
}

impl Feeds {
    /// Over `store`, with what was fetched before.
    pub async fn open(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        fetcher: Fetcher,
        audit: Audit,
    ) -> Result<Self, StoreError> {
        let mut held = BTreeMap::new();
        let mut pages = Pages::new(store.as_ref(), keys::ALL_FEEDS, PAGE);
        while let Some(page) = pages.next().await? {
            for entry in page {
                let record: FeedRecord = records::load_protobuf(store.as_ref(), &entry).await?;
                let list = entry.key.strip_prefix(keys::ALL_FEEDS);
                if let Some(list) = list.and_then(|list| list.parse().ok()) {
                    let known = Held {
                        record,
                        ..Held::default()
                    };
                    held.insert(list, known);
                }
            }
        }
        Ok(Self {
            store,
            clock,
            fetcher: Arc::new(fetcher),
            held,
            fetching: JoinSet::new(),
            audit,
            told: Vec::new(),
        })
    }

    /// Fetches the lists in use until `stop`, and those that are `asked` for at once.
    pub async fn run(
        self,
        used: watch::Receiver<Option<Arc<Used>>>,
        asked: mpsc::Receiver<Asked>,
        stop: CancellationToken,
    ) {
        upkeep::run(self, used, asked, stop).await;
    }

    /// The lists that nothing has had for long, and of more than [`MAX_FEEDS`] of them those that
    /// were without a document for longest.
    fn outlived(&self, now_ms: u64) -> BTreeSet<ListName> {
        let unused = self
            .held
            .iter()
            .filter(|(_, held)| held.record.unused_since_ms != 0 && !held.fetching && !held.kept);
        let since = unused.map(|(list, held)| (held.record.unused_since_ms, list));
        let mut unused: Vec<(u64, &ListName)> = since.collect();
        unused.sort_unstable();
        let beyond = unused.len().saturating_sub(MAX_FEEDS);
        let gone = unused
            .into_iter()
            .enumerate()
            .filter(|(place, (since, _))| {
                *place < beyond || now_ms.saturating_sub(*since) >= UNUSED_MS
            });
        gone.map(|(_, (_, list))| list.clone()).collect()
    }
}

impl Upkeep for Feeds {
    const WHAT: &'static str = "fetched lists";
    type Request = Asked;
    type Answer = Answer;

    fn questions(&mut self) -> &mut JoinSet<Answer> {
        &mut self.fetching
    }

    /// Starts to fetch what is due.
    fn ask_due(&mut self) {
        let now_ms = self.clock.now_ms();
        for (list, held) in &mut self.held {
            if self.fetching.len() >= AT_ONCE {
                return;
            }
            let Some(feed) = held.feed.clone().filter(|_| held.due_ms() <= now_ms) else {
                continue;
            };
            if std::mem::replace(&mut held.fetching, true) {
                continue;
            }
            let shrink = held.asked.take() == Some(Shrink::Yes);
            // All but the elements, which do not matter for the request.
            let known = FeedRecord {
                v4: Vec::new(),
                v6: Vec::new(),
                ..held.record.clone()
            };
            let (fetcher, list) = (Arc::clone(&self.fetcher), list.clone());
            self.fetching.spawn_blocking(move || Answer {
                fetched: fetcher.fetch(&feed, &known),
                list,
                feed,
                shrink,
            });
        }
    }

    fn pause(&self) -> Duration {
        let now_ms = self.clock.now_ms();
        let waiting = self.held.values();
        let waiting = waiting.filter(|held| held.feed.is_some() && !held.fetching);
        let next = waiting.map(Held::due_ms).min();
        let left = next.map_or(LONGEST, |due| {
            Duration::from_millis(due.saturating_sub(now_ms))
        });
        left.clamp(Duration::from_millis(10), LONGEST)
    }

    fn set_used(&mut self, used: &Used) {
        let now_ms = self.clock.now_ms();
        if used.feeds.len() > MAX_FEEDS {
            let lists = used.feeds.len();
            tracing::error!(
                lists,
                most = MAX_FEEDS,
                "too many fetched lists; the excess is not refreshed"
            );
        }
        for (list, feed) in used.feeds.iter().take(MAX_FEEDS) {
            let held = self.held.entry(list.clone()).or_default();
            // Another source is asked at once.
            if held
                .feed
                .as_ref()
                .is_some_and(|old| old.source != feed.source)
            {
                held.asked.get_or_insert(Shrink::No);
            }
            held.feed = Some(feed.clone());
            held.unstored |= held.record.unused_since_ms != 0;
            held.record.unused_since_ms = 0;
        }
        for (list, held) in &mut self.held {
            held.kept = used.kept.contains(list);
            let purpose = if used.opened.contains(list) {
                Purpose::Opening
            } else {
                Purpose::Denial
            };
            let changed = std::mem::replace(&mut held.purpose, purpose) != purpose;
            if changed && purpose == Purpose::Opening && held.record.is_wide() {
                // It was taken for denial alone. Whatever comes now is looked at anew, the same
                // once more too.
                held.record.etag.clear();
                held.record.last_modified.clear();
                held.unstored = true;
                held.asked.get_or_insert(Shrink::No);
            }
            if !used.feeds.contains_key(list) {
                held.feed = None;
                held.asked = None;
                if held.record.unused_since_ms == 0 {
                    held.record.unused_since_ms = now_ms;
                    held.unstored = true;
                }
            }
        }
    }

    fn hear(&mut self, answer: Option<Answer>) {
        let now_ms = self.clock.now_ms();
        let Some(answer) = answer else {
            // One that broke has left no name: all are asked again.
            self.held
                .values_mut()
                .for_each(|held| held.fetching = false);
            return;
        };
        let Some(held) = self.held.get_mut(&answer.list) else {
            return;
        };
        held.fetching = false;
        // The document was changed meanwhile: the new source is asked next.
        if held.feed.as_ref().map(|feed| &feed.source) != Some(&answer.feed.source) {
            return;
        }
        let source = answer.feed.source.to_string();
        let event = take(
            &mut held.record,
            now_ms,
            &source,
            answer.fetched,
            Allowed {
                shrink: answer.shrink,
                wide: held.purpose == Purpose::Denial,
            },
        );
        held.unstored = true;
        // Requests made after this fetch began wait for the next.
        if held.asked.is_none() {
            held.answered.append(&mut held.waiting);
        }
        if let Some(event) = event {
            let event = tell(&answer.list, &source, &held.record, event);
            self.told.push(event);
        }
    }

    fn hurry(&mut self, ask: Asked) {
        let held = self.held.get_mut(&ask.list);
        if let Some(held) = held.filter(|held| held.feed.is_some()) {
            let shrink = if ask.shrink { Shrink::Yes } else { Shrink::No };
            held.asked = held.asked.max(Some(shrink));
            held.waiting.retain(|done| !done.is_closed());
            if held.waiting.len() < MAX_WAITING {
                held.waiting.push(ask.done);
            }
        }
    }

    async fn store_changes(&mut self) -> Result<(), StoreError> {
        let now_ms = self.clock.now_ms();
        let gone = self.outlived(now_ms);
        let lists: Vec<ListName> = self.held.keys().cloned().collect();
        // One by one: each may be some MiB.
        for list in lists {
            let Some(held) = self.held.get_mut(&list) else {
                continue;
            };
            if gone.contains(&list) {
                let key = keys::feed(&list);
                transact(
                    self.store.as_ref(),
                    &key,
                    async |mut tx| -> Result<_, StoreError> {
                        tx.get_large(&key).await?;
                        tx.delete_large(&key);
                        Ok(tx.done(()))
                    },
                )
                .await?;
                self.held.remove(&list);
            } else if held.unstored {
                let (key, record) = (keys::feed(&list), held.record.encode_to_vec());
                transact(
                    self.store.as_ref(),
                    &key,
                    async |mut tx| -> Result<_, StoreError> {
                        tx.get_large(&key).await?;
                        tx.put_large(&key, &key, record.clone());
                        Ok(tx.done(()))
                    },
                )
                .await?;
                held.unstored = false;
                for done in held.answered.drain(..) {
                    // A caller that hung up needs no answer.
                    _ = done.send(held.record.clone());
                }
            }
        }
        for event in self.told.drain(..) {
            self.audit.note_some("lists", event).await;
        }
        Ok(())
    }
}

impl Held {
    /// When it is to be fetched, Unix time.
    fn due_ms(&self) -> u64 {
        let Some(feed) = self.feed.as_ref().filter(|_| self.asked.is_none()) else {
            return 0;
        };
        let wait = match self.record.failures {
            0 => feed.refresh_ms,
            failures => RETRY_MS
                .saturating_mul(1 << (failures - 1).min(20))
                .min(feed.refresh_ms),
        };
        match self.record.checked_ms {
            0 => 0,
            checked => checked.saturating_add(wait),
        }
    }
}

/// Logs a change, once, and words it for the audit log.
fn tell(list: &ListName, source: &str, record: &FeedRecord, event: Event) -> audit::Event {
    let entries = record.len();
    let noted = |what| {
        let event = audit::Event::new(what).object(format!("List/{list}"));
        event.detail(format!("{entries} entries, {source}"))
    };
    match event {
        Event::Changed => {
            tracing::info!(%list, source, entries, "list fetched");
            noted("ListFetched")
        }
        Event::Failing => {
            let error = &record.error;
            tracing::warn!(%list, source, error, entries, "list refused; keeping its last good content");
            noted("ListRefused").failed(error)
        }
        Event::Recovered => {
            tracing::info!(%list, source, entries, "list fetched again after failures");
            noted("ListRecovered")
        }
    }
}
