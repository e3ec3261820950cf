//! Clocks that differ, and certificates that end.

use voipfleet_proto::v1;

use crate::fixture::{Fixture, ago};

const DAY: i64 = 86_400;

fn fleet() -> v1::StatusResponse {
    let node = |name: &str, clock_skew_ms: Option<i64>| v1::NodeReport {
        node: name.to_owned(),
        connected: true,
        clock_skew_ms,
        ..v1::NodeReport::default()
    };
    let expiry = |what: &str, days: i64| v1::Expiry {
        what: what.to_owned(),
        at_ms: ago(-days * DAY),
    };
    let site = |name: &str, nodes: Vec<v1::NodeReport>, own: v1::Expiry| v1::SiteStatus {
        site: name.to_owned(),
        nodes,
        expiries: vec![
            expiry("operator ben", -3),
            expiry("server certificate", 12),
            own,
        ],
        ..v1::SiteStatus::default()
    };
    v1::StatusResponse {
        sites: vec![
            site(
                "site-a",
                vec![node("sip1", Some(7_200_000)), node("pbx1", Some(-65_000))],
                expiry("node site-a/sip1", 20),
            ),
            site(
                "site-b",
                vec![node("sip9", Some(4_999)), node("pbx9", None)],
                expiry("node site-b/sip9", 30),
            ),
        ],
        ..v1::StatusResponse::default()
    }
}

#[tokio::test]
async fn clocks_and_expiries_are_in_status_and_nodes() {
    let fixture = Fixture::new().await;
    fixture.script(|script| script.status = fleet());
    for command in ["status", "nodes"] {
        let shown = fixture.run(&[command]).await.to_string();
        for said in [
            "the clock is 2h ahead of the controller's; check time synchronization on both",
            "the clock is 1m behind the controller's",
            // Each once, the first first.
            "certificates end soon: operator ben ended 3d ago, server certificate in 12d, node \
             site-a/sip1 in 20d, node site-b/sip9 in 30d",
        ] {
            assert!(shown.contains(said), "{command}: {shown}");
        }
        assert_eq!(shown.matches("the clock is").count(), 2, "{shown}");
        assert_eq!(shown.matches("certificates end soon").count(), 1, "{shown}");
        let json = fixture.run(&[command, "-o", "json"]).await.to_string();
        assert!(json.contains(r#""clock_skew_ms":7200000"#), "{json}");
    }
    let json = fixture
        .run(&["status", "site-a", "-o", "json"])
        .await
        .to_string();
    let ended = r#"{"what":"operator ben","at":"2026-11-20T12:00:00Z"}"#;
    assert!(json.contains(ended), "{json}");
}

#[tokio::test]
async fn expiries_are_in_the_plan() {
    let fixture = Fixture::new().await;
    fixture.script(|script| {
        script.plan = v1::PlanResponse {
            site: "site-a".to_owned(),
            expiries: fleet().sites.remove(0).expiries,
            ..v1::PlanResponse::default()
        }
    });
    let shown = fixture.run(&["plan", "site-a"]).await.to_string();
    assert!(shown.contains("server certificate in 12d"), "{shown}");
    let json = fixture
        .run(&["plan", "site-a", "-o", "json"])
        .await
        .to_string();
    assert!(json.contains(r#""what":"server certificate""#), "{json}");
}

#[tokio::test]
async fn terminals_obey_nothing_that_a_node_says_in_json_and_yaml() {
    let fixture = Fixture::new().await;
    fixture.script(|script| {
        script.status = fleet();
        script.status.sites[0].nodes[0].error = "a\u{9b}31mb\u{202e}c\u{200b}d".to_owned();
    });
    for format in ["json", "yaml"] {
        let shown = fixture.run(&["status", "-o", format]).await.to_string();
        assert!(
            shown.contains(r#""error":"a\u009b31mb\u202ec\u200bd""#),
            "{format}: {shown}"
        );
    }
    let shown = fixture.run(&["status"]).await.to_string();
    assert!(
        !shown.contains(['\u{9b}', '\u{202e}', '\u{200b}']),
        "{shown}"
    );
}
