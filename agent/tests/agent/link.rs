//! The link against a controller that the test scripts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use voipfleet_agent::link::connection_errors::explain;
use voipfleet_agent::link::{FetchLimits, Link};
use voipfleet_agent::mailbox::{Content, Inbox, Offered, Outbox};
use voipfleet_proto::channel;
use voipfleet_proto::v1::agent_message::Kind as Up;
use voipfleet_proto::v1::controller_message::Kind as Down;
use voipfleet_proto::v1::fleet_client::FleetClient;
use voipfleet_proto::v1::{
    AgentMessage, ControllerMessage, DriftAck, DriftRecord, Hello, NodeStatus, Offer, Welcome,
};
use voipfleet_protocol::identity::tls;
use voipfleet_ruleset::ruleset::Digest;
use voipfleet_testkit::controller::{ControllerSession, Served};
use voipfleet_testkit::{Credentials, FakeController, TestCa};

use crate::node::{CONTROLLER, NODE, enrolled};

const LIMIT: Duration = Duration::from_secs(30);

/// A link at work.
struct Linked {
    inbox: Arc<Inbox>,
    outbox: Arc<Outbox>,
    stop: CancellationToken,
    _folder: tempfile::TempDir,
    _failsafe: std::thread::JoinHandle<()>,
    offers: mpsc::UnboundedReceiver<Offered>,
}

impl Linked {
    fn start(controller: &FakeController, node: &Credentials) -> Self {
        Self::start_with(controller, node, FetchLimits::default())
    }

    fn start_with(controller: &FakeController, node: &Credentials, limits: FetchLimits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = enrolled(folder.path(), node, controller.address);
        let (inbox, outbox) = (Arc::new(Inbox::default()), Arc::new(Outbox::default()));
        let stop = CancellationToken::new();
        let config = state.config().unwrap();
        let (to_kernel, from_kernel) = (Arc::clone(&inbox), Arc::clone(&outbox));
        let link = Link::new(state, config, to_kernel, from_kernel, limits);
        tokio::spawn(link.run(stop.clone()));
        // In the place of the task that owns the kernel.
        let (taken, offers) = mpsc::unbounded_channel();
        let failsafe = std::thread::spawn({
            let inbox = Arc::clone(&inbox);
            move || {
                loop {
                    let wake = inbox.wait(Instant::now() + LIMIT);
                    if let Some(controllers) = wake.controllers {
                        assert_eq!(controllers.addresses.len(), 1);
                        let _heard = controllers.done.send(());
                    }
                    if let Some(offered) = wake.offer {
                        let _heard = taken.send(offered);
                    }
                    if wake.stop {
                        return;
                    }
                }
            }
        });
        Self {
            inbox,
            outbox,
            stop,
            _folder: folder,
            _failsafe: failsafe,
            offers,
        }
    }

    async fn offered(&mut self) -> Offered {
        let offered = tokio::time::timeout(LIMIT, self.offers.recv()).await;
        offered.expect("an offer in time").expect("an offer")
    }
}

impl Drop for Linked {
    fn drop(&mut self) {
        self.stop.cancel();
        self.inbox.stop();
    }
}

async fn hear(session: &mut ControllerSession) -> Up {
    let message: AgentMessage = tokio::time::timeout(LIMIT, session.messages.message())
        .await
        .expect("a message")
        .unwrap()
        .unwrap();
    message.kind.unwrap()
}

async fn say(session: &ControllerSession, kind: Down) {
    let message = ControllerMessage { kind: Some(kind) };
    session.answers.send(Ok(message)).await.unwrap();
}

async fn welcome(controller: &mut FakeController) -> (ControllerSession, Hello) {
    let mut session = tokio::time::timeout(LIMIT, controller.sessions.recv())
        .await
        .expect("a session")
        .unwrap();
    let Up::Hello(hello) = hear(&mut session).await else {
        panic!("the first word is not Hello");
    };
    let controller_version = "test".to_owned();
    say(
        &session,
        Down::Welcome(Welcome {
            controller_version,
            ..Welcome::default()
        }),
    )
    .await;
    (session, hello)
}

fn offer(nonce: u64, generation: u64, digest: &Digest, size: usize) -> Down {
    Down::Offer(Offer {
        nonce,
        generation,
        digest: digest.as_bytes().to_vec(),
        size: size as u64,
        confirm_within_ms: 30_000,
        ..Offer::default()
    })
}

#[tokio::test]
async fn offer_is_fetched_verified_and_handed_over() {
    let ca = TestCa::new();
    let mut controller = FakeController::start(&ca.issue(CONTROLLER, 2100)).await;
    let mut linked = Linked::start(&controller, &ca.issue(NODE, 2100));
    let (session, hello) = welcome(&mut controller).await;
    assert_eq!(
        (hello.site.as_str(), hello.node.as_str()),
        ("site-a", "sip1")
    );
    assert_eq!(hello.generation, 0);

    let content = vec![7; 600_000];
    let digest = Digest::of(&content);
    let chunks = content.chunks(256 << 10).map(<[u8]>::to_vec).collect();
    controller.serve(digest.as_bytes(), chunks);
    say(&session, offer(1, 5, &digest, content.len())).await;
    let offered = linked.offered().await;
    assert_eq!((offered.nonce, offered.held.generation), (1, 5));
    assert!(matches!(offered.content, Content::Bytes(bytes) if bytes == content));

    // What does not hold what it promises is refused, with the reason.
    let other = Digest::of(b"other");
    controller.serve(other.as_bytes(), vec![content.clone()[..100].to_vec()]);
    for (nonce, digest, size, words) in [
        (2, other, 100, "does not match the offer"),
        (3, digest, 1000, "longer than the 1000 bytes"),
        (4, digest, 1 << 30, "the limit is"),
        (5, Digest::of(b"missing"), 10, "no such ruleset"),
    ] {
        say(&session, offer(nonce, 6, &digest, size)).await;
        let offered = linked.offered().await;
        assert_eq!(offered.nonce, nonce);
        let Content::Missing(why) = offered.content else {
            panic!("{nonce}: {:?}", offered.content);
        };
        assert!(why.contains(words), "{why}");
    }
}

/// Chunks that stop coming, or never stop, end in time; nothing else waits for them.
#[tokio::test]
async fn fetch_times_out() {
    let ca = TestCa::new();
    let mut controller = FakeController::start(&ca.issue(CONTROLLER, 2100)).await;
    let limits = FetchLimits {
        chunk: Duration::from_millis(50),
        whole: Duration::from_secs(1),
    };
    let mut linked = Linked::start_with(&controller, &ca.issue(NODE, 2100), limits);
    let (session, _) = welcome(&mut controller).await;
    let digest = Digest::of(b"x");
    let drip = Served::Drip(Duration::from_millis(10));
    for (nonce, served) in [(1, Served::Silent(vec![])), (2, drip)] {
        controller.serve_as(digest.as_bytes(), served);
        say(&session, offer(nonce, 5, &digest, 64 << 20)).await;
        let offered = linked.offered().await;
        assert_eq!(offered.nonce, nonce);
        let Content::Missing(why) = offered.content else {
            panic!("{nonce}: {:?}", offered.content);
        };
        assert!(why.contains("did not arrive within 1 s"), "{why}");
    }
}

#[tokio::test]
async fn held_ruleset_is_not_fetched_again() {
    let ca = TestCa::new();
    let mut controller = FakeController::start(&ca.issue(CONTROLLER, 2100)).await;
    let mut linked = Linked::start(&controller, &ca.issue(NODE, 2100));
    let digest = Digest::of(b"x");
    linked.outbox.status(NodeStatus {
        generation: 7,
        confirmed_generation: 7,
        confirmed_digest: digest.as_bytes().to_vec(),
        ..Default::default()
    });
    let (session, _) = welcome(&mut controller).await;
    // Nothing is served: a fetch would be refused, and reported.
    for generation in [6, 7, 8] {
        say(&session, offer(generation, generation, &digest, 1)).await;
        let offered = linked.offered().await;
        assert_eq!(offered.held.generation, generation);
        assert!(matches!(offered.content, Content::NotNeeded), "{offered:?}");
    }
}

#[tokio::test]
async fn broken_session_loses_no_report() {
    let ca = TestCa::new();
    let mut controller = FakeController::start(&ca.issue(CONTROLLER, 2100)).await;
    let linked = Linked::start(&controller, &ca.issue(NODE, 2100));
    let (mut session, _) = welcome(&mut controller).await;
    linked.outbox.record(DriftRecord {
        id: "a-1".to_owned(),
        ..Default::default()
    });
    let Up::Drift(report) = hear(&mut session).await else {
        panic!("no drift");
    };
    assert_eq!(report.records.len(), 1);
    // Not acknowledged; and a status that comes while there is no session.
    drop(session);
    linked.outbox.status(NodeStatus {
        generation: 9,
        ..Default::default()
    });
    let (mut session, hello) = welcome(&mut controller).await;
    assert_eq!(hello.status.unwrap().generation, 9);
    loop {
        match hear(&mut session).await {
            Up::Drift(report) => {
                assert_eq!(report.records[0].id, "a-1");
                break;
            }
            // The same as in Hello, if it came after it.
            Up::Status(status) => assert_eq!(status.generation, 9),
            other => panic!("{other:?}"),
        }
    }
    let ids = vec!["a-1".to_owned()];
    say(&session, Down::DriftAck(DriftAck { ids })).await;
    // Sent after the acknowledgement arrived: nothing comes before it.
    linked.outbox.status(NodeStatus {
        generation: 10,
        ..Default::default()
    });
    loop {
        match hear(&mut session).await {
            Up::Status(status) if status.generation == 10 => break,
            Up::Status(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Dials as the link does, and sends Hello; returns what an operator would read.
async fn refusal(controller: &FakeController, node: &Credentials) -> String {
    let address = controller.address.to_string();
    let config = Arc::new(tls::client(node.tls()).unwrap());
    let channel = match channel::connect(&address, config).await {
        Ok(channel) => channel,
        Err(error) => return explain(&*error, &address),
    };
    let hello = AgentMessage {
        kind: Some(Up::Hello(Hello::default())),
    };
    let status = FleetClient::new(channel)
        .session(tokio_stream::once(hello))
        .await
        .unwrap_err();
    explain(&status, &address)
}

#[tokio::test]
async fn refused_certificate_is_explained() {
    let (ca, other) = (TestCa::new(), TestCa::new());
    let mut controller = FakeController::start(&ca.issue(CONTROLLER, 2100)).await;

    let words = refusal(&controller, &other.issue(NODE, 2100)).await;
    assert!(words.contains("is not from this node's CA"), "{words}");

    // It knows our controller's CA, but another one signed it.
    let mut stranger = other.issue(NODE, 2100);
    stranger.ca = ca.pem();
    let words = refusal(&controller, &stranger).await;
    assert!(
        words.contains("does not know the CA that signed it"),
        "{words}"
    );

    let words = refusal(&controller, &ca.issue(NODE, 2021)).await;
    assert!(words.contains("it has expired; delete the node"), "{words}");

    let impostor = FakeController::start(&ca.issue(NODE, 2100)).await;
    let words = refusal(&impostor, &ca.issue(NODE, 2100)).await;
    assert!(
        words.contains("is not the controller of this node"),
        "{words}"
    );

    controller.sessions.close();
    let words = refusal(&controller, &ca.issue(NODE, 2100)).await;
    assert!(
        words.ends_with("refuses this node: node site-a/sip1 was deleted"),
        "{words}"
    );
}
