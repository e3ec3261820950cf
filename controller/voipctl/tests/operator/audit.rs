//! `audit`.

use voipfleet_proto::v1;
use voipfleet_protocol::audit::{Ending, Hash, Kind, Record, Who};

use crate::fixture::{Fixture, Terminal, ago};

fn record(what: &str, seconds: i64, result: Option<Ending>) -> Record {
    Record {
        at_ms: ago(seconds),
        who: Some(Who {
            operator: "ada".to_owned(),
            serial: "4f".to_owned(),
            peer: "192.0.2.7:51000".to_owned(),
        }),
        request: Some("00c0ffee00c0ffee".to_owned()),
        sites: vec!["site-a".to_owned()],
        result,
        ..Record::new(Kind::Result, what)
    }
}

fn records() -> Vec<Record> {
    vec![
        Record {
            before: Some(4),
            after: Some(5),
            ..record("Push", 30, Some(Ending::Done))
        },
        Record {
            kind: Kind::Asked,
            ..record("Push", 31, None)
        },
        Record {
            who: None,
            request: None,
            objects: vec!["Node/site-a/sip1".to_owned()],
            detail: Some("as sip with token 4e".to_owned()),
            ..record("Enrolled", 600, Some(Ending::Done))
        },
        Record {
            kind: Kind::Refused,
            message: Some("their role operator does not hold for site site-a".to_owned()),
            ..record("Push", 3600, Some(Ending::Refused))
        },
        Record {
            kind: Kind::Refused,
            count: Some(4000),
            message: Some("refused again and again".to_owned()),
            ..record("SeveralRefused", 7200, Some(Ending::Refused))
        },
        Record {
            sites: Vec::new(),
            objects: (0..5).map(|n| format!("Tenant/t{n}")).collect(),
            message: Some("the controller ended before the result was known".to_owned()),
            ..record("Apply", 90_000, Some(Ending::Unknown))
        },
    ]
}

#[tokio::test]
async fn records_in_all_formats() {
    let fixture = Fixture::new().await;
    fixture.script(|script| {
        let bytes = |record: &Record| serde_json::to_vec(record).unwrap();
        script.operators.audit.records = records().iter().map(bytes).collect();
    });
    let mut shown = String::new();
    for terminal in [Terminal::Plain(160, ""), Terminal::Plain(60, "")] {
        shown += &fixture.run_on(terminal, &["audit"]).await.to_string();
    }
    let json = [
        "audit",
        "--site",
        "site-a",
        "--who",
        "ada",
        "--what",
        "Push",
        "--since",
        "2h",
        "--until",
        "2026-11-23T11:59:00Z",
        "-n",
        "7",
        "-o",
        "json",
    ];
    shown += &fixture.run(&json).await.to_string();
    insta::assert_snapshot!(shown);
    let asked = fixture.requests().pop().unwrap();
    let since = "since_ago_ms: 7200000".to_owned();
    let until = format!("until_ms: {}", ago(60));
    for part in [
        "site: \"site-a\"",
        "who: \"ada\"",
        &since,
        &until,
        "limit: 7",
    ] {
        assert!(asked.contains(part), "{asked}");
    }
}

#[tokio::test]
async fn filters_reach_the_controller_and_the_hint() {
    let fixture = Fixture::new().await;
    fixture.script(|script| {
        let bytes = |record: &Record| serde_json::to_vec(record).unwrap();
        script.operators.audit.records = records().iter().map(bytes).collect();
        script.operators.audit.next = 1;
    });
    let line = [
        "audit",
        "--site",
        "site-a",
        "--request",
        "0123abcd",
        "-n",
        "1",
    ];
    let shown = fixture.run(&line).await;
    let hint = "voipctl audit --site site-a --request 0123abcd -n 10";
    assert!(shown.err.contains(hint), "{shown}");
    let asked = fixture.requests().pop().unwrap();
    assert!(asked.contains("request: \"0123abcd\""), "{asked}");
}

#[tokio::test]
async fn unknown_kind_lists_the_kinds() {
    let fixture = Fixture::new().await;
    let shown = fixture.run(&["audit", "--what", "Foo"]).await;
    assert_eq!(shown.status, 2, "{shown}");
    assert!(
        shown.err.contains("no call or event is named Foo"),
        "{shown}"
    );
    assert!(shown.err.contains("AbortRollout"), "{shown}");
    let known = fixture.run(&["audit", "--what", "push"]).await;
    assert_eq!(known.status, 0, "{known}");
}

/// A chain with `number` records.
fn chain(count: u64) -> v1::AuditChainResponse {
    let mut answer = v1::AuditChainResponse::default();
    let mut prev = Hash::default();
    for seq in 1..=count {
        let record = Record {
            seq,
            prev,
            at_ms: ago(i64::try_from(100 - seq).unwrap() * 86_400),
            ..Record::new(Kind::Event, "Tried")
        };
        let record = serde_json::to_vec(&record).unwrap();
        prev = Hash::of(&record);
        answer.records.push(v1::AuditChainRecord { seq, record });
    }
    let link = |seq, hash: Hash| v1::AuditLink {
        seq,
        hash: hash.to_string(),
    };
    answer.head = Some(link(count, prev));
    answer.anchor = Some(link(0, Hash::default()));
    answer
}

async fn verify(fixture: &Fixture, chain: v1::AuditChainResponse) -> crate::fixture::Outcome {
    fixture.script(|script| script.operators.chain = chain);
    let state = fixture.path("state");
    fixture
        .run(&["audit", "verify", "--state", state.to_str().unwrap()])
        .await
}

#[tokio::test]
async fn verify_remembers_and_detects_tampering() {
    let fixture = Fixture::new().await;
    let mut shown = verify(&fixture, chain(7)).await.to_string();
    shown += &verify(&fixture, chain(10)).await.to_string();
    for change in [
        "altered",
        "removed",
        "swapped",
        "inserted",
        "cut off",
        "cut off with its head",
        "rewritten",
    ] {
        let mut found = chain(10);
        match change {
            "altered" => {
                let text = String::from_utf8(found.records[4].record.clone()).unwrap();
                found.records[4].record = text.replace("Tried", "Other").into_bytes();
            }
            "removed" => drop(found.records.remove(4)),
            "swapped" => {
                let five = found.records[4].record.clone();
                found.records[4].record = std::mem::replace(&mut found.records[5].record, five);
            }
            "inserted" => {
                let mut more = found.records[4].clone();
                more.seq = 6;
                for record in found.records.iter_mut().skip(5) {
                    record.seq += 1;
                }
                found.records.insert(5, more);
            }
            "cut off" => found.records.truncate(6),
            "cut off with its head" => found = chain(9),
            _ => {
                // A chain that is whole by itself, with another past.
                found = chain(0);
                let mut prev = Hash::default();
                for seq in 1..=12 {
                    let record = Record {
                        seq,
                        prev,
                        ..Record::new(Kind::Event, "Forged")
                    };
                    let record = serde_json::to_vec(&record).unwrap();
                    prev = Hash::of(&record);
                    found.records.push(v1::AuditChainRecord { seq, record });
                }
                found.head = Some(v1::AuditLink {
                    seq: 12,
                    hash: prev.to_string(),
                });
            }
        }
        let outcome = verify(&fixture, found).await;
        assert_eq!(outcome.status, 1, "{change}: {outcome}");
        shown = [shown, format!("=== {change}\n{outcome}")].concat();
    }
    insta::assert_snapshot!(shown);
    // What was wrong is not taken for what was verified.
    assert_eq!(verify(&fixture, chain(10)).await.status, 0);
}

#[tokio::test]
async fn given_hash_must_be_in_the_log() {
    let fixture = Fixture::new().await;
    fixture.script(|script| script.operators.chain = chain(7));
    let fifth = Hash::of(&chain(7).records[4].record).to_string();
    let nowhere = Hash::of(b"nowhere").to_string();
    let state = fixture.path("state");
    let line = |hash| {
        [
            "audit",
            "verify",
            "--state",
            state.to_str().unwrap(),
            "--head",
            hash,
        ]
    };
    assert_eq!(fixture.run(&line(&fifth)).await.status, 0);
    let outcome = fixture.run(&line(&nowhere)).await;
    assert_eq!(outcome.status, 1);
    assert!(
        outcome
            .err
            .contains("no record of the audit log has the hash"),
        "{outcome}"
    );
}

#[tokio::test]
async fn prune_saves_records_first() {
    let fixture = Fixture::new().await;
    fixture.script(|script| {
        script.operators.chain = chain(7);
        script.operators.pruned.removed = 4;
    });
    let file = fixture.path("old.jsonl");
    let line = [
        "audit",
        "prune",
        "--before",
        "2280h",
        file.to_str().unwrap(),
    ];
    // One that was refused leaves nothing in the way of the next.
    let refused = fixture.run_on(Terminal::Plain(80, "n\n"), &line).await;
    assert_eq!(refused.status, 1, "{refused}");
    assert!(!file.exists());
    let outcome = fixture.run_on(Terminal::Plain(80, "y\n"), &line).await;
    insta::assert_snapshot!(outcome.to_string());
    // 95 days: the records of 96 days and more ago.
    let kept = std::fs::read_to_string(&file).unwrap();
    let kept: Vec<&str> = kept.lines().collect();
    assert_eq!(kept.len(), 4);
    let last = Hash::of(kept[3].as_bytes()).to_string();
    let asked = fixture.requests().pop().unwrap();
    assert!(asked.contains("seq: 4") && asked.contains(&last), "{asked}");
}
