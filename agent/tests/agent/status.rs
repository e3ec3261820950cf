//! What `voipfleet-agent status` reports.

use std::process::Output;

use voipfleet_agent::kernel::Backend;
use voipfleet_proto::v1::NodeState;
use voipfleet_testkit::TestCa;

use crate::dynamic_sets::{first, naming, takes};
use crate::node::{NODE, enrolled, program};
use crate::reconciler::{Agent, NEVER, offer};
use crate::support::{Place, in_namespace, on_both_backends};

/// A node that runs a ruleset with dynamic sets, and whose agent has ended.
fn healthy_node(place: &Place) {
    let agent = Agent::start(place, NEVER);
    takes(&agent, &first());
    let status = agent.answer_to(offer(1, 1, &naming(1)));
    assert_eq!(status.state(), NodeState::Applied, "{}", status.error);
}

fn status(place: &Place, arguments: &[&str]) -> Output {
    let mut command = program(place, "status", place.folder.path());
    command.args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn status_of_a_healthy_node_with_dynamic_sets_reports_no_drift() {
    on_both_backends(|place| {
        healthy_node(place);
        let table = status(place, &[]);
        let digest = first().digest().to_string();
        assert!(table.status.success(), "{}", text(&table));
        assert!(
            text(&table).contains("drift         clean"),
            "{}",
            text(&table)
        );
        assert!(text(&table).contains(&digest), "{}", text(&table));

        let json = status(place, &["--json"]);
        let report: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        assert!(json.status.success(), "{report}");
        assert_eq!(report["drift"], "clean");
        assert_eq!(report["dynamic_digest"], digest);
        assert_eq!(report["dynamic_error"], serde_json::Value::Null);
        assert_eq!(report["differences"], serde_json::json!([]));
    });
}

#[test]
fn status_reports_each_difference_and_fails() {
    on_both_backends(|place| {
        healthy_node(place);
        place.tool("ipset del vf-clients-4 10.20.0.11");
        let json = status(place, &["--json"]);
        let report: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(json.status.code(), Some(1), "{report}");
        assert_eq!(report["drift"], "drifted");
        assert_eq!(report["differences"][0]["wanted"], "10.20.0.11/32");
        assert_eq!(report["differences"].as_array().map(Vec::len), Some(1));
    });
}

#[test]
fn damaged_or_unknown_dynamic_sets_fail_the_status_and_are_reported_once() {
    on_both_backends(|place| {
        healthy_node(place);
        let ledger = place.folder.path().join("ledger");
        std::fs::write(ledger.join("dynamic-sets"), "damaged").unwrap();
        let damaged = status(place, &["--json"]);
        let report: serde_json::Value = serde_json::from_slice(&damaged.stdout).unwrap();
        assert_eq!(damaged.status.code(), Some(1), "{report}");
        let error = report["dynamic_error"].as_str().unwrap();
        assert!(error.contains("on disk"), "{error}");
        assert_eq!(String::from_utf8_lossy(&damaged.stderr), "");

        for name in ["dynamic-sets", "dynamic-sets-previous"] {
            let path = ledger.join(name);
            if path.exists() {
                std::fs::remove_file(path).unwrap();
            }
        }
        let unknown = status(place, &[]);
        assert_eq!(unknown.status.code(), Some(1), "{}", text(&unknown));
        let words = "does not know the content of allow, block, cluster";
        assert!(text(&unknown).contains(words), "{}", text(&unknown));
        assert_eq!(String::from_utf8_lossy(&unknown.stderr), "");
    });
}

#[test]
fn enrolled_node_without_a_ruleset_is_unprotected() {
    in_namespace(Backend::Nft, |place| {
        let issued = TestCa::new().issue(NODE, 2100);
        let address = "127.0.0.1:7443".parse().unwrap();
        enrolled(place.folder.path(), &issued, address);
        let shown = status(place, &[]);
        assert_eq!(shown.status.code(), Some(1), "{}", text(&shown));
        let words = "unprotected: this node has no ruleset yet";
        assert!(text(&shown).contains(words), "{}", text(&shown));
        let json = status(place, &["--json"]);
        let report: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(report["unprotected"], true, "{report}");
    });
}
