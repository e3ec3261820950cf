use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::op::ResponseCode;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use voipfleet_controller::dynamic_sets::dns_names::{GRACE_MS, Names, Resolver};
use voipfleet_controller::dynamic_sets::{SourceOptions, Sources, Used};
use voipfleet_controller::limits::MAX_DNS_NAMES;
use voipfleet_controller::records::{ResolvedRecord, from_json};
use voipfleet_controller::store::{Txn, Versioned, every, keys};
use voipfleet_protocol::audit::Record;

use super::dns::{Dns, Says, addresses};
use super::scene::{HOUR, MINUTE, Scene};

const HOST: &str = "sip.trunkco.example";

fn used(names: &[&str]) -> Used {
    Used {
        names: names.iter().map(|name| name.parse().unwrap()).collect(),
        ..Used::default()
    }
}

async fn start(scene: &Scene, dns: &Dns) -> JoinHandle<()> {
    let resolver = Resolver::new(vec![dns.address]);
    let (store, audit) = (Arc::clone(&scene.store), scene.audit().await);
    let names = Names::open(store, scene.clock(), resolver, audit);
    let names = names.await.unwrap();
    tokio::spawn(names.run(scene.used.subscribe(), scene.stop.clone()))
}

async fn until(
    scene: &Scene,
    host: &str,
    wanted: impl Fn(&ResolvedRecord) -> bool,
) -> ResolvedRecord {
    let key = keys::resolved(host);
    let read = |held| from_json::<ResolvedRecord>("", &held).unwrap();
    scene
        .until(&key, |held| held.map(read).filter(|record| wanted(record)))
        .await
}

fn held(record: &ResolvedRecord) -> Vec<String> {
    record.addresses.keys().map(IpAddr::to_string).collect()
}

#[tokio::test]
async fn a_name_follows_its_records_and_is_kept_when_its_resolver_fails() {
    let (scene, mut dns) = (Scene::new(), Dns::start().await);
    let running = start(&scene, &dns).await;
    dns.say(HOST, addresses(&["192.0.2.1", "2001:db8::1"]));
    scene.use_(used(&[HOST]));
    let record = until(&scene, HOST, |_| true).await;
    assert_eq!(held(&record), ["192.0.2.1", "2001:db8::1"]);
    assert_eq!(
        (record.resolved_ms, record.failing_since_ms),
        (scene.now(), None)
    );
    let mut asked = dns.asked();
    asked.sort();
    assert_eq!(
        asked,
        [format!("{HOST}. A"), format!("{HOST}. AAAA")],
        "no search domain"
    );

    // It moves: both for a while, then the new one alone.
    dns.say(HOST, addresses(&["192.0.2.2"]));
    scene.pass(MINUTE);
    let record = until(&scene, HOST, |record| record.addresses.len() == 3).await;
    let old = record.addresses[&"192.0.2.1".parse::<IpAddr>().unwrap()];
    assert_eq!(old.missing_since_ms, Some(scene.now()));
    scene.pass(GRACE_MS);
    let record = until(&scene, HOST, |record| record.addresses.len() < 3).await;
    assert_eq!(held(&record), ["192.0.2.2"]);

    // Nothing that a resolver says or leaves unsaid takes it away.
    for (says, error) in [
        (
            Says::Code(ResponseCode::NXDomain),
            "the name does not exist",
        ),
        (
            Says::Code(ResponseCode::ServFail),
            "the resolver answered: Server Failure",
        ),
        (addresses(&[]), "it has no address"),
        (
            addresses(&["127.0.0.1"]),
            "it stands for 127.0.0.1, which no peer can have",
        ),
    ] {
        dns.say(HOST, says);
        scene.pass(HOUR);
        let record = until(&scene, HOST, |record| record.error == error).await;
        assert_eq!(held(&record), ["192.0.2.2"]);
        assert!(record.failing_since_ms.is_some());
    }
    dns.die().await;
    scene.pass(HOUR);
    let record = until(&scene, HOST, |record| record.error.contains("resolver")).await;
    assert_eq!(held(&record), ["192.0.2.2"]);

    // Nor does a restart, and what comes back is taken.
    running.abort();
    running.await.unwrap_err();
    let dns = Dns::start().await;
    dns.say(HOST, addresses(&["192.0.2.2"]));
    start(&scene, &dns).await;
    let record = until(&scene, HOST, |record| record.failing_since_ms.is_none()).await;
    assert_eq!(held(&record), ["192.0.2.2"]);
    scene.stop.cancel();
}

#[tokio::test]
async fn a_new_name_is_resolved_at_once_and_an_unused_one_expires_after_a_day() {
    let (scene, dns) = (Scene::new(), Dns::start().await);
    start(&scene, &dns).await;
    dns.say(
        HOST,
        Says::Alias("pop7.trunkco.example", vec![[192, 0, 2, 7].into()]),
    );
    scene.use_(used(&[HOST]));
    let record = until(&scene, HOST, |_| true).await;
    assert_eq!(held(&record), ["192.0.2.7"]);

    let other = "media.trunkco.example";
    scene.use_(used(&[HOST, other]));
    let record = until(&scene, other, |_| true).await;
    assert_eq!(record.failing_since_ms, Some(scene.now()));
    assert_eq!(record.error, "the name does not exist");

    scene.use_(used(&[other]));
    until(&scene, HOST, |record| {
        record.unused_since_ms == Some(scene.now())
    })
    .await;
    dns.say(other, addresses(&["192.0.2.9"]));
    scene.pass(23 * HOUR);
    until(&scene, other, |record| held(record) == ["192.0.2.9"]).await;
    let record = until(&scene, HOST, |_| true).await;
    assert_eq!(
        held(&record),
        ["192.0.2.7"],
        "still there if it is wanted again"
    );
    scene.pass(HOUR);
    let gone = |held: Option<_>| held.is_none().then_some(());
    scene.until(&keys::resolved(HOST), gone).await;
    scene.stop.cancel();
}

#[tokio::test]
async fn unanswered_names_do_not_delay_others() {
    let (scene, dns) = (Scene::new(), Dns::start().await);
    start(&scene, &dns).await;
    let names: Vec<String> = (0..200).map(|n| format!("pop{n}.example.net")).collect();
    for (n, name) in (1u8..=200).zip(&names) {
        dns.say(name, Says::Addresses(1, vec![[192, 0, 2, n].into()]));
    }
    let silent = ["a.example.net", "z.example.net"];
    for name in silent {
        dns.say(name, Says::Nothing);
    }
    let all = names.iter().map(String::as_str).chain(silent);
    let all: Vec<&str> = all.collect();
    scene.use_(used(&all));
    for name in &names {
        let record = until(&scene, name, |_| true).await;
        assert_eq!(record.addresses.len(), 1, "{name}");
    }
    let mut asked = dns.asked();
    asked.retain(|question| question.starts_with("pop"));
    assert_eq!(asked.len(), 400, "each once");
    scene.stop.cancel();
}

#[tokio::test]
async fn names_of_a_pushed_generation_are_resolved_without_their_document() {
    let (scene, dns) = (Scene::new(), Dns::start().await);
    dns.say(HOST, addresses(&["192.0.2.1"]));
    let record = |dynamic: &str| {
        format!(
            r#"{{"number":1,"at_ms":1,"by":"ada","confirm_within_ms":1000,"nodes":{{}}{dynamic}}}"#
        )
    };
    let number = |number| keys::generation("site-a", number);
    let named = format!(r#","dynamic":["block","name:{HOST}","deny-feed:bl"]"#);
    let txn = Txn::new()
        .put(number(1), record(r#","dynamic":[]"#))
        .put(number(2), record(&named));
    scene.store.commit(txn).await.unwrap();
    let options = SourceOptions {
        resolvers: vec![dns.address],
        feed_dir: None,
        feed_link_local: false,
    };
    let (store, audit) = (Arc::clone(&scene.store), scene.audit().await);
    let folder = scene.dir.path().join("feeds");
    let sources = Sources::start(
        store,
        scene.clock(),
        options,
        folder,
        audit,
        scene.stop.clone(),
    );
    let _sources = sources.await.unwrap();
    let record = until(&scene, HOST, |_| true).await;
    assert_eq!(held(&record), ["192.0.2.1"]);
    assert_eq!(record.unused_since_ms, None);
    scene.stop.cancel();
}

/// Records of names that nothing uses, each for a millisecond longer than the one after it.
async fn unused(scene: &Scene, count: usize) {
    let numbers: Vec<usize> = (0..count).collect();
    for part in numbers.chunks(scene.store.limits().operations) {
        let mut txn = Txn::new();
        for n in part {
            let record = ResolvedRecord {
                unused_since_ms: Some(scene.now() - HOUR + *n as u64),
                ..ResolvedRecord::default()
            };
            let key = keys::resolved(format!("h{n}.example.net"));
            txn = txn.put(key, serde_json::to_vec(&record).unwrap());
        }
        scene.store.commit(txn).await.unwrap();
    }
}

#[tokio::test]
async fn too_many_remembered_names_drop_the_longest_unused_first() {
    let (scene, dns) = (Scene::new(), Dns::start().await);
    let all = 2 * MAX_DNS_NAMES + 5;
    unused(&scene, all).await;
    start(&scene, &dns).await;
    scene.use_(used(&[]));
    let first_that_stays = all - MAX_DNS_NAMES;
    // The removals are several transactions: each of them is a change.
    let mut changes = scene.store.watch_from_now(keys::ALL_RESOLVED).await;
    let counted = async {
        loop {
            let left = every(scene.store.as_ref(), keys::ALL_RESOLVED).await;
            if left.unwrap().len() == MAX_DNS_NAMES {
                return;
            }
            _ = changes.next().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_mins(1), counted)
        .await
        .unwrap();
    let stays = format!("h{first_that_stays}.example.net");
    let held = scene.store.get(&keys::resolved(stays)).await.unwrap();
    assert!(held.is_some());
    scene.stop.cancel();
}

#[tokio::test]
async fn used_names_stay_resolved_beyond_the_limit() {
    let (scene, dns) = (Scene::new(), Dns::start().await);
    start(&scene, &dns).await;
    dns.say(HOST, addresses(&["192.0.2.1"]));
    scene.use_(used(&[HOST]));
    until(&scene, HOST, |_| true).await;

    // They all sort before it.
    let many: Vec<String> = (0..MAX_DNS_NAMES)
        .map(|n| format!("a{n}.example.net"))
        .collect();
    let all: Vec<&str> = many.iter().map(String::as_str).chain([HOST]).collect();
    scene.use_(used(&all));
    until(&scene, &many[0], |_| true).await;
    dns.say(HOST, addresses(&["192.0.2.2"]));
    scene.pass(25 * HOUR);
    let record = until(&scene, HOST, |record| record.addresses.len() == 2).await;
    assert_eq!(record.unused_since_ms, None, "used, and still resolved");
    scene.stop.cancel();
}

#[tokio::test]
async fn a_burst_of_failures_is_counted_in_the_audit_log() {
    let (scene, dns) = (Scene::new(), Dns::start().await);
    start(&scene, &dns).await;
    let many: Vec<String> = (0..100).map(|n| format!("a{n}.example.net")).collect();
    let all: Vec<&str> = many.iter().map(String::as_str).chain([HOST]).collect();
    dns.say(HOST, addresses(&["192.0.2.1"]));
    scene.use_(used(&all[..100]));
    for name in &many {
        until(&scene, name, |record| record.failing_since_ms.is_some()).await;
    }
    scene.pass(MINUTE);
    scene.use_(used(&all));
    let record = async |number| -> Record {
        let read = |held: Option<Versioned>| Some(from_json("", &held?).unwrap());
        scene.until(&keys::audit(number), read).await
    };
    assert_eq!(record(20).await.what, "NameFailing");
    let counted = record(21).await;
    assert_eq!(counted.what, "SeveralEvents");
    // The last of them may have been told when the minute was over.
    let (mut told, mut number) = (20 + counted.count.unwrap(), 22);
    while record(number).await.what == "NameFailing" {
        (told, number) = (told + 1, number + 1);
    }
    assert_eq!(told, 100);
    assert_eq!(record(number).await.what, "NameChanged");
    scene.stop.cancel();
}

/// A resolver that never answers is known to do so long before its questions time out.
#[tokio::test]
async fn a_first_answer_that_does_not_come_is_on_record() {
    let (scene, dns) = (Scene::new(), Dns::start().await);
    let running = start(&scene, &dns).await;
    dns.say(HOST, Says::Nothing);
    let asked_ms = scene.now();
    scene.use_(used(&[HOST]));
    // What is asked was taken over before.
    dns.next_asked().await;
    scene.pass(6000);
    let record = until(&scene, HOST, |_| true).await;
    assert_eq!(record.asked_since_ms, Some(asked_ms));
    assert!(record.addresses.is_empty() && record.failing_since_ms.is_none());
    scene.stop.cancel();
    running.await.unwrap();
}
