use super::*;
use crate::iptables::{HiddenRule, Unprintable};

fn table(input: &[&str]) -> Table {
    let chain = |name: &str, rules: &[&str]| SavedChain {
        name: name.to_owned(),
        policy: (name == "INPUT").then(|| "ACCEPT".to_owned()),
        rules: rules
            .iter()
            .map(|rule| format!("-A {name} {rule}"))
            .collect(),
    };
    Table {
        chains: vec![
            chain("INPUT", input),
            chain("VF-INPUT", &["-j VF-SIP"]),
            chain("VF-SIP", &["-j ACCEPT"]),
            chain("f2b-sshd", &["-s 192.0.2.1/32 -j REJECT", "-j RETURN"]),
            chain("outer", &["-p tcp -g inner"]),
            chain("inner", &["-j f2b-sshd", "-j ACCEPT"]),
        ],
        ..Table::default()
    }
}

const JUMP_RULE: &str = "-j VF-INPUT";
const BAN: &str = "-p tcp -m multiport --dports 22 -j f2b-sshd";

#[test]
fn a_right_jump_is_left_alone() {
    for input in [
        vec![JUMP_RULE],
        vec![BAN, JUMP_RULE],
        vec![JUMP_RULE, "-j ACCEPT"],
        vec![
            "-s 192.0.2.9/32 -j DROP",
            BAN,
            "-j LOG",
            JUMP_RULE,
            "-j outer",
        ],
    ] {
        let table = table(&input);
        assert_eq!(table.jump(), JumpState::Right, "{input:?}");
        assert_eq!(jump_edit(&table), None);
    }
}

#[test]
fn every_other_jump_is_put_right() {
    let below = |rule: &str| JumpState::Below {
        rule: format!("-A INPUT {rule}"),
    };
    for (input, state, edit) in [
        (vec![], JumpState::Missing, "-A INPUT -j VF-INPUT\n"),
        (vec![BAN], JumpState::Missing, "-A INPUT -j VF-INPUT\n"),
        (
            vec![BAN, "-i lo -j ACCEPT"],
            JumpState::Missing,
            "-I INPUT 2 -j VF-INPUT\n",
        ),
        (
            vec!["-i lo -j ACCEPT", JUMP_RULE],
            below("-i lo -j ACCEPT"),
            "-D INPUT -j VF-INPUT\n-I INPUT 1 -j VF-INPUT\n",
        ),
        (
            vec!["-i lo -j ACCEPT", BAN, JUMP_RULE],
            below("-i lo -j ACCEPT"),
            "-D INPUT -j VF-INPUT\n-I INPUT 1 -i lo -m comment --comment vf:guard -j VF-INPUT\n\
             -A INPUT -j VF-INPUT\n",
        ),
        (
            vec![BAN, "-j outer", JUMP_RULE],
            below("-j outer"),
            "-D INPUT -j VF-INPUT\n-I INPUT 2 -j VF-INPUT\n",
        ),
        (
            vec![JUMP_RULE, BAN, JUMP_RULE],
            JumpState::Repeated,
            "-D INPUT -j VF-INPUT\n-D INPUT -j VF-INPUT\n-A INPUT -j VF-INPUT\n",
        ),
        (
            vec!["-m comment --comment x -j VF-INPUT", JUMP_RULE],
            JumpState::Repeated,
            "-D INPUT -m comment --comment x -j VF-INPUT\n-D INPUT -j VF-INPUT\n-A INPUT -j VF-INPUT\n",
        ),
        (
            vec!["-p tcp -j VF-INPUT", "-j ACCEPT"],
            JumpState::Missing,
            "-D INPUT -p tcp -j VF-INPUT\n-I INPUT 1 -j VF-INPUT\n",
        ),
        (
            vec!["-g VF-INPUT"],
            JumpState::Missing,
            "-D INPUT -g VF-INPUT\n-A INPUT -j VF-INPUT\n",
        ),
    ] {
        let table = table(&input);
        assert_eq!(table.jump(), state, "{input:?}");
        assert_eq!(jump_edit(&table).as_deref(), Some(edit), "{input:?}");
    }
}

#[test]
fn rules_that_accept_move_below_our_jump() {
    for rule in [
        // Seen on both backends: RETURN and -g hand the packet to the policy of INPUT.
        "-s 192.0.2.1/32 -j RETURN",
        "-p udp -g f2b-sshd",
        "-p udp -j NFQUEUE --queue-num 0 --queue-bypass",
        // Our chain would never be reached.
        "-j DROP",
        "-m comment --comment \"-p no\" -j REJECT --reject-with icmp-port-unreachable",
        "-j RETURN",
    ] {
        let found = table(&[BAN, rule, JUMP_RULE]);
        let rule = format!("-A INPUT {rule}");
        assert_eq!(found.jump(), JumpState::Below { rule: rule.clone() });
        assert_eq!(
            jump_edit(&found).as_deref(),
            Some("-D INPUT -j VF-INPUT\n-I INPUT 2 -j VF-INPUT\n"),
            "{rule}"
        );
    }
}

#[test]
fn what_leaves_for_a_policy_of_drop_is_a_ban() {
    let mut found = table(&["-s 192.0.2.1/32 -j RETURN", "-p udp -g f2b-sshd", JUMP_RULE]);
    found.chains[0].policy = Some("DROP".to_owned());
    assert_eq!(found.jump(), JumpState::Right);
    found.chains[0]
        .rules
        .insert(0, "-A INPUT -j RETURN".to_owned());
    assert!(matches!(found.jump(), JumpState::Below { .. }));
}

#[test]
fn a_side_door_into_our_chains_is_a_bypass() {
    // Past the deny sets, which are in VF-INPUT.
    let mut found = table(&["-s 192.0.2.1/32 -j f2b-sshd", JUMP_RULE]);
    found.chains[3].rules = vec!["-A f2b-sshd -j VF-SIP".to_owned()];
    let rule = "-A INPUT -s 192.0.2.1/32 -j f2b-sshd".to_owned();
    assert_eq!(found.jump(), JumpState::Below { rule });
    found.chains[3].rules = vec!["-A f2b-sshd -j VF-INPUT".to_owned()];
    assert_eq!(found.jump(), JumpState::Right, "the front door");
    found.chains[3].rules = vec!["-A f2b-sshd -j VF-SIP".to_owned()];
    found.chains[2].rules = vec!["-A VF-SIP -j DROP".to_owned()];
    assert_eq!(found.jump(), JumpState::Right, "it only drops");
}

#[test]
fn a_rule_that_no_restore_can_say_goes_by_its_number() {
    let found = table(&[
        "-m comment --comment \"a\nb\" -j VF-SIP",
        BAN,
        "-p udp -j VF-SIP",
        "-m comment --comment \"\u{fffd}\" -j VF-INPUT",
        JUMP_RULE,
    ]);
    assert_eq!(
        jump_edit(&found).as_deref(),
        Some(
            "-D INPUT 4\n-D INPUT 1\n-D INPUT -p udp -j VF-SIP\n-D INPUT -j VF-INPUT\n\
             -A INPUT -j VF-INPUT\n"
        )
    );
}

#[test]
fn an_empty_kernel_gets_a_jump_and_needs_no_removal() {
    assert_eq!(Table::default().jump(), JumpState::Missing);
    assert_eq!(
        jump_edit(&Table::default()).as_deref(),
        Some("-A INPUT -j VF-INPUT\n")
    );
    assert_eq!(removal(&Table::default()), None);
}

#[test]
fn removal_takes_what_names_us_and_nothing_else() {
    let mut table = table(&[BAN, JUMP_RULE, "-p tcp -j VF-INPUT", "-j ACCEPT"]);
    table.chains[4].rules.push("-A outer -j VF-SIP".to_owned());
    assert_eq!(
        removal(&table).unwrap(),
        "*filter\n:VF-INPUT - [0:0]\n:VF-SIP - [0:0]\n-D INPUT -j VF-INPUT\n\
         -D INPUT -p tcp -j VF-INPUT\n-D outer -j VF-SIP\n-X VF-INPUT\n-X VF-SIP\nCOMMIT\n"
    );
}

#[test]
fn chains_that_call_one_another_for_ever_end() {
    let mut table = table(&["-j outer", JUMP_RULE]);
    table.chains[5].rules = vec!["-A inner -j outer".to_owned()];
    assert_eq!(table.jump(), JumpState::Right);
}

#[test]
fn what_only_drops_above_us_is_tolerated() {
    let bans = [
        "-A INPUT -s 192.0.2.9/32 -j DROP",
        "-A INPUT -p udp -j f2b-sshd",
    ];
    let found = table(&[
        "-s 192.0.2.9/32 -j DROP",
        "-j outer",
        "-p udp -j f2b-sshd",
        JUMP_RULE,
        BAN,
    ]);
    assert_eq!(found.tolerated(), bans);
    assert_eq!(table(&[BAN]).tolerated(), [""; 0]);
}

/// `INPUT` after the lines of an edit, as iptables-restore makes it.
fn edited(before: &Table, edit: &str) -> Table {
    let mut after = before.clone();
    let input = &mut after.chains[0].rules;
    for line in edit.lines() {
        let (verb, rest) = line.split_once(" INPUT ").unwrap();
        match (verb, rest.split_once(' ')) {
            ("-D", _) => {
                let place = if let Ok(number) = rest.parse::<usize>() {
                    number - 1
                } else {
                    let rule = format!("-A INPUT {rest}");
                    input.iter().position(|found| *found == rule).unwrap()
                };
                input.remove(place);
            }
            ("-A", _) => input.push(format!("-A INPUT {rest}")),
            ("-I", Some((number, rule))) => {
                input.insert(
                    number.parse::<usize>().unwrap() - 1,
                    format!("-A INPUT {rule}"),
                );
            }
            other => panic!("{other:?}"),
        }
    }
    after
}

fn repaired(input: &[&str]) -> Vec<String> {
    let before = table(input);
    let after = edited(&before, &jump_edit(&before).unwrap());
    assert_eq!(after.jump(), JumpState::Right, "{input:?}");
    let rules = after.chains[0].rules.iter();
    rules
        .map(|rule| {
            rule.replace("-A INPUT ", "")
                .replace("-m comment --comment vf:guard", "GUARD")
        })
        .collect()
}

#[test]
fn an_accepting_rule_on_top_is_guarded_and_bans_stay_in_force() {
    let accept = "-s 198.51.100.66/32 -p tcp -m tcp --dport 22 -j ACCEPT";
    let guard = "-s 198.51.100.66/32 -p tcp -m tcp --dport 22 GUARD -j VF-INPUT";
    let found = table(&[accept, BAN, JUMP_RULE]);
    assert!(matches!(found.jump(), JumpState::Below { .. }));
    assert_eq!(
        repaired(&[accept, BAN, JUMP_RULE, "-i lo -j ACCEPT"]),
        [guard, accept, BAN, JUMP_RULE, "-i lo -j ACCEPT"]
    );
    // Between the bans and us it only moves us up.
    assert_eq!(
        repaired(&[BAN, accept, JUMP_RULE]),
        [BAN, JUMP_RULE, accept]
    );
    // When its cause is gone, the guard goes.
    let guard_rule = guard.replace("GUARD", "-m comment --comment \"vf:guard\"");
    let found = table(&[&guard_rule, BAN, JUMP_RULE]);
    let rule = format!("-A INPUT {guard_rule}");
    assert_eq!(found.jump(), JumpState::Displaced { rule: rule.clone() });
    assert_eq!(found.needless_jumps(), [rule]);
    assert_eq!(repaired(&[&guard_rule, BAN, JUMP_RULE]), [BAN, JUMP_RULE]);
    // With the jump gone, the guard tells where it was.
    assert_eq!(
        repaired(&[&guard_rule, accept, BAN]),
        [guard, accept, BAN, JUMP_RULE]
    );
}

#[test]
fn a_guard_repeats_what_hangs_on_the_packet_alone() {
    for (rule, guard) in [
        (
            "-p udp -m udp --dport 5060 -m limit --limit 5/sec -j ACCEPT",
            "-p udp -m udp --dport 5060",
        ),
        (
            "-p tcp -m set --match-set white src -m comment --comment \"a b\" -j ACCEPT",
            "-p tcp",
        ),
        (
            "! -s 192.0.2.0/24 -p udp -j NFQUEUE --queue-num 3",
            "! -s 192.0.2.0/24 -p udp",
        ),
        (
            "-m string --string \"-j DROP\" --algo bm --to 65535 -j ACCEPT",
            "",
        ),
        ("-p udp -j RTPENGINE --id 0", "-p udp"),
        ("-i eth7 -j outer", "-i eth7"),
        ("-j outer", ""),
    ] {
        let guard = format!("{guard} GUARD -j VF-INPUT");
        let wanted = [guard.trim_start(), rule, BAN, JUMP_RULE];
        assert_eq!(repaired(&[rule, BAN, JUMP_RULE]), wanted);
    }
}

#[test]
fn a_guard_with_more_conditions_than_it_needs_is_put_right() {
    let accept = "-i eth0 -p tcp -m tcp --dport 22 -j ACCEPT";
    let guard = "-i eth0 -p tcp -m tcp --dport 22 GUARD -j VF-INPUT";
    let narrow = "-i eth0 -p tcp -m tcp --dport 22 -m limit --limit 5/sec -m comment --comment \
                  vf:guard -j VF-INPUT";
    let found = table(&[narrow, accept, BAN, JUMP_RULE]);
    assert_eq!(found.jump(), JumpState::Repeated);
    assert_eq!(
        repaired(&[narrow, accept, BAN, JUMP_RULE]),
        [guard, accept, BAN, JUMP_RULE]
    );
}

/// `INPUT` of which nft lists this rule, and with it all others in its own words.
fn listed_by_nft(input: &[&str]) -> Table {
    let mut table = table(input);
    table.unprintable = Some(Unprintable {
        reason: "Table `filter' is incompatible, use 'nft' tool.".to_owned(),
        rules: vec![HiddenRule {
            chain: "INPUT".to_owned(),
            place: 0,
            text: "ct state vmap { established : accept }".to_owned(),
            cause: HiddenCause::NftOnly,
        }],
    });
    table
}

#[test]
fn a_guard_where_only_nft_lists_the_rules_is_for_all_packets_and_is_read_back() {
    let accept = "-m nft --string \"ct state vmap { established : accept }\" -j ACCEPT";
    let ban = "-m nft --string \"tcp dport 22 jump f2b-sshd\" -j f2b-sshd";
    let guard = "-m comment --comment \"\" -j VF-INPUT";
    let narrow = "-m comment --comment \"\" -m nft --string \"iifname eth0 jump VF-INPUT\" -j \
                  VF-INPUT";
    let edit = "-I INPUT 1 -m comment --comment vf:guard -j VF-INPUT\n-I INPUT 4 -j VF-INPUT\n";
    for accept in [accept, "-j outer"] {
        let bare = listed_by_nft(&[accept, ban, JUMP_RULE, "-j ACCEPT"]);
        let deletion = "-D INPUT -j VF-INPUT\n".to_owned();
        assert_eq!(jump_edit(&bare), Some(deletion + edit));
        let guarded = listed_by_nft(&[guard, accept, ban, JUMP_RULE, "-j ACCEPT"]);
        assert_eq!(guarded.jump(), JumpState::Right);
        // It was made while iptables printed the chain. The guard goes by its number.
        let found = listed_by_nft(&[narrow, accept, ban, JUMP_RULE, "-j ACCEPT"]);
        assert_eq!(found.jump(), JumpState::Repeated);
        let deletions = "-D INPUT 1\n-D INPUT -j VF-INPUT\n".to_owned();
        assert_eq!(jump_edit(&found), Some(deletions + edit));
    }
    let found = listed_by_nft(&[guard, ban, JUMP_RULE, "-j ACCEPT"]);
    assert!(matches!(found.jump(), JumpState::Displaced { .. }));
}

#[test]
fn a_chain_for_guests_is_guarded_by_its_interfaces() {
    let mut found = table(&["-j outer", BAN, JUMP_RULE]);
    found.chains[4].rules = [53, 67]
        .map(|port| format!("-A outer -i virbr0 -p udp -m udp --dport {port} -j ACCEPT"))
        .into();
    let edit = "-D INPUT -j VF-INPUT\n-I INPUT 1 -i virbr0 -m comment --comment vf:guard -j VF-INPUT\n\
                -A INPUT -j VF-INPUT\n";
    assert_eq!(jump_edit(&found).as_deref(), Some(edit));
    found.chains[4].rules.push("-A outer -j ACCEPT".to_owned());
    let edit = edit.replace("-i virbr0 ", "");
    assert_eq!(jump_edit(&found).as_deref(), Some(edit.as_str()));
}

#[test]
fn targets_that_take_packets_bypass_and_marks_do_neither() {
    for taking in [
        "RTPENGINE --id 0",
        "NFQUEUE --queue-num 0",
        "QUEUE",
        "MEDIAPROXY",
    ] {
        let rule = format!("-p udp -j {taking}");
        let found = table(&[&rule, JUMP_RULE]);
        let rule = format!("-A INPUT {rule}");
        assert_eq!(found.jump(), JumpState::Below { rule }, "{taking}");
    }
    for passing in [
        "MARK --set-xmark 0x1/0xffffffff",
        "LOG",
        "CONNMARK --save-mark",
        "NFLOG",
    ] {
        let rule = format!("-p udp -j {passing}");
        let found = table(&[&rule, JUMP_RULE]);
        assert_eq!(found.jump(), JumpState::Right, "{passing}");
        assert_eq!(found.tolerated(), [""; 0], "{passing}");
    }
}

#[test]
fn bans_below_an_accepting_rule_that_we_must_outrank_are_named() {
    let found = table(&[JUMP_RULE, "-i lo -j ACCEPT", BAN]);
    let ban = format!("-A INPUT {BAN}");
    let overruled = [Overruled {
        drops: ban.as_str(),
        accepts: "-A INPUT -i lo -j ACCEPT",
    }];
    assert_eq!(found.overruled(), overruled);
    assert_eq!(table(&[BAN, JUMP_RULE, "-i lo -j ACCEPT"]).overruled(), []);
    assert_eq!(table(&[JUMP_RULE, BAN]).overruled(), []);
}

mod any_order {
    use proptest::prelude::*;

    use super::*;

    const RULES: [&str; 11] = [
        JUMP_RULE,
        JUMP_RULE,
        BAN,
        "-s 192.0.2.9/32 -j DROP",
        "-s 198.51.100.66/32 -j ACCEPT",
        "-i eth1 -p udp -j NFQUEUE --queue-num 0",
        "-j outer",
        "-p udp -j LOG",
        "-p udp -j VF-SIP",
        "-m comment --comment vf:guard -j VF-INPUT",
        "-s 198.51.100.66/32 -m comment --comment vf:guard -j VF-INPUT",
    ];

    proptest! {
        #[test]
        fn one_edit_puts_it_right_and_moves_no_ban_below_us(
            chosen in prop::collection::vec(prop::sample::select(&RULES[..]), 0..9)
        ) {
            let before = table(&chosen);
            let after = jump_edit(&before).map_or(before.clone(), |edit| edited(&before, &edit));
            prop_assert_eq!(after.jump(), JumpState::Right);
            prop_assert_eq!(jump_edit(&after), None);
            let foreign = |table: &Table| -> Vec<String> {
                let rules = table.chains[0].rules.iter();
                rules.filter(|rule| !jumps_to(rule, is_ours)).cloned().collect()
            };
            prop_assert_eq!(foreign(&before), foreign(&after));
            let bans = |table: &Table| table.tolerated().len();
            prop_assert!(bans(&after) >= bans(&before), "{:?}", after.chains[0].rules);
        }
    }
}
