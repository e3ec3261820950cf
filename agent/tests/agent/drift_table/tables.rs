//! Edits of whole tables, and of rules together with the sets that they name.

use voipfleet_agent::kernel::Backend;
use voipfleet_proto::v1::DriftClass::{Altered, Extra, Missing, Order, Policy, Set};

use super::Step::{Feed, Run, Whole};
use super::{Edit, Others, Records, edit, table};
use crate::reconciler::NEVER;

pub(super) const EDITS: &[Edit] = &[
    Edit {
        records: Records::Flushed,
        others: Others::Wiped,
        ..edit("everything is flushed", &[Run("{ipt} -F")], &[])
    },
    Edit {
        records: Records::Gone(&[]),
        others: Others::Wiped,
        ..edit(
            "everything is flushed, and every chain removed",
            &[Run("{ipt} -F"), Run("{ipt} -X")],
            &[],
        )
    },
    Edit {
        records: Records::Gone(&[(Policy, "INPUT", "")]),
        others: Others::Wiped,
        ..edit(
            "everything is closed by hand",
            &[Run("{ipt} -F"), Run("{ipt} -X"), Run("{ipt} -P INPUT DROP")],
            &[],
        )
    },
    Edit {
        records: Records::Gone(&[]),
        others: Others::Wiped,
        ..edit(
            "the file of another firewall is restored",
            &[Feed(
                "{ipt}-restore",
                "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A \
                 INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n-A INPUT -j REJECT\nCOMMIT\n",
            )],
            &[],
        )
    },
    Edit {
        records: Records::Gone(&[(Policy, "INPUT", "")]),
        others: Others::Wiped,
        ..edit(
            "the file of another firewall with a policy is restored",
            &[Feed(
                "{ipt}-restore -c",
                "*filter\n:INPUT DROP [5:500]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n[1:60] \
                 -A INPUT -i lo -j ACCEPT\nCOMMIT\n",
            )],
            &[],
        )
    },
    edit(
        "an old copy of the table is restored, without a rule",
        &[Whole(|saved| {
            lines(saved, |line| !line.contains("\"vf:rtp\""))
        })],
        &[(Missing, "VF-SITE1", "rtp")],
    ),
    edit(
        "an old copy of the table is restored, with a rule more",
        &[Whole(|saved| {
            saved.replacen("COMMIT", "-A VF-SITE1 -p tcp -j ACCEPT\nCOMMIT", 1)
        })],
        &[(Extra, "VF-SITE1", "")],
    ),
    edit(
        "an old copy of the table is restored, without the jump",
        &[Whole(|saved| {
            lines(saved, |line| !line.ends_with("-A INPUT -j VF-INPUT"))
        })],
        &[(Missing, "INPUT", "")],
    ),
    edit(
        "an old copy of the table is restored, with other verdicts",
        &[Whole(|saved| {
            saved.replace("\"vf:default\" -j DROP", "\"vf:default\" -j ACCEPT")
        })],
        &[(Altered, "VF-INPUT", "default")],
    ),
    edit(
        "an old copy of the table is restored, in another order",
        &[Whole(|saved| {
            let last = |line: &str| line.contains("\"vf:deny\"");
            let deny = lines(saved, last);
            lines(saved, |line| !last(line)).replacen("COMMIT\n", &(deny + "COMMIT\n"), 1)
        })],
        &[(Order, "VF-INPUT", "deny")],
    ),
    edit(
        "a set is destroyed with its rule",
        &[
            Run("{ipt} -D VF-INPUT 2"),
            Run("ipset destroy vf-list-1-{4}"),
        ],
        &[(Missing, "VF-INPUT", "deny"), (Set, "vf-list-1-{4}", "")],
    ),
    Edit {
        // Who takes a set of ours has it from then on.
        others: Others::More(&["create stolen-{4}", "add stolen-{4}"]),
        ..edit(
            "a set is renamed with its rule gone",
            &[
                Run("{ipt} -D VF-INPUT 2"),
                Run("ipset rename vf-list-1-{4} stolen-{4}"),
            ],
            &[(Missing, "VF-INPUT", "deny"), (Set, "vf-list-1-{4}", "")],
        )
    },
];

fn lines(saved: &str, keep: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    for line in saved.lines().filter(|line| keep(line)) {
        text.push_str(line);
        text.push('\n');
    }
    text
}

#[test]
fn edits_of_tables_are_repaired_on_nft() {
    table(Backend::Nft, NEVER, EDITS);
}

#[test]
fn edits_of_tables_are_repaired_on_legacy() {
    table(Backend::Legacy, NEVER, EDITS);
}
