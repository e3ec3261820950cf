//! What every store must do, written against the trait.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use tokio_stream::StreamExt as _;

use super::{Embedded, Expect, Outcome, Revision, Store, Txn, Versioned};

fn open() -> (tempfile::TempDir, Embedded) {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path()).unwrap();
    (dir, store)
}

async fn must(store: &dyn Store, txn: Txn) -> Revision {
    match store.commit(txn).await.unwrap() {
        Outcome::Committed { revision } => revision,
        Outcome::Conflict => panic!("conflict"),
    }
}

#[tokio::test]
async fn a_failed_compare_writes_nothing() {
    let (_dir, store) = open();
    let first = must(&store, Txn::new().put("a", "1")).await;
    for wrong in [
        Txn::new().expect("a", Expect::Absent),
        Txn::new().expect("a", Expect::At(first + 1)),
        Txn::new().expect("b", Expect::At(first)),
    ] {
        let outcome = store.commit(wrong.put("c", "3").delete("a")).await.unwrap();
        assert_eq!(outcome, Outcome::Conflict);
    }
    assert_eq!(store.get("c").await.unwrap(), None);
    let second = must(
        &store,
        Txn::new()
            .expect("a", Expect::At(first))
            .expect("b", Expect::Absent)
            .put("a", "2"),
    )
    .await;
    assert_eq!(
        store.get("a").await.unwrap(),
        Some(Versioned {
            revision: second,
            value: b"2".to_vec()
        })
    );
}

#[tokio::test]
async fn of_many_that_expect_the_same_one_wins() {
    let (_dir, store) = open();
    let store: Arc<dyn Store> = Arc::new(store);
    let tries: Vec<_> = (0..64)
        .map(|number| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let txn = Txn::new()
                    .expect("lock", Expect::Absent)
                    .put("lock", format!("{number}"));
                store.commit(txn).await.unwrap()
            })
        })
        .collect();
    let mut won = 0;
    for attempt in tries {
        won += usize::from(attempt.await.unwrap() != Outcome::Conflict);
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn ranges_are_ordered_bounded_and_of_one_prefix() {
    let (_dir, store) = open();
    let mut txn = Txn::new();
    for key in ["n/b", "n/a", "n/c", "m/z", "n", "o/a", "n0"] {
        txn = txn.put(key, key);
    }
    must(&store, txn).await;
    let page = store.range("n/", None, 2).await.unwrap();
    let keys: Vec<_> = page.entries.iter().map(|e| e.key.as_str()).collect();
    assert_eq!((keys, page.more), (vec!["n/a", "n/b"], true));
    let page = store.range("n/", Some("n/b"), 2).await.unwrap();
    let keys: Vec<_> = page.entries.iter().map(|e| e.key.as_str()).collect();
    assert_eq!((keys, page.more), (vec!["n/c"], false));
    assert!(store.all("n/", 2).await.is_err());
    assert_eq!(store.all("n/", 3).await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_watcher_sees_commits_of_its_prefix_in_order() {
    let (_dir, store) = open();
    let mut changes = store.watch("a/");
    let first = must(&store, Txn::new().put("a/x", "1").put("b/x", "1")).await;
    must(&store, Txn::new().put("b/y", "1")).await;
    let third = must(&store, Txn::new().delete("a/x")).await;
    let seen = changes.next().await.unwrap().unwrap();
    assert_eq!((seen.key.as_str(), seen.revision), ("a/x", first));
    assert_eq!(seen.value.as_deref(), Some(b"1".as_slice()));
    let seen = changes.next().await.unwrap().unwrap();
    assert_eq!((seen.revision, seen.value), (third, None));
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The store behaves like one map that everybody shares, also when it is opened again.
    #[test]
    fn it_is_a_map(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let mut store = Embedded::open(dir.path()).unwrap();
            let mut model: BTreeMap<String, Versioned> = BTreeMap::new();
            let mut revision = 0;
            for step in steps {
                match step {
                    Step::Reopen => {
                        store.close().await;
                        store = Embedded::open(dir.path()).unwrap();
                    }
                    Step::Commit { compares, puts, deletes } => {
                        let key = |number: u8| format!("k/{number}");
                        let mut txn = Txn::new();
                        let mut holds = true;
                        for (number, kind) in compares {
                            let held = model.get(&key(number));
                            let expect = match (kind, held) {
                                (0, _) => Expect::Absent,
                                (1, Some(held)) => Expect::At(held.revision),
                                _ => Expect::At(revision + 7),
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
                        let outcome = store.commit(txn).await.unwrap();
                        if holds {
                            revision += 1;
                            assert_eq!(outcome, Outcome::Committed { revision });
                            for number in deletes {
                                model.remove(&key(number));
                            }
                            for (number, value) in puts {
                                let value = vec![value];
                                model.insert(key(number), Versioned { revision, value });
                            }
                        } else {
                            assert_eq!(outcome, Outcome::Conflict);
                        }
                    }
                }
                let entries = store.all("k/", 100).await.unwrap();
                let seen: BTreeMap<_, _> =
                    entries.into_iter().map(|entry| (entry.key, entry.held)).collect();
                assert_eq!(seen, model);
            }
            store.close().await;
        });
    }
}
