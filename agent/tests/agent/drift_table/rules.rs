//! Edits of single rules and chains of ours.

use voipfleet_agent::kernel::Backend;
use voipfleet_proto::v1::DriftClass::{Altered, Extra, Missing, Order};

use super::Step::{Feed, Lines, Run};
use super::{Edit, Others, edit, table};
use crate::reconciler::NEVER;

pub(super) const EDITS: &[Edit] = &[
    edit(
        "a rule is deleted by its number",
        &[Run("{ipt} -D VF-SIP 1")],
        &[(Missing, "VF-SIP", "sip:clients")],
    ),
    edit(
        "a rule is deleted by what it says",
        &[Run(
            "{ipt} -D VF-INPUT -j VF-SIP -m comment --comment vf:sip",
        )],
        &[(Missing, "VF-INPUT", "sip")],
    ),
    edit(
        "the default verdict is deleted",
        &[Run("{ipt} -D VF-INPUT 8")],
        &[(Missing, "VF-INPUT", "default")],
    ),
    edit(
        "the log is deleted",
        &[Run("{ipt} -D VF-INPUT 7")],
        &[(Missing, "VF-INPUT", "log")],
    ),
    edit(
        "loopback is taken out of the failsafe chain",
        &[Run("{ipt} -D VF-FAILSAFE 1")],
        &[(Missing, "VF-FAILSAFE", "failsafe:loopback")],
    ),
    edit(
        "a verdict is changed from DROP to ACCEPT, its comment kept",
        &[Run(
            "{ipt} -R VF-INPUT 2 -m set --match-set vf-list-1-{4} src -m comment \
               --comment vf:deny -j ACCEPT",
        )],
        &[(Altered, "VF-INPUT", "deny")],
    ),
    edit(
        "ports are widened",
        &[Run(
            "{ipt} -R VF-SITE1 1 -p udp -m multiport --dports 10000:30000 -m comment \
               --comment vf:rtp -j ACCEPT",
        )],
        &[(Altered, "VF-SITE1", "rtp")],
    ),
    edit(
        "a source is widened to every address",
        &[Run(
            "{ipt} -R VF-SIP 1 -p udp -m multiport --dports 5060 -m comment --comment \
               vf:sip:clients -j ACCEPT",
        )],
        &[(Altered, "VF-SIP", "sip:clients")],
    ),
    edit(
        "another set is matched",
        &[Run(
            "{ipt} -R VF-SIP 1 -p udp -m set --match-set vf-list-1-{4} src -m multiport \
               --dports 5060 -m comment --comment vf:sip:clients -j ACCEPT",
        )],
        &[(Altered, "VF-SIP", "sip:clients")],
    ),
    edit(
        "a limit is raised",
        &[Run(
            "{ipt} -R VF-SIP 2 -p udp -m multiport --dports 5060 -m hashlimit \
               --hashlimit-above 2000/sec --hashlimit-burst 6000 --hashlimit-mode srcip \
               --hashlimit-name other -m comment --comment vf:sip:limit -j DROP",
        )],
        &[(Altered, "VF-SIP", "sip:limit")],
    ),
    edit(
        "a state is added",
        &[Run(
            "{ipt} -R VF-INPUT 3 -m conntrack --ctstate NEW,RELATED,ESTABLISHED -m comment \
               --comment vf:established -j ACCEPT",
        )],
        &[(Altered, "VF-INPUT", "established")],
    ),
    edit(
        "a match is turned round",
        &[Run(
            "{ipt} -R VF-INPUT 2 -m set ! --match-set vf-list-1-{4} src -m comment \
               --comment vf:deny -j DROP",
        )],
        &[(Altered, "VF-INPUT", "deny")],
    ),
    edit(
        "a protocol is changed",
        &[Run(
            "{ipt} -R VF-SITE1 1 -p tcp -m multiport --dports 10000:20001 -m comment \
               --comment vf:rtp -j ACCEPT",
        )],
        &[(Altered, "VF-SITE1", "rtp")],
    ),
    edit(
        "a comment is changed",
        &[Run("{ipt} -R VF-INPUT 8 -m comment --comment mine -j DROP")],
        &[(Altered, "VF-INPUT", "default")],
    ),
    edit(
        "a comment is taken off",
        &[Run("{ipt} -R VF-INPUT 8 -j DROP")],
        &[(Altered, "VF-INPUT", "default")],
    ),
    edit(
        "a REJECT in place of the DROP",
        &[Run(
            "{ipt} -R VF-INPUT 8 -m comment --comment vf:default -j REJECT",
        )],
        &[(Altered, "VF-INPUT", "default")],
    ),
    edit(
        "a jump is led elsewhere",
        &[Run(
            "{ipt} -R VF-INPUT 5 -m comment --comment vf:sip -j VF-SITE1",
        )],
        &[(Altered, "VF-INPUT", "sip")],
    ),
    edit(
        "an ACCEPT is inserted at the top",
        &[Run("{ipt} -I VF-INPUT 1 -s {src} -j ACCEPT")],
        &[(Extra, "VF-INPUT", "")],
    ),
    edit(
        "an ACCEPT is inserted before the default verdict",
        &[Run("{ipt} -I VF-INPUT 8 -j ACCEPT")],
        &[(Extra, "VF-INPUT", "")],
    ),
    edit(
        "a rule is appended to a chain that ends there",
        &[Run("{ipt} -A VF-INPUT -j ACCEPT")],
        &[(Extra, "VF-INPUT", "")],
    ),
    edit(
        "a RETURN in the middle",
        &[Run("{ipt} -I VF-SIP 2 -j RETURN")],
        &[(Extra, "VF-SIP", "")],
    ),
    edit(
        "a rule of ours stands there twice",
        &[Run(
            "{ipt} -A VF-SITE1 -p udp -m multiport --dports 10000:20001 -m comment \
               --comment vf:rtp -j ACCEPT",
        )],
        &[(Extra, "VF-SITE1", "rtp")],
    ),
    edit(
        "a rule that pretends to be ours",
        &[Run(
            "{ipt} -I VF-INPUT 4 -p tcp -m tcp --dport 3306 -m comment --comment vf:mysql \
               -j ACCEPT",
        )],
        &[(Extra, "VF-INPUT", "mysql")],
    ),
    edit(
        "a chain is flushed",
        &[Run("{ipt} -F VF-SIP")],
        &[
            (Missing, "VF-SIP", "sip:clients"),
            (Missing, "VF-SIP", "sip:limit"),
        ],
    ),
    edit(
        "a chain is renamed to one that looks like ours",
        &[Run("{ipt} -E VF-SIP VF-OTHER")],
        &[
            (Missing, "VF-SIP", ""),
            (Altered, "VF-INPUT", "sip"),
            (Extra, "VF-OTHER", ""),
        ],
    ),
    Edit {
        others: Others::More(&[":other", "-A other"]),
        ..edit(
            "a chain is renamed",
            &[Run("{ipt} -E VF-SIP other")],
            &[(Missing, "VF-SIP", ""), (Altered, "VF-INPUT", "sip")],
        )
    },
    edit(
        "a chain that looks like ours",
        &[Run("{ipt} -N VF-MINE")],
        &[(Extra, "VF-MINE", "")],
    ),
    edit(
        "a chain that looks like ours, in the way of packets",
        &[Lines(
            ":VF-MINE - [0:0]\n-A VF-MINE -j ACCEPT\n-I VF-INPUT 1 -j VF-MINE",
        )],
        &[(Extra, "VF-MINE", ""), (Extra, "VF-INPUT", "")],
    ),
    edit(
        "a chain that looks like ours, in the way of forwarded packets",
        &[Lines(
            ":VF-MINE - [0:0]\n-A VF-MINE -j ACCEPT\n-A FORWARD -j VF-MINE",
        )],
        &[(Extra, "VF-MINE", "")],
    ),
    edit(
        "a rule is moved to the end",
        &[Lines(
            "-D VF-INPUT 2\n-A VF-INPUT -m set --match-set vf-list-1-{4} src -m comment \
             --comment \"vf:deny\" -j DROP",
        )],
        &[(Order, "VF-INPUT", "deny")],
    ),
    edit(
        "the default verdict is moved to the top",
        &[Lines(
            "-D VF-INPUT 8\n-I VF-INPUT 1 -m comment --comment \"vf:default\" -j DROP",
        )],
        &[(Order, "VF-INPUT", "default")],
    ),
    edit(
        "a rule is changed and moved",
        &[Lines(
            "-D VF-INPUT 2\n-I VF-INPUT 4 -m set --match-set vf-list-1-{4} src -m comment \
             --comment \"vf:deny\" -j ACCEPT",
        )],
        &[(Altered, "VF-INPUT", "deny")],
    ),
    edit(
        "a chain is loaded anew with counters, and one rule changed",
        &[Feed(
            "{ipt}-restore -c --noflush",
            "*filter\n:VF-SITE1 - [0:0]\n[7:700] -A VF-SITE1 -p udp -m multiport --dports \
             10000:20001 -m comment --comment \"vf:rtp\" -j DROP\nCOMMIT\n",
        )],
        &[(Altered, "VF-SITE1", "rtp")],
    ),
    edit(
        "a chain is loaded anew without rules",
        &[Lines(":VF-SIP - [0:0]")],
        &[
            (Missing, "VF-SIP", "sip:clients"),
            (Missing, "VF-SIP", "sip:limit"),
        ],
    ),
    edit(
        "a chain is loaded anew with a foreign rule",
        &[Lines(":VF-SITE1 - [0:0]\n-A VF-SITE1 -j ACCEPT")],
        &[(Altered, "VF-SITE1", "rtp")],
    ),
    edit(
        "edits of three chains at once",
        &[Lines(
            "-D VF-SIP 1\n-I VF-INPUT 1 -s {src} -j ACCEPT\n-R VF-SITE1 1 -p udp -m comment \
             --comment \"vf:rtp\" -j ACCEPT",
        )],
        &[
            (Missing, "VF-SIP", "sip:clients"),
            (Extra, "VF-INPUT", ""),
            (Altered, "VF-SITE1", "rtp"),
        ],
    ),
    edit(
        "several edits of one chain at once",
        &[Lines(
            "-D VF-INPUT 7\n-D VF-INPUT 2\n-I VF-INPUT 1 -s {src} -j ACCEPT\n-I VF-INPUT 5 -p \
             icmp -j DROP",
        )],
        &[
            (Missing, "VF-INPUT", "deny"),
            (Missing, "VF-INPUT", "log"),
            (Extra, "VF-INPUT", ""),
            (Extra, "VF-INPUT", ""),
        ],
    ),
    edit(
        "a chain is removed",
        &[Lines("-D VF-INPUT 5\n-F VF-SIP\n-X VF-SIP")],
        &[(Missing, "VF-SIP", ""), (Missing, "VF-INPUT", "sip")],
    ),
];

#[test]
fn edits_of_rules_are_repaired_on_nft() {
    table(Backend::Nft, NEVER, EDITS);
}

#[test]
fn edits_of_rules_are_repaired_on_legacy() {
    table(Backend::Legacy, NEVER, EDITS);
}
