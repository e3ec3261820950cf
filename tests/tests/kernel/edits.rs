//! Edits from outside, each with the class that it is told as, and the repair.

use voipfleet_ruleset::drift::{DriftClass, Wanted, compare_rules};
use voipfleet_ruleset::iptables::{
    JUMP, Repair, Unreadable, filter_section, parse_save, repair_input,
};
use voipfleet_ruleset::ruleset::Family;

use crate::tools::{Backend, Kernel, in_namespace, nft};

const OURS: &str = "\
:f2b-sshd - [0:0]
:VF-FAILSAFE - [0:0]
:VF-INPUT - [0:0]
-A f2b-sshd -j RETURN
-A VF-FAILSAFE -i lo -m comment --comment \"vf:failsafe:loopback\" -j ACCEPT
-A VF-INPUT -m comment --comment \"vf:failsafe\" -j VF-FAILSAFE
-A VF-INPUT -p udp -m multiport --dports 5060 -m comment --comment \"vf:sip\" -j ACCEPT
-A VF-INPUT -p tcp -m multiport --dports 443 -m comment --comment \"vf:web\" -j ACCEPT
-A VF-INPUT -m comment --comment \"vf:default\" -j DROP
-A INPUT -p tcp -j f2b-sshd
";

/// The edits, and each difference that they make: class, chain, label.
type Case = (
    &'static [&'static str],
    &'static [(DriftClass, &'static str, &'static str)],
);

const CASES: [Case; 20] = [
    (
        &["-D VF-INPUT 3"],
        &[(DriftClass::Missing, "VF-INPUT", "web")],
    ),
    (
        &["-R VF-INPUT 4 -m comment --comment vf:default -j ACCEPT"],
        &[(DriftClass::Altered, "VF-INPUT", "default")],
    ),
    (
        &[
            "-R VF-INPUT 2 -p udp -m multiport --dports 5060 -m comment --comment vf:other -j ACCEPT",
        ],
        &[(DriftClass::Altered, "VF-INPUT", "sip")],
    ),
    (
        &["-R VF-INPUT 3 -p tcp -j ACCEPT"],
        &[(DriftClass::Altered, "VF-INPUT", "web")],
    ),
    (
        &["-I VF-INPUT 1 -j ACCEPT"],
        &[(DriftClass::Extra, "VF-INPUT", "")],
    ),
    (
        &["-A VF-INPUT -p icmp -j LOG"],
        &[(DriftClass::Extra, "VF-INPUT", "")],
    ),
    (
        &["-A VF-INPUT -p tcp -m multiport --dports 443 -m comment --comment vf:web -j ACCEPT"],
        &[(DriftClass::Extra, "VF-INPUT", "web")],
    ),
    (
        &[
            "-D VF-INPUT 4",
            "-I VF-INPUT 2 -m comment --comment vf:default -j DROP",
        ],
        &[(DriftClass::Order, "VF-INPUT", "default")],
    ),
    (
        &["-F VF-INPUT"],
        &[
            (DriftClass::Missing, "VF-INPUT", "failsafe"),
            (DriftClass::Missing, "VF-INPUT", "sip"),
            (DriftClass::Missing, "VF-INPUT", "web"),
            (DriftClass::Missing, "VF-INPUT", "default"),
        ],
    ),
    (
        &["-F VF-INPUT", "-F VF-FAILSAFE", "-X VF-FAILSAFE"],
        &[
            (DriftClass::Missing, "VF-FAILSAFE", ""),
            (DriftClass::Missing, "VF-INPUT", "failsafe"),
            (DriftClass::Missing, "VF-INPUT", "sip"),
            (DriftClass::Missing, "VF-INPUT", "web"),
            (DriftClass::Missing, "VF-INPUT", "default"),
        ],
    ),
    (
        &["-N VF-MINE", "-A VF-MINE -j ACCEPT"],
        &[(DriftClass::Extra, "VF-MINE", "")],
    ),
    (
        &["-D INPUT -j VF-INPUT"],
        &[(DriftClass::Missing, "INPUT", "")],
    ),
    (
        &["-R INPUT 2 -p tcp -j VF-INPUT"],
        &[(DriftClass::Altered, "INPUT", "")],
    ),
    (
        &["-A INPUT -j VF-INPUT"],
        &[(DriftClass::Extra, "INPUT", "")],
    ),
    (
        &["-I INPUT 1 -i lo -j ACCEPT"],
        &[(DriftClass::Bypass, "INPUT", "")],
    ),
    (
        &["-N opened", "-A opened -j ACCEPT", "-I INPUT 1 -j opened"],
        &[(DriftClass::Bypass, "INPUT", "")],
    ),
    (&["-P INPUT DROP"], &[(DriftClass::Policy, "INPUT", "")]),
    (
        &["-F INPUT", "-P INPUT DROP"],
        &[
            (DriftClass::Missing, "INPUT", ""),
            (DriftClass::Policy, "INPUT", ""),
        ],
    ),
    // Nobody's business.
    (&["-I INPUT 1 -p udp -j DROP", "-A INPUT -j ACCEPT"], &[]),
    (
        &["-A f2b-sshd -p udp -j REJECT", "-P FORWARD DROP", "-Z"],
        &[],
    ),
];

#[test]
fn every_edit_is_told_and_repaired_on_nft() {
    in_namespace(|| told_and_repaired(Backend::Nft));
}

#[test]
fn every_edit_is_told_and_repaired_on_legacy() {
    in_namespace(|| told_and_repaired(Backend::Legacy));
}

fn told_and_repaired(backend: Backend) {
    let kernel = Kernel::new(backend);
    for family in Family::BOTH {
        for (edits, told) in CASES {
            kernel.edit(family, "-P INPUT ACCEPT").unwrap();
            kernel.edit(family, "-F").unwrap();
            kernel.edit(family, "-X").unwrap();
            kernel
                .restore(family, &filter_section(&format!("{OURS}{JUMP}\n")))
                .unwrap();
            let wanted = Wanted {
                family,
                table: kernel.table(family).unwrap().ours(),
                policy: Some("ACCEPT".to_owned()),
            };

            for edit in edits {
                kernel.edit(family, edit).unwrap();
            }
            let observed = kernel.table(family).unwrap();
            let differences = compare_rules(&wanted, &observed);
            let brief: Vec<(DriftClass, &str, &str)> = differences
                .iter()
                .map(|d| {
                    (
                        d.class,
                        d.chain.as_deref().unwrap_or_default(),
                        d.rule.as_deref().unwrap_or_default(),
                    )
                })
                .collect();
            assert_eq!(brief, told, "{family} {edits:?}: {differences:#?}");

            let repair = repair_input(
                &Repair::of(&wanted.table, wanted.policy.as_deref()),
                &observed,
            );
            assert_eq!(repair.is_some(), !told.is_empty(), "{family} {edits:?}");
            if let Some(repair) = repair {
                kernel.restore(family, &repair).unwrap();
            }
            let repaired = kernel.table(family).unwrap();
            assert_eq!(compare_rules(&wanted, &repaired), [], "{family} {edits:?}");
            let foreign = |table: &voipfleet_ruleset::iptables::Table| {
                let mut rules: Vec<String> = table
                    .chains
                    .iter()
                    .flat_map(|chain| chain.rules.clone())
                    .collect();
                rules.retain(|rule| !rule.contains("VF-"));
                rules
            };
            assert_eq!(foreign(&repaired), foreign(&observed), "{family} {edits:?}");
        }
    }
}

#[test]
fn what_iptables_cannot_show_is_unreadable_and_not_clean() {
    in_namespace(|| {
        let kernel = Kernel::new(Backend::Nft);
        kernel
            .restore(Family::V4, &filter_section(&format!("{OURS}{JUMP}\n")))
            .unwrap();
        // Another base chain in the table hides nothing of ours.
        nft("add chain ip filter other { type filter hook input priority -10 ; }").unwrap();
        let right = kernel.table(Family::V4).unwrap();
        assert!(right.chain("VF-INPUT").is_some());
        // iptables-save ends with status 0 here.
        nft("insert rule ip filter VF-INPUT ct count over 5 accept").unwrap();
        let saved = kernel.save(Family::V4).unwrap();
        assert!(
            matches!(parse_save(&saved), Err(Unreadable::Incompatible(_))),
            "{saved}"
        );
    });
}
