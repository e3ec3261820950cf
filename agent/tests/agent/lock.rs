//! One lock for the rules of both families, where the tools have one.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CloneFlags, unshare};
use voipfleet_agent::enforcement::apply::Prepared;
use voipfleet_agent::kernel::{Backend, LOCK_FILE};
use voipfleet_proto::v1::{NodeState, NodeStatus};
use voipfleet_ruleset::ruleset::Family;
use voipfleet_testkit::kernel::Call;

use crate::intercepted::{intercepted, refusing};
use crate::reconciler::{Agent, NEVER, offer};
use crate::support::{Place, failsafe, held, in_namespace, install, same, sample};

/// Whether this process holds the lock of the machine's tools: a line of `/proc/locks` is
/// `7: FLOCK  ADVISORY  WRITE 4711 00:17:1053 0 EOF`.
fn holds_the_lock() -> bool {
    let Ok(file) = std::fs::metadata(LOCK_FILE) else {
        return false;
    };
    let locks = std::fs::read_to_string("/proc/locks").unwrap();
    locks.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, "WRITE", pid, place, ..] = words[..] else {
            return false;
        };
        pid == std::process::id().to_string() && place.ends_with(&format!(":{}", file.ino()))
    })
}

#[test]
fn no_other_program_changes_rules_between_the_families() {
    // Each restore of nf_tables is one transaction, and asks for no lock.
    in_namespace(Backend::Legacy, |place| {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let notes = Arc::clone(&seen);
        let mut kernel = intercepted(place).before(move |_, call| {
            if let Call::Restore(family, _) = call {
                notes.lock().unwrap().push((*family, holds_the_lock()));
            }
            Ok(())
        });
        let ruleset = sample(1);
        let of = held(1, &ruleset);
        let prepared = Prepared::preflight(&kernel, of, ruleset, None, failsafe()).unwrap();
        prepared.enforce(&mut kernel).unwrap();
        assert_eq!(
            *seen.lock().unwrap(),
            [(Family::V4, true), (Family::V6, true)]
        );
    });
}

#[test]
fn xtables_lock_is_released_after_a_refusal() {
    in_namespace(Backend::Legacy, |place| {
        let mut kernel = refusing(place, Family::V4);
        let ruleset = sample(1);
        let of = held(1, &ruleset);
        let prepared = Prepared::preflight(&kernel, of, ruleset, None, failsafe()).unwrap();
        assert!(prepared.enforce(&mut kernel).is_err());
        // It would wait for ten seconds, and be refused.
        place.tool("iptables -w 5 -S");
        place.tool("iptables -w 5 -A FORWARD -j ACCEPT");
        let v6 = place.tool("ip6tables-save");
        assert!(!v6.contains("VF-"), "the other family was begun: {v6}");
    });
}

#[test]
fn lock_on_dev_null_does_not_block_the_tools() {
    in_namespace(Backend::Legacy, |place| {
        // As any user can.
        let anybody = std::fs::File::open("/dev/null").unwrap();
        let _locked = Flock::lock(anybody, FlockArg::LockExclusiveNonblock).unwrap();
        let mut system = place.system();
        let ruleset = sample(1);
        let prepared =
            Prepared::preflight(&system, held(1, &ruleset), ruleset, None, failsafe()).unwrap();
        prepared.enforce(&mut system).unwrap();
    });
}

/// Gives this thread, and those that it starts, a folder `/run` of their own: a lock that is held
/// there keeps no test beside this one out.
fn own_run(place: &Place) {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    place.tool("mount --make-rprivate /");
    place.tool("mount -t tmpfs tmpfs /run");
}

/// A process that holds the lock.
fn hold_lock() -> Child {
    #[allow(clippy::disallowed_methods)] // a stand-in for another program
    let mut child = Command::new("flock")
        .args([LOCK_FILE, "sh", "-c", "echo locked; read word"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut locked = [0; 7];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut locked)
        .unwrap();
    child
}

fn release(holder: &mut Child) {
    drop(holder.stdin.take());
    holder.wait().unwrap();
}

#[test]
fn push_names_the_holder_of_a_held_lock_and_changes_nothing() {
    in_namespace(Backend::Legacy, |place| {
        own_run(place);
        // Reading a legacy table for the first time makes it.
        place.tool("iptables -S");
        place.tool("ip6tables -S");
        let before = place.everything();
        let mut holder = hold_lock();
        let agent = Agent::start(place, NEVER);
        let status = agent.answer_to(offer(1, 1, &sample(1)));
        assert_eq!(status.state(), NodeState::Rejected, "{}", status.error);
        let named = format!("flock (pid {})", holder.id());
        for words in [&named, LOCK_FILE, "nothing was changed", "let it end"] {
            assert!(status.error.contains(words), "{words} in {}", status.error);
        }
        assert!(place.ledger().journal().unwrap().is_none());
        release(&mut holder);
        same(&before, &place.everything());
        let status = agent.answer_to(offer(2, 2, &sample(1)));
        assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
    });
}

#[test]
fn undo_that_meets_a_held_lock_is_done_when_it_is_released() {
    in_namespace(Backend::Legacy, |place| {
        own_run(place);
        install(&mut place.system(), &place.ledger(), 1, sample(1));
        let before = place.everything();
        let agent = Agent::start(place, NEVER);
        let mut brief = offer(2, 2, &sample(2));
        brief.confirm_within = Duration::from_secs(1);
        let attempt = agent.try_out(brief);
        let mut holder = hold_lock();
        let status = agent.status_of(attempt, |state| state != NodeState::Trial);
        assert_eq!((status.state(), status.undo_due), (NodeState::Failed, true));
        release(&mut holder);
        let done = |status: &NodeStatus| !status.undo_due;
        let status = agent.statuses_until(done).into_iter().find(done).unwrap();
        assert_eq!(
            (status.state(), status.generation),
            (NodeState::RolledBack, 2)
        );
        same(&before, &place.everything());
    });
}
