//! Trials over real connections: the agent's own program, and a controller that decides when
//! to confirm.

use voipfleet_proto::v1::{ControllerMessage, Hello, NodeState};
use voipfleet_testkit::controller::ControllerSession;

use crate::node::{LONG, Node, announced, confirm, hear, run, say, until};
use crate::support::{on_both_backends, same, sample};

#[test]
fn trial_is_confirmed_only_over_a_new_connection() {
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
                .answers
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
fn lock_out_is_rolled_back_and_reported_afterwards() {
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
            node.logs("rolled back").await;
            same(&blocked, &place.everything());
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
fn unreachable_controller_rolls_back() {
    on_both_backends(|place| {
        run(async {
            let mut node = Node::start(place).await;
            let (session, _) = node.session().await;
            let mut session = node.push(session, 1, &sample(1)).await;
            let before = place.everything();
            node.offer(&session, 2, &sample(2), 1500).await;
            until(&mut session, NodeState::Trial).await;
            // It accepts the new connection, and never answers on it.
            let silent = node.controller.sessions.recv().await.unwrap();
            node.logs("rolled back").await;
            same(&before, &place.everything());
            drop(silent);
            let (_session, hello) = node.session().await;
            let status = hello.status.unwrap();
            assert_eq!(status.state(), NodeState::RolledBack, "{}", status.error);
            assert_eq!(node.confirmed(), Some(1));
        });
    });
}

#[test]
fn kill_during_a_trial_rolls_back_at_the_next_start() {
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
                    .any(|w| w.contains("generation 3 was confirmed; it was rolled back")),
                "{warnings:?}"
            );
            same(&before, &place.everything());
            assert_eq!(node.confirmed(), Some(2));
        });
    });
}

/// The session of a restarted agent; the killed one may have left one behind.
async fn next_run(node: &mut Node<'_>) -> (ControllerSession, Hello) {
    loop {
        let (session, hello) = node.session().await;
        if announced(&hello).is_none() {
            return (session, hello);
        }
    }
}
