//! A disk that takes no writes: what changes is enforced all the same.

use nix::sched::{CloneFlags, unshare};
use voipfleet_proto::v1::NodeState;

use super::{elements, first, naming, takes, with};
use crate::reconciler::{Agent, NEVER, OFTEN, offer};
use crate::support::{Place, on_both_backends};

fn remount(place: &Place, how: &str) {
    let ledger = place.folder.path().join("ledger");
    place.tool(&format!("mount -o remount,{how} {}", ledger.display()));
}

#[test]
fn block_is_enforced_from_a_read_only_disk_and_said_to_end_with_the_agent() {
    on_both_backends(|place| {
        // The mounts of this thread, and of those that it starts, are its own.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        place.tool("mount --make-rprivate /");
        let ledger = place.folder.path().join("ledger");
        std::fs::create_dir(&ledger).unwrap();
        place.tool(&format!("mount -t tmpfs tmpfs {}", ledger.display()));
        let agent = Agent::start(place, NEVER);
        takes(&agent, &first());
        let status = agent.answer_to(offer(1, 1, &naming(1)));
        assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
        remount(place, "ro");
        let blocked = with(&first(), "block", &["203.0.113.9/32"]);
        let status = takes(&agent, &blocked);
        for words in [
            "enforced, but gone at the next start",
            "Read-only file system",
        ] {
            assert!(
                status.dynamic_error.contains(words),
                "{}",
                status.dynamic_error
            );
        }
        agent.warning_until("gone at the next start");
        assert!(elements(place, "vf-list-1-4").contains(&"203.0.113.9".to_owned()));
        drop(agent);

        // The disk takes writes again: the next change is kept, and so is what came meanwhile.
        let agent = Agent::start(place, OFTEN);
        let status = takes(&agent, &blocked);
        assert!(status.dynamic_error.contains("gone at the next start"));
        remount(place, "rw");
        let more = with(&blocked, "block", &["203.0.113.9/32", "203.0.113.10/32"]);
        let status = takes(&agent, &more);
        assert_eq!(status.dynamic_error, "");
        drop(agent);
        let agent = Agent::start(place, NEVER);
        let digest = agent.outbox.last_status().dynamic_digest;
        assert_eq!(digest, more.digest().as_bytes());
        drop(agent);
        place.tool(&format!("umount {}", ledger.display()));
    });
}
