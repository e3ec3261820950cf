//! `drift`.

use voipfleet_proto::v1;

use crate::fixture::{Fixture, Terminal, ago};

/// The author is a process without a known parent.
fn by_process(comm: &str, unit: &str) -> v1::DriftRecord {
    v1::DriftRecord {
        id: "3".to_owned(),
        at_ms: ago(60),
        class: v1::DriftClass::Missing.into(),
        family: v1::Family::V4.into(),
        table: "filter".to_owned(),
        chain: "INPUT".to_owned(),
        wanted: "-A INPUT -j VF-INPUT".to_owned(),
        by: Some(v1::Author {
            pid: 901,
            comm: comm.to_owned(),
            unit: unit.to_owned(),
            ..Default::default()
        }),
        repaired_after_ms: Some(3),
        ..Default::default()
    }
}

fn records() -> v1::DriftResponse {
    let record = |node: &str, record| v1::NodeDrift {
        site: "site-a".to_owned(),
        node: node.to_owned(),
        record: Some(record),
    };
    v1::DriftResponse {
        records: vec![
            record(
                "sip1",
                v1::DriftRecord {
                    id: "1".to_owned(),
                    at_ms: ago(12),
                    class: v1::DriftClass::Altered.into(),
                    family: v1::Family::V4.into(),
                    table: "filter".to_owned(),
                    chain: "VF-SIP".to_owned(),
                    rule: "sip".to_owned(),
                    wanted: "-A VF-SIP -p udp -m multiport --dports 5060 -m comment --comment \"vf:sip\" -j ACCEPT"
                        .to_owned(),
                    observed: "-A VF-SIP -p udp -m multiport --dports 5060 -m comment --comment \"vf:sip\" -j DROP"
                        .to_owned(),
                    by: Some(v1::Author {
                        pid: 4711,
                        comm: "iptables".to_owned(),
                        executable: "/usr/sbin/xtables-nft-multi".to_owned(),
                        unit: "crond.service".to_owned(),
                        user: "root".to_owned(),
                        started_by: Some(v1::Process {
                            pid: 812,
                            comm: "cron".to_owned(),
                            executable: "/usr/sbin/crond".to_owned(),
                            unit: "crond.service".to_owned(),
                            user: "root".to_owned(),
                        }),
                    }),
                    repaired_after_ms: Some(14),
                },
            ),
            record("http1", by_process("iptables-restor", "iptables.service")),
            record("http1", by_process("nft", "")),
            record(
                "pbx1",
                v1::DriftRecord {
                    id: "2".to_owned(),
                    at_ms: ago(7300),
                    class: v1::DriftClass::Set.into(),
                    family: v1::Family::V6.into(),
                    chain: "vf-clients-6".to_owned(),
                    wanted: "2001:db8:10::/48".to_owned(),
                    ..Default::default()
                },
            ),
        ],
        ..Default::default()
    }
}

/// A tenant's operator sees how often nodes were changed, in a line each.
#[tokio::test]
async fn sums_in_place_of_records() {
    let fixture = Fixture::new().await;
    fixture.script(|script| {
        script.drift.sums = vec![v1::DriftSum {
            site: "site-a".to_owned(),
            node: "sip1".to_owned(),
            records: 27,
            unrepaired: 0,
            newest_ms: ago(180),
        }];
    });
    let shown = fixture.run(&["drift", "site-a", "--exit-code"]).await;
    assert_eq!(
        (shown.status, shown.out.as_str()),
        (
            1,
            "site-a/sip1: 27 changes, the last 3m ago, all repaired\n"
        ),
        "{shown}"
    );
    assert!(shown.err.contains("others than your tenants"), "{shown}");
    let json = fixture.run(&["drift", "site-a", "-o", "json"]).await;
    let value: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(value["sums"][0]["records"], 27, "{value}");
}

#[tokio::test]
async fn records_with_their_authors() {
    let fixture = Fixture::new().await;
    fixture.script(|script| script.drift = records());
    let mut shown = fixture
        .run_on(Terminal::Plain(100, ""), &["drift", "site-a"])
        .await
        .to_string();
    shown.push_str(&fixture.run(&["drift"]).await.to_string());
    shown.push_str(
        &fixture
            .run(&["drift", "site-a", "-o", "json"])
            .await
            .to_string(),
    );
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn older_records_are_hinted_at() {
    let fixture = Fixture::new().await;
    fixture.script(|script| script.drift = records());
    let shown = fixture.run(&["drift", "--limit", "1", "-o", "json"]).await;
    let value: serde_json::Value = serde_json::from_str(&shown.out).unwrap();
    assert_eq!(value["records"].as_array().unwrap().len(), 1);
    assert!(shown.err.contains("voipctl drift --limit 10"), "{shown}");
}

#[tokio::test]
async fn exit_code_reports_drift() {
    let fixture = Fixture::new().await;
    let clean = fixture.run(&["drift", "--exit-code"]).await;
    assert_eq!((clean.status, clean.out.as_str()), (0, ""));
    fixture.script(|script| script.drift = records());
    assert_eq!(fixture.run(&["drift"]).await.status, 0);
    assert_eq!(fixture.run(&["drift", "--exit-code"]).await.status, 1);
}
