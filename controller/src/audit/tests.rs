use std::path::Path;

use voipfleet_protocol::audit::{Broken, Hash};
use voipfleet_testkit::files::copy_folder;

use super::check::{CheckError, check};
use super::*;
use crate::clock::system;
use crate::store::{Embedded, Txn};

const RECORDS: u64 = 12;

fn asked(what: &str) -> Record {
    Record::new(Kind::Asked, what)
}

async fn open(path: &Path) -> (Embedded, Arc<dyn Store>) {
    let path = path.to_owned();
    let embedded = tokio::task::spawn_blocking(move || Embedded::open(&path).unwrap());
    let embedded = embedded.await.unwrap();
    let store: Arc<dyn Store> = Arc::new(embedded.clone());
    (embedded, store)
}

/// A store whose log has [`RECORDS`] records, closed.
async fn recorded() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (embedded, store) = open(dir.path()).await;
    let audit = Audit::open(Arc::clone(&store), system()).await.unwrap();
    for number in 0..RECORDS {
        audit
            .note(Event::new("Tried").detail(number.to_string()))
            .await;
    }
    assert_eq!(check(store.as_ref()).await.unwrap().seq, RECORDS);
    embedded.close().await;
    dir
}

/// The log after somebody changed a copy of the store.
async fn tampered<F>(original: &Path, change: F) -> Result<Link, CheckError>
where
    F: AsyncFnOnce(&dyn Store) -> Txn,
{
    let dir = tempfile::tempdir().unwrap();
    copy_folder(original, dir.path());
    let (embedded, store) = open(dir.path()).await;
    let txn = change(store.as_ref()).await;
    store.commit(txn).await.unwrap();
    let found = check(store.as_ref()).await;
    embedded.close().await;
    found
}

async fn bytes(store: &dyn Store, seq: u64) -> Vec<u8> {
    store.get(&keys::audit(seq)).await.unwrap().unwrap().value
}

#[tokio::test]
async fn detects_every_manipulation() {
    let dir = recorded().await;
    let original = dir.path();
    assert!(tampered(original, async |_| Txn::new()).await.is_ok());

    let removed = tampered(original, async |_| Txn::new().delete(keys::audit(5))).await;
    assert!(
        matches!(
            removed,
            Err(CheckError::Broken(Broken::Missing {
                expected: 5,
                found: 6
            }))
        ),
        "{removed:?}"
    );
    let altered = tampered(original, async |store: &dyn Store| {
        let text = String::from_utf8(bytes(store, 5).await).unwrap();
        Txn::new().put(keys::audit(5), text.replace("Tried", "Other"))
    })
    .await;
    assert!(
        matches!(altered, Err(CheckError::Broken(Broken::Altered(6)))),
        "{altered:?}"
    );
    let swapped = tampered(original, async |store: &dyn Store| {
        let (five, six) = (bytes(store, 5).await, bytes(store, 6).await);
        Txn::new()
            .put(keys::audit(5), six)
            .put(keys::audit(6), five)
    })
    .await;
    assert!(
        matches!(
            swapped,
            Err(CheckError::Broken(Broken::Moved {
                expected: 5,
                found: 6
            }))
        ),
        "{swapped:?}"
    );
    let cut_off = tampered(original, async |_| {
        Txn::new()
            .delete(keys::audit(RECORDS))
            .delete(keys::audit(RECORDS - 1))
    })
    .await;
    assert!(
        matches!(
            cut_off,
            Err(CheckError::Broken(Broken::CutOff {
                found: 10,
                known: RECORDS
            }))
        ),
        "{cut_off:?}"
    );
    // One more, in its place, with a right `prev`: what follows does not fit any more.
    let inserted = tampered(original, async |store: &dyn Store| {
        let mut record: Record = serde_json::from_slice(&bytes(store, 5).await).unwrap();
        record.seq = 6;
        record.prev = Hash::of(&bytes(store, 5).await);
        let mut txn = Txn::new().put(keys::audit(6), serde_json::to_vec(&record).unwrap());
        for seq in 6..=RECORDS {
            txn = txn.put(keys::audit(seq + 1), bytes(store, seq).await);
        }
        // The last write to a key counts: 6 is the inserted one.
        txn
    })
    .await;
    assert!(
        matches!(
            inserted,
            Err(CheckError::Broken(Broken::Moved {
                expected: 7,
                found: 6
            }))
        ),
        "{inserted:?}"
    );
    // The last one altered: nothing follows it but the recorded head.
    let last = tampered(original, async |store: &dyn Store| {
        let text = String::from_utf8(bytes(store, RECORDS).await).unwrap();
        Txn::new().put(keys::audit(RECORDS), text.replace("Tried", "Other"))
    })
    .await;
    assert!(
        matches!(last, Err(CheckError::Broken(Broken::Rewritten(RECORDS)))),
        "{last:?}"
    );
}

#[tokio::test]
async fn twenty_writers_share_flushes_and_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (embedded, store) = open(dir.path()).await;
    let audit = Audit::open(Arc::clone(&store), system()).await.unwrap();
    let writers = (0..20).map(|writer| {
        let audit = audit.clone();
        tokio::spawn(async move {
            for number in 0..25 {
                let record = asked(&format!("W{writer}N{number}"));
                audit.append(record).await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    assert_eq!(check(store.as_ref()).await.unwrap().seq, 500);
    let last = store.get(keys::AUDIT_HEAD).await.unwrap().unwrap();
    assert!(
        last.revision < 250,
        "{} transactions for 500 records",
        last.revision
    );
    let mut seen = std::collections::BTreeMap::new();
    for entry in store.all(keys::ALL_AUDIT, 1000).await.unwrap() {
        let record: Record = serde_json::from_slice(&entry.held.value).unwrap();
        let (writer, number) = record.what[1..].split_once('N').unwrap();
        let number: u32 = number.parse().unwrap();
        // Each writer's records keep their order.
        let before = seen.insert(writer.to_owned(), number);
        assert_eq!(number, before.map_or(0, |before| before + 1));
    }
    embedded.close().await;
}

#[tokio::test]
async fn detects_a_missing_beginning_or_end() {
    let dir = recorded().await;
    let original = dir.path();
    // With an anchor as if they were pruned, which no operator asked for.
    let beginning = tampered(original, async |store: &dyn Store| {
        let anchor = Link {
            seq: 2,
            hash: Hash::of(&bytes(store, 2).await),
        };
        Txn::new()
            .delete(keys::audit(1))
            .delete(keys::audit(2))
            .put(keys::AUDIT_ANCHOR, serde_json::to_vec(&anchor).unwrap())
    })
    .await;
    assert!(
        matches!(beginning, Err(CheckError::Broken(Broken::Beginning(2)))),
        "{beginning:?}"
    );
    let no_end = tampered(original, async |_| {
        Txn::new()
            .delete(keys::AUDIT_HEAD)
            .delete(keys::audit(RECORDS))
    })
    .await;
    assert!(
        matches!(no_end, Err(CheckError::Broken(Broken::NoEnd))),
        "{no_end:?}"
    );
}

#[tokio::test]
async fn open_records_end_as_unknown_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let (embedded, store) = open(dir.path()).await;
    let audit = Audit::open(Arc::clone(&store), system()).await.unwrap();
    let record = audit.append(asked("Push")).await.unwrap();
    let closed = audit.append(asked("Apply")).await.unwrap();
    let stored = serde_json::from_slice(&bytes(store.as_ref(), closed).await).unwrap();
    audit.append(ended(stored, Ending::Done)).await.unwrap();
    embedded.close().await;
    drop((audit, store));

    let (embedded, store) = open(dir.path()).await;
    let _audit = Audit::open(Arc::clone(&store), system()).await.unwrap();
    let end = head(store.as_ref()).await.unwrap();
    let last: Record = serde_json::from_slice(&bytes(store.as_ref(), end.seq).await).unwrap();
    assert_eq!(end.seq, 4);
    assert_eq!((last.what.as_str(), last.asked), ("Push", Some(record)));
    assert_eq!(last.result, Some(Ending::Unknown));
    assert!(
        store
            .all(keys::ALL_AUDIT_OPEN, 10)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(check(store.as_ref()).await.unwrap(), end);
    embedded.close().await;
}

#[tokio::test]
async fn refuses_to_overwrite_records_after_the_head() {
    let dir = recorded().await;
    let (embedded, store) = open(dir.path()).await;
    let back = serde_json::to_vec(&Link::default()).unwrap();
    let txn = Txn::new().put(keys::AUDIT_HEAD, back);
    store.commit(txn).await.unwrap();
    let audit = Audit::open(Arc::clone(&store), system()).await.unwrap();
    audit.note(Event::new("After")).await;
    assert_eq!(check(store.as_ref()).await.unwrap().seq, RECORDS + 1);
    embedded.close().await;
}

#[tokio::test]
async fn many_refusals_become_a_count() {
    let dir = tempfile::tempdir().unwrap();
    let (embedded, store) = open(dir.path()).await;
    let audit = Audit::open(Arc::clone(&store), system()).await.unwrap();
    let refusal = Record {
        who: Some(voipfleet_protocol::audit::Who {
            operator: "ben".to_owned(),
            serial: "01".to_owned(),
            peer: "192.0.2.1:1".to_owned(),
        }),
        ..Record::new(Kind::Refused, "Push")
    };
    for _ in 0..1000 {
        audit.refused("key", refusal.clone()).await;
    }
    assert_eq!(
        head(store.as_ref()).await.unwrap().seq,
        u64::from(rate_limit::EACH)
    );
    assert!(audit.floods("key") && !audit.floods("other"));
    let told = audit
        .flood
        .take("key", &refusal, system().now_ms() + 61_000);
    let more = told.more.unwrap();
    assert_eq!(more.count, Some(1000 - u64::from(rate_limit::EACH)));
    assert!(told.write);
    embedded.close().await;
}
