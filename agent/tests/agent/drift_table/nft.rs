//! Edits by `nft` itself, which knows nothing of iptables.

use voipfleet_agent::kernel::Backend;
use voipfleet_proto::v1::DriftClass::{Altered, Bypass, Extra, Missing, Policy};

use super::Step::{Feed, Handle, Run};
use super::{Edit, Others, Records, edit, table};
use crate::reconciler::NEVER;

pub(super) const EDITS: &[Edit] = &[
    edit(
        "nft deletes a rule by its handle",
        &[Handle(
            "VF-SIP",
            "1",
            "delete rule {nft} filter VF-SIP handle {handle}",
        )],
        &[(Missing, "VF-SIP", "sip:clients")],
    ),
    edit(
        "nft deletes our jump",
        &[Handle(
            "INPUT",
            "jump VF-INPUT",
            "delete rule {nft} filter INPUT handle {handle}",
        )],
        &[(Missing, "INPUT", "")],
    ),
    edit(
        "nft inserts a rule",
        &[Run("nft insert rule {nft} filter VF-INPUT accept")],
        &[(Extra, "VF-INPUT", "")],
    ),
    edit(
        "nft adds a rule to the end",
        &[Run("nft add rule {nft} filter VF-SIP counter accept")],
        &[(Extra, "VF-SIP", "")],
    ),
    edit(
        "nft adds a rule behind another",
        &[Handle(
            "VF-INPUT",
            "4",
            "add rule {nft} filter VF-INPUT position {handle} {nft} saddr {src} counter accept",
        )],
        &[(Extra, "VF-INPUT", "")],
    ),
    edit(
        "nft changes a rule in its place, with the comment kept",
        &[Handle(
            "VF-SITE1",
            "1",
            "replace rule {nft} filter VF-SITE1 handle {handle} udp dport 10000-40000 counter \
             accept comment \"vf:rtp\"",
        )],
        &[(Altered, "VF-SITE1", "rtp")],
    ),
    edit(
        "nft turns a DROP into an ACCEPT",
        &[Handle(
            "VF-INPUT",
            "8",
            "replace rule {nft} filter VF-INPUT handle {handle} counter accept comment \
             \"vf:default\"",
        )],
        &[(Altered, "VF-INPUT", "default")],
    ),
    edit(
        "nft flushes a chain",
        &[Run("nft flush chain {nft} filter VF-SIP")],
        &[
            (Missing, "VF-SIP", "sip:clients"),
            (Missing, "VF-SIP", "sip:limit"),
        ],
    ),
    edit(
        "nft deletes a chain",
        &[
            Handle(
                "VF-INPUT",
                "6",
                "delete rule {nft} filter VF-INPUT handle {handle}",
            ),
            Run("nft flush chain {nft} filter VF-SITE1"),
            Run("nft delete chain {nft} filter VF-SITE1"),
        ],
        &[(Missing, "VF-SITE1", ""), (Missing, "VF-INPUT", "site")],
    ),
    edit(
        "nft renames a chain",
        &[Run("nft rename chain {nft} filter VF-SIP VF-OTHER")],
        &[
            (Missing, "VF-SIP", ""),
            (Altered, "VF-INPUT", "sip"),
            (Extra, "VF-OTHER", ""),
        ],
    ),
    edit(
        "nft adds a chain that looks like ours",
        &[Run("nft add chain {nft} filter VF-NEW")],
        &[(Extra, "VF-NEW", "")],
    ),
    edit(
        "nft changes the policy of INPUT",
        &[Feed(
            "nft -f -",
            "chain {nft} filter INPUT { policy drop ; }\n",
        )],
        &[(Policy, "INPUT", "")],
    ),
    Edit {
        others: Others::More(&["-A INPUT -s {one} -j ACCEPT"]),
        ..edit(
            "nft accepts a source above us",
            &[Run(
                "nft insert rule {nft} filter INPUT {nft} saddr {src} counter accept",
            )],
            &[(Bypass, "INPUT", "")],
        )
    },
    Edit {
        others: Others::More(&["-A INPUT -i eth9 -j ACCEPT"]),
        ..edit(
            "nft accepts an interface above us",
            &[Run(
                "nft insert rule {nft} filter INPUT iifname eth9 counter accept",
            )],
            &[(Bypass, "INPUT", "")],
        )
    },
    Edit {
        records: Records::Flushed,
        others: Others::Wiped,
        ..edit(
            "nft flushes the table",
            &[Run("nft flush table {nft} filter")],
            &[],
        )
    },
    Edit {
        records: Records::Gone(&[]),
        others: Others::Wiped,
        ..edit(
            "nft deletes the table",
            &[Run("nft delete table {nft} filter")],
            &[],
        )
    },
];

/// Once, for both families.
const RULESET: Edit = Edit {
    records: Records::Gone(&[]),
    others: Others::BothWiped,
    ..edit("nft flushes the ruleset", &[Run("nft flush ruleset")], &[])
};

#[test]
fn edits_with_nft_are_repaired() {
    table(Backend::Nft, NEVER, EDITS);
}

#[test]
fn nft_flush_ruleset_is_repaired() {
    crate::support::in_namespace(Backend::Nft, |place| {
        let node = super::Node::new(place);
        let agent = node.agent(NEVER);
        node.prove(&agent, &RULESET, voipfleet_ruleset::ruleset::Family::V4);
    });
}
