//! What the kernel announces of `nf_tables`.

use std::time::Duration;

use voipfleet_agent::kernel::{Author, Backend, Events, Kernel, KernelEvent};
use voipfleet_common::ruleset::Family;

use crate::support::in_namespace;

/// Long enough for any machine; an event that comes ends the wait.
const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn a_change_names_its_author_and_ours_are_known() {
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
            let KernelEvent::Changed(Some(Author { pid, comm })) = &event else {
                panic!("{event:?}");
            };
            assert!(*pid > 0);
            assert_eq!(comm, "iptables");

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
