//! What the kernel announces of `nf_tables`.

use std::time::Duration;

use voipfleet_agent::kernel::{Backend, Events, Kernel, KernelEvent, Reach};
use voipfleet_ruleset::ruleset::Family;

use crate::support::in_namespace;

/// Long enough for any machine; an event that comes ends the wait.
const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn event_has_the_reach_of_its_change() {
    in_namespace(Backend::Nft, |place| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut events = Events::open().unwrap();
            let (none, others, ours) = (Reach::Nothing, Reach::Others, Reach::Ours);
            for (line, v4, v6) in [
                ("iptables -N f2b-sshd", ours, none), // it makes the table, too
                ("iptables -N VF-SIP", ours, none),
                ("iptables -A f2b-sshd -j RETURN", others, none),
                ("iptables -A VF-SIP -j DROP", ours, none),
                ("iptables -D VF-SIP 1", ours, none),
                ("iptables -X VF-SIP", ours, none),
                ("iptables -P INPUT DROP", ours, none),
                ("iptables -t nat -N DOCKER", none, none),
                ("ip6tables -N f2b-sshd", none, ours),
                ("ip6tables -A INPUT -j DROP", none, ours),
                ("nft add table inet firewalld", none, none),
                ("nft add chain inet firewalld INPUT", none, none),
                ("nft delete table ip filter", ours, none),
                ("nft flush ruleset", none, ours),
            ] {
                place.tool(line);
                let event = tokio::time::timeout(LIMIT, events.next())
                    .await
                    .expect("an announcement")
                    .unwrap();
                let KernelEvent::Changed(transaction) = event else {
                    panic!("{line}: {event:?}");
                };
                assert_eq!((transaction.v4, transaction.v6), (v4, v6), "{line}");
            }
        });
    });
}

#[test]
fn event_has_its_author_and_own_changes_are_recognised() {
    in_namespace(Backend::Nft, |place| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut events = Events::open().unwrap();
            let mut next = async || {
                tokio::time::timeout(LIMIT, events.next())
                    .await
                    .expect("an announcement")
                    .unwrap()
            };
            place.tool("iptables -N f2b-sshd");
            let event = next().await;
            let KernelEvent::Changed(transaction) = &event else {
                panic!("{event:?}");
            };
            let author = transaction.author.as_ref().expect("an author");
            assert!(author.process.pid > 0);
            assert_eq!(author.process.comm, "iptables");

            let mut system = place.system();
            assert!(!event.is_by(&system.own_processes()));
            // A scratch namespace announces nothing here.
            let mut scratch = system.scratch().unwrap();
            let input = "*filter\n:VF-INPUT - [0:0]\nCOMMIT\n";
            scratch.restore(Family::V4, input).unwrap();
            system.restore(Family::V6, input).unwrap();
            // Reading makes none either, so that the next is that of the last restore.
            let event = next().await;
            assert!(event.is_by(&system.own_processes()), "{event:?}");
        });
    });
}
