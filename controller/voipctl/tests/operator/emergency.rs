//! `block`, `allow`, `blocks`, `panic-open` and their reversals.

use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1::{self, EnforcementState, Reason, site_scope};

use crate::fixture::{Fixture, Terminal, ago};

fn exception(address: &str, site: Option<&str>, until_ms: u64) -> v1::Exception {
    v1::Exception {
        address: address.to_owned(),
        scope: Some(v1::SiteScope {
            kind: Some(match site {
                Some(site) => site_scope::Kind::Site(site.to_owned()),
                None => site_scope::Kind::All(true),
            }),
        }),
        at_ms: ago(300),
        until_ms,
        by: "ada".to_owned(),
        reason: "toll fraud".to_owned(),
        forced: false,
    }
}

fn open(until_ms: u64) -> v1::OpenSite {
    v1::OpenSite {
        site: "site-a".to_owned(),
        at_ms: ago(120),
        until_ms,
        by: "ben".to_owned(),
        reason: "a bad push".to_owned(),
    }
}

fn node(name: &str, state: EnforcementState, error: &str) -> v1::NodeEnforcement {
    v1::NodeEnforcement {
        node: name.to_owned(),
        state: state.into(),
        error: error.to_owned(),
    }
}

fn site(name: &str, nodes: Vec<v1::NodeEnforcement>) -> v1::SiteEnforcement {
    v1::SiteEnforcement {
        site: name.to_owned(),
        observe: false,
        nodes,
    }
}

fn everywhere() -> v1::SiteEnforcement {
    let nodes = ["pbx1", "sip1", "sip2"];
    let nodes = nodes.map(|name| node(name, EnforcementState::Enforced, ""));
    site("site-a", nodes.into())
}

#[tokio::test]
async fn block_enforced_everywhere() {
    let fixture = Fixture::new().await;
    fixture.script(|script| {
        script.emergency = v1::EmergencyResponse {
            exceptions: vec![exception("192.0.2.66", None, ago(-3600))],
            changed: true,
            sites: vec![everywhere()],
            ..Default::default()
        };
    });
    let line = ["block", "192.0.2.66", "--reason", "toll fraud"];
    let mut shown = fixture.run(&line).await.to_string();
    let json: Vec<&str> = line.iter().copied().chain(["-o", "json"]).collect();
    shown.push_str(&fixture.run(&json).await.to_string());
    let one = [
        "block",
        "192.0.2.66",
        "--site",
        "site-a",
        "--ttl",
        "forever",
        "--reason",
        "x",
        "--force",
    ];
    fixture.run(&one).await;
    shown.push_str(&fixture.run(&["unblock", "192.0.2.66"]).await.to_string());
    insta::assert_snapshot!(shown);
    let asked = fixture.requests();
    assert!(
        asked[0].contains("All(true)") && asked[0].contains("ttl_ms: 3600000"),
        "{asked:?}"
    );
    assert!(asked[2].contains(r#"Site("site-a")"#) && asked[2].contains("forever: true"));
}

#[tokio::test]
async fn nodes_that_do_not_enforce_a_block() {
    let fixture = Fixture::new().await;
    fixture.script(|script| {
        script.emergency = v1::EmergencyResponse {
            exceptions: vec![exception("192.0.2.66", None, 0)],
            changed: true,
            sites: vec![
                site(
                    "site-a",
                    vec![
                        node("pbx1", EnforcementState::Offline, ""),
                        node("sip1", EnforcementState::Waiting, "the disk is full"),
                        node("sip2", EnforcementState::Waiting, ""),
                        node("sip3", EnforcementState::Enforced, ""),
                    ],
                ),
                v1::SiteEnforcement {
                    observe: true,
                    ..site(
                        "site-b",
                        vec![node("sip1", EnforcementState::NotPushed, "")],
                    )
                },
            ],
            notes: vec!["SSH of admins still passes".to_owned()],
            ..Default::default()
        };
    });
    let line = ["block", "192.0.2.66", "--ttl", "forever", "--reason", "x"];
    let mut shown = fixture.run(&line).await.to_string();
    fixture.script(|script| {
        let protected = Refusal::new(
            Reason::ProtectedAddress,
            "203.0.113.9 belongs to tenant acme of site-a (offices: 203.0.113.0/24)",
        );
        script.refusal = Some(protected.hint("pass --force to block it anyway").into());
    });
    shown.push_str(&fixture.run(&line).await.to_string());
    let nowhere = ["allow", "192.0.2.66", "--reason", "x"];
    shown.push_str(&fixture.run(&nowhere).await.to_string());
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn blocks_in_all_formats() {
    let fixture = Fixture::new().await;
    let mut shown = fixture.run(&["blocks"]).await.to_string();
    fixture.script(|script| {
        let mut forced = exception("203.0.113.9", Some("site-a"), 0);
        forced.forced = true;
        script.blocks = v1::ListBlocksResponse {
            blocks: vec![exception("192.0.2.64/28", None, ago(-1800)), forced],
            allows: vec![exception("2001:db8::7", Some("site-a"), ago(-600))],
            open: vec![open(ago(-3480))],
        };
    });
    for terminal in [Terminal::Plain(140, ""), Terminal::Plain(60, "")] {
        shown.push_str(&fixture.run_on(terminal, &["blocks"]).await.to_string());
    }
    let line = ["allows", "--site", "site-a", "-o", "json"];
    shown.push_str(&fixture.run(&line).await.to_string());
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn open_site_is_a_loud_warning() {
    let fixture = Fixture::new().await;
    fixture.script(|script| {
        script.emergency = v1::EmergencyResponse {
            open: Some(open(ago(-3480))),
            changed: true,
            sites: vec![everywhere()],
            ..Default::default()
        };
        script.status.sites = vec![v1::SiteStatus {
            site: "site-a".to_owned(),
            generation: 7,
            mode: "enforce".to_owned(),
            open: Some(open(0)),
            ..Default::default()
        }];
    });
    let line = ["panic-open", "site-a", "--reason", "a bad push"];
    let mut shown = fixture.run(&line).await.to_string();
    shown.push_str(&fixture.run(&["status", "site-a"]).await.to_string());
    shown.push_str(&fixture.run(&["panic-close", "site-a"]).await.to_string());
    fixture.script(|script| script.emergency = v1::EmergencyResponse::default());
    shown.push_str(&fixture.run(&["panic-close", "site-a"]).await.to_string());
    insta::assert_snapshot!(shown);
}
