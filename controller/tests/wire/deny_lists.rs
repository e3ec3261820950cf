//! Fetched deny lists change by their source and by what was pushed and confirmed, never by a
//! document that was only stored.

use serde_json::json;
use voipfleet_proto::v1::{
    AuditRequest, BlockRequest, InterfaceAddress, ListDynamicSetsRequest, PlanRequest, SiteScope,
    agent_message, site_scope,
};
use voipfleet_protocol::audit::Record;
use voipfleet_ruleset::ruleset::{DynamicSetName, DynamicSets};
use voipfleet_testkit::AgentSession;
use voipfleet_testkit::documents::{Document, TenantBuilder};

use super::installation::{Installation, site};

const ENTRIES: &str = "198.51.100.66\n198.51.100.77\n45.10.0.0/16\n";

fn list(file: &str, installation: &Installation) -> Document {
    let path = installation.files.feeds().join(file);
    Document::new("List", "bl")
        .set("file", path.display().to_string())
        .set("refresh", "1h")
}

fn documents(tenant: &TenantBuilder, list: &Document) -> String {
    let site = site().set("deny", json!(["list:bl"]));
    site + (tenant.clone() + list)
}

fn tenant(networks: &[&str]) -> TenantBuilder {
    TenantBuilder::new("acme").networks("offices", networks)
}

fn denied(sets: &DynamicSets) -> Vec<String> {
    let name = DynamicSetName::DenyFeed("bl".parse().unwrap());
    let held = sets.get(&name).into_iter();
    held.flat_map(|set| set.elements.iter().map(ToString::to_string))
        .collect()
}

/// Takes what the node is told until it is as wanted.
async fn until(
    session: &mut AgentSession,
    held: &mut DynamicSets,
    wanted: impl Fn(&DynamicSets) -> bool,
) {
    while !wanted(held) {
        let notice = session.notice().await;
        let from = (!notice.delta_from.is_empty()).then_some(&*held);
        *held = session.take_dynamic(&notice, from).await;
    }
}

async fn push(installation: &Installation, session: &mut AgentSession) {
    let push = installation.push().await;
    let offer = session.offer().await;
    session.apply(&offer).await;
    push.end().await;
}

/// A site that denies a fetched list, pushed to its node.
async fn pushed() -> (Installation, AgentSession, DynamicSets) {
    let installation = Installation::start().await;
    let feeds = installation.files.feeds();
    std::fs::create_dir_all(&feeds).unwrap();
    std::fs::write(feeds.join("bl.txt"), ENTRIES).unwrap();
    let all = documents(&tenant(&["203.0.113.0/24"]), &list("bl.txt", &installation));
    installation.apply(&all).await;
    let node = installation.enrol("a").await;
    let mut session = node.connect(&installation.address()).await.unwrap();
    let notice = session.notice().await;
    let mut held = session.take_dynamic(&notice, None).await;
    push(&installation, &mut session).await;
    until(&mut session, &mut held, |sets| denied(sets).len() == 3).await;
    (installation, session, held)
}

async fn exemptions(installation: &Installation) -> Vec<Record> {
    let request = AuditRequest {
        what: "DenyExemptions".to_owned(),
        ..AuditRequest::default()
    };
    let answer = installation.operator().await.audit(request).await.unwrap();
    let records = answer.into_inner().records;
    let read = |bytes: &Vec<u8>| serde_json::from_slice(bytes).unwrap();
    records.iter().map(read).collect()
}

#[tokio::test]
async fn a_stored_document_takes_nothing_out_of_a_deny_list_before_it_is_confirmed() {
    let (installation, mut session, mut held) = pushed().await;
    // The name shows when the document has reached the node.
    let wide = tenant(&[
        "203.0.113.0/24",
        "198.51.100.66",
        "45.0.0.0/8",
        "pbx.acme.example",
    ]);
    let all = documents(&wide, &list("bl.txt", &installation));
    installation.apply(&all).await;
    let name = DynamicSetName::Name("pbx.acme.example".parse().unwrap());
    until(&mut session, &mut held, |sets| sets.get(&name).is_some()).await;
    assert_eq!(
        denied(&held),
        ["45.10.0.0/16", "198.51.100.66/32", "198.51.100.77/32"]
    );
    assert!(exemptions(&installation).await.is_empty());

    // What it would take out is in the plan.
    let request = PlanRequest {
        site: "site-a".to_owned(),
        ..PlanRequest::default()
    };
    let plan = installation.operator().await.plan(request).await.unwrap();
    let warnings = plan.into_inner().warnings;
    let told = |warning: &String| {
        warning.starts_with("deny: list:bl: not denied") && warning.contains("tenants 2")
    };
    assert!(warnings.iter().any(told), "{warnings:?}");

    // And out of it once the push is confirmed, with a record.
    push(&installation, &mut session).await;
    until(&mut session, &mut held, |sets| {
        denied(sets) == ["198.51.100.77/32"]
    })
    .await;
    let records = installation
        .until(async || Some(exemptions(&installation).await).filter(|found| !found.is_empty()))
        .await;
    assert_eq!(records[0].objects, ["List/bl"]);
    let detail = records[0].detail.clone().unwrap();
    assert!(
        detail.contains("tenants 2 (45.10.0.0/16, 198.51.100.66/32)"),
        "{detail}"
    );
    let request = ListDynamicSetsRequest {};
    let mut calls = installation.operator().await;
    let answer = calls.list_dynamic_sets(request).await.unwrap();
    let feeds = answer.into_inner().feeds;
    assert_eq!(feeds[0].left_out[0].entries, 2);
}

#[tokio::test]
async fn an_address_that_a_node_reports_takes_nothing_out_of_a_deny_list() {
    let (installation, mut session, mut held) = pushed().await;
    let mut facts = session.agent.hello().facts.unwrap();
    for last in [66, 77] {
        facts.addresses.push(InterfaceAddress {
            interface: "eth1".to_owned(),
            address: vec![198, 51, 100, last],
            prefix_length: 24,
        });
    }
    session
        .send(agent_message::Kind::Facts(facts))
        .await
        .unwrap();
    // Another change comes after it.
    let request = BlockRequest {
        address: "192.0.2.66".to_owned(),
        scope: Some(SiteScope {
            kind: Some(site_scope::Kind::All(true)),
        }),
        reason: "toll fraud".to_owned(),
        ..BlockRequest::default()
    };
    let mut client = installation.operator().await;
    let blocking = tokio::spawn(async move { client.block(request).await });
    let is_blocked = |sets: &DynamicSets| {
        let blocked = sets.get(&DynamicSetName::Block);
        blocked.is_some_and(|set| !set.is_empty())
    };
    until(&mut session, &mut held, is_blocked).await;
    blocking.await.unwrap().unwrap();
    assert_eq!(denied(&held).len(), 3);
}

#[tokio::test]
async fn a_new_source_of_a_list_counts_once_it_is_confirmed() {
    let (installation, mut session, mut held) = pushed().await;
    let other = installation.files.feeds().join("other.txt");
    std::fs::write(other, "192.0.2.200\n").unwrap();
    let named = tenant(&["203.0.113.0/24", "pbx.acme.example"]);
    let all = documents(&named, &list("other.txt", &installation));
    installation.apply(&all).await;
    let name = DynamicSetName::Name("pbx.acme.example".parse().unwrap());
    until(&mut session, &mut held, |sets| sets.get(&name).is_some()).await;
    // The list is asked now: what is asked for is read from the source that counts.
    let request = voipfleet_proto::v1::FetchFeedRequest {
        list: "bl".to_owned(),
        accept_shrunk: true,
    };
    let answer = installation.operator().await.fetch_feed(request).await;
    let feed = answer.unwrap().into_inner().feed.unwrap();
    assert_eq!(feed.entries, 3);
    assert!(feed.source.ends_with("other.txt"), "{feed:?}");
    assert!(feed.fetched_from.ends_with("bl.txt"), "{feed:?}");
    push(&installation, &mut session).await;
    until(&mut session, &mut held, |sets| {
        denied(sets) == ["192.0.2.200/32"]
    })
    .await;
    // No ruleset says where a list comes from: a push that changes nothing else agrees to it too.
    let all = documents(&named, &list("bl.txt", &installation));
    installation.apply(&all).await;
    let (done, _) = installation.push().await.end().await;
    assert!(!done.changed);
    until(&mut session, &mut held, |sets| denied(sets).len() == 3).await;
}
