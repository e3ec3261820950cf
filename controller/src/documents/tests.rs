//! States of the documents, on a real store.

use voipfleet_policy::{Source, check};

use super::*;
use crate::records::DocumentsVersion;
use crate::store::{Embedded, Outcome};

pub(super) fn open() -> (tempfile::TempDir, Embedded) {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path()).unwrap();
    (dir, store)
}

/// A tenant with the network `192.0.2.<last>/32`.
fn tenant(name: &str, last: u8) -> Document {
    let text = format!("kind: Tenant\nname: {name}\nnetworks: {{office: [192.0.2.{last}]}}\n");
    let source = Source {
        path: "acme.yaml".to_owned(),
        text,
    };
    let checked = check(&[source], &Documents::default());
    checked.documents.into_iter().next().unwrap()
}

pub(super) fn put(name: &str, last: u8) -> Change {
    Change::Put(tenant(name, last))
}

fn delete(name: &str) -> Change {
    Change::Delete(Kind::Tenant, name.to_owned())
}

pub(super) async fn change(store: &dyn Store, by: &str, changes: impl IntoIterator<Item = Change>) {
    let stored = Stored::read(store).await.unwrap();
    let txn = stored.change(by, 1_000, changes).unwrap();
    let outcome = store.commit(txn).await.unwrap();
    assert!(matches!(outcome, Outcome::Committed { .. }));
}

async fn at(store: &dyn Store, version: DocumentsVersion) -> Option<Vec<Document>> {
    let documents = documents_at(store, version).await.unwrap();
    documents.map(|documents| documents.iter().collect())
}

#[tokio::test]
async fn every_state_comes_back() {
    let (_dir, store) = open();
    change(&store, "ada", [put("acme", 1), put("globex", 1)]).await;
    change(&store, "ben", [put("acme", 2)]).await;
    change(&store, "ada", [delete("globex")]).await;
    change(&store, "ada", [put("globex", 9)]).await;

    assert_eq!(at(&store, 0).await, Some(vec![]));
    let first = vec![tenant("acme", 1), tenant("globex", 1)];
    assert_eq!(at(&store, 1).await, Some(first));
    let second = vec![tenant("acme", 2), tenant("globex", 1)];
    assert_eq!(at(&store, 2).await, Some(second));
    assert_eq!(at(&store, 3).await, Some(vec![tenant("acme", 2)]));
    let last = vec![tenant("acme", 2), tenant("globex", 9)];
    assert_eq!(at(&store, 4).await, Some(last));
    assert_eq!(at(&store, 5).await, None, "a state to come");

    let history = document_history(&store, Kind::Tenant, "globex").await;
    let told: Vec<_> = history
        .unwrap()
        .into_iter()
        .map(|change| (change.version, change.by, change.document.is_some()))
        .collect();
    let ada = || "ada".to_owned();
    assert_eq!(
        told,
        [(1, ada(), true), (3, ada(), false), (4, ada(), true)]
    );
    let last = last_change(&store, Kind::Tenant, "acme").await.unwrap();
    assert_eq!(last.map(|change| change.by).as_deref(), Some("ben"));
}

/// Of two that stand on the same state, one wins.
#[tokio::test]
async fn a_change_on_an_old_state_is_a_conflict() {
    let (_dir, store) = open();
    let stored = Stored::read(&store).await.unwrap();
    change(&store, "ada", [put("acme", 1)]).await;
    let late = stored.change("ben", 2_000, [put("globex", 1)]).unwrap();
    assert_eq!(store.commit(late).await.unwrap(), Outcome::Conflict);
    assert_eq!(at(&store, 1).await, Some(vec![tenant("acme", 1)]));
}

/// A store that was written before states were numbered.
#[tokio::test]
async fn an_old_store_has_a_state_to_begin_with() {
    let (_dir, store) = open();
    let mut txn = Txn::new().put(keys::DOCUMENTS, "ada");
    for name in ["acme", "globex"] {
        let value = serde_json::to_vec(&tenant(name, 1)).unwrap();
        txn = txn.put(key(Kind::Tenant, name), value);
    }
    store.commit(txn).await.unwrap();
    let both = vec![tenant("acme", 1), tenant("globex", 1)];
    assert_eq!(at(&store, 0).await, Some(both.clone()));

    change(&store, "ben", [put("acme", 2)]).await;
    change(&store, "ben", [delete("globex")]).await;
    assert_eq!(at(&store, 0).await, Some(both));
    let first = vec![tenant("acme", 2), tenant("globex", 1)];
    assert_eq!(at(&store, 1).await, Some(first));
    assert_eq!(at(&store, 2).await, Some(vec![tenant("acme", 2)]));
}

/// What a generation stands on stays, however many changes come.
#[tokio::test]
async fn pruning_leaves_what_generations_need() {
    let (_dir, store) = open();
    for last in 0..=250 {
        change(&store, "ada", [put("acme", last)]).await;
    }
    let generation = Txn::new().put(
        keys::generation("site-a", 1),
        r#"{"number":1,"documents":7}"#,
    );
    store.commit(generation).await.unwrap();
    // 251 states; those up to 51 are old: 1 to 50, but for 7, end before that.
    assert_eq!(prune(&store).await.unwrap(), 49);
    assert_eq!(at(&store, 7).await, Some(vec![tenant("acme", 6)]));
    assert_eq!(at(&store, 51).await, Some(vec![tenant("acme", 50)]));
    assert_eq!(at(&store, 251).await, Some(vec![tenant("acme", 250)]));
    assert_eq!(at(&store, 8).await, None, "pruned, and it says so");
    assert_eq!(prune(&store).await.unwrap(), 0);
}
