//! Transactions and parts, on the store in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;
use crate::memory::Memory;
use crate::parts::Owner;
use crate::{Limits, keys};

async fn increment(store: &dyn Store, attempts: &AtomicUsize) -> Result<u64, StoreError> {
    transact(store, "the counter", async |mut tx| {
        attempts.fetch_add(1, Ordering::Relaxed);
        let next = tx.read::<u64>("counter").await?.unwrap_or_default() + 1;
        tx.put_json("counter", &next)?;
        Ok(tx.done(next))
    })
    .await
}

#[tokio::test]
async fn a_transaction_is_retried_after_a_conflict() {
    let (store, attempts) = (Memory::default(), AtomicUsize::new(0));
    store.conflict_next(3);
    assert_eq!(increment(&store, &attempts).await.unwrap(), 1);
    assert_eq!(attempts.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn attempts_are_bounded_and_the_error_names_what_is_contended() {
    let (store, attempts) = (Memory::default(), AtomicUsize::new(0));
    store.conflict_next(usize::MAX);
    let error = increment(&store, &attempts).await.unwrap_err();
    assert!(matches!(&error, StoreError::Contended { what } if what == "the counter"));
    assert_eq!(attempts.load(Ordering::Relaxed), ATTEMPTS as usize);
}

#[tokio::test]
async fn an_unavailable_store_ends_the_attempts() {
    let (store, attempts) = (Memory::default(), AtomicUsize::new(0));
    store.set_available(false);
    let error = increment(&store, &attempts).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert_eq!(attempts.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn concurrent_transactions_lose_nothing() {
    let store = Memory::default();
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { increment(&store, &AtomicUsize::new(0)).await.unwrap() })
        })
        .collect();
    let mut seen = BTreeSet::new();
    for task in tasks {
        seen.insert(task.await.unwrap());
    }
    assert_eq!(seen, (1..=8).collect());
}

#[tokio::test]
async fn a_decision_that_writes_nothing_commits_nothing() {
    let store = Memory::default();
    let read = transact(&store, "nothing", async |mut tx| {
        let read = tx.read::<u64>("counter").await?;
        Ok::<_, StoreError>(tx.done(read))
    });
    assert_eq!(read.await.unwrap(), None);
    assert_eq!(store.take_counts().transactions, 0);
}

fn text(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    (0..length)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            b'a' + u8::try_from((state >> 33) % 26).unwrap()
        })
        .collect()
}

async fn put_large(store: &dyn Store, key: &str, value: &[u8]) {
    let put = transact(store, key, async |mut tx| {
        tx.get_large(key).await?;
        tx.put_large(key, key, value.to_vec());
        Ok::<_, StoreError>(tx.done(()))
    });
    put.await.unwrap();
}

async fn get_large(store: &dyn Store, key: &str) -> Option<Vec<u8>> {
    let read = parts::get(store, key).await.unwrap();
    read.map(|(_, held)| held.value)
}

#[tokio::test]
async fn a_large_value_is_written_within_the_limits_and_replaced() {
    let store = Memory::default();
    let mut value = text(5_000_000, 1);
    put_large(&store, "k", &value).await;
    let counts = store.take_counts();
    assert!(
        counts.operations <= Limits::STANDARD.operations,
        "{counts:?}"
    );
    assert!(counts.bytes <= Limits::STANDARD.bytes, "{counts:?}");
    assert_eq!(get_large(&store, "k").await.as_ref(), Some(&value));
    // A few bytes in the middle: a part or two are new, and those that they replace go.
    let before = store.count("part/");
    value.splice(2_500_000..2_500_003, *b"1234567");
    put_large(&store, "k", &value).await;
    let counts = store.take_counts();
    assert_eq!(counts.transactions, 1);
    assert!(counts.bytes < 800_000, "{counts:?}");
    assert!(store.count("part/") <= before + 1);
    assert_eq!(get_large(&store, "k").await, Some(value));
    put_large(&store, "k", b"short").await;
    assert_eq!(get_large(&store, "k").await, Some(b"short".to_vec()));
}

/// A part that exists, and that nothing refers to yet, is about to be referred to while it is
/// collected: one of the two conflicts.
#[tokio::test]
async fn parts_about_to_be_referred_to_are_not_collected() {
    let store = Memory::default();
    store.commit(Txn::new().put("owner", "1")).await.unwrap();
    let value = text(200_000, 7);
    for collector_first in [true, false] {
        // An attempt that staged its parts, and failed, left them.
        let (_, chunks) = Parts::cut("owner", &value);
        let staged = chunks
            .iter()
            .map(|(key, chunk)| (key.clone(), Some(chunk.to_vec())));
        write_batched(&store, staged).await.unwrap();

        let mut collector = Owner::read(&store, "owner").await.unwrap().unwrap();
        let mut tx = Transaction::new(&store);
        tx.get("owner").await.unwrap();
        tx.put("owner", "2");
        tx.put_large("owner", "k", value.clone());
        if collector_first {
            assert!(collector.collect(&BTreeSet::new()).await.unwrap() > 0);
            assert_eq!(store.count("part/"), 0);
            assert_eq!(tx.commit().await.unwrap(), None, "a conflict");
        } else {
            assert!(tx.commit().await.unwrap().is_some());
            collector.collect(&BTreeSet::new()).await.unwrap();
            assert_eq!(get_large(&store, "k").await.as_ref(), Some(&value));
        }
    }
}

/// As long as a rollout's record of so many nodes: what a step changes is small.
#[tokio::test]
async fn a_record_of_ten_thousand_entries_changes_within_the_limits() {
    let store = Memory::default();
    let mut record: BTreeMap<String, String> = (0..10_000)
        .map(|n| {
            (
                format!("node-{n:05}"),
                format!("waiting since {n}, before {}", n * 7),
            )
        })
        .collect();
    let write = async |record: &BTreeMap<String, String>| {
        let write = transact(&store, "the rollout", async |mut tx| {
            tx.get_large("rollout/site-a").await?;
            tx.put_large_json("rollout/site-a", "rollout/site-a", record)?;
            Ok::<_, StoreError>(tx.done(()))
        });
        write.await.unwrap();
    };
    for step in 0..3 {
        for (name, state) in record.iter_mut().take(500 * step) {
            *state = format!("{name} working at step {step}");
        }
        write(&record).await;
        let counts = store.take_counts();
        assert!(
            counts.operations <= Limits::STANDARD.operations,
            "{counts:?}"
        );
        assert!(counts.bytes <= Limits::STANDARD.bytes, "{counts:?}");
    }
    let read: records::Read<BTreeMap<String, String>> = records::read(&store, "rollout/site-a")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(read.record, record);
    assert!(store.count(&keys::parts("rollout/site-a")) > 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Whatever a value is, and whatever it was before: it comes back, and nothing is left of the
    /// value before it once its owner has been collected.
    #[test]
    fn large_values_come_back(
        lengths in prop::collection::vec((0..600_000usize, any::<u64>()), 1..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(async {
            let store = Memory::default();
            for (length, seed) in lengths {
                let value = text(length, seed);
                put_large(&store, "k", &value).await;
                assert_eq!(get_large(&store, "k").await, Some(value.clone()));
                let mut owner = Owner::read(&store, "k").await.unwrap().unwrap();
                let used: BTreeSet<String> =
                    owner.parts().unwrap().iter().flat_map(Parts::keys).collect();
                owner.collect(&used).await.unwrap();
                assert_eq!(store.count("part/"), used.len());
                assert_eq!(get_large(&store, "k").await, Some(value));
            }
            let counts = store.take_counts();
            assert!(counts.operations <= 100 && counts.bytes <= Limits::STANDARD.bytes);
        });
    }
}
