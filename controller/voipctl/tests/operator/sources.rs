//! `names` and `feeds`.

use voipfleet_proto::v1;

use crate::fixture::{Fixture, Terminal, ago};

fn address(text: &str, missing: u64) -> v1::ResolvedAddress {
    v1::ResolvedAddress {
        address: text.to_owned(),
        first_ms: ago(9000),
        last_ms: ago(40),
        missing_since_ms: missing,
    }
}

fn sources() -> v1::ListDynamicSetsResponse {
    let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
    let names = vec![
        v1::ResolvedName {
            name: "media.trunkco.example".to_owned(),
            error: "the name does not exist".to_owned(),
            failing_since_ms: ago(600),
            used_by: texts(&["provider trunkco"]),
            ..Default::default()
        },
        v1::ResolvedName {
            name: "new.acme.example".to_owned(),
            used_by: texts(&["tenant acme"]),
            ..Default::default()
        },
        v1::ResolvedName {
            name: "office.acme.example".to_owned(),
            addresses: vec![address("192.0.2.77", 0)],
            resolved_ms: ago(7300),
            failing_since_ms: ago(7200),
            error: "the resolver did not answer in time".to_owned(),
            used_by: texts(&["tenant acme"]),
            ..Default::default()
        },
        v1::ResolvedName {
            name: "old.example".to_owned(),
            addresses: vec![address("192.0.2.9", 0)],
            resolved_ms: ago(9000),
            unused_since_ms: ago(5000),
            ..Default::default()
        },
        v1::ResolvedName {
            name: "sip.trunkco.example".to_owned(),
            addresses: vec![
                address("192.0.2.1", 0),
                address("192.0.2.2", ago(1800)),
                address("2001:db8::5060", 0),
            ],
            resolved_ms: ago(40),
            refused: texts(&["127.0.0.1"]),
            beyond: 3,
            used_by: texts(&["provider trunkco", "tenant acme"]),
            ..Default::default()
        },
    ];
    let feeds = vec![
        v1::FeedReport {
            list: "drop".to_owned(),
            source: "https://lists.example.net/drop.txt".to_owned(),
            entries: 1204,
            fetched_ms: ago(90_000),
            checked_ms: ago(60),
            refresh_ms: 3_600_000,
            failing_since_ms: ago(7200),
            error: "it shrank from 1204 entries to 7".to_owned(),
            shrunk_to: Some(7),
            ..Default::default()
        },
        v1::FeedReport {
            list: "local".to_owned(),
            source: "/var/lib/voipfleet/feeds/local.txt".to_owned(),
            refresh_ms: 60_000,
            failing_since_ms: ago(120),
            error: "/var/lib/voipfleet/feeds/local.txt cannot be read: No such file".to_owned(),
            ..Default::default()
        },
        v1::FeedReport {
            list: "voipbl".to_owned(),
            source: "https://voipbl.example.org/update".to_owned(),
            entries: 84_021,
            fetched_ms: ago(1200),
            checked_ms: ago(1200),
            refresh_ms: 3_600_000,
            not_addresses: 2,
            samples: texts(&["ip", "# \u{1b}[31mred"]),
            private: 3,
            bogon: 1,
            too_wide: 1,
            twice: 1900,
            left_out: vec![v1::FeedLeftOut {
                site: "site-a".to_owned(),
                whose: "tenants".to_owned(),
                entries: 1,
                examples: texts(&["203.0.113.9/32"]),
            }],
            ..Default::default()
        },
    ];
    v1::ListDynamicSetsResponse { names, feeds }
}

#[tokio::test]
async fn names_in_all_formats() {
    let fixture = Fixture::new().await;
    fixture.script(|script| script.sources = sources());
    let mut shown = String::new();
    for width in [140, 60] {
        let ended = fixture.run_on(Terminal::Plain(width, ""), &["names"]).await;
        shown.push_str(&ended.to_string());
    }
    let json = fixture.run(&["names", "-o", "json"]).await;
    insta::assert_snapshot!(shown + &json.to_string());
}

#[tokio::test]
async fn feeds_in_all_formats() {
    let fixture = Fixture::new().await;
    fixture.script(|script| script.sources = sources());
    let mut shown = String::new();
    for width in [140, 60] {
        let ended = fixture.run_on(Terminal::Plain(width, ""), &["feeds"]).await;
        shown.push_str(&ended.to_string());
    }
    let json = fixture.run(&["feeds", "-o", "json"]).await;
    insta::assert_snapshot!(shown + &json.to_string());
}

#[tokio::test]
async fn exit_code_reports_failing_sources() {
    let fixture = Fixture::new().await;
    let none = fixture.run(&["names", "--exit-code"]).await;
    assert_eq!((none.status, none.out.as_str()), (0, ""));
    fixture.script(|script| script.sources = sources());
    for command in ["names", "feeds"] {
        assert_eq!(fixture.run(&[command]).await.status, 0);
        assert_eq!(fixture.run(&[command, "--exit-code"]).await.status, 1);
    }
    // Nothing fails, and nothing was ever answered.
    fixture.script(|script| {
        script.sources.names = vec![v1::ResolvedName {
            name: "sbc.example.net".to_owned(),
            ..Default::default()
        }];
        script.sources.feeds = vec![v1::FeedReport {
            list: "drop".to_owned(),
            ..Default::default()
        }];
    });
    for command in ["names", "feeds"] {
        let pending = fixture.run(&[command, "--exit-code"]).await;
        assert_eq!(pending.status, 1, "{pending}");
        assert!(pending.err.contains("1 without an answer yet"), "{pending}");
    }
}

/// A resolver that never answers is no better than one that answers badly.
#[tokio::test]
async fn a_name_without_any_answer_fails_after_a_short_time() {
    let fixture = Fixture::new().await;
    let silent = |seconds| v1::ListDynamicSetsResponse {
        names: vec![v1::ResolvedName {
            name: "sip.trunkco.example".to_owned(),
            asked_since_ms: ago(seconds),
            used_by: vec!["provider trunkco".to_owned()],
            ..Default::default()
        }],
        feeds: Vec::new(),
    };
    fixture.script(|script| script.sources = silent(5));
    let ended = fixture.run(&["names", "--exit-code"]).await;
    assert_eq!(ended.status, 1, "{ended}");
    assert!(ended.err.contains("1 without an answer yet"), "{ended}");
    fixture.script(|script| script.sources = silent(30));
    let ended = fixture.run(&["names", "--exit-code"]).await;
    assert_eq!(ended.status, 1, "{ended}");
    assert!(ended.err.contains("1 name, 1 failing"), "{ended}");
    assert!(
        ended.err.contains("no answer yet; failing for 30s"),
        "{ended}"
    );
    assert!(ended.out.contains("unknown"), "{ended}");
}

#[tokio::test]
async fn fetch_one_list() {
    let fixture = Fixture::new().await;
    fixture.script(|script| script.sources = sources());
    let ended = fixture
        .run(&["feeds", "fetch", "drop", "--accept-shrunk"])
        .await;
    assert_eq!(ended.status, 1, "it is stale still: {ended}");
    let asked = fixture.requests();
    assert!(asked[0].contains("accept_shrunk: true"), "{asked:?}");
    fixture.script(|script| _ = script.sources.feeds.drain(..2));
    let ended = fixture.run(&["feeds", "fetch", "voipbl"]).await;
    assert_eq!(ended.status, 0, "{ended}");
}
