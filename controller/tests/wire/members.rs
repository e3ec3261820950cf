//! Who becomes a member of a site's cluster, whatever its nodes say.

use std::net::IpAddr;

use voipfleet_proto::v1::{
    AuditRequest, BlockRequest, ClusterReport, DeleteRequest, InterfaceAddress, NodeState,
    NodeStatus, PendingAddress, PlanRequest, StatusRequest, SyncState, agent_message,
};
use voipfleet_protocol::audit::Record;
use voipfleet_ruleset::ruleset::{DynamicSetName, DynamicSets, Ruleset, SetName};
use voipfleet_testkit::AgentSession;
use voipfleet_testkit::documents::SiteBuilder;

use super::installation::{Installation, acme, site};
use super::requests::everywhere;

const ATTACKER: &str = "198.51.100.66";
const A: &str = "10.0.0.97";
const B: &str = "10.0.0.98";

fn with_networks(networks: &[&str]) -> SiteBuilder {
    site().set("cluster/networks", networks)
}

fn documents() -> String {
    with_networks(&["10.0.0.0/24"]) + acme("203.0.113.0/24")
}

fn address(interface: &str, text: &str) -> InterfaceAddress {
    InterfaceAddress {
        interface: interface.to_owned(),
        address: match text.parse().unwrap() {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        },
        prefix_length: 24,
    }
}

fn block(address: &str, force: bool) -> BlockRequest {
    BlockRequest {
        address: address.to_owned(),
        scope: Some(everywhere()),
        reason: "a test".to_owned(),
        force,
        ..BlockRequest::default()
    }
}

/// A connected node that runs what was pushed, and follows its dynamic sets.
struct Follower {
    session: AgentSession,
    ruleset: Ruleset,
    held: DynamicSets,
}

impl Follower {
    /// Takes the push that is under way.
    async fn take(mut session: AgentSession) -> Self {
        let offer = session.offer().await;
        let ruleset = session.fetch_offered(&offer).await.unwrap();
        session.apply(&offer).await;
        let notice = session.notice().await;
        let held = session.take_dynamic(&notice, None).await;
        Self {
            session,
            ruleset,
            held,
        }
    }

    /// What its kernel takes for members of the cluster.
    fn members(&self) -> Vec<String> {
        let effective = self.ruleset.with_dynamic(&self.held).unwrap();
        let name = SetName::from_kernel_name("vf-cluster-4").unwrap();
        let set = effective.sets.iter().find(|set| set.name == name).unwrap();
        let elements = set.elements.iter();
        elements.map(|net| net.addr().to_string()).collect()
    }

    async fn next(&mut self) {
        let notice = self.session.notice().await;
        let from = (!notice.delta_from.is_empty()).then_some(&self.held);
        self.held = self.session.take_dynamic(&notice, from).await;
    }

    async fn until(&mut self, wanted: &[&str]) {
        while self.members() != wanted {
            self.next().await;
        }
    }

    /// Blocks an address, and takes the change: what came before it has arrived, too.
    async fn blocked(&mut self, installation: &Installation, address: &'static str) {
        let mut operator = installation.operator().await;
        // Other nodes of the test take no dynamic sets, and are not waited for.
        let blocking = tokio::spawn(async move { operator.block(block(address, false)).await });
        let blocked: IpAddr = address.parse().unwrap();
        while !self.held.get(&DynamicSetName::Block).is_some_and(|set| {
            let mut ending = set.expiring.iter();
            ending.any(|one| one.net.addr() == blocked)
        }) {
            self.next().await;
        }
        blocking.abort();
    }

    async fn report_missing(&mut self, interfaces: &[&str]) {
        let status = NodeStatus {
            missing_interfaces: interfaces.iter().map(|name| (*name).to_owned()).collect(),
            ..self.session.status()
        };
        let status = agent_message::Kind::Status(status);
        self.session.send(status).await.unwrap();
    }

    async fn report(&mut self, addresses: Vec<InterfaceAddress>) {
        let mut facts = self.session.agent.hello().facts.unwrap();
        facts.addresses = addresses;
        let facts = agent_message::Kind::Facts(facts);
        self.session.send(facts).await.unwrap();
    }
}

/// An installation with two connected nodes, and the sessions of these.
async fn enrolled(documents: &str) -> (Installation, AgentSession, AgentSession) {
    let installation = Installation::start().await;
    installation.apply(documents).await;
    let a = installation.enrol("a").await;
    let a = a.connect(&installation.address()).await.unwrap();
    let b = installation.enrol("b").await;
    let b = b.connect(&installation.address()).await.unwrap();
    (installation, a, b)
}

/// The same, with nodes that run what was pushed.
async fn pushed(documents: &str) -> (Installation, Follower, Follower) {
    let (installation, a, b) = enrolled(documents).await;
    let push = installation.push().await;
    let (mut a, b) = (Follower::take(a).await, Follower::take(b).await);
    assert_eq!(push.end().await.0.applied, 2);
    a.until(&[A, B]).await;
    (installation, a, b)
}

/// What the audit log has of a kind, as `objects: detail`.
async fn audited(installation: &Installation, what: &str) -> Vec<String> {
    let mut operator = installation.operator().await;
    let answer = operator.audit(AuditRequest::default()).await;
    let records = answer.unwrap().into_inner().records;
    let records = records
        .iter()
        .map(|bytes| serde_json::from_slice::<Record>(bytes).unwrap());
    let of_kind = records.filter(|record| record.what == what);
    of_kind
        .map(|record| {
            let detail = record.detail.unwrap_or_default();
            format!("{}: {detail}", record.objects.join(", "))
        })
        .collect()
}

async fn cluster(installation: &Installation) -> ClusterReport {
    let mut operator = installation.operator().await;
    let answer = operator.status(StatusRequest::default()).await;
    let mut sites = answer.unwrap().into_inner().sites;
    sites.remove(0).cluster.unwrap_or_default()
}

#[tokio::test]
async fn a_node_that_lies_about_its_addresses_opens_nothing() {
    let (installation, mut a, mut b) = pushed(&documents()).await;
    b.report(vec![
        address("eth1", B),
        address("eth1", ATTACKER),
        address("eth0", "8.8.8.0"),
        address("eth1", "0.0.0.0"),
        address("eth1", "203.0.113.9"),
        address("eth1", "10.0.0.77"),
    ])
    .await;
    // Inside the network it is one more member: the sign that the rest was judged, too.
    a.until(&["10.0.0.77", A, B]).await;
    let report = installation
        .until(async || Some(cluster(&installation).await).filter(|report| report.members == 3))
        .await;
    let pending = report.pending.iter();
    let pending: Vec<(&str, &str)> = pending
        .map(|one| (one.address.as_str(), one.reason.as_str()))
        .collect();
    let outside = "outside cluster.networks";
    assert_eq!(
        pending,
        [
            ("8.8.8.0", outside),
            (ATTACKER, outside),
            ("203.0.113.9", outside)
        ]
    );
    let changed = audited(&installation, "ClusterChanged").await;
    let added = |one: &String| one.contains("added 10.0.0.77 (b)");
    assert!(changed.iter().any(added), "{changed:?}");
    let pending = audited(&installation, "ClusterPending").await;
    let [record] = pending.as_slice() else {
        panic!("{pending:?}");
    };
    assert!(record.starts_with("Node/site-a/b: "), "{record}");
    let named = "198.51.100.66 on eth1: outside cluster.networks";
    assert!(record.contains(named), "{record}");
    // Nor does it keep an operator from blocking what it names.
    a.blocked(&installation, ATTACKER).await;
    let request = PlanRequest {
        site: "site-a".to_owned(),
        ..PlanRequest::default()
    };
    let plan = installation.operator().await.plan(request).await;
    let pending = plan.unwrap().into_inner().pending;
    assert!(
        pending.iter().any(|one| one.address == ATTACKER),
        "{pending:?}"
    );
}

#[tokio::test]
async fn a_join_token_makes_no_member() {
    let (installation, mut a, b) = pushed(&documents()).await;
    // It says that it has confirmed something.
    let mut thief = installation.enrol("c").await;
    thief.confirmed = Some((1, vec![7; 32]));
    let c = thief.connect(&installation.address()).await.unwrap();
    let pending = installation
        .until(async || {
            let pending = cluster(&installation).await.pending;
            let unconfirmed = |one: &PendingAddress| {
                one.node == "c" && one.reason == "its node has not confirmed a push"
            };
            pending.into_iter().find(unconfirmed)
        })
        .await;
    assert_eq!(pending.address, "10.0.0.99");
    a.blocked(&installation, "192.0.2.66").await;
    assert_eq!(a.members(), [A, B]);
    // Once it has confirmed the ruleset that was pushed for it, it is one, inside the networks.
    drop((b, c));
    thief.confirmed = None;
    let mut c = thief.connect(&installation.address()).await.unwrap();
    let offer = c.offer().await;
    c.apply(&offer).await;
    a.until(&[A, B, "10.0.0.99"]).await;
}

#[tokio::test]
async fn a_node_that_refuses_its_first_push_is_no_member() {
    let (installation, a, mut b) = enrolled(&documents()).await;
    let _push = installation.push().await;
    let mut a = Follower::take(a).await;
    // While the push is under way they do not shut each other out.
    a.until(&[A, B]).await;
    let offer = b.offer().await;
    b.report(&offer, NodeState::RolledBack, "the probe dns failed")
        .await;
    a.until(&[A]).await;
    let pending = installation
        .until(async || cluster(&installation).await.pending.pop())
        .await;
    assert_eq!(pending.reason, "its node has not confirmed a push");
}

#[tokio::test]
async fn documents_that_are_not_pushed_change_no_member() {
    let (installation, mut a, mut b) = pushed(&documents()).await;
    b.report(vec![address("eth1", B), address("eth1", ATTACKER)])
        .await;
    for networks in [
        ["10.0.0.0/24", "198.51.100.0/24"].as_slice(),
        &["10.9.0.0/24"],
    ] {
        let applied = with_networks(networks) + acme("203.0.113.0/24");
        installation.apply(&applied).await;
    }
    // A change after them that reaches the node proves that they would have.
    a.blocked(&installation, "192.0.2.66").await;
    assert_eq!(a.members(), [A, B]);
}

#[tokio::test]
async fn a_floating_address_is_never_out_of_the_set() {
    const FLOATING: &str = "10.0.0.200";
    let (installation, mut a, mut b) = pushed(&documents()).await;
    let moved = address("eth1", FLOATING);
    b.report(vec![address("eth1", B), moved.clone()]).await;
    a.until(&[A, B, FLOATING]).await;
    // The node that loses it says so first, the one that has it now a while later.
    b.report(vec![address("eth1", B), address("eth1", "10.0.0.7")])
        .await;
    a.until(&["10.0.0.7", A, B, FLOATING]).await;
    a.report(vec![address("eth1", A), moved]).await;
    installation
        .until(async || (cluster(&installation).await.members == 4).then_some(()))
        .await;
    installation.clock.advance_ms(61_000);
    a.blocked(&installation, "192.0.2.66").await;
    assert_eq!(a.members(), ["10.0.0.7", A, B, FLOATING]);
    // No node has it: after a minute it is gone.
    a.report(vec![address("eth1", A)]).await;
    a.blocked(&installation, "192.0.2.67").await;
    assert!(a.members().contains(&FLOATING.to_owned()));
    installation.clock.advance_ms(61_000);
    a.until(&["10.0.0.7", A, B]).await;
}

#[tokio::test]
async fn of_two_machines_with_one_identity_the_first_stays() {
    let (installation, mut a, b) = pushed(&documents()).await;
    let original = b.session.agent.clone();
    let running = b.session.run();
    let copy = original.copy(vec![address("eth1", "10.0.0.66")]);
    for _ in 0..3 {
        let refused = copy.connect(&installation.address()).await.unwrap_err();
        let text = refused.to_string();
        let told = "another machine with this node's identity";
        assert!(text.contains(told), "{text}");
    }
    assert!(!running.has_ended(), "the one that is there stays");
    let status = installation.status().await;
    let node = &status.nodes["b"];
    assert_eq!(node.state(), SyncState::Error);
    let told = "another machine, at 127.0.0.1, has the identity of this node";
    assert!(node.error.contains(told), "{}", node.error);
    let refusals = audited(&installation, "DuplicateNode").await;
    assert_eq!(refusals.len(), 3, "{refusals:?}");
    // Nor does it get in while the first one is away for a moment.
    drop(running);
    installation
        .until_status(|site| !site.nodes["b"].connected)
        .await;
    copy.connect(&installation.address()).await.unwrap_err();
    // The agent of the first machine may have been started anew.
    let mut restarted = original;
    restarted.instance = "second".to_owned();
    let _b = restarted.connect(&installation.address()).await.unwrap();
    a.blocked(&installation, "192.0.2.66").await;
    assert_eq!(a.members(), [A, B]);
    let changed = audited(&installation, "ClusterChanged").await;
    let flipped = |one: &String| one.contains("10.0.0.66");
    assert!(!changed.iter().any(flipped), "{changed:?}");
}

#[tokio::test]
async fn a_machine_that_was_started_anew_takes_its_place() {
    let (installation, _a, b) = pushed(&documents()).await;
    let mut restarted = b.session.agent.clone();
    restarted.instance = "second".to_owned();
    // The connection of before is still open, and nothing answers on it.
    let _second = restarted.connect(&installation.address()).await.unwrap();
    let status = installation.status().await;
    assert_eq!(status.nodes["b"].error, "");
    drop(b);
}

#[tokio::test]
async fn a_missing_interface_of_the_cluster_is_an_error_at_once() {
    let site = with_networks(&["10.0.0.0/24"]).set("cluster/interface", "eth1");
    let (installation, _a, mut b) = pushed(&(site + acme("203.0.113.0/24"))).await;
    b.report_missing(&["eth1"]).await;
    let site = installation
        .until_status(|site| site.nodes["b"].state() == SyncState::Error)
        .await;
    let error = &site.nodes["b"].error;
    for told in [
        "no interface eth1",
        "cluster: {nodes: {b: {interface: NAME}}}",
    ] {
        assert!(error.contains(told), "{error}");
    }
    assert_eq!(site.nodes["a"].state(), SyncState::Synced);
    b.report_missing(&[]).await;
    installation
        .until_status(|site| site.nodes["b"].state() == SyncState::Synced)
        .await;
}

#[tokio::test]
async fn a_deleted_node_is_no_member_any_more() {
    let (installation, mut a, _b) = pushed(&documents()).await;
    let request = DeleteRequest {
        kind: "node".to_owned(),
        name: "site-a/b".to_owned(),
    };
    installation.operator().await.delete(request).await.unwrap();
    a.until(&[A]).await;
    let changed = installation
        .until(async || {
            let all = audited(&installation, "ClusterChanged").await;
            let removed = |one: &String| one.contains("removed 10.0.0.98 (b)");
            all.into_iter().find(removed)
        })
        .await;
    assert!(changed.contains("1 in all"), "{changed}");
}

#[tokio::test]
async fn a_forced_block_reaches_a_member() {
    let (installation, mut a, _b) = pushed(&documents()).await;
    let mut operator = installation.operator().await;
    let refusal = operator.block(block(B, false)).await.unwrap_err();
    assert!(refusal.message().contains("belongs to node b"), "{refusal}");
    let mut blocking = std::pin::pin!(operator.block(block(B, true)));
    let notes = loop {
        tokio::select! {
            answer = &mut blocking => break answer.unwrap().into_inner().notes,
            () = a.next() => {}
        }
    };
    let told = |note: &String| note.contains("take nothing from it");
    assert!(notes.iter().any(told), "{notes:?}");
    let effective = a.ruleset.with_dynamic(&a.held).unwrap();
    let name = SetName::from_kernel_name("vf-block-forced-4").unwrap();
    let set = effective.sets.iter().find(|set| set.name == name).unwrap();
    assert_eq!(set.expiring.len(), 1, "{set:?}");
}
