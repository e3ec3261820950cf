use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use voipfleet_controller::dynamic_sets::Used;
use voipfleet_controller::dynamic_sets::feeds::{Asked, Feeds, Fetcher, Limits};
use voipfleet_controller::limits::MAX_FEEDS;
use voipfleet_controller::records::{FeedRecord, from_protobuf};
use voipfleet_controller::site_inputs::read as dynamic_sets;
use voipfleet_controller::store::{Versioned, keys, write_batched};
use voipfleet_policy::{Documents, Feed, Source, check};
use voipfleet_ruleset::ruleset::DynamicSetName;

use super::fetch::feed;
use super::scene::{HOUR, MINUTE, Scene};
use super::web::{Does, Web, head, ok};

fn used(feed: Option<Feed>) -> Used {
    Used {
        feeds: feed.map_or_else(BTreeMap::new, |feed| [("bl".parse().unwrap(), feed)].into()),
        ..Used::default()
    }
}

async fn start(scene: &Scene) -> mpsc::Sender<Asked> {
    let fetcher = Fetcher::new(
        Limits::default(),
        scene.dir.path().join("feeds"),
        Vec::new(),
    );
    let (store, audit) = (Arc::clone(&scene.store), scene.audit().await);
    let feeds = Feeds::open(store, scene.clock(), fetcher, audit);
    let feeds = feeds.await.unwrap();
    let (ask, asked) = mpsc::channel(1);
    tokio::spawn(feeds.run(scene.used.subscribe(), asked, scene.stop.clone()));
    ask
}

async fn until(scene: &Scene, wanted: impl Fn(&FeedRecord) -> bool) -> FeedRecord {
    let read = |held| from_protobuf::<FeedRecord>("", &held).unwrap();
    let wanted = |held: Option<_>| held.map(read).filter(|record| wanted(record));
    scene.until(&keys::feed("bl"), wanted).await
}

fn hosts(count: u32) -> String {
    let host = |n: u32| format!("8.8.{}.{}\n", n >> 8, n & 255);
    (0..count).map(host).collect()
}

#[tokio::test]
async fn a_list_is_refetched_and_kept_when_its_source_fails() {
    let scene = Scene::new();
    let web = Web::start(Does::Versioned(
        "\"1\"",
        hosts(900) + "10.0.0.1\n127.0.0.1\n",
    ))
    .await;
    start(&scene).await;
    scene.use_(used(Some(feed(&web.url()))));
    let record = until(&scene, |_| true).await;
    assert_eq!((record.len(), record.fetched_ms), (900, scene.now()));
    let dropped = record.dropped.clone().unwrap();
    assert_eq!((dropped.private, dropped.bogon), (1, 1));
    let fetched_ms = record.fetched_ms;

    // Not before its time, and then only if it has changed.
    scene.pass(HOUR - 1);
    scene.pass(1);
    let record = until(&scene, |record| record.checked_ms == scene.now()).await;
    assert_eq!((record.fetched_ms, record.len()), (fetched_ms, 900));
    assert_eq!(web.asked().len(), 2);

    for (does, said) in [
        (head("503 Gone"), "status 503"),
        (ok("<html>"), "web page"),
        (ok("# nothing today\n"), "no address"),
        (ok(&hosts(80)), "from 900 entries to 80"),
        (ok(&hosts(1001)), "max_entries"),
    ] {
        web.does(does);
        scene.pass(HOUR);
        let record = until(&scene, |record| record.error.contains(said)).await;
        assert_eq!((record.len(), record.fetched_ms), (900, fetched_ms));
        assert_ne!(record.failing_since_ms, 0);
    }

    // It is asked again soon after a first failure.
    web.does(ok(&hosts(901)));
    scene.pass(HOUR);
    until(&scene, |record| {
        record.len() == 901 && record.failing_since_ms == 0
    })
    .await;
    web.does(head("500 Broken"));
    scene.pass(HOUR);
    until(&scene, |record| record.failures == 1).await;
    web.does(ok(&hosts(902)));
    scene.pass(MINUTE);
    until(&scene, |record| record.len() == 902).await;
    scene.stop.cancel();
}

#[tokio::test]
async fn an_operator_can_accept_a_shrunken_list() {
    let scene = Scene::new();
    let web = Web::start(ok(&hosts(500))).await;
    let ask = start(&scene).await;
    scene.use_(used(Some(feed(&web.url()))));
    until(&scene, |record| record.len() == 500).await;
    web.does(ok(&hosts(3)));
    for (shrink, len, shrunk_to) in [(false, 500, Some(3)), (true, 3, None)] {
        let (done, answer) = oneshot::channel();
        let list = "bl".parse().unwrap();
        ask.send(Asked { list, shrink, done }).await.unwrap();
        let record = answer.await.unwrap();
        assert_eq!((record.len(), record.shrunk_to), (len, shrunk_to));
        let stored = until(&scene, |_| true).await;
        assert_eq!(stored, record, "stored before it is told");
    }
    let (done, answer) = oneshot::channel();
    let list = "other".parse().unwrap();
    ask.send(Asked {
        list,
        shrink: false,
        done,
    })
    .await
    .unwrap();
    answer.await.unwrap_err();
    scene.stop.cancel();
}

#[tokio::test]
async fn a_new_source_is_fetched_at_once_and_an_unused_list_expires_after_a_day() {
    let scene = Scene::new();
    let web = Web::start(ok(&hosts(500))).await;
    let other = Web::start(ok(&hosts(7))).await;
    start(&scene).await;
    scene.use_(used(Some(feed(&web.url()))));
    until(&scene, |record| record.len() == 500).await;
    scene.use_(used(Some(feed(&other.url()))));
    let record = until(&scene, |record| record.len() == 7).await;
    assert_eq!(record.source, other.url());

    let file = scene.dir.path().join("feeds/x.txt");
    let mut others = Used {
        feeds: [(
            "x".parse().unwrap(),
            feed(&format!("file:{}", file.display())),
        )]
        .into(),
        kept: ["bl".parse().unwrap()].into(),
        ..Used::default()
    };
    scene.use_(others.clone());
    let record = until(&scene, |record| record.unused_since_ms != 0).await;
    assert_eq!(record.len(), 7);
    let read = |held| from_protobuf::<FeedRecord>("", &held).unwrap();
    let looked =
        |held: Option<Versioned>, times| held.filter(|held| read(held.clone()).failures == times);
    // The first look comes before the clock is turned, so that the second is due.
    scene.until(&keys::feed("x"), |held| looked(held, 1)).await;
    scene.pass(48 * HOUR);
    scene.until(&keys::feed("x"), |held| looked(held, 2)).await;
    let record = until(&scene, |_| true).await;
    assert_eq!(record.len(), 7, "a generation names it");

    others.kept.clear();
    scene.use_(others);
    let gone = |held: Option<_>| held.is_none().then_some(());
    scene.until(&keys::feed("bl"), gone).await;
    scene.stop.cancel();
}

#[tokio::test]
async fn too_many_remembered_lists_drop_the_longest_unused_first() {
    let scene = Scene::new();
    let all = 4 * MAX_FEEDS + 3;
    let mut records = Vec::new();
    for n in 0..all {
        let record = FeedRecord {
            unused_since_ms: scene.now() - HOUR + n as u64,
            ..FeedRecord::default()
        };
        let key = keys::feed(format!("l{n}"));
        records.push((key, Some(record.encode_to_vec())));
    }
    let store = scene.store.as_ref();
    write_batched(store, records).await.unwrap();
    start(&scene).await;
    // A generation may go back to the first of them.
    scene.use_(Used {
        kept: ["l0".parse().unwrap()].into(),
        ..Used::default()
    });
    let gone = |held: Option<_>| held.is_none().then_some(());
    for n in 1..all - MAX_FEEDS {
        scene.until(&keys::feed(format!("l{n}")), gone).await;
    }
    let left = scene.store.all(keys::ALL_FEEDS, all).await.unwrap();
    assert_eq!(left.len(), MAX_FEEDS + 1);
    assert!(left.iter().any(|entry| entry.key == keys::feed("l0")));
    scene.stop.cancel();
}

#[tokio::test]
async fn a_list_with_openings_is_checked_again() {
    let scene = Scene::new();
    let wide: Vec<String> = (11..61).map(|n| format!("{n}.0.0.0/8")).collect();
    let web = Web::start(Does::Versioned("\"1\"", wide.join("\n"))).await;
    start(&scene).await;
    let denied = used(Some(feed(&web.url())));
    scene.use_(denied.clone());
    let record = until(&scene, |_| true).await;
    assert_eq!(
        (record.len(), record.error.as_str()),
        (50, ""),
        "for denial"
    );

    let documents = "kind: Site\nname: a\nadmins: 192.0.2.1\nservices: {sip: {from: [list:bl]}}\n---\n\
        kind: List\nname: bl\nurl: https://lists.example.net/bl\n";
    let source = Source {
        path: "a.yaml".to_owned(),
        text: documents.to_owned(),
    };
    let checked = check(&[source], &Documents::default());
    let documents = Documents::from_iter(checked.documents);
    let opened = Used::by(&documents).opened;
    scene.use_(Used { opened, ..denied });
    let record = until(&scene, |record| record.error.contains("too wide")).await;
    assert_eq!(record.len(), 50, "what was there is shown still");

    // It opens nothing all the same.
    let site = "a".parse().unwrap();
    let dynamic = dynamic_sets(scene.store.as_ref(), &site, &documents, &[], scene.now());
    let dynamic = dynamic.await.unwrap();
    let value = dynamic
        .get(&DynamicSetName::Feed("bl".parse().unwrap()))
        .unwrap();
    assert!(value.is_empty());
    scene.stop.cancel();
}
