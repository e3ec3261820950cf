//! How long a block takes from the notice to what the node says once it is enforced.

use std::time::{Duration, Instant};

use voipfleet_proto::v1::controller_message::Kind as Down;

use super::{first, is_kept, naming, with};
use crate::node::{Node, notice_of, run, say, until_digest, until_live};
use crate::support::on_both_backends;

/// `cargo test -p voipfleet-agent --test agent -- --ignored --nocapture figure_of_a_block`
#[test]
#[ignore = "it prints a figure"]
fn figure_of_a_block_beside_a_feed_of_100_000() {
    on_both_backends(|place| {
        run(async {
            let mut node = Node::start(place).await;
            let (mut session, _) = node.session().await;
            let feed: Vec<String> = (0..100_000)
                .map(|i| format!("100.{}.{}.{}/32", 64 + i / 65_536, i / 256 % 256, i % 256))
                .collect();
            let feed: Vec<&str> = feed.iter().map(String::as_str).collect();
            // In a set of its own, and in that of the block.
            for source in ["allow", "deny-feed:bad"] {
                let base = with(&first(), source, &feed);
                node.notice(&session, &base, None).await;
                until_live(&mut session, &base).await;
                if node.confirmed().is_none() {
                    session = node.push(session, 1, &naming(1)).await;
                }
                let mut took: Vec<Duration> = Vec::new();
                let mut held = base.clone();
                for round in 0..10 {
                    let blocked = format!("203.0.113.{round}/32");
                    let next = with(&base, "block", &[&blocked]);
                    let (notice, digest) = (notice_of(&next, Some(&held)), next.digest());
                    let start = Instant::now();
                    say(&session, Down::Live(notice)).await;
                    until_digest(&mut session, digest).await;
                    took.push(start.elapsed());
                    held = next;
                }
                took.sort();
                println!(
                    "{:?}: a block from notice to status, 100,000 elements in {source}: median \
                     {:?}, longest {:?}",
                    place.backend, took[5], took[9]
                );
                node.notice(&session, &base, Some(&held)).await;
                until_live(&mut session, &base).await;
                is_kept(&node);
            }
        });
    });
}
