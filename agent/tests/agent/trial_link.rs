//! Trials over real connections: the agent's own program, and a controller that decides when
//! to confirm.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use voipfleet_agent::state::StateDir;
use voipfleet_common::ruleset::Ruleset;
use voipfleet_proto::v1::agent_message::Kind as Up;
use voipfleet_proto::v1::controller_message::Kind as Down;
use voipfleet_proto::v1::{
    Confirm, ControllerMessage, Hello, NodeState, NodeStatus, Offer, Welcome,
};

use crate::controller::{Ca, Controller, Session, enrolled};
use crate::reconciler::LIMIT;
use crate::support::{Place, on_both_backends, same, sample};

/// Long enough that no trial of a test ends by itself.
const LONG: u64 = 600_000;

/// A controller in the namespace of the test, and the agent's program beside it.
struct Node<'a> {
    place: &'a Place,
    controller: Controller,
    state: StateDir,
    agent: Option<Child>,
}

impl<'a> Node<'a> {
    async fn start(place: &'a Place) -> Self {
        place.tool("ip link set lo up");
        place.be_somebody_else();
        let ca = Ca::new();
        let controller = Controller::start(&ca.issue("controller", 2100)).await;
        let identity = ca.issue("site/site-a/node/sip1", 2100);
        let state = enrolled(
            &place.folder.path().join("state"),
            &identity,
            controller.address,
        );
        let mut node = Self {
            place,
            controller,
            state,
            agent: None,
        };
        node.run();
        node
    }

    fn run(&mut self) {
        #[allow(clippy::disallowed_methods)] // a program of ours, not a tool of the node
        let child = Command::new(env!("CARGO_BIN_EXE_voipfleet-agent"))
            .arg("run")
            .arg("--state")
            .arg(self.place.folder.path().join("state"))
            .args([
                "--tool-path",
                &self.place.tool_path(),
                "--poll-interval",
                "1h",
            ])
            .env("RUST_LOG", "error")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.agent = Some(child);
    }

    /// Ends the agent without warning.
    fn kill(&mut self) {
        let mut agent = self.agent.take().expect("a running agent");
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    /// The next session, up to its Welcome.
    async fn session(&mut self) -> (Session, Hello) {
        let mut session = tokio::time::timeout(LIMIT, self.controller.sessions.recv())
            .await
            .expect("a session")
            .unwrap();
        let Some(Up::Hello(hello)) = hear(&mut session).await else {
            panic!("the first word is not Hello");
        };
        let controller_version = "test".to_owned();
        say(&session, Down::Welcome(Welcome { controller_version })).await;
        (session, hello)
    }

    async fn offer(&self, session: &Session, nonce: u64, ruleset: &Ruleset, within_ms: u64) {
        let content = ruleset.encode();
        let digest = ruleset.digest().as_bytes().to_vec();
        self.controller.serve(&digest, vec![content.clone()]);
        let offer = Offer {
            nonce,
            generation: nonce,
            digest,
            size: content.len() as u64,
            confirm_within_ms: within_ms,
        };
        say(session, Down::Offer(offer)).await;
    }

    /// Offers it, and confirms it on the session that announces its trial.
    async fn push(&mut self, mut session: Session, nonce: u64, ruleset: &Ruleset) -> Session {
        self.offer(&session, nonce, ruleset, LONG).await;
        until(&mut session, NodeState::Trial).await;
        let (mut session, hello) = self.session().await;
        assert_eq!(announced(&hello), Some(nonce));
        say(&session, confirm(nonce, ruleset)).await;
        until(&mut session, NodeState::Applied).await;
        session
    }

    fn confirmed(&self) -> Option<u64> {
        let ledger = voipfleet_agent::ledger::Ledger::look_at(&self.state.ledger());
        let confirmed = ledger.confirmed().unwrap();
        confirmed.map(|confirmed| confirmed.held.generation)
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        if self.agent.is_some() {
            self.kill();
        }
    }
}

async fn hear(session: &mut Session) -> Option<Up> {
    let message = tokio::time::timeout(LIMIT, session.said.message())
        .await
        .expect("a message, or the end");
    // A session whose connection was cut ends with an error.
    message.ok().flatten().and_then(|message| message.kind)
}

async fn say(session: &Session, kind: Down) {
    let message = ControllerMessage { kind: Some(kind) };
    session.say.send(Ok(message)).await.unwrap();
}

/// Hears statuses until one of `state`.
async fn until(session: &mut Session, state: NodeState) -> NodeStatus {
    loop {
        match hear(session).await {
            Some(Up::Status(status)) if status.state() == state => return status,
            Some(_) => {}
            None => panic!("the session ended before {state:?}"),
        }
    }
}

fn announced(hello: &Hello) -> Option<u64> {
    let status = hello.status.as_ref().unwrap();
    (status.state() == NodeState::Trial).then_some(status.nonce)
}

fn confirm(nonce: u64, ruleset: &Ruleset) -> Down {
    Down::Confirm(Confirm {
        nonce,
        generation: nonce,
        digest: ruleset.digest().as_bytes().to_vec(),
    })
}

/// Looks until the kernel is as it was.
async fn until_back(place: &Place, before: &str) {
    let start = Instant::now();
    while place.everything() != before && start.elapsed() < LIMIT {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    same(before, &place.everything());
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test);
}

#[test]
fn a_trial_ends_on_a_new_connection_only() {
    on_both_backends(|place| {
        run(async {
            let mut node = Node::start(place).await;
            let (mut old, hello) = node.session().await;
            assert_eq!(announced(&hello), None);
            let ruleset = sample(1);
            node.offer(&old, 1, &ruleset, LONG).await;
            // On the stream that was there before the new rules, the word does not count.
            until(&mut old, NodeState::Trial).await;
            let _may_be_closed = old
                .say
                .send(Ok(ControllerMessage {
                    kind: Some(confirm(1, &ruleset)),
                }))
                .await;
            while hear(&mut old).await.is_some() {}
            let (mut new, hello) = node.session().await;
            assert_eq!((announced(&hello), hello.generation), (Some(1), 0));
            // Nor does it for another delivery.
            say(&new, confirm(7, &ruleset)).await;
            assert_eq!(node.confirmed(), None);
            say(&new, confirm(1, &ruleset)).await;
            let status = until(&mut new, NodeState::Applied).await;
            assert_eq!((status.nonce, status.confirmed_generation), (1, 1));
            assert_eq!(node.confirmed(), Some(1));
        });
    });
}

#[test]
fn a_lock_out_is_undone_and_told_when_the_way_is_free() {
    on_both_backends(|place| {
        run(async {
            let mut node = Node::start(place).await;
            let (session, _) = node.session().await;
            let mut session = node.push(session, 1, &sample(1)).await;
            let before = place.everything();

            // The stream that is open goes on; every new connection is lost. As with rules that
            // lock the node out.
            let port = node.controller.address.port();
            let block = format!("OUTPUT -p tcp -m tcp --dport {port} --syn -j DROP");
            place.tool(&format!("iptables -A {block}"));
            let blocked = place.everything();
            assert_ne!(blocked, before);
            node.offer(&session, 2, &sample(2), 2000).await;
            until(&mut session, NodeState::Trial).await;
            assert_ne!(place.everything(), blocked);
            until_back(place, &blocked).await;
            assert_eq!(node.confirmed(), Some(1));

            place.tool(&format!("iptables -D {block}"));
            let (session, hello) = node.session().await;
            let status = hello.status.unwrap();
            assert_eq!(status.state(), NodeState::RolledBack);
            assert_eq!((status.generation, status.confirmed_generation), (2, 1));
            let address = node.controller.address;
            let words = format!(
                "no new connection to the controller came through the new rules within 2 s: the \
                 controller at {address} did not answer"
            );
            assert_eq!(status.error, words);
            same(&before, &place.everything());
            node.push(session, 3, &sample(3)).await;
        });
    });
}

#[test]
fn a_controller_that_is_gone_does_not_keep_the_new_rules() {
    on_both_backends(|place| {
        run(async {
            let mut node = Node::start(place).await;
            let (session, _) = node.session().await;
            let mut session = node.push(session, 1, &sample(1)).await;
            let before = place.everything();
            node.offer(&session, 2, &sample(2), 1500).await;
            until(&mut session, NodeState::Trial).await;
            // It takes the new connection, and never says a word on it.
            let silent = node.controller.sessions.recv().await.unwrap();
            until_back(place, &before).await;
            drop(silent);
            let (_session, hello) = node.session().await;
            let status = hello.status.unwrap();
            assert_eq!(status.state(), NodeState::RolledBack, "{}", status.error);
            assert_eq!(node.confirmed(), Some(1));
        });
    });
}

#[test]
fn an_agent_killed_in_a_trial_goes_back_at_its_next_start() {
    on_both_backends(|place| {
        run(async {
            let mut node = Node::start(place).await;
            let empty = place.everything();
            let (mut session, _) = node.session().await;
            // The first ruleset of the node, and one after it.
            node.offer(&session, 1, &sample(1), LONG).await;
            until(&mut session, NodeState::Trial).await;
            node.kill();
            assert!(place.has_ours());
            node.run();
            let (session, hello) = next_run(&mut node).await;
            assert_eq!((announced(&hello), hello.generation), (None, 0));
            same(&empty, &place.everything());

            let session = node.push(session, 2, &sample(2)).await;
            let before = place.everything();
            let mut session = session;
            node.offer(&session, 3, &sample(3), LONG).await;
            until(&mut session, NodeState::Trial).await;
            node.kill();
            assert_ne!(place.everything(), before);
            node.run();
            let (_session, hello) = next_run(&mut node).await;
            assert_eq!((announced(&hello), hello.generation), (None, 2));
            let warnings = hello.facts.unwrap().warnings;
            assert!(
                warnings
                    .iter()
                    .any(|w| w.contains("generation 3 was confirmed; it went back")),
                "{warnings:?}"
            );
            same(&before, &place.everything());
            assert_eq!(node.confirmed(), Some(2));
        });
    });
}

/// The session of an agent that was started anew; the killed one may have left one behind.
async fn next_run(node: &mut Node<'_>) -> (Session, Hello) {
    loop {
        let (session, hello) = node.session().await;
        if announced(&hello).is_none() {
            return (session, hello);
        }
    }
}
