use std::fmt::Write as _;

use super::*;
use crate::iptables::parse_save;
use crate::ruleset::{AddressSet, Expiring, Mode};

const OURS: &str = "\
:VF-FAILSAFE - [0:0]
:VF-INPUT - [0:0]
-A VF-FAILSAFE -i lo -m comment --comment \"vf:failsafe:loopback\" -j ACCEPT
-A VF-INPUT -m comment --comment \"vf:failsafe\" -j VF-FAILSAFE
-A VF-INPUT -p udp -m multiport --dports 5060 -m comment --comment \"vf:sip\" -j ACCEPT
-A VF-INPUT -p tcp -m multiport --dports 443 -m comment --comment \"vf:web\" -j ACCEPT
-A VF-INPUT -m comment --comment \"vf:default\" -j DROP
";

fn table(input: &str, ours: &str) -> Table {
    let text = format!("*filter\n:INPUT ACCEPT [0:0]\n:f2b - [0:0]\n{ours}{input}COMMIT\n");
    parse_save(&text).unwrap()
}

fn compare(input: &str, ours: &str) -> Vec<Difference> {
    let wanted = Wanted {
        family: Family::V4,
        table: table("", OURS).ours(),
        policy: None,
    };
    compare_rules(&wanted, &table(input, ours))
}

fn text(field: Option<&str>) -> &str {
    field.unwrap_or_default()
}

/// Class, chain and label of each difference.
fn brief(differences: &[Difference]) -> Vec<(DriftClass, &str, &str)> {
    differences
        .iter()
        .map(|d| (d.class, text(d.chain.as_deref()), text(d.rule.as_deref())))
        .collect()
}

const INPUT: &str = "-A INPUT -p tcp -j f2b\n-A INPUT -j VF-INPUT\n";

#[test]
fn no_difference_is_none() {
    assert_eq!(compare(INPUT, OURS), []);
}

#[test]
fn each_edit_of_our_chains_has_its_class() {
    let altered = OURS.replace("\"vf:sip\" -j ACCEPT", "\"vf:sip\" -j DROP");
    let missing: String = OURS
        .lines()
        .filter(|l| !l.contains("vf:web"))
        .flat_map(|l| [l, "\n"])
        .collect();
    let extra = OURS.replace(
        "-A VF-INPUT -p tcp",
        "-A VF-INPUT -s 192.0.2.1/32 -j ACCEPT\n-A VF-INPUT -p tcp",
    );
    let mut lines: Vec<&str> = OURS.lines().collect();
    lines.swap(4, 5);
    let moved = lines.join("\n") + "\n";
    for (ours, class, label) in [
        (altered, DriftClass::Altered, "sip"),
        (missing, DriftClass::Missing, "web"),
        (extra, DriftClass::Extra, ""),
    ] {
        let differences = compare(INPUT, &ours);
        assert_eq!(brief(&differences), [(class, "VF-INPUT", label)], "{ours}");
    }
    // Two rules changed places: either of them may count as the one that moved.
    let differences = compare(INPUT, &moved);
    let either = ["sip", "web"].map(|label| [(DriftClass::Order, "VF-INPUT", label)]);
    let moved = brief(&differences);
    assert!(either.iter().any(|one| moved == one), "{moved:?}");
    let differences = compare(
        INPUT,
        &OURS.replace("\"vf:sip\" -j ACCEPT", "\"vf:sip\" -j DROP"),
    );
    assert!(
        text(differences[0].wanted.as_deref()).ends_with("-j ACCEPT"),
        "{differences:?}"
    );
    assert!(
        text(differences[0].observed.as_deref()).ends_with("-j DROP"),
        "{differences:?}"
    );
}

#[test]
fn a_flushed_chain_misses_each_rule_and_a_removed_one_is_one_record() {
    let flushed = ":VF-FAILSAFE - [0:0]\n:VF-INPUT - [0:0]\n\
                   -A VF-FAILSAFE -i lo -m comment --comment \"vf:failsafe:loopback\" -j ACCEPT\n";
    assert_eq!(
        brief(&compare(INPUT, flushed)),
        ["failsafe", "sip", "web", "default"].map(|label| (DriftClass::Missing, "VF-INPUT", label))
    );
    let gone = compare(INPUT, ":VF-INPUT - [0:0]\n");
    assert_eq!(brief(&gone)[0], (DriftClass::Missing, "VF-FAILSAFE", ""));
    let strange = format!("{OURS}:VF-OTHER - [0:0]\n-A VF-OTHER -j ACCEPT\n");
    assert_eq!(
        brief(&compare(INPUT, &strange)),
        [(DriftClass::Extra, "VF-OTHER", "")]
    );
    let policy = OURS.replace(":VF-FAILSAFE -", ":VF-FAILSAFE ACCEPT");
    assert_eq!(
        brief(&compare(INPUT, &policy)),
        [(DriftClass::Policy, "VF-FAILSAFE", "")]
    );
}

#[test]
fn each_edit_of_the_jump_has_its_class() {
    for (input, class, wanted, observed) in [
        ("", DriftClass::Missing, JUMP, ""),
        // A guard of it is left.
        (
            "-A INPUT -m comment --comment \"vf:guard\" -j VF-INPUT\n-A INPUT -j ACCEPT\n",
            DriftClass::Missing,
            JUMP,
            "",
        ),
        (
            "-A INPUT -p tcp -j VF-INPUT\n",
            DriftClass::Altered,
            JUMP,
            "-A INPUT -p tcp -j VF-INPUT",
        ),
        (
            "-A INPUT -j VF-INPUT\n-A INPUT -j VF-INPUT\n",
            DriftClass::Extra,
            "",
            JUMP,
        ),
        (
            "-A INPUT -j ACCEPT\n-A INPUT -j VF-INPUT\n",
            DriftClass::Bypass,
            JUMP,
            "-A INPUT -j ACCEPT",
        ),
    ] {
        let differences = compare(input, OURS);
        assert_eq!(brief(&differences), [(class, "INPUT", "")], "{input}");
        assert_eq!(
            (
                text(differences[0].wanted.as_deref()),
                text(differences[0].observed.as_deref())
            ),
            (wanted, observed)
        );
    }
}

#[test]
fn a_thousand_missing_rules_are_a_hundred_and_one_records() {
    let mut many = String::new();
    for i in 0..1000 {
        let _ = writeln!(
            many,
            "-A VF-INPUT -i eth{i} -m comment --comment \"vf:r{i}\" -j DROP"
        );
    }
    let wanted = Wanted {
        family: Family::V6,
        table: table("", &format!(":VF-INPUT - [0:0]\n{many}")).ours(),
        policy: None,
    };
    let differences = compare_rules(&wanted, &table(INPUT, ":VF-INPUT - [0:0]\n"));
    assert_eq!(differences.len(), MAX_DIFFERENCES + 1);
    let last = &differences[MAX_DIFFERENCES];
    assert_eq!(
        (
            last.class,
            text(last.rule.as_deref()),
            text(last.wanted.as_deref())
        ),
        (DriftClass::Missing, "", "900 more rules")
    );
    assert_eq!(last.observed, None);
}

#[test]
fn sets_differ_by_shape_and_element() {
    let set = |name: &str, elements: &[&str]| {
        AddressSet::new(
            SetName::from_kernel_name(name).unwrap(),
            elements.iter().map(|text| text.parse().unwrap()),
        )
    };
    let wanted = Ruleset {
        site: "site-a".parse().unwrap(),
        node: "sip-1".parse().unwrap(),
        mode: Mode::Enforce,
        admins: Vec::new(),
        ssh_ports: vec![22],
        sets: vec![
            set("vf-a-4", &["10.0.0.0/8", "192.0.2.1/32"]),
            set("vf-b-6", &["2001:db8::/32"]),
            set("vf-c-4", &[]),
        ],
        probes: Vec::new(),
        without_ipv6: false,
        chains: Vec::new(),
    };
    let saved = "create vf-a-4 hash:net family inet maxelem 1024\nadd vf-a-4 10.0.0.0/8\n\
                 add vf-a-4 192.0.2.2\ncreate vf-c-4 hash:net family inet maxelem 9\n\
                 create vf-z-6 hash:net family inet6 maxelem 7\n";
    let observed = crate::iptables::parse_ipset_save(saved).unwrap();
    let differences = compare_sets(&wanted, &observed, 0, Slack::DRIFT);
    let reported: Vec<(&str, &str, &str)> = differences
        .iter()
        .map(|d| {
            (
                text(d.chain.as_deref()),
                text(d.wanted.as_deref()),
                text(d.observed.as_deref()),
            )
        })
        .collect();
    assert_eq!(
        reported,
        [
            ("vf-a-4", "192.0.2.1/32", ""),
            ("vf-a-4", "", "192.0.2.2/32"),
            ("vf-b-6", "hash:net family inet6 maxelem 1024", ""),
            (
                "vf-c-4",
                "hash:net family inet maxelem 1024",
                "hash:net family inet maxelem 9"
            ),
            ("vf-z-6", "", "hash:net family inet6 maxelem 7"),
        ]
    );
    assert!(differences.iter().all(|d| d.class == DriftClass::Set));
}

#[test]
fn what_time_takes_out_of_a_set_is_no_drift() {
    let now = 1_800_000_000;
    let until = |left: u64| Until::from_unix(now + left).unwrap();
    let expiring = |net: &str, left| Expiring {
        net: net.parse().unwrap(),
        until: until(left),
    };
    let set = AddressSet::new(SetName::from_kernel_name("vf-deny-4").unwrap(), [])
        .with_expiring([expiring("10.0.0.1/32", 600), expiring("10.0.0.2/32", 5)]);
    let wanted = Ruleset {
        site: "site-a".parse().unwrap(),
        node: "sip-1".parse().unwrap(),
        mode: Mode::Enforce,
        admins: Vec::new(),
        ssh_ports: vec![22],
        sets: vec![set],
        probes: Vec::new(),
        without_ipv6: false,
        chains: Vec::new(),
    };
    let drifted = |elements: &str, after: u64| -> Vec<(String, String)> {
        let saved =
            format!("create vf-deny-4 hash:net family inet maxelem 1024 timeout 0\n{elements}");
        let observed = crate::iptables::parse_ipset_save(&saved).unwrap();
        compare_sets(&wanted, &observed, now + after, Slack::DRIFT)
            .into_iter()
            .map(|found| {
                (
                    text(found.wanted.as_deref()).to_owned(),
                    text(found.observed.as_deref()).to_owned(),
                )
            })
            .collect()
    };
    let none: Vec<(String, String)> = Vec::new();
    let one = "add vf-deny-4 10.0.0.1 timeout";
    assert_eq!(
        drifted(&format!("{one} 599\n"), 0),
        none,
        "one is about to go"
    );
    assert_eq!(drifted(&format!("{one} 100\n"), 500), none);
    assert_eq!(drifted("", 600), none, "both are over");
    assert_eq!(
        drifted(&format!("{one} 3\n"), 601),
        none,
        "and one is a little late"
    );
    let whole = |wanted: &str, found: &str| vec![(wanted.to_owned(), found.to_owned())];
    assert_eq!(drifted("", 0), whole("10.0.0.1/32", ""), "before its end");
    let end = format!("10.0.0.1/32 until {}", until(600));
    for (timer, words) in [
        (900, "10.0.0.1/32 for longer"),
        (60, "10.0.0.1/32 for a shorter time"),
        (0, "10.0.0.1/32 for ever"),
    ] {
        assert_eq!(drifted(&format!("{one} {timer}\n"), 0), whole(&end, words));
    }
    assert_eq!(
        drifted(&format!("{one} 60\n"), 700),
        whole("", "10.0.0.1/32")
    );
}
