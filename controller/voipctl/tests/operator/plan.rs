//! `plan`, and the plan that `push` shows.

use serde_json::Value;
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1::push_event::Kind;
use voipfleet_proto::v1::{self, Reason};

use crate::fixture::{Fixture, Terminal, rollout_active};

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn member(network: &str, owner: &str) -> v1::SetMember {
    v1::SetMember {
        network: network.to_owned(),
        owners: texts(&[owner]),
        until: 0,
        from: 0,
    }
}

fn node(name: &str, state: v1::PlannedState, connected: bool, generation: u64) -> v1::PlannedNode {
    v1::PlannedNode {
        node: name.to_owned(),
        roles: texts(&["sip"]),
        state: state.into(),
        connected,
        generation,
        digest: if generation == 0 {
            Vec::new()
        } else {
            vec![0xab; 32]
        },
        wanted: vec![0xcd; 32],
        error: String::new(),
    }
}

fn basis() -> v1::PlanBasis {
    v1::PlanBasis {
        site: "site-a".to_owned(),
        documents: 9,
        generation: 7,
        nodes: Vec::new(),
        staging: None,
    }
}

/// A tenant is removed, a limit changes, 443 closes, the mode changes: every part of a plan.
#[expect(clippy::too_many_lines, reason = "an example of every part")]
fn everything() -> v1::PlanResponse {
    let field = |field: &str| v1::FieldDifference {
        field: field.to_owned(),
        ..Default::default()
    };
    v1::PlanResponse {
        site: "site-a".to_owned(),
        generation: 8,
        current: 7,
        changed: true,
        documents_at: 8,
        documents: vec![
            v1::DocumentDifference {
                kind: "Site".to_owned(),
                name: "site-a".to_owned(),
                change: "changed".to_owned(),
                fields: vec![
                    v1::FieldDifference {
                        removed: texts(&["globex"]),
                        ..field("tenants")
                    },
                    v1::FieldDifference {
                        before: Some("20/s".to_owned()),
                        after: Some("40/s".to_owned()),
                        ..field("services.sip.limit.per_source")
                    },
                    v1::FieldDifference {
                        order: true,
                        ..field("providers")
                    },
                ],
            },
            v1::DocumentDifference {
                kind: "Tenant".to_owned(),
                name: "acme".to_owned(),
                change: "changed".to_owned(),
                fields: vec![v1::FieldDifference {
                    added: texts(&["203.0.113.0/24"]),
                    ..field("networks.offices")
                }],
            },
            v1::DocumentDifference {
                kind: "List".to_owned(),
                name: "relays".to_owned(),
                change: "created".to_owned(),
                fields: vec![v1::FieldDifference {
                    added: texts(&["192.0.2.70", "192.0.2.71"]),
                    ..field("addresses")
                }],
            },
        ],
        changes: Some(changes()),
        pending: vec![v1::PendingAddress {
            node: "new1".to_owned(),
            interface: "eth0".to_owned(),
            address: "198.51.100.66".to_owned(),
            reason: "outside cluster.networks".to_owned(),
        }],
        nodes: vec![
            node("sip1", v1::PlannedState::Changed, true, 7),
            node("pbx1", v1::PlannedState::Changed, false, 6),
            node("wk1", v1::PlannedState::Unchanged, true, 7),
            node("new1", v1::PlannedState::First, true, 0),
            node("old1", v1::PlannedState::Unknown, true, 90),
        ],
        warnings: texts(&[
            "tenant globex would lose ports 80 and 443: phones there get no provisioning, and APIs \
             and certificate renewal over HTTP fail",
            "your own address 198.51.100.10 would lose SSH to sip1; add it to admins if you need \
             it there",
        ]),
        basis: Some(basis()),
        to: 0,
        held: String::new(),
        held_hints: Vec::new(),
        observe: false,
        steps: vec![
            v1::PlannedStep {
                nodes: texts(&["sip1"]),
            },
            v1::PlannedStep {
                nodes: texts(&["pbx1", "new1", "old1", "wk1"]),
            },
        ],
        dynamic: vec![
            v1::PlannedSource {
                source: "name:sbc.example.net".to_owned(),
                addresses: texts(&["192.0.2.9/32"]),
                entries: 1,
                at_ms: crate::fixture::ago(30),
                error: String::new(),
                added: true,
            },
            v1::PlannedSource {
                source: "deny-feed:voipbl".to_owned(),
                addresses: texts(&["198.18.9.9/32"]),
                entries: 13_000,
                at_ms: crate::fixture::ago(7200),
                error: "timed out".to_owned(),
                added: false,
            },
        ],
        expiries: Vec::new(),
    }
}

fn changes() -> v1::RulesetDifferences {
    let rule =
        |subject: &str, removed: &[&str], added: &[&str], nodes: &[&str]| v1::RuleDifference {
            subject: subject.to_owned(),
            removed: texts(removed),
            added: texts(added),
            nodes: texts(nodes),
        };
    let all = ["sip1", "pbx1", "wk1", "new1", "old1"];
    let many: Vec<v1::SetMember> = (0..30)
        .map(|third| member(&format!("198.18.{third}.0/24"), "tenant globex: hq"))
        .collect();
    v1::RulesetDifferences {
        rules: vec![
            rule("mode", &["enforce"], &["observe"], &all),
            rule("smtp", &["25/tcp from list:relays"], &[], &["sip1"]),
            rule(
                "sip",
                &[],
                &["5060/udp,tcp from list:relays"],
                &["sip1", "pbx1"],
            ),
        ],
        sets: vec![v1::SetDifference {
            set: "clients".to_owned(),
            used_by: texts(&["sip 5060/udp,tcp", "web 80,443/tcp"]),
            added: vec![member("203.0.113.0/24", "tenant acme: offices")],
            removed: many,
            before: 1_030,
            after: 1_001,
            nodes: texts(&["sip1"]),
            more: 0,
            dynamic_added: texts(&["name:sbc.example.net"]),
            dynamic_removed: Vec::new(),
        }],
        access: vec![
            v1::AccessDifference {
                owner: "world".to_owned(),
                gains: true,
                networks: Vec::new(),
                reach: vec![v1::AccessReach {
                    what: texts(&["web 80,443/tcp"]),
                    nodes: texts(&["sip1"]),
                }],
                more: 0,
            },
            v1::AccessDifference {
                owner: "tenant globex".to_owned(),
                gains: false,
                networks: texts(&["198.18.0.0/24", "198.18.1.0/24"]),
                reach: vec![v1::AccessReach {
                    what: texts(&["sip 5060/udp,tcp", "web 80,443/tcp"]),
                    nodes: texts(&["pbx1", "sip1"]),
                }],
                more: 0,
            },
        ],
        cut: false,
    }
}

fn nothing() -> v1::PlanResponse {
    v1::PlanResponse {
        site: "site-a".to_owned(),
        generation: 7,
        current: 7,
        nodes: vec![node("sip1", v1::PlannedState::Unchanged, true, 7)],
        basis: Some(basis()),
        ..Default::default()
    }
}

async fn fixture(plan: v1::PlanResponse) -> Fixture {
    let fixture = Fixture::new().await;
    fixture.script(|script| {
        script.plan = plan;
        script.push = vec![
            Kind::Started(v1::PushStarted {
                site: "site-a".to_owned(),
                generation: 8,
                changed: true,
                ..Default::default()
            }),
            Kind::Done(v1::PushDone {
                site: "site-a".to_owned(),
                generation: 8,
                changed: true,
                applied: 1,
                ..Default::default()
            }),
        ];
    });
    fixture
}

fn asked_for(fixture: &Fixture, what: &str) -> usize {
    let asked = fixture.requests();
    asked
        .iter()
        .filter(|request| request.starts_with(what))
        .count()
}

#[tokio::test]
async fn full_plan_on_a_wide_terminal() {
    let fixture = fixture(everything()).await;
    let shown = fixture.run_on(Terminal::Plain(120, ""), &["plan", "site-a"]);
    insta::assert_snapshot!(shown.await);
}

#[tokio::test]
async fn full_plan_on_a_narrow_terminal() {
    let fixture = fixture(everything()).await;
    let shown = fixture.run_on(Terminal::Plain(60, ""), &["plan", "site-a"]);
    insta::assert_snapshot!(shown.await);
}

#[tokio::test]
async fn full_plan_as_json() {
    let fixture = fixture(everything()).await;
    let shown = fixture
        .run(&["plan", "site-a", "-o", "json", "--exit-code"])
        .await;
    assert_eq!(shown.status, 1);
    let plan: Value = serde_json::from_str(&shown.out).unwrap();
    assert_eq!(plan["sets"][0]["removed"].as_array().unwrap().len(), 30);
    insta::assert_snapshot!(serde_json::to_string_pretty(&plan).unwrap());
}

/// What is wrong with the documents is said before the question, not after the answer.
#[tokio::test]
async fn warnings_about_documents_come_with_the_plan() {
    let fixture = fixture(everything()).await;
    fixture.write(
        "acme.yaml",
        "kind: Tenant\nname: acme\nnetworks: {a: [100.64.7.7/24]}\n",
    );
    let file = fixture.path("acme.yaml").to_str().unwrap().to_owned();
    fixture.script(|script| {
        script.apply.diagnostics = vec![v1::Diagnostic {
            severity: v1::Severity::Warning.into(),
            path: file.clone(),
            offset: 41,
            length: 13,
            line: 3,
            column: 15,
            message: "100.64.7.7/24 has bits behind its prefix".to_owned(),
            ..Default::default()
        }];
    });
    let shown = fixture.run(&["plan", "site-a", "-f", &file]).await;
    assert!(shown.err.contains("bits behind its prefix"), "{shown}");
    let json = fixture
        .run(&["plan", "site-a", "-f", &file, "-o", "json"])
        .await;
    let plan: Value = serde_json::from_str(&json.out).unwrap();
    let message = plan["diagnostics"][0]["message"].as_str().unwrap();
    assert!(message.contains("bits behind"), "{plan}");
    let asked = fixture
        .run_on(
            Terminal::Plain(120, "n\n"),
            &["push", "site-a", "-f", &file],
        )
        .await;
    let (warning, question) = (asked.err.find("bits behind"), asked.err.find("[y/N]"));
    assert!(warning.is_some() && warning < question, "{asked}");
}

/// 300 tenants that gain the same are one line, and 30 nodes that change too.
#[tokio::test]
async fn equal_changes_are_grouped() {
    let names: Vec<String> = (1..=30).map(|n| format!("sip{n}")).collect();
    let access = (1..=300).map(|n| v1::AccessDifference {
        owner: format!("tenant t{n}"),
        gains: true,
        networks: texts(&["198.18.0.0/24"]),
        reach: vec![v1::AccessReach {
            what: texts(&["sip 5060/udp,tcp"]),
            nodes: names.clone(),
        }],
        more: 0,
    });
    let changed = |name: &String| node(name, v1::PlannedState::Changed, true, 7);
    let fixture = fixture(v1::PlanResponse {
        site: "site-a".to_owned(),
        generation: 8,
        current: 7,
        changed: true,
        documents_at: 8,
        changes: Some(v1::RulesetDifferences {
            access: access.collect(),
            ..Default::default()
        }),
        nodes: names.iter().map(changed).collect(),
        ..Default::default()
    })
    .await;
    let shown = fixture
        .run_on(Terminal::Plain(80, ""), &["plan", "site-a"])
        .await;
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn first_rules_in_observe_mode_close_nothing() {
    let fixture = fixture(v1::PlanResponse {
        site: "site-a".to_owned(),
        generation: 1,
        changed: true,
        observe: true,
        nodes: vec![node("pbx1", v1::PlannedState::First, true, 0)],
        ..Default::default()
    })
    .await;
    let shown = fixture.run(&["plan", "site-a"]).await;
    assert!(shown.out.contains("nothing is closed"), "{shown}");
    assert!(!shown.out.contains("do not open is closed"), "{shown}");
}

#[tokio::test]
async fn empty_plan() {
    let fixture = fixture(nothing()).await;
    let shown = fixture.run(&["plan", "site-a", "--exit-code"]).await;
    insta::assert_snapshot!(shown);
    // There is no question, and nothing is pushed.
    let terminal = Terminal::Plain(80, "");
    let pushed = fixture.run_on(terminal, &["push", "site-a"]).await;
    assert_eq!(
        (pushed.status, asked_for(&fixture, "PushRequest")),
        (0, 0),
        "{pushed}"
    );
}

#[tokio::test]
async fn push_shows_its_plan_and_asks() {
    let fixture = fixture(everything()).await;
    let no = fixture
        .run_on(Terminal::Plain(80, "\n"), &["push", "site-a"])
        .await;
    assert_eq!((no.status, asked_for(&fixture, "PushRequest")), (1, 0));
    assert!(no.out.contains("globex loses sip"), "{no}");
    assert!(
        no.err.ends_with("push site-a? [y/N] nothing was pushed\n"),
        "{no}"
    );
    let yes = fixture
        .run_on(Terminal::Plain(80, "y\n"), &["push", "site-a"])
        .await;
    assert_eq!(
        (yes.status, asked_for(&fixture, "PushRequest")),
        (0, 1),
        "{yes}"
    );
    // The push carries the confirmed plan.
    let asked = fixture.requests();
    let push = asked.iter().find(|asked| asked.starts_with("PushRequest"));
    assert!(
        push.unwrap().contains("documents: 9, generation: 7"),
        "{asked:?}"
    );
}

#[tokio::test]
async fn push_without_terminal_needs_yes() {
    let fixture = fixture(everything()).await;
    let mut shown = fixture.run(&["push", "site-a"]).await.to_string();
    let json = fixture.run_on(
        Terminal::Plain(80, "y\n"),
        &["push", "site-a", "-o", "json"],
    );
    shown.push_str(&json.await.to_string());
    assert!(fixture.requests().is_empty());
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn documents_are_stored_after_confirmation() {
    let fixture = fixture(everything()).await;
    fixture.write("acme.yaml", "kind: Tenant\nname: acme\nnetworks: {}\n");
    let file = fixture.path("acme.yaml");
    fixture.script(|script| {
        script.apply.changes = vec![v1::DocumentChange {
            kind: "Tenant".to_owned(),
            name: "acme".to_owned(),
            change: v1::Change::Changed.into(),
            revision: 57,
        }];
    });
    let line = ["push", "site-a", "-f", file.to_str().unwrap()];
    let no = fixture.run_on(Terminal::Plain(80, "n\n"), &line).await;
    assert_eq!(no.status, 1);
    let asked = fixture.requests();
    assert!(asked[0].contains("dry_run: true"), "{asked:?}");
    assert!(
        asked[1].starts_with("PlanRequest") && asked[1].contains("acme"),
        "{asked:?}"
    );
    assert_eq!(asked.len(), 2);
    let yes = fixture.run_on(Terminal::Plain(80, "y\n"), &line).await;
    assert_eq!(yes.status, 0, "{yes}");
    let asked = fixture.requests();
    // Once more without a change: what was agreed to, with these documents.
    let rehearsal = &asked[5];
    for part in ["rehearse: true", "dry_run: true", "generation: 7", "acme"] {
        assert!(rehearsal.contains(part), "{part} is not in {rehearsal}");
    }
    assert!(asked[6].contains("dry_run: false"), "{asked:?}");
    // And only over what the plan was shown of.
    assert!(asked[6].contains("revision: 57"), "{asked:?}");
    assert!(asked[7].starts_with("PushRequest"), "{asked:?}");
    assert_eq!(asked.len(), 8);
}

#[tokio::test]
async fn plan_names_the_running_rollout() {
    let held = rollout_active("paused");
    let fixture = fixture(v1::PlanResponse {
        held: held.message,
        held_hints: held.hints,
        ..everything()
    })
    .await;
    let shown = fixture.run(&["plan", "site-a"]).await;
    assert!(shown.err.contains("paused"), "{shown}");
    fixture.write("acme.yaml", "kind: Tenant\nname: acme\nnetworks: {}\n");
    let file = fixture.path("acme.yaml").to_str().unwrap().to_owned();
    let yes = Terminal::Plain(80, "y\n");
    let line = ["push", "site-a", "-f", &file];
    let refused = fixture.run_on(yes, &line).await;
    assert_eq!(refused.status, 2);
    assert_eq!(asked_for(&fixture, "PushRequest"), 0);
    insta::assert_snapshot!(refused.err);
    let rolled = fixture.run_on(yes, &["rollback", "site-a"]).await;
    assert_eq!(rolled.status, 2, "{rolled}");
    assert_eq!(asked_for(&fixture, "RollbackRequest"), 0);
    let queued = [&line[..], &["--queue"]].concat();
    let queued = fixture.run_on(yes, &queued).await;
    assert_eq!(queued.status, 0, "{queued}");
    assert!(queued.err.contains("paused"), "{queued}");
}

#[tokio::test]
async fn stale_plan_names_what_changed() {
    let fixture = fixture(everything()).await;
    fixture.script(|script| {
        script.push.clear();
        let stale = Refusal::new(Reason::PlanStale, "the plan of site-a is out of date")
            .changed("sip4", "enrolled since")
            .changed("sip1", "now runs generation 9")
            .hint("make a new plan: voipctl plan site-a");
        script.push_breaks = Some(stale.into());
    });
    let shown = fixture
        .run_on(Terminal::Plain(80, "y\n"), &["push", "site-a"])
        .await;
    insta::assert_snapshot!(shown.err);
}

#[tokio::test]
async fn rollback_shows_its_plan_and_asks() {
    let fixture = fixture(v1::PlanResponse {
        to: 5,
        ..everything()
    })
    .await;
    let unseen = fixture.run(&["rollback", "site-a"]).await;
    assert_eq!(unseen.status, 2, "{unseen}");
    let no = fixture
        .run_on(Terminal::Plain(80, "\n"), &["rollback", "site-a"])
        .await;
    assert_eq!((no.status, asked_for(&fixture, "RollbackRequest")), (1, 0));
    let head = "site-a: rolling back to 5 would create generation 8 (now: 7):";
    assert!(no.out.starts_with(head), "{no}");
    let yes = fixture
        .run_on(Terminal::Plain(80, "y\n"), &["rollback", "site-a"])
        .await;
    assert_eq!(yes.status, 0, "{yes}");
    let asked = fixture.requests();
    assert!(asked[0].contains("back: true"), "{asked:?}");
    // The generation that was shown, and its plan.
    let last = asked.last().unwrap();
    assert!(last.starts_with("RollbackRequest"), "{last}");
    assert!(
        last.contains("to: 5,") && last.contains("generation: 7"),
        "{last}"
    );
}

/// A carrier moves its media, and the machines have something to say.
#[tokio::test]
async fn dates_of_networks_and_daemons_of_hosts_are_shown() {
    let fixture = Fixture::new().await;
    let switch = 1_917_648_000;
    fixture.script(|script| {
        script.plan = v1::PlanResponse {
            changes: Some(v1::RulesetDifferences {
                sets: vec![v1::SetDifference {
                    set: "clients-media".to_owned(),
                    used_by: texts(&["rtp 10000-20000/udp"]),
                    added: vec![
                        v1::SetMember {
                            until: switch + 86_400,
                            ..member("192.0.2.128/25", "provider trunkco: media")
                        },
                        v1::SetMember {
                            from: switch,
                            ..member("198.18.128.0/18", "provider trunkco: media")
                        },
                    ],
                    removed: vec![member("192.0.2.128/25", "provider trunkco: media")],
                    before: 3,
                    after: 4,
                    nodes: texts(&["pbx1"]),
                    ..Default::default()
                }],
                ..Default::default()
            }),
            documents: Vec::new(),
            steps: Vec::new(),
            dynamic: Vec::new(),
            nodes: vec![node("pbx1", v1::PlannedState::Changed, true, 7)],
            warnings: texts(&[
                "zabbix_agentd on 10050/tcp of pbx1 is in use by 198.51.100.77, which these rules do \
                 not let in: it would be closed to them; open it in services or rules if they need \
                 it",
                "ssh: the SSH server of pbx1 listens on 42422, which services.ssh.ports does not \
                 name: the agent keeps it open to admins, and it is closed to others",
            ]),
            ..everything()
        };
    });
    let shown = fixture
        .run_on(Terminal::Plain(80, ""), &["plan", "site-a"])
        .await;
    insta::assert_snapshot!(shown.to_string());
}
