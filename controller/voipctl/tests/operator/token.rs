//! `token`.

use tonic::Status;
use voipfleet_proto::v1;

use crate::fixture::{Fixture, Terminal, ago};

fn report(id: &str, used_by: &str, expires_ms: u64) -> v1::TokenReport {
    v1::TokenReport {
        id: id.to_owned(),
        site: "site-a".to_owned(),
        roles: vec!["sip".to_owned(), "pbx".to_owned()],
        created_ms: ago(60),
        expires_ms,
        used_by: used_by.to_owned(),
        created_by: "ada".to_owned(),
        ..Default::default()
    }
}

#[tokio::test]
async fn create_prints_only_the_token_on_stdout() {
    let fixture = Fixture::new().await;
    fixture.script(|script| {
        script.token = v1::CreateTokenResponse {
            token: "vf1.aa.bb.cc".to_owned(),
            report: Some(report("bb", "", ago(-3600))),
            enrolment_address: "controller.example:7444".to_owned(),
        };
    });
    let line = [
        "token", "create", "--site", "site-a", "--role", "sip", "--role", "pbx", "--ttl", "2h",
    ];
    let mut shown = fixture.run(&line).await.to_string();
    let json: Vec<&str> = line.iter().copied().chain(["-o", "json"]).collect();
    shown.push_str(&fixture.run(&json).await.to_string());
    insta::assert_snapshot!(shown);
    assert!(
        fixture.requests()[0].contains("ttl_ms: 7200000"),
        "{:?}",
        fixture.requests()
    );
}

#[tokio::test]
async fn list_and_revoke() {
    let fixture = Fixture::new().await;
    let mut shown = fixture.run(&["token", "list"]).await.to_string();
    fixture.script(|script| {
        script.tokens.tokens = vec![
            report("1f", "", ago(-3600)),
            report("2e", "sip1", ago(-60)),
            report("3d", "", ago(60)),
        ];
    });
    shown.push_str(
        &fixture
            .run_on(Terminal::Plain(100, ""), &["token", "list"])
            .await
            .to_string(),
    );
    shown.push_str(&fixture.run(&["token", "revoke", "1f"]).await.to_string());
    fixture.script(|script| script.refusal = Some(Status::not_found("there is no token 9c")));
    shown.push_str(&fixture.run(&["token", "revoke", "9c"]).await.to_string());
    insta::assert_snapshot!(shown);
}
