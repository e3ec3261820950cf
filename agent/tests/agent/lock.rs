//! One lock for the rules of both families, where the tools have one.

use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex};

use nix::fcntl::{Flock, FlockArg};
use voipfleet_agent::enforcement::apply::Prepared;
use voipfleet_agent::kernel::{Backend, LOCK_FILE};
use voipfleet_ruleset::ruleset::Family;
use voipfleet_testkit::kernel::Call;

use crate::intercepted::{intercepted, refusing};
use crate::support::{failsafe, held, in_namespace, sample};

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
