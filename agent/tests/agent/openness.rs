//! A node whose rules are kept out of force: it is open, says so, and is closed within seconds.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use voipfleet_proto::v1::{DriftState, NodeState, NodeStatus};
use voipfleet_testkit::kernel::Call;

use crate::contention::Meddler;
use crate::intercepted::failing_while;
use crate::node::program;
use crate::reconciler::{Agent, NEVER, OFTEN, offer};
use crate::support::{Place, install, on_both_backends, sample};

fn is_open(status: &NodeStatus) -> bool {
    !status.open.is_empty()
}

/// An agent that runs a ruleset.
fn running(place: &Place) -> Agent {
    install(&mut place.system(), &place.ledger(), 1, sample(1));
    Agent::start(place, NEVER)
}

#[test]
fn node_whose_jump_is_fought_over_reports_that_it_is_open_and_is_closed_in_seconds() {
    on_both_backends(|place| {
        let agent = running(place);
        let script = "while :; do iptables -D INPUT -j VF-INPUT && sleep 0.02; done";
        let meddler = Meddler::start(place, script);
        // The jump may be gone again right after a repair, before repairs wait.
        let is_left_open =
            |status: &NodeStatus| is_open(status) && status.drift() == DriftState::Contended;
        let statuses = agent.statuses_until(is_left_open);
        let words = "IPv4: INPUT does not jump to VF-INPUT";
        for status in statuses.iter().filter(|status| is_open(status)) {
            assert!(status.open.contains(words), "{}", status.open);
        }
        // For long enough that the intervals would grow: nothing else tells of their length.
        let fought = Instant::now();
        while fought.elapsed() < Duration::from_secs(5) {
            agent.records_within(Duration::from_millis(100));
        }
        drop(meddler);
        let stopped = Instant::now();
        let jumps = || {
            place
                .runner()
                .run("iptables", &["-C", "INPUT", "-j", "VF-INPUT"], "")
        };
        while jumps().is_err() {
            assert!(stopped.elapsed() < Duration::from_secs(4), "still open");
            agent.records_within(Duration::from_millis(20));
        }
        agent.reports_until(|| !is_open(&agent.outbox.last_status()));
    });
}

#[test]
fn node_is_open_while_its_chain_cannot_be_put_back() {
    on_both_backends(|place| {
        install(&mut place.system(), &place.ledger(), 1, sample(1));
        let (kernel, stuck) = failing_while(place, |call| matches!(call, Call::Restore(..)));
        let own = kernel.kernel.own_processes();
        let agent = Agent::start_with(place, OFTEN, Box::new(kernel), own);
        for (line, words) in [
            (
                "iptables -F VF-INPUT",
                "VF-INPUT has lost its default verdict",
            ),
            (
                "ip6tables -I INPUT 1 -p udp -j ACCEPT",
                "-A INPUT -p udp -j ACCEPT decides",
            ),
            (
                "iptables -I INPUT 1 -j ACCEPT",
                "-A INPUT -j ACCEPT decides",
            ),
            ("ip6tables -D INPUT -j VF-INPUT", "does not jump"),
        ] {
            stuck.store(true, Ordering::SeqCst);
            place.tool(line);
            agent.statuses_until(|status| status.open.contains(words));
            stuck.store(false, Ordering::SeqCst);
            agent.reports_until(|| !is_open(&agent.outbox.last_status()));
        }
        // What closes more than it should is not open.
        stuck.store(true, Ordering::SeqCst);
        place.tool("iptables -F VF-SIP");
        agent.records_until(|records| records.iter().any(|record| record.chain == "VF-SIP"));
        assert!(!is_open(&agent.outbox.last_status()));
    });
}

#[test]
fn status_of_an_open_node_fails_and_names_why() {
    on_both_backends(|place| {
        let agent = Agent::start(place, NEVER);
        let status = agent.answer_to(offer(1, 1, &sample(1)));
        assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
        drop(agent);
        place.tool("iptables -D INPUT -j VF-INPUT");
        let status = |arguments: &[&str]| {
            let mut command = program(place, "status", place.folder.path());
            let output = command.args(arguments).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            (output.status.code(), text)
        };
        let (code, text) = status(&[]);
        assert_eq!(code, Some(1), "{text}");
        let words = "open now: IPv4: INPUT does not jump to VF-INPUT";
        assert!(text.contains(words), "{text}");
        let (code, json) = status(&["--json"]);
        let report: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(code, Some(1), "{report}");
        assert_eq!(report["open"][0], "IPv4: INPUT does not jump to VF-INPUT");
    });
}
