use super::*;

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
            vec!["-i lo -j ACCEPT", BAN, JUMP_RULE],
            below("-i lo -j ACCEPT"),
            "-D INPUT -j VF-INPUT\n-I INPUT 1 -j VF-INPUT\n",
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
