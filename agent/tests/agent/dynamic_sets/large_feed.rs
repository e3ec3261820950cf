//! A block beside a large feed.

use super::{first, is_kept, naming, with};
use crate::node::{Node, run, until_live};
use crate::support::on_both_backends;

#[test]
fn block_beside_a_feed_of_100_000_is_enforced() {
    on_both_backends(|place| {
        run(async {
            let mut node = Node::start(place).await;
            let (mut session, _) = node.session().await;
            let feed: Vec<String> = (0..100_000_u32)
                .map(|number| format!("{}/32", std::net::Ipv4Addr::from(0x6440_0000 + number)))
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
                let blocked = with(&base, "block", &["203.0.113.9/32"]);
                for (next, held) in [(&blocked, &base), (&base, &blocked)] {
                    node.notice(&session, next, Some(held)).await;
                    until_live(&mut session, next).await;
                    is_kept(&node);
                }
            }
        });
    });
}
