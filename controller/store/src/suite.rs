//! What every engine must do: cases against the [`Store`] trait, to be run over each engine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_stream::StreamExt as _;

use crate::{
    Change, Changes, Entry, Expect, Limits, Outcome, Revision, Snapshot, Store, StoreError, Txn,
    Versioned, WatchError,
};

/// An engine under test.
pub trait Subject: Send + Sync {
    /// A store; empty at first.
    fn store(&self) -> Arc<dyn Store>;

    /// Forgets the past.
    fn compact(&self);

    /// Whether the engine answers from now on. False: this engine cannot be made not to.
    fn set_available(&self, available: bool) -> bool;
}

/// Runs every case, each on a subject of its own. Panics where one does not hold.
#[allow(clippy::panic, reason = "a suite of tests")]
pub async fn run<S: Subject>(open: impl AsyncFn() -> S) {
    failed_compare_writes_nothing(&*open().await.store()).await;
    one_of_many_wins(open().await.store()).await;
    ranges_are_ordered_and_bounded(&*open().await.store()).await;
    last_write_to_a_key_counts(&*open().await.store()).await;
    transactions_over_the_limits_are_refused(&*open().await.store()).await;
    revisions_increase(&*open().await.store()).await;
    the_past_can_be_read(&*open().await.store()).await;
    a_compacted_past_is_refused(&open().await).await;
    a_watch_misses_nothing_and_repeats_nothing(&*open().await.store()).await;
    a_watch_resumes_where_it_ended(&*open().await.store()).await;
    a_watch_of_the_compacted_past_fails_and_goes_on(&open().await).await;
    an_unavailable_engine_says_so(&open().await).await;
    a_snapshot_is_of_one_revision(&*open().await.store()).await;
}

async fn must(store: &dyn Store, txn: Txn) -> Revision {
    match committed(store, txn).await {
        Ok(Outcome::Committed { revision }) => revision,
        other => unreachable!("not committed: {other:?}"),
    }
}

async fn committed(store: &dyn Store, txn: Txn) -> Result<Outcome, StoreError> {
    store.commit(txn).await
}

async fn value(store: &dyn Store, key: &str) -> Option<Versioned> {
    read(store.get(key).await)
}

fn read<T>(result: Result<T, StoreError>) -> T {
    result.unwrap_or_else(|error| unreachable!("not read: {error}"))
}

// As what `get` answers.
#[allow(clippy::unnecessary_wraps)]
fn held(revision: Revision, value: &str) -> Option<Versioned> {
    Some(Versioned {
        revision,
        value: value.into(),
    })
}

fn keys(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.key.as_str()).collect()
}

async fn failed_compare_writes_nothing(store: &dyn Store) {
    let first = must(store, Txn::new().put("a", "1")).await;
    for wrong in [
        Txn::new().expect("a", Expect::Absent),
        Txn::new().expect("a", Expect::At(first + 1)),
        Txn::new().expect("b", Expect::At(first)),
    ] {
        let outcome = read(store.commit(wrong.put("c", "3").delete("a")).await);
        assert_eq!(outcome, Outcome::Conflict);
    }
    assert_eq!(value(store, "c").await, None);
    let right = Txn::new()
        .expect("a", Expect::At(first))
        .expect("b", Expect::Absent);
    let second = must(store, right.put("a", "2")).await;
    assert_eq!(value(store, "a").await, held(second, "2"));
}

async fn one_of_many_wins(store: Arc<dyn Store>) {
    let attempts: Vec<_> = (0..64)
        .map(|number| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let txn = Txn::new().expect("lock", Expect::Absent);
                read(store.commit(txn.put("lock", format!("{number}"))).await)
            })
        })
        .collect();
    let mut won = 0;
    for attempt in attempts {
        won += usize::from(matches!(attempt.await, Ok(Outcome::Committed { .. })));
    }
    assert_eq!(won, 1);
}

async fn ranges_are_ordered_and_bounded(store: &dyn Store) {
    let mut txn = Txn::new();
    for key in ["n/b", "n/a", "n/c", "m/z", "n", "o/a", "n0"] {
        txn = txn.put(key, key);
    }
    must(store, txn).await;
    let page = read(store.range("n/", None, 2).await);
    assert_eq!((keys(&page.entries), page.more), (vec!["n/a", "n/b"], true));
    let page = read(store.range("n/", Some("n/b"), 2).await);
    assert_eq!((keys(&page.entries), page.more), (vec!["n/c"], false));
    let page = read(store.range("n/", None, 3).await);
    assert_eq!((page.entries.len(), page.more), (3, false));
    assert!(matches!(
        store.all("n/", 2).await,
        Err(StoreError::TooMany { most: 2, .. })
    ));
}

async fn last_write_to_a_key_counts(store: &dyn Store) {
    must(store, Txn::new().put("gone", "1")).await;
    let txn = Txn::new().put("a", "1").put("a", "2").delete("gone");
    let revision = must(store, txn.delete("a")).await;
    assert_eq!(value(store, "a").await, held(revision, "2"));
    assert_eq!(value(store, "gone").await, None);
}

async fn transactions_over_the_limits_are_refused(store: &dyn Store) {
    let limits = store.limits();
    assert!(limits.operations >= Limits::STANDARD.operations);
    assert!(limits.bytes >= Limits::STANDARD.bytes);
    let many = |count: usize| {
        let compares = (0..count / 2).map(|n| (format!("absent/{n}"), Expect::Absent));
        let puts = (count / 2..count).map(|n| (format!("many/{n}"), Vec::new()));
        Txn {
            compares: compares.collect(),
            puts: puts.collect(),
            deletes: Vec::new(),
        }
    };
    let large = |bytes: usize| Txn::new().put("large", vec![0; bytes - "large".len()]);
    for over in [many(limits.operations + 1), large(limits.bytes + 1)] {
        let (operations, bytes) = (over.operations(), over.bytes());
        match store.commit(over).await {
            Err(StoreError::OverLimit {
                operations: o,
                bytes: b,
                limits: l,
            }) => assert_eq!((o, b, l), (operations, bytes, limits)),
            other => unreachable!("{other:?}"),
        }
    }
    assert_eq!(read(store.range("", None, 1).await).entries, []);
    must(store, many(limits.operations)).await;
    must(store, large(limits.bytes)).await;
    for wrong in [String::new(), "\0a".to_owned(), "k".repeat(513)] {
        let refused = store.commit(Txn::new().put(wrong, "")).await;
        assert!(
            matches!(refused, Err(StoreError::Key { .. })),
            "{refused:?}"
        );
    }
}

async fn revisions_increase(store: &dyn Store) {
    let mut last = read(store.revision().await);
    for number in 0..50 {
        let revision = must(store, Txn::new().put("k", format!("{number}"))).await;
        assert!(revision > last, "{revision} after {last}");
        assert_eq!(
            value(store, "k").await,
            held(revision, &format!("{number}"))
        );
        last = read(store.revision().await);
        assert!(last >= revision);
        assert!(read(store.range("k", None, 1).await).revision >= last);
    }
}

async fn the_past_can_be_read(store: &dyn Store) {
    let mut model: BTreeMap<String, Versioned> = BTreeMap::new();
    let mut past: Vec<(Revision, Vec<Entry>)> = Vec::new();
    for number in 0..40u32 {
        let (put, delete) = (format!("p/{}", number % 7), format!("p/{}", number * 5 % 9));
        let value = number.to_string();
        let txn = Txn::new().put(put.clone(), value.clone()).put("q", "other");
        let revision = must(store, txn.delete(delete.clone())).await;
        model.remove(&delete);
        let value = value.into_bytes();
        model.insert(put, Versioned { revision, value });
        let entries = model.iter().map(|(key, held)| Entry {
            key: key.clone(),
            held: held.clone(),
        });
        past.push((revision, entries.collect()));
    }
    for (revision, wanted) in past {
        let page = read(store.range_at("p/", None, 100, revision).await);
        assert_eq!((page.revision, page.entries), (revision, wanted.clone()));
        let first = read(store.range_at("p/", None, 1, revision).await);
        assert_eq!(
            first.entries.iter().collect::<Vec<_>>(),
            wanted.iter().take(1).collect::<Vec<_>>()
        );
        assert_eq!(first.more, wanted.len() > 1);
        let after = first.entries.first().map(|entry| entry.key.as_str());
        let rest = read(store.range_at("p/", after, 100, revision).await);
        assert_eq!(
            rest.entries.iter().collect::<Vec<_>>(),
            wanted.iter().skip(1).collect::<Vec<_>>()
        );
        for number in 0..9 {
            let key = format!("p/{number}");
            let found = wanted.iter().find(|entry| entry.key == key);
            let found = found.map(|entry| entry.held.clone());
            assert_eq!(read(store.get_at(&key, revision).await), found);
        }
    }
    let future = read(store.revision().await) + 1_000;
    assert!(matches!(
        store.get_at("q", future).await,
        Err(StoreError::Future { .. })
    ));
}

async fn a_compacted_past_is_refused(subject: &impl Subject) {
    let store = subject.store();
    let first = must(&*store, Txn::new().put("a", "1")).await;
    let last = must(&*store, Txn::new().put("a", "2")).await;
    subject.compact();
    assert_eq!(value(&*store, "a").await, held(last, "2"));
    for refused in [
        store.get_at("a", first).await.map(drop),
        store.range_at("", None, 1, first).await.map(drop),
    ] {
        match refused {
            Err(StoreError::Compacted { revision, oldest }) => {
                assert_eq!(revision, first);
                assert!(oldest > first);
            }
            other => unreachable!("{other:?}"),
        }
    }
    let now = read(store.revision().await);
    assert_eq!(read(store.get_at("a", now).await), held(last, "2"));
}

/// The next change, which must come at once.
async fn next(changes: &mut Changes) -> Result<Change, WatchError> {
    let next = tokio::time::timeout(Duration::from_secs(10), changes.next());
    match next.await {
        Ok(Some(change)) => change,
        other => unreachable!("no change: {other:?}"),
    }
}

async fn a_watch_misses_nothing_and_repeats_nothing(store: &dyn Store) {
    let before = must(store, Txn::new().put("a/0", "0")).await;
    let page = read(store.range("a/", None, 10).await);
    assert_eq!(page.entries.len(), 1);
    // Between the read and the watch.
    let first = must(store, Txn::new().put("a/1", "1").put("b/1", "1")).await;
    let mut changes = store.watch("a/", page.revision);
    must(store, Txn::new().put("b/2", "2")).await;
    let second = must(store, Txn::new().delete("a/1").put("a/2", "2")).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        match next(&mut changes).await {
            Ok(change) => seen.push((change.revision, change.key, change.value)),
            Err(error) => unreachable!("{error}"),
        }
    }
    let written = |text: &str| Some(text.as_bytes().into());
    let wanted = [
        (first, "a/1".to_owned(), written("1")),
        (second, "a/1".to_owned(), None),
        (second, "a/2".to_owned(), written("2")),
    ];
    assert!(before < first);
    assert_eq!(seen, wanted);
    let mut now = store.watch_from_now("a/").await;
    let third = must(store, Txn::new().put("a/3", "3")).await;
    for changes in [&mut changes, &mut now] {
        assert_eq!(next(changes).await.map(|change| change.revision), Ok(third));
    }
}

async fn a_watch_resumes_where_it_ended(store: &dyn Store) {
    let mut last = read(store.revision().await);
    let mut seen = Vec::new();
    for round in 0..5 {
        for number in 0..10 {
            must(store, Txn::new().put(format!("a/{round}{number}"), "")).await;
        }
        let mut changes = store.watch("a/", last);
        // The rest of the round is left for the next watcher.
        for _ in 0..10 - usize::from(round < 4) {
            if let Ok(change) = next(&mut changes).await {
                last = change.revision;
                seen.push(change.key);
            }
        }
    }
    let mut changes = store.watch("a/", last);
    while seen.len() < 50 {
        if let Ok(change) = next(&mut changes).await {
            seen.push(change.key);
        }
    }
    let wanted: Vec<String> = (0..50).map(|number| format!("a/{number:02}")).collect();
    assert_eq!(seen, wanted);
}

async fn a_watch_of_the_compacted_past_fails_and_goes_on(subject: &impl Subject) {
    let store = subject.store();
    let first = must(&*store, Txn::new().put("a", "1")).await;
    must(&*store, Txn::new().put("a", "2")).await;
    subject.compact();
    let mut changes = store.watch("a", first);
    let error = next(&mut changes).await;
    assert!(matches!(error, Err(WatchError::Compacted { oldest }) if oldest > first));
    let third = must(&*store, Txn::new().put("a", "3")).await;
    let change = next(&mut changes).await;
    assert_eq!(change.map(|change| change.revision), Ok(third));
}

async fn an_unavailable_engine_says_so(subject: &impl Subject) {
    let store = subject.store();
    must(&*store, Txn::new().put("a", "1")).await;
    if !subject.set_available(false) {
        return;
    }
    for failed in [
        store.get("a").await.map(drop),
        store.range("a", None, 1).await.map(drop),
        store.revision().await.map(drop),
        store.commit(Txn::new().put("a", "2")).await.map(drop),
        store.snapshot().await.map(drop),
    ] {
        match failed {
            Err(error @ StoreError::Unavailable(_)) => assert!(error.is_transient()),
            other => unreachable!("{other:?}"),
        }
    }
    subject.set_available(true);
    assert_eq!(
        value(&*store, "a").await.map(|held| held.value),
        Some(b"1".to_vec())
    );
}

async fn a_snapshot_is_of_one_revision(store: &dyn Store) {
    for number in 0..10 {
        let puts = (0..50).map(|n| (format!("s/{number}{n:02}"), vec![1]));
        let txn = Txn {
            puts: puts.collect(),
            ..Txn::new()
        };
        must(store, txn).await;
    }
    let wanted = read(store.all("s/", 1000).await);
    let mut snapshot: Box<dyn Snapshot> = read(store.snapshot().await);
    let mut found = Vec::new();
    let mut step = 0;
    loop {
        let page = read(snapshot.next().await);
        if page.is_empty() {
            break;
        }
        found.extend(page);
        let txn = Txn::new().delete(format!("s/9{step:02}")).put("s/new", "2");
        must(store, txn.put(format!("s/8{step:02}"), "2")).await;
        step += 1;
    }
    assert_eq!(found, wanted);
    let last = wanted.iter().map(|entry| entry.held.revision).max();
    assert!(Some(snapshot.revision()) >= last);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Embedded;
    use crate::memory::Memory;

    struct InMemory(Memory);

    impl Subject for InMemory {
        fn store(&self) -> Arc<dyn Store> {
            Arc::new(self.0.clone())
        }

        fn compact(&self) {
            self.0.compact();
        }

        fn set_available(&self, available: bool) -> bool {
            self.0.set_available(available);
            true
        }
    }

    struct OnDisk {
        store: Embedded,
        _dir: tempfile::TempDir,
    }

    impl Subject for OnDisk {
        fn store(&self) -> Arc<dyn Store> {
            Arc::new(self.store.clone())
        }

        fn compact(&self) {
            self.store.compact();
        }

        fn set_available(&self, _available: bool) -> bool {
            false
        }
    }

    #[tokio::test]
    async fn memory_passes_the_suite() {
        run(async || InMemory(Memory::default())).await;
    }

    #[tokio::test]
    async fn sled_passes_the_suite() {
        run(async || {
            let dir = tempfile::tempdir().unwrap();
            let store = Embedded::open(dir.path()).unwrap();
            OnDisk { store, _dir: dir }
        })
        .await;
    }

    #[derive(Debug, Clone)]
    enum Step {
        Commit {
            compares: Vec<(u8, u8)>,
            puts: Vec<(u8, u8)>,
            deletes: Vec<u8>,
        },
        Reopen,
    }

    fn step() -> impl Strategy<Value = Step> {
        let keys = 0..6u8;
        prop_oneof![
            12 => (
                prop::collection::vec((keys.clone(), 0..3u8), 0..2),
                prop::collection::vec((keys.clone(), any::<u8>()), 0..4),
                prop::collection::vec(keys, 0..2),
            )
                .prop_map(|(compares, puts, deletes)| Step::Commit { compares, puts, deletes }),
            1 => Just(Step::Reopen),
        ]
    }

    async fn behaves_like_a_map<S: Store>(
        mut store: S,
        reopen: impl AsyncFn(S) -> S,
        steps: Vec<Step>,
    ) {
        let mut model: BTreeMap<String, Versioned> = BTreeMap::new();
        let mut last = 0;
        for step in steps {
            match step {
                Step::Reopen => store = reopen(store).await,
                Step::Commit {
                    compares,
                    puts,
                    deletes,
                } => {
                    let key = |number: u8| format!("k/{number}");
                    let mut txn = Txn::new();
                    let mut holds = true;
                    for (number, kind) in compares {
                        let held = model.get(&key(number));
                        let expect = match (kind, held) {
                            (0, _) => Expect::Absent,
                            (1, Some(held)) => Expect::At(held.revision),
                            _ => Expect::At(last + 1_000),
                        };
                        holds &= match expect {
                            Expect::Absent => held.is_none(),
                            Expect::At(at) => held.is_some_and(|held| held.revision == at),
                        };
                        txn = txn.expect(key(number), expect);
                    }
                    for number in &deletes {
                        txn = txn.delete(key(*number));
                    }
                    for (number, value) in &puts {
                        txn = txn.put(key(*number), vec![*value]);
                    }
                    match store.commit(txn).await.unwrap() {
                        Outcome::Committed { revision } => {
                            assert!(holds);
                            assert!(revision >= last);
                            last = revision;
                            for number in deletes {
                                model.remove(&key(number));
                            }
                            for (number, value) in puts {
                                let value = vec![value];
                                model.insert(key(number), Versioned { revision, value });
                            }
                        }
                        Outcome::Conflict => assert!(!holds),
                    }
                }
            }
            let entries = store.all("k/", 100).await.unwrap();
            let seen: BTreeMap<_, _> = entries
                .into_iter()
                .map(|entry| (entry.key, entry.held))
                .collect();
            assert_eq!(seen, model);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// The store behaves like one shared map, also after it is opened again.
        #[test]
        fn a_store_is_a_map(steps in prop::collection::vec(step(), 1..40)) {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_time().build().unwrap();
            runtime.block_on(async {
                behaves_like_a_map(Memory::default(), async |store| store, steps.clone()).await;
                let dir = tempfile::tempdir().unwrap();
                let store = Embedded::open(dir.path()).unwrap();
                let reopen = async |store: Embedded| {
                    store.close().await;
                    Embedded::open(dir.path()).unwrap()
                };
                behaves_like_a_map(store, reopen, steps).await;
            });
        }
    }
}
