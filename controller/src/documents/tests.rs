//! States of the documents.

use voipfleet_policy::{Source, check};

use super::*;
use crate::records::{Cause, DocumentsVersion, GenerationRecord};
use crate::store::memory::Memory;
use crate::store::{Limits, Txn};

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

pub(super) async fn change(store: &dyn Store, by: &str, changes: Vec<Change>) {
    assert!(try_change(store, by, changes).await.is_some());
}

async fn try_change(store: &dyn Store, by: &str, changes: Vec<Change>) -> Option<Revision> {
    let stored = Stored::read(store).await.unwrap();
    change_from(store, &stored, by, changes).await
}

async fn change_from(
    store: &dyn Store,
    stored: &Stored,
    by: &str,
    changes: Vec<Change>,
) -> Option<Revision> {
    let mut tx = Transaction::new(store);
    stored.change(&mut tx, by, 1_000, changes).await.unwrap();
    tx.commit().await.unwrap()
}

async fn at(store: &dyn Store, version: DocumentsVersion) -> Option<Vec<Document>> {
    let documents = documents_at(store, version).await.unwrap();
    documents.map(|documents| documents.iter().collect())
}

#[tokio::test]
async fn every_state_can_be_read() {
    let store = Memory::default();
    change(&store, "anna", vec![put("acme", 1), put("globex", 1)]).await;
    change(&store, "ben", vec![put("acme", 2)]).await;
    change(&store, "anna", vec![delete("globex")]).await;
    let deleted = Stored::read(&store).await.unwrap();
    change(&store, "anna", vec![put("globex", 9)]).await;

    assert_eq!(at(&store, 0).await, Some(vec![]));
    let first = vec![tenant("acme", 1), tenant("globex", 1)];
    assert_eq!(at(&store, 1).await, Some(first));
    let second = vec![tenant("acme", 2), tenant("globex", 1)];
    assert_eq!(at(&store, 2).await, Some(second));
    assert_eq!(at(&store, 3).await, Some(vec![tenant("acme", 2)]));
    let last = vec![tenant("acme", 2), tenant("globex", 9)];
    assert_eq!(at(&store, 4).await, Some(last));
    assert_eq!(at(&store, 5).await, None, "a state to come");

    let gone = deleted.last_change(Kind::Tenant, "globex").unwrap();
    assert!(gone.deleted && gone.by == "anna" && gone.version == 3);
    assert_eq!(deleted.revision(Kind::Tenant, "globex"), 0);
    let now = Stored::read(&store).await.unwrap();
    let last = now.last_change(Kind::Tenant, "acme").unwrap();
    assert!(!last.deleted && last.by == "ben" && last.version == 2);
    let (acme, globex) = (
        now.revision(Kind::Tenant, "acme"),
        now.revision(Kind::Tenant, "globex"),
    );
    assert!(0 < acme && acme < globex);
    assert_eq!(now.len(), 2);
}

/// Of two changes of the same state one is committed.
#[tokio::test]
async fn a_change_of_an_old_state_conflicts() {
    let store = Memory::default();
    let stored = Stored::read(&store).await.unwrap();
    change(&store, "anna", vec![put("acme", 1)]).await;
    let late = change_from(&store, &stored, "ben", vec![put("globex", 1)]).await;
    assert_eq!(late, None);
    assert_eq!(at(&store, 1).await, Some(vec![tenant("acme", 1)]));
}

/// The state that a kept generation was compiled from stays, however many changes follow.
#[tokio::test]
async fn pruning_keeps_the_states_of_generations() {
    let store = Memory::default();
    for last in 0..=250 {
        change(&store, "anna", vec![put("acme", last)]).await;
    }
    let generation = GenerationRecord {
        number: 1,
        at_ms: 0,
        by: "anna".to_owned(),
        confirm_within_ms: 100,
        observe: false,
        documents: Some(7),
        cause: Cause::Push,
        dynamic: std::collections::BTreeSet::new(),
        changes: crate::records::GenerationChanges::default(),
        nodes: BTreeMap::new(),
        joined: BTreeMap::new(),
    };
    let key = keys::generation("site-a", 1);
    let value = records::to_json(&key, &generation).unwrap();
    store.commit(Txn::new().put(key, value)).await.unwrap();
    // 251 states; those before 51 are old, 1 to 50, but for 7.
    assert_eq!(prune(&store).await.unwrap(), 49);
    assert_eq!(at(&store, 7).await, Some(vec![tenant("acme", 6)]));
    assert_eq!(at(&store, 51).await, Some(vec![tenant("acme", 50)]));
    assert_eq!(at(&store, 251).await, Some(vec![tenant("acme", 250)]));
    assert_eq!(at(&store, 8).await, None, "pruned");
    assert_eq!(prune(&store).await.unwrap(), 0);
}

/// Two thousand tenants in one apply: what is large is written before, and the commit is small.
#[tokio::test]
async fn applying_two_thousand_tenants_is_one_small_commit() {
    let store = Memory::default();
    let tenants = |last: u8| (0..2000).map(move |n| put(&format!("tenant-{n:04}"), last));
    change(&store, "anna", tenants(1).collect()).await;
    let counts = store.take_counts();
    assert!(
        counts.operations <= Limits::STANDARD.operations,
        "{counts:?}"
    );
    assert!(counts.bytes <= Limits::STANDARD.bytes, "{counts:?}");
    let small = store.last_commit();
    assert!(small.operations <= 100 && small.bytes <= Limits::STANDARD.bytes);
    println!("2,000 tenants: largest {counts:?}, commit {small:?}");
    assert_eq!(Stored::read(&store).await.unwrap().len(), 2000);

    // A later change of one of them writes the parts that it changes, and no others.
    change(&store, "ben", vec![put("tenant-1000", 2)]).await;
    let counts = store.take_counts();
    println!("one of 2,000 tenants: {counts:?}");
    assert_eq!(counts.transactions, 1);
    assert!(counts.bytes < 600_000, "{counts:?}");
    // All states are there, and parts that no state refers to go with the states.
    assert_eq!(at(&store, 1).await.map(|all| all.len()), Some(2000));
    for last in 0..RECENT {
        let last = u8::try_from(last).unwrap();
        change(&store, "ben", vec![put("tenant-0000", last)]).await;
    }
    let before = store.count("part/");
    assert!(prune(&store).await.unwrap() > 0);
    assert!(store.count("part/") < before);
    let now = Stored::read(&store).await.unwrap();
    assert_eq!(
        at(&store, now.version.version).await.map(|all| all.len()),
        Some(2000)
    );
}
