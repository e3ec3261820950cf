//! `operator`.

use std::os::unix::fs::PermissionsExt as _;

use tonic::Status;
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1::{self, Reason};

use crate::fixture::{Fixture, Terminal, ago};

fn of_sites(role: &str, sites: &[&str]) -> v1::OperatorBinding {
    v1::OperatorBinding {
        role: role.to_owned(),
        sites: sites.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

fn report(name: &str) -> v1::OperatorReport {
    v1::OperatorReport {
        name: name.to_owned(),
        bindings: vec![of_sites("operator", &["site-a", "site-b"])],
        first_admin: false,
        added_ms: ago(3600),
        added_by: "ada".to_owned(),
        certificate_expires_ms: ago(-30 * 86_400),
    }
}

#[tokio::test]
async fn add_makes_a_key_and_a_context_file() {
    let fixture = Fixture::new().await;
    fixture.script(|script| {
        script.operators.added = v1::AddOperatorResponse {
            certificate_pem: "CERTIFICATE\n".to_owned(),
            ca_pem: "CA\n".to_owned(),
            controller: "controller.example:7443".to_owned(),
            report: Some(report("ben")),
        };
    });
    let out = fixture.path("ben.yaml");
    let out = out.to_str().unwrap();
    let line = [
        "operator",
        "add",
        "ben",
        "--role",
        "operator",
        "--site",
        "site-a,site-b",
        "--tenant",
        "acme",
        "--out",
        out,
    ];
    let mut shown = fixture.run(&line).await.to_string();
    let asked = fixture.requests().remove(0);
    assert!(
        asked.contains("BEGIN CERTIFICATE REQUEST") && !asked.contains("PRIVATE"),
        "{asked}"
    );
    assert!(asked.contains(r#"tenants: ["acme"]"#), "{asked}");
    let text = std::fs::read_to_string(out).unwrap();
    let mode = std::fs::metadata(out).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for part in [
        "operator: \"ben\"",
        "certificate: |\n  CERTIFICATE\n",
        "BEGIN PRIVATE KEY",
    ] {
        assert!(text.contains(part), "{text}");
    }
    // What is there is not written over, and nothing is asked for.
    shown.push_str(&fixture.run(&line).await.to_string());
    assert_eq!(fixture.requests().len(), 1);
    assert_eq!(std::fs::read_to_string(out).unwrap(), text);
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn refused_add_leaves_no_file() {
    let fixture = Fixture::new().await;
    let refusal = Refusal::new(
        Reason::NotPermitted,
        "adding an operator needs the role admin, ada has the role viewer",
    );
    let mut refusal = Status::from(refusal.hint("show your rights: voipctl operator whoami"));
    let id = "00c0ffee00c0ffee".parse().unwrap();
    refusal.metadata_mut().insert("voipfleet-request", id);
    fixture.script(|script| script.refusal = Some(refusal));
    let out = fixture.path("ben.yaml");
    let line = [
        "operator",
        "add",
        "ben",
        "--role",
        "viewer",
        "--out",
        out.to_str().unwrap(),
    ];
    insta::assert_snapshot!(fixture.run(&line).await.to_string());
    assert!(!out.exists());
}

#[tokio::test]
async fn list_bind_remove_and_whoami() {
    let fixture = Fixture::new().await;
    fixture.script(|script| {
        let first = v1::OperatorReport {
            name: "ada".to_owned(),
            bindings: vec![v1::OperatorBinding {
                role: "admin".to_owned(),
                all: true,
                ..Default::default()
            }],
            first_admin: true,
            ..Default::default()
        };
        script.operators.list.operators = vec![first.clone(), report("ben")];
        script.operators.bound.report = Some(report("ben"));
        script.operators.me = v1::WhoAmIResponse {
            report: Some(first),
            certificate_expires_ms: ago(-86_400 * 90),
            peer: "192.0.2.7:51000".to_owned(),
        };
    });
    let mut shown = String::new();
    for terminal in [Terminal::Plain(120, ""), Terminal::Plain(60, "")] {
        shown += &fixture
            .run_on(terminal, &["operator", "list"])
            .await
            .to_string();
    }
    shown += &fixture
        .run(&["operator", "list", "-o", "json"])
        .await
        .to_string();
    let bind = [
        "operator", "bind", "ben", "--role", "viewer", "--tenant", "acme", "--also",
    ];
    shown += &fixture.run(&bind).await.to_string();
    let asked = fixture.requests().pop().unwrap();
    assert!(
        asked.contains(r#""site-a", "site-b""#) && asked.contains(r#""acme""#),
        "{asked}"
    );
    shown += &fixture
        .run_on(Terminal::Plain(80, "n\n"), &["operator", "remove", "ben"])
        .await
        .to_string();
    shown += &fixture
        .run(&["operator", "remove", "ben", "--yes"])
        .await
        .to_string();
    shown += &fixture.run(&["operator", "whoami"]).await.to_string();
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn renew_replaces_the_certificate() {
    let fixture = Fixture::new().await;
    let before = std::fs::read_to_string(fixture.path("context.yaml")).unwrap();
    fixture.script(|script| {
        script.operators.renewed = v1::RenewOperatorResponse {
            certificate_pem: "CERTIFICATE\n".to_owned(),
            ca_pem: "CA\n".to_owned(),
            controller: "controller.example:7443".to_owned(),
            certificate_expires_ms: ago(-86_400 * 365),
        };
    });
    insta::assert_snapshot!(fixture.run(&["operator", "renew"]).await.to_string());
    let after = std::fs::read_to_string(fixture.path("context.yaml")).unwrap();
    assert_ne!(before, after);
    assert!(
        after.contains(&format!("controller: \"{}\"", fixture.address())),
        "{after}"
    );
    assert!(after.contains("certificate: |\n  CERTIFICATE\n"), "{after}");
}

#[tokio::test]
async fn rights_lists_every_call() {
    let fixture = Fixture::new().await;
    let wide = fixture.run(&["operator", "rights"]).await.to_string();
    assert!(fixture.requests().is_empty());
    assert!(wide.contains("push a site"), "{wide}");
    let json = fixture.run(&["operator", "rights", "-o", "json"]).await;
    let value: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    let calls = value["calls"].as_array().unwrap();
    let push = calls.iter().find(|call| call["call"] == "Push").unwrap();
    assert_eq!(
        (&push["role"], &push["of"]),
        (&"operator".into(), &serde_json::json!(["all", "site"]))
    );
}
