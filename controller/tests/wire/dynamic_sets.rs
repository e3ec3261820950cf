//! Dynamic sets: what nodes are told without a push.

use tonic::Code;
use voipfleet_proto::v1::{DeleteRequest, InterfaceAddress, agent_message};
use voipfleet_ruleset::ruleset::{DynamicSet, DynamicSetName, DynamicSets};
use voipfleet_testkit::documents::{SiteBuilder, TenantBuilder};
use voipfleet_testkit::{AgentSession, FakeAgent};

use super::installation::{connected, refused};

fn cluster(sets: &DynamicSets) -> Vec<String> {
    let members = sets.get(&DynamicSetName::Cluster(None)).unwrap();
    members.elements.iter().map(ToString::to_string).collect()
}

/// Takes dynamic sets until the cluster is this.
async fn until_cluster(
    session: &mut AgentSession,
    mut held: DynamicSets,
    wanted: &[&str],
) -> DynamicSets {
    while cluster(&held) != wanted {
        let notice = session.notice().await;
        assert!(notice.delta.is_some(), "what it holds is known");
        held = session.take_dynamic(&notice, Some(&held)).await;
    }
    held
}

const A: &str = "10.0.0.97/32";
const B: &str = "10.0.0.98/32";

#[tokio::test]
async fn members_follow_enrolment_and_deletion_without_a_push() {
    let (installation, _, mut a) = connected().await;
    let notice = a.notice().await;
    assert_eq!((notice.delta.clone(), notice.delta_from.len()), (None, 0));
    let held = a.take_dynamic(&notice, None).await;
    let held = until_cluster(&mut a, held, &[A]).await;
    for name in [
        DynamicSetName::Block,
        DynamicSetName::Allow,
        DynamicSetName::Open,
    ] {
        assert!(held.get(&name).is_some_and(DynamicSet::is_empty));
    }

    let node_b = installation.enrol("b").await;
    let mut b = node_b.connect(&installation.address()).await.unwrap();
    let held = until_cluster(&mut a, held, &[A, B]).await;
    // It moves.
    let mut facts = node_b.hello().facts.unwrap();
    facts.addresses = vec![InterfaceAddress {
        interface: "eth1".to_owned(),
        address: vec![10, 0, 0, 7],
        prefix_length: 24,
    }];
    b.send(agent_message::Kind::Facts(facts)).await.unwrap();
    let held = until_cluster(&mut a, held, &["10.0.0.7/32", A]).await;

    let request = DeleteRequest {
        kind: "node".to_owned(),
        name: "site-a/b".to_owned(),
    };
    installation.operator().await.delete(request).await.unwrap();
    until_cluster(&mut a, held, &[A]).await;
}

/// Documents that are applied change what a site needs, before any push.
#[tokio::test]
async fn applied_documents_change_the_sources_without_a_push() {
    let (installation, _, mut a) = connected().await;
    let notice = a.notice().await;
    let held = a.take_dynamic(&notice, None).await;
    let mut held = until_cluster(&mut a, held, &[A]).await;
    let name = DynamicSetName::Name("sbc.carrier.example".parse().unwrap());
    assert!(held.get(&name).is_none());

    let tenant = TenantBuilder::new("acme").networks("sbc", &["sbc.carrier.example"]);
    let site = SiteBuilder::new("site-a")
        .admins(&["10.9.0.0/16"])
        .tenants(&["acme"]);
    installation.apply(&(site + tenant)).await;
    while held.get(&name).is_none() {
        let notice = a.notice().await;
        held = a.take_dynamic(&notice, Some(&held)).await;
    }
    assert!(
        held.get(&name).is_some_and(DynamicSet::is_empty),
        "not resolved yet"
    );
}

#[tokio::test]
async fn live_sets_come_before_the_first_offer() {
    let (installation, node, mut a) = connected().await;
    let _push = installation.push().await;
    let offer = a.offer().await;
    assert!(a.pending_notices() > 0);
    a.apply(&offer).await;
    let mut held = None;
    let mut notice = a.notice().await;
    loop {
        let taken = a.take_dynamic(&notice, held.as_ref()).await;
        let done = cluster(&taken) == [A];
        held = Some(taken);
        if done {
            break;
        }
        notice = a.notice().await;
    }
    drop(a);
    // Back with the same: nothing is to be told, and an offer comes at once.
    let mut hello = node.hello();
    hello.dynamic_digest = held.unwrap().digest().as_bytes().to_vec();
    let mut a = node.open(&installation.address(), hello).await.unwrap();
    a.next().await.unwrap();
    a.offer().await;
    assert_eq!(a.pending_notices(), 0);
}

#[tokio::test]
async fn a_delta_starts_from_the_sets_that_the_node_holds() {
    let (installation, _, mut a) = connected().await;
    let notice = a.notice().await;
    let held = a.take_dynamic(&notice, None).await;
    let held = until_cluster(&mut a, held, &[A]).await;
    let _b = installation
        .enrol("b")
        .await
        .connect(&installation.address())
        .await
        .unwrap();
    let refused = a.notice().await;
    let digest = held.digest();
    a.report_dynamic(digest.as_bytes(), "the disk is full")
        .await
        .unwrap();
    let _c = installation
        .enrol("c")
        .await
        .connect(&installation.address())
        .await
        .unwrap();
    let mut notice = a.notice().await;
    while notice.digest == refused.digest {
        notice = a.notice().await;
    }
    assert_eq!(notice.delta_from, digest.as_bytes());
    let held = a.take_dynamic(&notice, Some(&held)).await;
    until_cluster(&mut a, held, &[A, B, "10.0.0.99/32"]).await;
}

#[tokio::test]
async fn a_node_fetches_live_sets_of_its_own_site_only() {
    let (installation, _, mut a) = connected().await;
    let notice = a.notice().await;
    a.fetch_dynamic(&notice.digest).await.unwrap();
    let message = refused(a.fetch_dynamic(&[7; 32]).await, Code::FailedPrecondition);
    assert!(message.contains("next notice"), "{message}");
    refused(a.fetch_dynamic(b"short").await, Code::InvalidArgument);
    // Another site's value is as unknown as one that does not exist.
    let other = SiteBuilder::new("site-b").admins(&["198.51.100.10"]);
    installation.apply(&other.to_string()).await;
    let mut request = super::operator_calls::token();
    request.site = "site-b".to_owned();
    let token = installation.operator().await.create_token(request).await;
    let token = token.unwrap().into_inner().token;
    let enrolled = FakeAgent::enrol(&installation.enrol_address(), &token, "z", Vec::new()).await;
    let stranger = enrolled.unwrap();
    let mut z = stranger.connect(&installation.address()).await.unwrap();
    let theirs = z.notice().await;
    z.fetch_dynamic(&theirs.digest).await.unwrap();
    refused(
        z.fetch_dynamic(&notice.digest).await,
        Code::FailedPrecondition,
    );
    refused(
        a.fetch_dynamic(&theirs.digest).await,
        Code::FailedPrecondition,
    );
}
