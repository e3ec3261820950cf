//! A program that undoes every repair: backed off from, named, and no reason to leave the rest.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;

use voipfleet_agent::enforcement::inspect::inspect;
use voipfleet_agent::kernel::Backend;
use voipfleet_proto::v1::{self as pb, DriftRecord, DriftState, NodeStatus};

use crate::intercepted::counted;
use crate::reconciler::{Agent, NEVER, OFTEN};
use crate::support::{Place, in_namespace, install, on_both_backends, sample};

/// A shell under a name of its own, which works against us until it is dropped.
pub(crate) struct Meddler {
    child: Child,
    /// The file that it runs.
    program: PathBuf,
}

impl Meddler {
    pub(crate) fn start(place: &Place, script: &str) -> Self {
        let program = place.folder.path().join("meddler");
        // A copy would be busy while another test starts a program.
        symlink("/bin/bash", &program).unwrap();
        #[allow(clippy::disallowed_methods)] // the exec module waits for the end
        let child = Command::new(&program)
            .args(["-c", script])
            .env_clear()
            .env("PATH", place.tool_path())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            child,
            program: std::fs::canonicalize(program).unwrap(),
        }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn is(status: &NodeStatus, state: DriftState) -> bool {
    status.drift() == state
}

fn repaired(records: &[DriftRecord], family: pb::Family, chain: &str) -> bool {
    records.iter().any(|record| {
        record.family() == family && record.chain == chain && record.repaired_after_ms.is_some()
    })
}

#[test]
fn contended_chain_backs_off_and_other_drift_is_repaired() {
    on_both_backends(|place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        let confirmed = install(&mut system, &ledger, 1, sample(1));
        let (agent, counts) = counted(place, NEVER);
        let script = "while :; do iptables -D VF-SITE1 1; sleep 0.02; done";
        let meddler = Meddler::start(place, script);
        let contended = |status: &NodeStatus| is(status, DriftState::Contended);
        let statuses = agent.statuses_until(contended);
        let status = statuses.iter().find(|status| contended(status)).unwrap();
        let detail = &status.drift_detail;
        assert!(detail.contains("VF-SITE1 (IPv4) by "), "{detail}");
        // Legacy's lock is the whole machine's: tests beside this one take it too.
        if place.backend == Backend::Nft {
            let program = meddler.program.to_str().unwrap();
            let pid = format!("by meddler (pid {}, ", meddler.pid());
            for word in [&pid, "user root", program] {
                assert!(detail.contains(word), "{word} in {detail}");
            }
        }
        let writes = counts.writes.load(Ordering::SeqCst);
        // Ten, and those that were repeated because the table had changed meanwhile.
        assert!((10..=30).contains(&writes), "{writes} restores");

        // It goes on, and yet the rest is repaired.
        for (line, family, chain) in [
            ("ip6tables -D VF-SITE1 1", pb::Family::V6, "VF-SITE1"),
            ("iptables -D VF-SIP 1", pb::Family::V4, "VF-SIP"),
            ("iptables -D INPUT -j VF-INPUT", pb::Family::V4, "INPUT"),
        ] {
            place.tool(line);
            agent.records_until(|records| repaired(records, family, chain));
            assert!(contended(&agent.outbox.last_status()));
        }
        // Those three, and the contended one after 1, 2, 4 … s; some of them repeated.
        let more = counts.writes.load(Ordering::SeqCst) - writes;
        assert!((3..=24).contains(&more), "{more} restores more");

        drop(meddler);
        let clean = |status: &NodeStatus| is(status, DriftState::Clean);
        let statuses = agent.statuses_until(clean);
        let status = statuses.iter().find(|status| clean(status)).unwrap();
        assert_eq!(status.drift_detail, "");
        assert!(inspect(&mut system, &confirmed).is_clean());
    });
}

#[test]
fn running_author_is_known_by_executable_and_user() {
    in_namespace(Backend::Nft, |place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        install(&mut system, &ledger, 1, sample(1));
        let agent = Agent::start(place, NEVER);
        // The tool has made its change, and waits for more input: there is time to read /proc.
        let script = "(printf '*filter\\n-D VF-SITE1 1\\nCOMMIT\\n'; sleep 60) | \
                      iptables-restore --noflush";
        let meddler = Meddler::start(place, script);
        let records = agent.records_until(|records| repaired(records, pb::Family::V4, "VF-SITE1"));
        let by = records[0].by.as_ref().expect("an author");
        assert_eq!(
            (by.comm.as_str(), by.user.as_str()),
            ("iptables-restor", "root")
        );
        assert!(by.executable.contains("xtables"), "{by:?}");
        let starter = by.started_by.as_ref().expect("who started it");
        assert_eq!(
            (starter.pid, starter.comm.as_str()),
            (meddler.pid(), "meddler")
        );
        assert_eq!(starter.executable, meddler.program.to_str().unwrap());
    });
}

#[test]
fn varying_edits_become_contention() {
    in_namespace(Backend::Nft, |place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        install(&mut system, &ledger, 1, sample(1));
        let agent = Agent::start(place, NEVER);
        for round in 1..=300 {
            let source = format!("10.0.{}.{}", round / 250, round % 250 + 1);
            place.tool(&format!("iptables -I VF-SITE1 1 -s {source} -j ACCEPT"));
            let source = format!("-s {source}/32 ");
            let found = |record: &DriftRecord| record.observed.contains(&source);
            let records = agent.records_until(|records| records.iter().any(found));
            let record = records.iter().find(|record| found(record)).unwrap();
            if record.repaired_after_ms.is_none() {
                assert!(round > 200, "an operator who tries things out has time");
                return agent.drift_until(DriftState::Contended);
            }
        }
        panic!("never contended");
    });
}

#[test]
fn contended_set_leaves_the_rules_alone() {
    in_namespace(Backend::Nft, |place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        install(&mut system, &ledger, 1, sample(1));
        let agent = Agent::start(place, OFTEN);
        let script = "while :; do ipset flush vf-list-1-4; sleep 0.02; done";
        let _meddler = Meddler::start(place, script);
        let contended = |status: &NodeStatus| is(status, DriftState::Contended);
        let statuses = agent.statuses_until(contended);
        let status = statuses.iter().find(|status| contended(status)).unwrap();
        let detail = &status.drift_detail;
        assert!(
            detail.contains("vf-list-1-4 (IPv4) by an unknown program"),
            "{detail}"
        );
        place.tool("ip6tables -F VF-SIP");
        place.tool("ipset flush vf-list-1-6");
        agent.records_until(|records| {
            let family = pb::Family::V6;
            repaired(records, family, "VF-SIP") && repaired(records, family, "vf-list-1-6")
        });
    });
}
