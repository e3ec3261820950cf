//! Dynamic sets: what nodes are told without a push.

use tonic::Code;
use voipfleet_proto::v1::{BlockRequest, ListBlocksRequest};
use voipfleet_ruleset::ruleset::{DynamicSet, DynamicSetName, DynamicSets};
use voipfleet_testkit::documents::{SiteBuilder, TenantBuilder};
use voipfleet_testkit::{AgentSession, FakeAgent};

use super::installation::{Installation, connected, refused};
use super::requests::everywhere;

fn blocked(sets: &DynamicSets) -> Vec<String> {
    let blocked = sets.get(&DynamicSetName::Block).unwrap();
    let ending = blocked.expiring.iter();
    ending.map(|one| one.net.addr().to_string()).collect()
}

/// Takes dynamic sets until what is blocked is this.
async fn until_blocked(
    session: &mut AgentSession,
    mut held: DynamicSets,
    wanted: &[&str],
) -> DynamicSets {
    while blocked(&held) != wanted {
        let notice = session.notice().await;
        assert!(notice.delta.is_some(), "what it holds is known");
        held = session.take_dynamic(&notice, Some(&held)).await;
    }
    held
}

/// Blocks an address; nothing waits until nodes enforce it.
async fn block(installation: &Installation, address: &str) {
    let request = BlockRequest {
        address: address.to_owned(),
        scope: Some(everywhere()),
        reason: "a test".to_owned(),
        ..BlockRequest::default()
    };
    let mut operator = installation.operator().await;
    let address = address.to_owned();
    let _answered = tokio::spawn(async move { operator.block(request).await });
    installation
        .until(async || {
            let request = ListBlocksRequest::default();
            let listed = installation.operator().await.list_blocks(request).await;
            let blocks = listed.unwrap().into_inner().blocks;
            blocks
                .iter()
                .any(|one| one.address == address)
                .then_some(())
        })
        .await;
}

const A: &str = "192.0.2.66";
const B: &str = "192.0.2.67";

#[tokio::test]
async fn the_whole_comes_first_and_then_what_changes() {
    let (installation, _, mut a) = connected().await;
    let notice = a.notice().await;
    assert_eq!((notice.delta.clone(), notice.delta_from.len()), (None, 0));
    let held = a.take_dynamic(&notice, None).await;
    for name in [
        DynamicSetName::Block,
        DynamicSetName::BlockForced,
        DynamicSetName::Allow,
        DynamicSetName::Open,
        DynamicSetName::Cluster(None),
    ] {
        assert!(held.get(&name).is_some_and(DynamicSet::is_empty), "{name}");
    }
    block(&installation, A).await;
    until_blocked(&mut a, held, &[A]).await;
}

/// Documents that are applied change what a site needs, before any push.
#[tokio::test]
async fn applied_documents_change_the_sources_without_a_push() {
    let (installation, _, mut a) = connected().await;
    let notice = a.notice().await;
    let mut held = a.take_dynamic(&notice, None).await;
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
        let addresses = taken.get(&DynamicSetName::Cluster(None)).unwrap();
        let done = addresses
            .elements
            .iter()
            .map(ToString::to_string)
            .eq(["10.0.0.97/32"]);
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
    block(&installation, A).await;
    let refused = a.notice().await;
    let digest = held.digest();
    a.report_dynamic(digest.as_bytes(), "the disk is full")
        .await
        .unwrap();
    block(&installation, B).await;
    let mut notice = a.notice().await;
    while notice.digest == refused.digest {
        notice = a.notice().await;
    }
    assert_eq!(notice.delta_from, digest.as_bytes());
    let held = a.take_dynamic(&notice, Some(&held)).await;
    until_blocked(&mut a, held, &[A, B]).await;
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
