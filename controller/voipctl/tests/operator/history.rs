//! `history`, `show` and `diff`.

use voipfleet_proto::v1;

use crate::fixture::{Fixture, Terminal, ago};

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn entries() -> Vec<v1::HistoryEntry> {
    vec![
        v1::HistoryEntry {
            generation: 7,
            at_ms: ago(300),
            by: "ada".to_owned(),
            rollback_to: 5,
            documents: 12,
            observe: false,
            nodes: 3,
            running: 2,
            changed_nodes: texts(&["pbx1", "sip1"]),
            added_nodes: texts(&["sip2"]),
            removed_nodes: Vec::new(),
            applied: Some(2),
            failed: Some(1),
            result: "halted".to_owned(),
            changed_documents: texts(&["Site/site-a", "Tenant/acme", "Tenant/globex"]),
            changed_document_count: Some(60),
        },
        v1::HistoryEntry {
            generation: 6,
            at_ms: ago(86_400 * 3),
            by: "ben".to_owned(),
            observe: true,
            nodes: 2,
            changed_nodes: texts(&["sip1"]),
            removed_nodes: texts(&["a", "b"]),
            ..Default::default()
        },
    ]
}

async fn fixture() -> Fixture {
    let fixture = Fixture::new().await;
    fixture.script(|script| {
        script.history = v1::HistoryResponse {
            site: "site-a".to_owned(),
            current: 7,
            generations: entries(),
        };
        let node = |name: &str, running| v1::GenerationNode {
            node: name.to_owned(),
            digest: vec![0xab; 32],
            size: 12_345,
            running,
        };
        script.generation = v1::ShowGenerationResponse {
            entry: entries().into_iter().next(),
            nodes: vec![node("sip1", 7), node("pbx1", 6), node("sip2", 0)],
            documents: vec![v1::GenerationDocument {
                kind: "Tenant".to_owned(),
                name: "acme".to_owned(),
                yaml: "kind: Tenant\nname: acme\nnetworks:\n  offices: [203.0.113.0/24]\n"
                    .to_owned(),
            }],
        };
        script.differences = v1::DiffGenerationsResponse {
            site: "site-a".to_owned(),
            from: 5,
            to: 7,
            documents: vec![v1::DocumentDifference {
                kind: "Tenant".to_owned(),
                name: "acme".to_owned(),
                change: "deleted".to_owned(),
                fields: vec![v1::FieldDifference {
                    field: "networks.offices".to_owned(),
                    removed: texts(&["203.0.113.0/24"]),
                    ..Default::default()
                }],
            }],
            documents_known: true,
            changes: Some(v1::RulesetDifferences {
                rules: vec![v1::RuleDifference {
                    subject: "limit sip".to_owned(),
                    removed: texts(&["5060/udp,tcp above 20/s (burst 60) from one source drop"]),
                    added: texts(&["5060/udp,tcp above 40/s (burst 60) from one source drop"]),
                    nodes: texts(&["sip1"]),
                }],
                ..Default::default()
            }),
            added_nodes: texts(&["sip2"]),
            removed_nodes: Vec::new(),
        };
    });
    fixture
}

#[tokio::test]
async fn history() {
    let fixture = fixture().await;
    let mut shown = fixture.run(&["history", "site-a"]).await.to_string();
    let narrow = fixture.run_on(Terminal::Plain(60, ""), &["history", "site-a"]);
    shown.push_str(&narrow.await.to_string());
    shown.push_str(
        &fixture
            .run(&["history", "site-a", "-o", "json"])
            .await
            .to_string(),
    );
    fixture.script(|script| script.history.generations.clear());
    shown.push_str(&fixture.run(&["history", "site-a"]).await.to_string());
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn history_fits_80_columns() {
    let fixture = fixture().await;
    let shown = fixture
        .run_on(Terminal::Plain(80, ""), &["history", "site-a"])
        .await;
    assert!(shown.out.starts_with("GEN  PUSHED"), "{shown}");
    assert!(
        shown.out.lines().all(|line| line.chars().count() <= 80),
        "{shown}"
    );
}

#[tokio::test]
async fn show() {
    let fixture = fixture().await;
    let mut shown = fixture.run(&["show", "site-a@7"]).await.to_string();
    shown.push_str(
        &fixture
            .run(&["show", "site-a@7", "--documents"])
            .await
            .to_string(),
    );
    shown.push_str(
        &fixture
            .run(&["show", "site-a@7", "-o", "json"])
            .await
            .to_string(),
    );
    fixture.script(|script| script.generation.documents.clear());
    shown.push_str(
        &fixture
            .run(&["show", "site-a@7", "--documents"])
            .await
            .to_string(),
    );
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn diff() {
    let fixture = fixture().await;
    let line = ["diff", "site-a@5", "site-a@7"];
    let mut shown = fixture
        .run_on(Terminal::Plain(60, ""), &line)
        .await
        .to_string();
    shown.push_str(
        &fixture
            .run(&["diff", "site-a@5", "--exit-code"])
            .await
            .to_string(),
    );
    shown.push_str(
        &fixture
            .run(&["diff", "site-a@5", "-o", "json"])
            .await
            .to_string(),
    );
    shown.push_str(
        &fixture
            .run(&["diff", "site-a@5", "site-b@7"])
            .await
            .to_string(),
    );
    insta::assert_snapshot!(shown);
    assert!(fixture.requests()[0].contains("from: 5, to: 7"));
    assert!(fixture.requests()[1].contains("from: 5, to: 0"));
}
