//! What is blocked, allowed and opened without a push.

use tonic::Code;
use voipfleet_controller::store::{Embedded, Store as _};
use voipfleet_proto::v1::{
    BlockRequest, DeleteRequest, EmergencyResponse, EnforcementState, LiftRequest,
    ListBlocksRequest, ListBlocksResponse, NodeStatus, PanicCloseRequest, PanicOpenRequest,
    SiteScope, StatusRequest, SyncState, agent_message, site_scope,
};
use voipfleet_ruleset::ruleset::{DynamicSetName, DynamicSets};
use voipfleet_testkit::AgentSession;

use super::installation::{Installation, SITE, connected, refused};

const FRAUD: &str = "192.0.2.66";

fn block(address: &str) -> BlockRequest {
    BlockRequest {
        address: address.to_owned(),
        scope: Some(SiteScope {
            kind: Some(site_scope::Kind::All(true)),
        }),
        reason: "toll fraud".to_owned(),
        ..BlockRequest::default()
    }
}

fn lift(address: &str) -> LiftRequest {
    LiftRequest {
        address: address.to_owned(),
        scope: None,
    }
}

async fn listed(installation: &Installation) -> ListBlocksResponse {
    let request = ListBlocksRequest::default();
    let answer = installation.operator().await.list_blocks(request).await;
    answer.unwrap().into_inner()
}

/// The node's name, how it stands, and what it says.
fn stands(answer: &EmergencyResponse) -> Vec<(String, EnforcementState, String)> {
    let nodes = answer.sites.iter().flat_map(|site| &site.nodes);
    nodes
        .map(|node| (node.node.clone(), node.state(), node.error.clone()))
        .collect()
}

/// A node that runs what was pushed, connected; and the dynamic sets that it holds.
async fn with_place() -> (Installation, AgentSession, DynamicSets) {
    let (installation, _, mut a) = connected().await;
    let notice = a.notice().await;
    let mut held = a.take_dynamic(&notice, None).await;
    let push = installation.push().await;
    let offer = a.offer().await;
    a.apply(&offer).await;
    push.end().await;
    // Its own address may have come later than its connection.
    while a.pending_notices() > 0 {
        let notice = a.notice().await;
        held = a.take_dynamic(&notice, Some(&held)).await;
    }
    (installation, a, held)
}

/// Takes what the node is told until `done`, while a call goes on.
async fn while_taking<T>(
    session: &mut AgentSession,
    held: &mut DynamicSets,
    call: impl Future<Output = T>,
) -> T {
    let mut call = std::pin::pin!(call);
    loop {
        tokio::select! {
            answer = &mut call => return answer,
            notice = session.notice() => {
                let from = (!notice.delta_from.is_empty()).then_some(&*held);
                *held = session.take_dynamic(&notice, from).await;
            }
        }
    }
}

fn blocked(sets: &DynamicSets) -> Vec<String> {
    let value = sets.get(&DynamicSetName::Block).unwrap();
    let lasting = value.elements.iter().map(ToString::to_string);
    let ending = value.expiring.iter().map(|one| one.net.to_string());
    lasting.chain(ending).collect()
}

#[tokio::test]
async fn a_block_returns_once_the_nodes_enforce_it() {
    let (installation, mut a, mut held) = with_place().await;
    installation.enrol("b").await;
    let mut client = installation.operator().await;
    let call = async { client.block(block(FRAUD)).await.unwrap().into_inner() };
    let answer = while_taking(&mut a, &mut held, call).await;
    assert_eq!(
        stands(&answer),
        [
            ("a".to_owned(), EnforcementState::Enforced, String::new()),
            ("b".to_owned(), EnforcementState::Offline, String::new()),
        ]
    );
    assert_eq!(blocked(&held), ["192.0.2.66/32"]);
    let [exception] = answer.exceptions.as_slice() else {
        panic!("{answer:?}");
    };
    assert_eq!(
        (exception.address.as_str(), exception.by.as_str()),
        (FRAUD, "ada")
    );
    let value = held.get(&DynamicSetName::Block).unwrap();
    let end = value.expiring.first().unwrap().until.unix();
    assert_eq!(
        end * 1000,
        exception.until_ms,
        "the kernel is told the same end"
    );
    // For ever, from now on.
    let forever = BlockRequest {
        forever: true,
        ..block(FRAUD)
    };
    let call = async { client.block(forever).await.unwrap().into_inner() };
    while_taking(&mut a, &mut held, call).await;
    let value = held.get(&DynamicSetName::Block).unwrap();
    assert_eq!((value.elements.len(), value.expiring.len()), (1, 0));
    let call = async { client.unblock(lift(FRAUD)).await.unwrap().into_inner() };
    let answer = while_taking(&mut a, &mut held, call).await;
    assert_eq!(stands(&answer)[0].1, EnforcementState::Enforced);
    assert!(blocked(&held).is_empty());
    assert!(listed(&installation).await.blocks.is_empty());
}

#[tokio::test]
async fn a_node_that_does_not_enforce_it_is_named_with_its_reason() {
    let (installation, mut a, held) = with_place().await;
    let mut client = installation.operator().await;
    let call = client.block(block(FRAUD));
    let refuse = async {
        a.notice().await;
        a.report_dynamic(held.digest().as_bytes(), "the kernel said no")
            .await
            .unwrap();
        std::future::pending::<()>().await;
    };
    let answer = tokio::select! {
        answer = call => answer.unwrap().into_inner(),
        () = refuse => unreachable!(),
    };
    let expected = (
        "a".to_owned(),
        EnforcementState::Waiting,
        "the kernel said no".to_owned(),
    );
    assert_eq!(stands(&answer), [expected]);
    assert_eq!(
        listed(&installation).await.blocks.len(),
        1,
        "it is decided all the same"
    );
}

#[tokio::test]
async fn an_open_node_is_not_synced_and_enforces_no_block() {
    let (installation, mut a, mut held) = with_place().await;
    let why = "IPv4: INPUT does not jump to VF-INPUT";
    let digest = held.digest();
    a.report_open(digest.as_bytes(), why).await.unwrap();
    let node = |status: &voipfleet_proto::v1::NodeReport| (status.state(), status.error.clone());
    let open = (SyncState::Open, format!("open now: {why}"));
    installation
        .until_status(|status| node(&status.nodes["a"]) == open)
        .await;
    let mut client = installation.operator().await;
    let call = async { client.block(block(FRAUD)).await.unwrap().into_inner() };
    let taking = async {
        let notice = a.notice().await;
        let from = (!notice.delta_from.is_empty()).then_some(&held);
        held = a.follow(&notice, from).await;
        a.report_open(held.digest().as_bytes(), why).await.unwrap();
        std::future::pending::<()>().await;
    };
    let answer = tokio::select! {
        answer = call => answer,
        () = taking => unreachable!(),
    };
    let [(_, state, error)] = &stands(&answer)[..] else {
        panic!("{answer:?}");
    };
    assert_eq!(*state, EnforcementState::Waiting);
    assert!(error.contains(why), "{error}");
    // It is closed again.
    let digest = held.digest();
    a.report_open(digest.as_bytes(), "").await.unwrap();
    let synced = |status: &voipfleet_proto::v1::NodeReport| status.state() == SyncState::Synced;
    installation
        .until_status(|status| synced(&status.nodes["a"]))
        .await;
    let call = async { client.block(block(FRAUD)).await.unwrap().into_inner() };
    let answer = while_taking(&mut a, &mut held, call).await;
    assert_eq!(stands(&answer)[0].1, EnforcementState::Enforced);
}

#[tokio::test]
async fn a_block_names_nodes_whose_ruleset_predates_blocks() {
    let (installation, _, _a) = connected().await;
    let mut client = installation.operator().await;
    let answer = client.block(block(FRAUD)).await.unwrap().into_inner();
    assert_eq!(stands(&answer)[0].1, EnforcementState::NotPushed);
}

#[tokio::test]
async fn served_addresses_are_blocked_with_force_only() {
    let (installation, _, _a) = connected().await;
    let mut client = installation.operator().await;
    for (address, whose) in [
        (
            "203.0.113.9",
            "tenant acme: offices (203.0.113.0/24) in site-a",
        ),
        ("203.0.112.0/22", "tenant acme: offices"),
        ("198.51.100.10", "site site-a: admins"),
    ] {
        let message = refused(client.block(block(address)).await, Code::FailedPrecondition);
        assert!(message.contains(whose), "{message}");
        assert!(message.contains("--force"), "{message}");
    }
    assert!(listed(&installation).await.blocks.is_empty());
    let forced = BlockRequest {
        force: true,
        ..block("198.51.100.10")
    };
    let answer = client.block(forced).await.unwrap().into_inner();
    assert!(
        answer.notes[0].contains("SSH of admins still passes"),
        "{answer:?}"
    );
    assert!(answer.exceptions[0].forced);
    let world = BlockRequest {
        force: true,
        ..block("0.0.0.0/0")
    };
    refused(client.block(world).await, Code::InvalidArgument);
    let nowhere = BlockRequest {
        scope: Some(SiteScope {
            kind: Some(site_scope::Kind::Site("site-z".to_owned())),
        }),
        ..block(FRAUD)
    };
    let message = refused(client.block(nowhere).await, Code::NotFound);
    assert!(message.contains("voipctl get site"), "{message}");
}

#[tokio::test]
async fn only_existing_blocks_can_be_lifted() {
    let (installation, _, _a) = connected().await;
    let mut client = installation.operator().await;
    client.block(block("192.0.2.64/28")).await.unwrap();
    let message = refused(client.unblock(lift(FRAUD)).await, Code::NotFound);
    assert!(
        message.contains("as part of 192.0.2.64/28 (on every site)"),
        "{message}"
    );
    let elsewhere = LiftRequest {
        scope: Some(SiteScope {
            kind: Some(site_scope::Kind::Site("site-a".to_owned())),
        }),
        ..lift("192.0.2.64/28")
    };
    let message = refused(client.unblock(elsewhere).await, Code::NotFound);
    assert!(message.contains("blocked only on every site"), "{message}");
    let message = refused(client.disallow(lift("192.0.2.64/28")).await, Code::NotFound);
    assert!(message.contains("voipctl allows"), "{message}");
    client.unblock(lift("192.0.2.64/28")).await.unwrap();
}

/// Twenty at once, on the same address and on others: none is lost.
#[tokio::test]
async fn simultaneous_blocks_are_all_kept() {
    let (installation, _, _a) = connected().await;
    let calls = (0_u32..20).map(|n| {
        let installation = &installation;
        async move {
            let address = match n % 2 {
                0 => FRAUD.to_owned(),
                _ => format!("192.0.2.{}", 100 + n),
            };
            let request = BlockRequest {
                reason: format!("said by {n}"),
                ..block(&address)
            };
            installation.operator().await.block(request).await.unwrap()
        }
    });
    futures_util::future::join_all(calls).await;
    let blocks = listed(&installation).await.blocks;
    assert_eq!(blocks.len(), 11, "{blocks:?}");
}

#[tokio::test]
async fn blocks_survive_a_restart_and_expire() {
    let (mut installation, a, mut held) = with_place().await;
    let mut client = installation.operator().await;
    let mut a = a;
    let call = async { client.block(block(FRAUD)).await.unwrap() };
    while_taking(&mut a, &mut held, call).await;
    let node = a.agent.clone();
    drop(a);
    installation.stop().await;
    installation.run().await;
    assert_eq!(listed(&installation).await.blocks[0].address, FRAUD);
    let mut hello = node.hello();
    hello.dynamic_digest = held.digest().as_bytes().to_vec();
    let mut a = node.open(&installation.address(), hello).await.unwrap();
    a.next().await.unwrap();
    // Its hour is over; a day later it goes from the store with the next decision.
    installation.clock.advance_ms(3_601_000);
    assert!(listed(&installation).await.blocks.is_empty());
    let mut client = installation.operator().await;
    let call = async { client.block(block("192.0.2.67")).await.unwrap() };
    while_taking(&mut a, &mut held, call).await;
    assert_eq!(blocked(&held), ["192.0.2.67/32"]);
    installation.clock.advance_ms(24 * 3_601_000);
    let call = async { client.block(block("192.0.2.68")).await.unwrap() };
    while_taking(&mut a, &mut held, call).await;
    drop(a);
    installation.stop().await;
    let store = Embedded::open(&installation.store_path()).unwrap();
    let left = store.all("block/", 10).await.unwrap();
    let left: Vec<_> = left.iter().map(|entry| entry.key.as_str()).collect();
    assert!(left.contains(&"block/_all/192.0.2.68-32"), "{left:?}");
    assert!(!left.contains(&"block/_all/192.0.2.66-32"), "{left:?}");
}

#[tokio::test]
async fn a_clock_that_was_ahead_for_a_while_ends_no_block_for_good() {
    let (installation, mut a, mut held) = with_place().await;
    let mut client = installation.operator().await;
    let call = async { client.block(block(FRAUD)).await.unwrap() };
    while_taking(&mut a, &mut held, call).await;
    installation.clock.set_ahead_ms(2 * 3_600_000);
    // A decision makes the controller look at what has ended.
    let call = async { client.block(block("192.0.2.67")).await.unwrap() };
    while_taking(&mut a, &mut held, call).await;
    assert_eq!(blocked(&held), ["192.0.2.67/32"]);
    installation.clock.set_ahead_ms(0);
    let call = async { client.block(block("192.0.2.68")).await.unwrap() };
    while_taking(&mut a, &mut held, call).await;
    let blocks = listed(&installation).await.blocks;
    assert!(blocks.iter().any(|one| one.address == FRAUD), "{blocks:?}");
    while !blocked(&held).contains(&"192.0.2.66/32".to_owned()) {
        let notice = a.notice().await;
        let from = (!notice.delta_from.is_empty()).then_some(&held);
        held = a.take_dynamic(&notice, from).await;
    }
}

/// Its clock shows that the block is over, and so its kernel does not hold it.
#[tokio::test]
async fn a_block_that_a_node_counts_as_over_is_not_enforced() {
    let (installation, mut a, _held) = with_place().await;
    let mut client = installation.operator().await;
    let call = client.block(block(FRAUD));
    let now_s = installation.clock.now_ms() / 1000;
    let take = async {
        loop {
            let notice = a.notice().await;
            assert!(
                notice.clock_ms.abs_diff(now_s * 1000) < 60_000,
                "{notice:?}"
            );
            let status = NodeStatus {
                dynamic_digest: notice.digest.clone(),
                fleet_time_s: now_s + 7200,
                ..a.status()
            };
            a.send(agent_message::Kind::Status(status)).await.unwrap();
        }
    };
    let answer = tokio::select! {
        answer = call => answer.unwrap().into_inner(),
        () = take => unreachable!(),
    };
    let [(_, state, error)] = <[_; 1]>::try_from(stands(&answer)).unwrap();
    assert_eq!(state, EnforcementState::Waiting);
    assert!(error.contains("over by this node's reckoning"), "{error}");
}

#[tokio::test]
async fn a_nodes_clock_that_is_off_is_reported() {
    let (installation, a, _held) = with_place().await;
    let mut session = a;
    for (ahead_ms, wanted) in [(7_200_000, true), (0, false), (-6000_i64, true)] {
        let clock_ms = installation.clock.now_ms().saturating_add_signed(ahead_ms);
        let status = NodeStatus {
            clock_ms,
            ..session.status()
        };
        session
            .send(agent_message::Kind::Status(status))
            .await
            .unwrap();
        let near = |skew: i64| (skew - ahead_ms).abs() < 4000;
        let site = installation
            .until_status(|site| site.nodes["a"].clock_skew_ms.is_some_and(near))
            .await;
        let skew = site.nodes["a"].clock_skew_ms.unwrap();
        assert_eq!(skew.abs() > 5000, wanted, "{skew}");
    }
}

#[tokio::test]
async fn an_opened_site_is_reported_and_can_be_closed() {
    let (installation, mut a, mut held) = with_place().await;
    let mut client = installation.operator().await;
    let request = PanicOpenRequest {
        site: "site-a".to_owned(),
        reason: "a bad push".to_owned(),
        ..PanicOpenRequest::default()
    };
    let call = async { client.panic_open(request).await.unwrap().into_inner() };
    let answer = while_taking(&mut a, &mut held, call).await;
    assert_eq!(stands(&answer)[0].1, EnforcementState::Enforced);
    let open = held.get(&DynamicSetName::Open).unwrap();
    let open: Vec<_> = open
        .expiring
        .iter()
        .map(|one| one.net.to_string())
        .collect();
    assert_eq!(open, ["0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1"]);
    let status = installation
        .operator()
        .await
        .status(StatusRequest::default())
        .await
        .unwrap()
        .into_inner();
    let told = status.sites[0].open.clone().unwrap();
    assert_eq!(
        (told.by.as_str(), told.reason.as_str()),
        ("ada", "a bad push")
    );
    assert!(told.until_ms > told.at_ms);
    let close = PanicCloseRequest {
        site: "site-a".to_owned(),
    };
    let call = async {
        client
            .panic_close(close.clone())
            .await
            .unwrap()
            .into_inner()
    };
    let answer = while_taking(&mut a, &mut held, call).await;
    assert!(answer.changed);
    assert!(held.get(&DynamicSetName::Open).unwrap().is_empty());
    let again = client.panic_close(close).await.unwrap().into_inner();
    assert!(!again.changed);
}

/// A site that gets the name of one that is gone begins closed, and with nothing said of it.
#[tokio::test]
async fn blocks_are_deleted_with_their_site() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    let mut client = installation.operator().await;
    let request = PanicOpenRequest {
        site: "site-a".to_owned(),
        forever: true,
        reason: "a bad push".to_owned(),
        ..PanicOpenRequest::default()
    };
    client.panic_open(request).await.unwrap();
    let here = BlockRequest {
        scope: Some(SiteScope {
            kind: Some(site_scope::Kind::Site("site-a".to_owned())),
        }),
        ..block(FRAUD)
    };
    client.block(here).await.unwrap();
    client.block(block("192.0.2.67")).await.unwrap();
    let delete = DeleteRequest {
        kind: "Site".to_owned(),
        name: "site-a".to_owned(),
    };
    client.delete(delete).await.unwrap();
    installation.apply(SITE).await;
    let left = listed(&installation).await;
    assert!(left.open.is_empty(), "{left:?}");
    let blocks: Vec<_> = left.blocks.iter().map(|one| one.address.as_str()).collect();
    assert_eq!(blocks, ["192.0.2.67"], "what was said of every site stays");
}
