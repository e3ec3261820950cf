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
        received_ms: ago(60),
        ..Default::default()
    }
}

/// A flush of a chain by a process that a job of cron started.
fn flush(seconds_ago: i64) -> v1::DriftRecord {
    let rule = |number: u32| v1::DriftDifference {
        class: v1::DriftClass::Missing.into(),
        family: v1::Family::V4.into(),
        table: "filter".to_owned(),
        chain: "VF-INPUT".to_owned(),
        rule: format!("rule{number}"),
        wanted: format!("-A VF-INPUT -p udp --dport {number} -j ACCEPT"),
        repaired_after_ms: Some(53),
        ..Default::default()
    };
    let root = |pid, comm: &str| v1::Process {
        pid,
        comm: comm.to_owned(),
        user: "root".to_owned(),
        ..Default::default()
    };
    v1::DriftRecord {
        id: format!("flush-{seconds_ago}"),
        at_ms: ago(seconds_ago),
        received_ms: ago(seconds_ago),
        by: Some(v1::Author {
            pid: 4712,
            comm: "iptables".to_owned(),
            started_by: Some(root(812, "ruby")),
            ..Default::default()
        }),
        rule: "established".to_owned(),
        more: (1..23).map(rule).collect(),
        repaired_after_ms: Some(53),
        wanted: "-A VF-INPUT -m state --state ESTABLISHED -j ACCEPT".to_owned(),
        chain: "VF-INPUT".to_owned(),
        ..by_process("", "")
    }
}

fn of_node(node: &str, record: v1::DriftRecord) -> v1::NodeDrift {
    v1::NodeDrift {
        site: "site-a".to_owned(),
        node: node.to_owned(),
        record: Some(record),
    }
}

#[tokio::test]
async fn act_is_one_line_and_its_repetition_is_named() {
    let fixture = Fixture::new().await;
    let mut records: Vec<_> = (0..4)
        .map(|minute| of_node("sip1", flush(30 + minute * 60)))
        .collect();
    let mut set = flush(500);
    set.more.clear();
    set.by = None;
    set.unannounced = true;
    set.class = v1::DriftClass::Set.into();
    set.table = "ipset".to_owned();
    set.chain = "vf-clients-4".to_owned();
    set.wanted = String::new();
    set.observed = "198.51.100.66".to_owned();
    set.repaired_after_ms = Some(1040);
    records.push(of_node("pbx1", set.clone()));
    let answer = v1::DriftResponse {
        records,
        more: true,
        ..Default::default()
    };
    fixture.script(|script| script.drift = answer.clone());
    let mut shown = fixture
        .run_on(Terminal::Plain(80, ""), &["drift", "site-a"])
        .await
        .to_string();
    let one = v1::DriftResponse {
        records: vec![of_node("pbx1", set)],
        ..Default::default()
    };
    fixture.script(|script| script.drift = one);
    let few = [
        "drift", "--node", "pbx1", "--class", "set", "--since", "7d", "-v",
    ];
    shown.push_str(&fixture.run(&few).await.to_string());
    insta::assert_snapshot!(shown);
    fixture.script(|script| script.drift = answer);
    let json = fixture.run(&["drift", "-o", "json"]).await;
    let value: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    let records = value["records"].as_array().unwrap();
    assert_eq!(records.len(), 4 * 23 + 1, "a record for each difference");
    assert!(
        records[..23]
            .iter()
            .all(|record| record["act"] == "flush-30")
    );
    assert_eq!(value["more"], true);
}

fn records() -> v1::DriftResponse {
    let record = of_node;
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
                    received_ms: ago(11),
                    ..Default::default()
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
                    received_ms: ago(7300),
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
        (1, "site-a/sip1: 27 acts, the last 3m ago, all repaired\n"),
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
    shown.push_str(&fixture.run(&["drift", "-v"]).await.to_string());
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
    let answer = v1::DriftResponse {
        more: true,
        ..records()
    };
    fixture.script(|script| script.drift = answer);
    let shown = fixture
        .run(&["drift", "--limit", "1", "--class", "set", "-o", "json"])
        .await;
    let more = "voipctl drift --class set --limit 10";
    assert!(shown.err.contains(more), "{shown}");
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
