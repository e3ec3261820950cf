//! An agent in a container, which has process ids of its own.

use std::process::Command;

use voipfleet_agent::kernel::Backend;
use voipfleet_proto::v1::DriftRecord;

use crate::reconciler::{Agent, NEVER};
use crate::support::{in_namespace, install, sample};

/// The kernel names authors by ids of the first namespace: there, none is ours.
#[test]
fn own_tool_is_never_an_author_in_a_container() {
    #[allow(clippy::disallowed_methods)] // not a tool of the node
    let ended = Command::new("unshare")
        .args(["--pid", "--fork", "--mount-proc"])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "containers::in_a_container",
            "--ignored",
            "--nocapture",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "another test runs it, in a container"]
fn in_a_container() {
    in_namespace(Backend::Nft, |place| {
        let (mut system, ledger) = (place.system(), place.ledger());
        install(&mut system, &ledger, 1, sample(1));
        let agent = Agent::start(place, NEVER);
        let repaired = |record: &DriftRecord| record.repaired_after_ms.is_some();
        for round in 0..6 {
            let edit = match round % 2 {
                0 => "iptables -D VF-SIP 1",
                _ => "nft flush chain ip filter VF-SIP",
            };
            place.tool(edit);
            let records = agent.records_until(|records| records.iter().any(repaired));
            for record in records {
                let by = record.by.as_ref().map(|by| (by.pid, by.comm.as_str()));
                let known = [None, Some((0, "iptables")), Some((0, "nft"))];
                assert!(known.contains(&by), "{edit}: {by:?}");
            }
        }
    });
}
