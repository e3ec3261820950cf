//! What operators read: status, history and the audit log.

use std::collections::BTreeSet;

use tokio::sync::watch;
use voipfleet_controller::run::Options;
use voipfleet_proto::v1::operator_client::OperatorClient;
use voipfleet_proto::v1::{
    ApplyRequest, AuditRequest, DeleteRequest, DriftState, HistoryRequest, NodeStatus, PushRequest,
    RollbackRequest, SyncState, WhoAmIRequest, agent_message,
};
use voipfleet_protocol::audit::{Ending, Record};

use super::installation::{Installation, SITE, apply, connected, with_network};
use super::operators::{add, client, of_tenant};

async fn audit(installation: &Installation, request: AuditRequest) -> Vec<Record> {
    records(&mut installation.operator().await, request).await
}

async fn records(
    client: &mut OperatorClient<tonic::transport::Channel>,
    request: AuditRequest,
) -> Vec<Record> {
    let answer = client.audit(request).await.unwrap().into_inner();
    let records = answer.records.iter();
    records
        .map(|record| serde_json::from_slice(record).unwrap())
        .collect()
}

fn of_site(site: &str) -> AuditRequest {
    AuditRequest {
        site: site.to_owned(),
        ..AuditRequest::default()
    }
}

/// On a listener for both families an IPv4 peer is `::ffff:127.0.0.1`.
#[tokio::test]
async fn ipv4_peers_are_named_by_their_own_address() {
    let mut installation = Installation::start().await;
    installation.stop().await;
    let options = Options {
        listen: "[::]:0".parse().unwrap(),
        ..installation.options()
    };
    installation.run_with(options).await;
    let port = installation
        .address()
        .rsplit_once(':')
        .unwrap()
        .1
        .to_owned();
    let address = format!("127.0.0.1:{port}");
    let channel = installation.admin.connect(&address).await.unwrap();
    let mut operator = OperatorClient::new(channel);
    operator.who_am_i(WhoAmIRequest {}).await.unwrap();
    operator.apply(apply(SITE)).await.unwrap();
    let records = records(&mut operator, AuditRequest::default()).await;
    let peer = &records[0].who.as_ref().unwrap().peer;
    assert!(peer.starts_with("127.0.0.1:"), "{peer}");
}

#[tokio::test]
async fn documents_that_were_not_pushed_are_counted() {
    let (installation, _, mut session) = connected().await;
    let never = installation.status().await;
    assert_eq!(never.unpushed, None);
    let push = installation.push().await;
    let offer = session.offer().await;
    session.apply(&offer).await;
    push.end().await;
    assert_eq!(installation.status().await.unpushed, Some(0));
    installation.apply(&with_network("203.0.112.0/24")).await;
    let other = "{kind: Tenant, name: other, networks: {a: [198.51.100.0/24]}}";
    installation.apply(other).await;
    let changed = installation.status().await;
    assert_eq!(changed.unpushed, Some(1));
    assert_eq!(changed.unpushed_documents, ["Tenant/acme"]);
    let push = installation.push().await;
    let offer = session.offer().await;
    session.apply(&offer).await;
    push.end().await;
    assert_eq!(installation.status().await.unpushed, Some(0));
    // What an earlier generation brought back is not what the documents say.
    let request = RollbackRequest {
        site: "site-a".to_owned(),
        to: 1,
        ..RollbackRequest::default()
    };
    let mut operator = installation.operator().await;
    let mut events = operator.rollback(request).await.unwrap().into_inner();
    let offer = session.offer().await;
    session.apply(&offer).await;
    while events.message().await.unwrap().is_some() {}
    assert_eq!(installation.status().await.unpushed, Some(1));
}

#[tokio::test]
async fn node_without_a_ruleset_is_unprotected_and_an_offline_one_unknown() {
    let (installation, _, mut session) = connected().await;
    let status = installation.status().await;
    assert_eq!(status.nodes["a"].state(), SyncState::Unprotected);
    assert!(
        status.nodes["a"].error.contains("voipctl push site-a"),
        "{:?}",
        status.nodes["a"].error
    );
    // Rules that are not there are not clean.
    let clean = NodeStatus {
        drift: DriftState::Clean.into(),
        ..NodeStatus::default()
    };
    let bare = agent_message::Kind::Status(clean.clone());
    session.send(bare).await.unwrap();
    let push = installation.push().await;
    let offer = session.offer().await;
    assert_eq!(
        installation.status().await.nodes["a"].drift(),
        DriftState::Unspecified
    );
    session.apply(&offer).await;
    push.end().await;
    let clean = NodeStatus {
        confirmed_generation: offer.generation,
        confirmed_digest: offer.digest,
        ..clean
    };
    let clean = agent_message::Kind::Status(clean);
    session.send(clean).await.unwrap();
    installation
        .until_status(|site| site.nodes["a"].drift() == DriftState::Clean)
        .await;
    drop(session);
    let status = installation
        .until_status(|site| !site.nodes["a"].connected)
        .await;
    assert_eq!(status.nodes["a"].state(), SyncState::Offline);
    assert_eq!(status.nodes["a"].drift(), DriftState::Unknown);
}

/// `audit --site` answers who opened a site: its documents are what opens it.
#[tokio::test]
async fn audit_of_a_site_has_the_changes_of_its_documents() {
    let installation = Installation::start().await;
    let others = "
{kind: Tenant, name: globex, networks: {a: [198.51.100.0/24]}}
---
{kind: Site, name: site-b, admins: [198.51.100.10], tenants: [globex]}
";
    installation.apply(others).await;
    installation.apply(SITE).await;
    installation.apply(&with_network("203.0.112.0/24")).await;
    let objects: Vec<Vec<String>> = audit(&installation, of_site("site-a"))
        .await
        .into_iter()
        .filter(|record| record.result == Some(Ending::Done))
        .map(|record| record.objects)
        .collect();
    assert_eq!(
        objects,
        [vec!["Tenant/acme"], vec!["Site/site-a", "Tenant/acme"]]
    );
    let delete = DeleteRequest {
        kind: "Site".to_owned(),
        name: "site-b".to_owned(),
    };
    installation.operator().await.delete(delete).await.unwrap();
    let of_b = audit(&installation, of_site("site-b")).await;
    let what: Vec<&str> = of_b.iter().map(|record| record.what.as_str()).collect();
    assert_eq!(what, ["Delete", "Apply"]);

    // A tenant's reader sees changes of its own document only.
    let reader = add(&installation, "ben", of_tenant("viewer", "acme")).await;
    let mut reader = client(&installation, &reader).await;
    let globex = "{kind: Tenant, name: globex, networks: {a: [198.51.101.0/24]}}";
    let both = format!("{globex}\n---\n{SITE}");
    installation
        .apply(&both.replace("[acme]", "[acme, globex]"))
        .await;
    let more = "{kind: Tenant, name: globex, networks: {a: [198.51.102.0/24]}}";
    installation.apply(more).await;
    let seen = records(&mut reader, of_site("site-a")).await;
    assert!(!seen.is_empty());
    assert!(!format!("{seen:?}").contains("globex"), "{seen:?}");
    let applies = seen.iter().filter(|record| record.what == "Apply");
    assert!(
        applies
            .clone()
            .all(|record| record.objects == ["Tenant/acme"]),
        "{seen:?}"
    );
}

/// The log is of changes and refusals: what only asks what would change is neither.
#[tokio::test]
async fn dry_runs_are_not_in_the_audit_log() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    let mut operator = installation.operator().await;
    let dry = ApplyRequest {
        dry_run: true,
        ..apply(&with_network("203.0.112.0/24"))
    };
    operator.apply(dry).await.unwrap();
    let dry = PushRequest {
        site: "site-a".to_owned(),
        dry_run: true,
        ..PushRequest::default()
    };
    installation.try_push(dry).await.unwrap().end().await;
    let mut all = audit(&installation, AuditRequest::default()).await;
    all.retain(|record| record.what != "FirstAdminCertificate");
    assert_eq!(all.len(), 1, "{all:?}");
    // One that changes something is found by its id.
    let request = all[0].request.clone().unwrap();
    let wanted = AuditRequest {
        request,
        ..AuditRequest::default()
    };
    assert_eq!(audit(&installation, wanted).await, all);
    let wanted = AuditRequest {
        request: "0123456789abcdef".to_owned(),
        ..AuditRequest::default()
    };
    assert!(audit(&installation, wanted).await.is_empty());
}

/// The oldest generation that is kept still says what it changed, though the one before is gone.
#[tokio::test]
async fn history_says_what_the_oldest_generation_changed() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    let node = installation.enrol("a").await;
    let (_address, dial) = watch::channel(installation.address());
    let _agent = node.run(dial, BTreeSet::new());
    installation.until_connected().await;
    for last in 1..=23 {
        let network = format!("203.0.{last}.0/24");
        installation.apply(&with_network(&network)).await;
        let (done, nodes) = installation.push().await.end().await;
        assert_eq!((done.generation, done.applied), (last, 1), "{nodes:?}");
    }
    let mut operator = installation.operator().await;
    let history = installation
        .until(async || {
            let request = HistoryRequest {
                site: "site-a".to_owned(),
                limit: 0,
            };
            let history = operator.history(request).await.unwrap().into_inner();
            Some(history.generations).filter(|all| all[all.len() - 1].generation > 1)
        })
        .await;
    let oldest = &history[history.len() - 1];
    assert_eq!(oldest.changed_nodes, ["a"], "{oldest:?}");
    assert!(oldest.added_nodes.is_empty(), "{oldest:?}");
    assert_eq!(oldest.changed_documents, ["Tenant/acme"]);
}
