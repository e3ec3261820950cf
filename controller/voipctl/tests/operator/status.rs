//! `status` and `nodes`.

use voipfleet_proto::v1;

use crate::fixture::{Fixture, Terminal, ago};

fn node(name: &str, roles: &[&str], state: v1::SyncState) -> v1::NodeReport {
    v1::NodeReport {
        node: name.to_owned(),
        roles: roles.iter().map(ToString::to_string).collect(),
        state: state.into(),
        generation: 7,
        digest: vec![0xab; 32],
        drift: v1::DriftState::Clean.into(),
        last_seen_ms: ago(1),
        facts: Some(v1::NodeFacts {
            hostname: format!("{name}.example"),
            backend: "nft".to_owned(),
            iptables_version: "1.8.9".to_owned(),
            addresses: vec![
                v1::InterfaceAddress {
                    interface: "eth0".to_owned(),
                    address: vec![192, 0, 2, 10],
                    prefix_length: 24,
                },
                v1::InterfaceAddress {
                    interface: "eth0".to_owned(),
                    address: vec![0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
                    prefix_length: 64,
                },
            ],
            ..Default::default()
        }),
        agent_version: "0.1.0".to_owned(),
        connected: true,
        peer: "192.0.2.10:40312".to_owned(),
        enrolled_ms: ago(86_400 * 30),
        certificate_expires_ms: ago(-86_400 * 60),
        ..Default::default()
    }
}

fn neighbour(kind: v1::NeighbourKind, detail: &str, advice: &str) -> v1::Neighbour {
    v1::Neighbour {
        kind: kind.into(),
        detail: detail.to_owned(),
        advice: advice.to_owned(),
        ..Default::default()
    }
}

fn voipnow() -> v1::VoipNow {
    v1::VoipNow {
        node_id: "12".to_owned(),
        version: "5.5.6".to_owned(),
        roles: vec!["http".to_owned(), "pbx".to_owned()],
        back_ends: vec![v1::BackEnd {
            service: "sql".to_owned(),
            host: "10.10.33.5".to_owned(),
            port: 3307,
        }],
        trusted_networks: vec![v1::Network {
            address: vec![10, 10, 34, 12],
            prefix_length: 32,
        }],
        not_understood: vec!["/etc/voipnow/es.conf".to_owned()],
    }
}

fn differences() -> Vec<v1::Difference> {
    use v1::DifferenceKind::{OpenListener, Port, RoleNotEnrolled, RoleNotRunning, TrustedNetwork};
    [
        (RoleNotEnrolled, "pbx", ""),
        (RoleNotRunning, "", "wk"),
        (Port, "sql on 10.10.33.5:3307", "sql on tcp 3306"),
        (TrustedNetwork, "10.10.34.12/32", ""),
        (OpenListener, "memcached on udp 11211", "rtp"),
    ]
    .map(|(kind, found, documented)| v1::Difference {
        kind: kind.into(),
        found: found.to_owned(),
        documented: documented.to_owned(),
    })
    .into()
}

fn fleet() -> v1::StatusResponse {
    let mut pbx = node("pbx1", &["pbx"], v1::SyncState::Offline);
    pbx.connected = false;
    pbx.generation = 6;
    pbx.last_seen_ms = ago(12);
    pbx.certificate_expires_ms = ago(-86_400 * 3);
    let mut http = node("http1", &["http", "ic"], v1::SyncState::Error);
    http.error =
        "iptables-restore v1.8.9 (nf_tables):\nline 4: \u{1b}[31mRULE_APPEND failed".to_owned();
    http.drift = v1::DriftState::Contended.into();
    http.drift_detail =
        "repairs are undone again and again:\nINPUT (IPv4) by fire\u{1b}walld (pid 812)".to_owned();
    let facts = http.facts.as_mut().unwrap();
    facts.warnings = vec!["rulesets are not tried before they are loaded".to_owned()];
    facts.neighbours = vec![
        neighbour(
            v1::NeighbourKind::Firewalld,
            "firewalld.service is active",
            "systemctl disable --now firewalld",
        ),
        neighbour(v1::NeighbourKind::Fail2ban, "chains f2b-\u{1b}[2Jsshd", ""),
    ];
    facts.voipnow = Some(voipnow());
    facts.listeners = vec![v1::Listener {
        port: 11_211,
        process: "memcached".to_owned(),
    }];
    http.differences = differences();
    http.sets = Some(v1::SetCount {
        enforced: 1_190,
        wanted: 1_204,
        short: vec![v1::ShortSet {
            set: "vf-deny-voipbl-4".to_owned(),
            enforced: 1_000,
            wanted: 1_013,
        }],
    });
    let never = v1::NodeReport {
        node: "sql1".to_owned(),
        roles: vec!["sql".to_owned()],
        state: v1::SyncState::NotSent.into(),
        certificate_expires_ms: ago(86_400),
        ..Default::default()
    };
    let mut sip = node("sip1", &["sip"], v1::SyncState::Synced);
    sip.sets = Some(v1::SetCount {
        enforced: 1_204,
        wanted: 1_204,
        short: vec![],
    });
    v1::StatusResponse {
        sites: vec![v1::SiteStatus {
            site: "site-a".to_owned(),
            generation: 7,
            mode: "enforce".to_owned(),
            nodes: vec![http, pbx, sip, never],
            cluster: Some(v1::ClusterReport {
                members: 6,
                changes: 8,
                pending: ["198.18.0.11", "198.51.100.66"].map(pending).to_vec(),
                more_pending: 0,
            }),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn pending(address: &str) -> v1::PendingAddress {
    v1::PendingAddress {
        node: "sip1".to_owned(),
        interface: "eth0".to_owned(),
        address: address.to_owned(),
        reason: "outside cluster.networks".to_owned(),
    }
}

async fn fixture() -> Fixture {
    let fixture = Fixture::new().await;
    fixture.script(|script| script.status = fleet());
    fixture
}

#[tokio::test]
async fn wide_terminal() {
    let fixture = fixture().await;
    insta::assert_snapshot!(
        fixture
            .run_on(Terminal::Plain(120, ""), &["status", "site-a"])
            .await
    );
}

/// Whoever looks at the fleet learns that nothing can be changed.
#[tokio::test]
async fn a_store_that_cannot_be_written() {
    let fixture = Fixture::new().await;
    fixture.script(|script| {
        script.status = fleet();
        script.status.sites[0].nodes.truncate(0);
        script.status.sites[0]
            .nodes
            .push(node("sip1", &["sip"], v1::SyncState::Synced));
        script.status.store_error =
            "the disk of the store in /srv/\u{1b}[2Jstore is full (12 KiB free)".to_owned();
    });
    let shown = fixture
        .run(&["status", "site-a", "--exit-code", "-o", "json"])
        .await;
    assert_eq!(shown.status, 1, "{shown}");
    assert!(
        shown
            .err
            .contains("the controller's store cannot be written"),
        "{shown}"
    );
    assert!(!shown.err.contains('\u{1b}'), "{shown}");
    let json: serde_json::Value = serde_json::from_str(&shown.out).unwrap();
    let reason = json["store_error"].as_str().unwrap();
    assert!(reason.contains("is full"), "{shown}");
    fixture.script(|script| script.status.store_error = String::new());
    let shown = fixture
        .run(&["status", "site-a", "--exit-code", "-o", "json"])
        .await;
    assert_eq!((shown.status, shown.err.as_str()), (0, ""), "{shown}");
}

#[tokio::test]
async fn narrow_terminal() {
    let fixture = fixture().await;
    let shown = fixture
        .run_on(Terminal::Plain(60, ""), &["status", "site-a"])
        .await;
    assert!(
        shown.out.lines().all(|line| line.chars().count() <= 60),
        "{shown}"
    );
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn pipe() {
    let fixture = fixture().await;
    insta::assert_snapshot!(fixture.run(&["status"]).await);
}

#[tokio::test]
async fn colour_is_never_the_only_signal() {
    let fixture = fixture().await;
    let plain = fixture
        .run_on(Terminal::Plain(120, ""), &["status"])
        .await
        .out;
    let coloured = fixture.run_on(Terminal::Colour(120), &["status"]).await.out;
    assert!(coloured.contains("\u{1b}["));
    let mut bare = String::new();
    let mut rest = coloured.as_str();
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        bare.push_str(before);
        rest = after.split_once('m').unwrap().1;
    }
    bare.push_str(rest);
    let trimmed: Vec<&str> = bare.lines().map(str::trim_end).collect();
    assert_eq!(trimmed, plain.lines().collect::<Vec<_>>());
}

#[tokio::test]
async fn status_as_json() {
    let fixture = fixture().await;
    let json = fixture.run(&["status", "site-a", "-o", "json"]).await;
    let value: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(value["nodes"][2]["drift"], "clean");
    let yaml = fixture
        .run(&["status", "site-a", "-o", "yaml"])
        .await
        .to_string();
    insta::assert_snapshot!(json.to_string() + &yaml);
}

#[tokio::test]
async fn exit_code_reports_problems() {
    let fixture = fixture().await;
    assert_eq!(fixture.run(&["status", "site-a"]).await.status, 0);
    assert_eq!(
        fixture
            .run(&["status", "site-a", "--exit-code"])
            .await
            .status,
        1
    );
    fixture.script(|script| {
        script.status.sites[0]
            .nodes
            .retain(|node| node.node == "sip1");
    });
    assert_eq!(
        fixture
            .run(&["status", "site-a", "--exit-code"])
            .await
            .status,
        0
    );
    // Everything else is right, and everyone is let in.
    fixture.script(|script| script.status.sites[0].open = Some(v1::OpenSite::default()));
    let open = fixture.run(&["status", "--exit-code"]).await;
    assert_eq!(open.status, 1, "{open}");
    fixture.script(|script| {
        script.status.sites[0].open = None;
        script.status.sites[0].nodes[0].connected = false;
    });
    let gone = fixture.run(&["status", "--exit-code"]).await;
    assert_eq!(gone.status, 1, "{gone}");
}

#[tokio::test]
async fn changes_that_were_not_pushed() {
    let fixture = fixture().await;
    fixture.script(|script| {
        script.status.sites[0].unpushed = Some(7);
        script.status.sites[0].unpushed_documents = vec!["Tenant/acme".to_owned()];
    });
    let shown = fixture.run(&["status"]).await;
    let line =
        "7 documents changed since generation 7 (tenant/acme, 6 more): voipctl push site-a\n";
    assert!(shown.out.contains(line), "{shown}");
    let json = fixture.run(&["status", "-o", "json"]).await;
    let value: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(value["unpushed"], 7, "{value}");
}

/// 80 columns are what a terminal has: no table falls apart there.
#[tokio::test]
async fn tables_fit_80_columns() {
    let fixture = fixture().await;
    for command in ["status", "nodes"] {
        let shown = fixture.run_on(Terminal::Plain(80, ""), &[command]).await;
        let header = shown.out.lines().find(|line| line.starts_with("NODE"));
        assert!(header.is_some(), "{shown}");
        let rows = shown
            .out
            .lines()
            .skip_while(|line| !line.starts_with("NODE"));
        assert!(rows.take(5).all(|row| row.chars().count() <= 80), "{shown}");
    }
}

#[tokio::test]
async fn no_sites_and_no_nodes() {
    let fixture = Fixture::new().await;
    let mut shown = fixture.run(&["status"]).await.to_string();
    shown.push_str(&fixture.run(&["status", "site-z"]).await.to_string());
    fixture.script(|script| {
        script.status.sites = vec![v1::SiteStatus {
            site: "site-b".to_owned(),
            ..Default::default()
        }];
    });
    shown.push_str(&fixture.run(&["status", "site-b"]).await.to_string());
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn nodes_in_all_formats() {
    let fixture = fixture().await;
    let mut shown = fixture
        .run_on(Terminal::Plain(140, ""), &["nodes"])
        .await
        .to_string();
    let narrow = fixture
        .run_on(Terminal::Plain(60, ""), &["nodes", "site-a"])
        .await;
    shown.push_str(&narrow.to_string());
    shown.push_str(&fixture.run(&["nodes", "-o", "json"]).await.to_string());
    insta::assert_snapshot!(shown);
}
