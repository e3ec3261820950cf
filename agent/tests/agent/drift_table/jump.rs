//! Edits around our jump from `INPUT`, which is all that we have in a chain of others.

use voipfleet_agent::kernel::Backend;
use voipfleet_proto::v1::DriftClass::{Altered, Bypass, Extra, Missing, Policy};

use super::Step::{Lines, Run};
use super::{Edit, Others, Record, edit, table};
use crate::reconciler::NEVER;

const BYPASS: &[Record] = &[(Bypass, "INPUT", "")];

/// A rule or chain of others above our jump. It stays, and the jump moves above it.
const fn above(
    what: &'static str,
    steps: &'static [super::Step],
    stays: &'static [&'static str],
) -> Edit {
    Edit {
        others: Others::More(stays),
        ..edit(what, steps, BYPASS)
    }
}

pub(super) const EDITS: &[Edit] = &[
    edit(
        "the jump is removed",
        &[Run("{ipt} -D INPUT -j VF-INPUT")],
        &[(Missing, "INPUT", "")],
    ),
    Edit {
        others: Others::Wiped,
        ..edit(
            "INPUT is flushed",
            &[Run("{ipt} -F INPUT")],
            &[(Missing, "INPUT", "")],
        )
    },
    edit(
        "the jump stands there twice",
        &[Run("{ipt} -A INPUT -j VF-INPUT")],
        &[(Extra, "INPUT", "")],
    ),
    edit(
        "a second jump, for some packets",
        &[Run("{ipt} -I INPUT 1 -p udp -j VF-INPUT")],
        &[(Extra, "INPUT", "")],
    ),
    edit(
        "a jump to another chain of ours",
        &[Run("{ipt} -I INPUT 1 -p udp -j VF-SITE1")],
        &[(Extra, "INPUT", "")],
    ),
    edit(
        "a jump to a chain that looks like ours",
        &[Lines(
            ":VF-MINE - [0:0]\n-A VF-MINE -j ACCEPT\n-I INPUT 1 -j VF-MINE",
        )],
        &[(Extra, "INPUT", ""), (Extra, "VF-MINE", "")],
    ),
    edit(
        "the jump gets a condition",
        &[Lines(
            "-D INPUT -j VF-INPUT\n-I INPUT 1 -s {src} -j VF-INPUT",
        )],
        &[(Altered, "INPUT", "")],
    ),
    edit(
        "the jump becomes a goto",
        &[Lines("-D INPUT -j VF-INPUT\n-I INPUT 1 -g VF-INPUT")],
        &[(Altered, "INPUT", "")],
    ),
    edit(
        "the jump gets a comment",
        &[Lines(
            "-D INPUT -j VF-INPUT\n-I INPUT 1 -m comment --comment x -j VF-INPUT",
        )],
        &[(Altered, "INPUT", "")],
    ),
    Edit {
        others: Others::More(&["-A INPUT -p tcp -m tcp --dport 8443"]),
        ..edit(
            "the jump is moved below an ACCEPT",
            &[Lines(
                "-D INPUT -j VF-INPUT\n-A INPUT -p tcp -m tcp --dport 8443 -j ACCEPT\n-A INPUT \
                 -j VF-INPUT",
            )],
            BYPASS,
        )
    },
    Edit {
        others: Others::More(&["-A INPUT -p tcp -m tcp --dport 8443"]),
        ..edit(
            "the jump is replaced by an ACCEPT",
            &[Lines(
                "-D INPUT -j VF-INPUT\n-I INPUT 1 -p tcp -m tcp --dport 8443 -j ACCEPT",
            )],
            &[(Missing, "INPUT", "")],
        )
    },
    above(
        "an ACCEPT for one source above us",
        &[Run("{ipt} -I INPUT 1 -s {src} -j ACCEPT")],
        &["-A INPUT -s {one} -j ACCEPT"],
    ),
    above(
        "an ACCEPT for one interface above us",
        &[Run("{ipt} -I INPUT 1 -i eth7 -j ACCEPT")],
        &["-A INPUT -i eth7 -j ACCEPT"],
    ),
    above(
        "an ACCEPT for every source above us",
        &[Run("{ipt} -I INPUT 1 -j ACCEPT")],
        &["-A INPUT -j ACCEPT"],
    ),
    above(
        "an ACCEPT just above us",
        &[Run("{ipt} -I INPUT 2 -p udp -m udp --dport 5060 -j ACCEPT")],
        &["-A INPUT -p udp -m udp --dport 5060 -j ACCEPT"],
    ),
    above(
        "an ACCEPT of what is established, above the blocks",
        &[Run(
            "{ipt} -I INPUT 1 -m conntrack --ctstate ESTABLISHED -j ACCEPT",
        )],
        &["-A INPUT -m conntrack"],
    ),
    above(
        "a chain that accepts above us",
        &[Lines(
            ":opened - [0:0]\n-A opened -p tcp -j ACCEPT\n-I INPUT 1 -j opened",
        )],
        &[":opened", "-A opened", "-A INPUT -j opened"],
    ),
    above(
        "a chain to a chain that accepts above us",
        &[Lines(
            ":outer - [0:0]\n:inner - [0:0]\n-A outer -j inner\n-A inner -s {src} -j ACCEPT\n-I \
             INPUT 1 -j outer",
        )],
        &[
            ":outer",
            ":inner",
            "-A outer",
            "-A inner",
            "-A INPUT -j outer",
        ],
    ),
    above(
        "a goto to a chain that accepts above us",
        &[Lines(
            ":opened - [0:0]\n-A opened -j ACCEPT\n-I INPUT 1 -s {src} -g opened",
        )],
        &[":opened", "-A opened", "-A INPUT -s {one} -g opened"],
    ),
    above(
        "a goto to a chain that ends",
        &[Lines(":away - [0:0]\n-I INPUT 1 -s {src} -g away")],
        &[":away", "-A INPUT -s {one} -g away"],
    ),
    above(
        "a RETURN to a policy that accepts",
        &[Run("{ipt} -I INPUT 1 -s {src} -j RETURN")],
        &["-A INPUT -s {one} -j RETURN"],
    ),
    above(
        "a queue that lets pass while no program listens",
        &[Run(
            "{ipt} -I INPUT 1 -p udp -j NFQUEUE --queue-num 3 --queue-bypass",
        )],
        &["-A INPUT -p udp -j NFQUEUE"],
    ),
    above(
        "a DROP of everything above us",
        &[Run("{ipt} -I INPUT 1 -j DROP")],
        &["-A INPUT -j DROP"],
    ),
    above(
        "a chain of drops above us begins to accept",
        &[Run("{ipt} -I f2b-sshd 1 -s {src} -j ACCEPT")],
        &["-A f2b-sshd -s {one} -j ACCEPT"],
    ),
    edit(
        "the policy of INPUT is changed",
        &[Run("{ipt} -P INPUT DROP")],
        &[(Policy, "INPUT", "")],
    ),
    edit(
        "the policy of INPUT is changed, and the jump removed",
        &[Lines(":INPUT DROP [0:0]\n-D INPUT -j VF-INPUT")],
        &[(Policy, "INPUT", ""), (Missing, "INPUT", "")],
    ),
];

#[test]
fn edits_of_the_jump_are_repaired_on_nft() {
    table(Backend::Nft, NEVER, EDITS);
}

#[test]
fn edits_of_the_jump_are_repaired_on_legacy() {
    table(Backend::Legacy, NEVER, EDITS);
}
