//! From the controller's notice to the kernel, with the agent's own program.

use voipfleet_proto::v1::NodeState;

use super::{first, is_kept, naming, with};
use crate::node::{LONG, Node, announced, confirm, run, until, until_live};
use crate::support::{on_both_backends, same};

#[test]
fn announced_dynamic_sets_are_fetched_or_derived_from_the_delta() {
    on_both_backends(|place| {
        run(async {
            let mut node = Node::start(place).await;
            let (mut session, hello) = node.session().await;
            assert_eq!(hello.dynamic_digest, b"");
            node.notice(&session, &first(), None).await;
            until_live(&mut session, &first()).await;
            let mut session = node.push(session, 1, &naming(1)).await;
            is_kept(&node);

            let one = with(&first(), "block", &["203.0.113.9/32"]);
            let two = with(&one, "block", &["203.0.113.9/32", "203.0.113.10/32"]);
            node.notice(&session, &one, Some(&first())).await;
            node.notice(&session, &two, Some(&one)).await;
            until_live(&mut session, &two).await;
            is_kept(&node);
            assert!(place.everything().contains("add vf-list-1-4 203.0.113.10"));
            let blocked = place.everything();

            // A delta from what the node does not hold: it asks for the whole.
            let three = with(&two, "allow", &["198.51.100.66/32"]);
            let content = vec![three.encode()];
            node.controller.serve(three.digest().as_bytes(), content);
            node.notice(&session, &three, Some(&one)).await;
            until_live(&mut session, &three).await;
            node.notice(&session, &two, Some(&three)).await;
            until_live(&mut session, &two).await;
            same(&blocked, &place.everything());

            // The next session knows what the node holds.
            node.kill();
            node.run();
            let (mut session, hello) = node.session().await;
            assert_eq!(hello.dynamic_digest, two.digest().as_bytes());
            same(&blocked, &place.everything());
            node.notice(&session, &first(), Some(&two)).await;
            until_live(&mut session, &first()).await;
            is_kept(&node);
        });
    });
}

#[test]
fn offer_waits_for_dynamic_sets_announced_before_it() {
    on_both_backends(|place| {
        run(async {
            let mut node = Node::start(place).await;
            let (mut session, _) = node.session().await;
            // Large enough to arrive after the ruleset, which is fetched at the same time.
            let many: Vec<String> = (0..40_000)
                .map(|i| format!("100.{}.{}.{}/32", 64 + i / 65_536, i / 256 % 256, i % 256))
                .collect();
            let many: Vec<&str> = many.iter().map(String::as_str).collect();
            let dynamic = with(&first(), "deny-feed:bad", &many);
            node.notice(&session, &dynamic, None).await;
            node.offer(&session, 1, &naming(1), LONG).await;
            until(&mut session, NodeState::Trial).await;
            let (mut session, hello) = node.session().await;
            assert_eq!(announced(&hello), Some(1));
            assert_eq!(hello.dynamic_digest, dynamic.digest().as_bytes());
            crate::node::say(&session, confirm(1, &naming(1))).await;
            let status = until(&mut session, NodeState::Applied).await;
            let sets = status.sets.unwrap();
            assert_eq!(sets.enforced, sets.wanted);
            assert!(sets.wanted > 40_000);
            is_kept(&node);
        });
    });
}

#[test]
fn missing_dynamic_sets_are_fetched_again_and_block_offers() {
    on_both_backends(|place| {
        run(async {
            let mut node = Node::start(place).await;
            let (mut session, _) = node.session().await;
            let dynamic = first();
            // The delta has no base, and the full content is not served.
            node.notice(&session, &dynamic, Some(&dynamic)).await;
            node.offer(&session, 1, &naming(1), LONG).await;
            let status = until(&mut session, NodeState::Rejected).await;
            let words = "the dynamic sets that it needs are missing: the content of the dynamic \
                         sets was refused";
            assert!(status.error.contains(words), "{}", status.error);
            assert!(status.dynamic_error.contains("was refused"), "{status:?}");
            assert!(!place.has_ours());
            node.controller
                .serve(dynamic.digest().as_bytes(), vec![dynamic.encode()]);
            let status = until_live(&mut session, &dynamic).await;
            assert_eq!(status.dynamic_error, "");
            node.push(session, 2, &naming(1)).await;
            is_kept(&node);
        });
    });
}
