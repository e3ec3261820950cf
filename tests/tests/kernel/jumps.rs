//! The jump from `INPUT` among foreign rules, and its removal.

use voipfleet_ruleset::iptables::{JUMP, JumpState, filter_section, jump_edit, removal};
use voipfleet_ruleset::ruleset::Family;

use crate::tools::{Backend, Kernel, in_namespace};

const BAN: &str = "-A INPUT -p tcp -m multiport --dports 22 -j f2b-sshd";
const OPEN: &str = "-A INPUT -i lo -j ACCEPT";
const CHAIN: &str = "-A INPUT -j foreign";

/// Foreign chains as they are met: fail2ban's, and one that accepts two steps further on.
fn foreign(family: Family) -> String {
    let (banned, answer) = match family {
        Family::V4 => ("192.0.2.1/32", "icmp-port-unreachable"),
        Family::V6 => ("2001:db8::1/128", "icmp6-port-unreachable"),
    };
    format!(
        ":f2b-sshd - [0:0]\n:foreign - [0:0]\n:inner - [0:0]\n:VF-INPUT - [0:0]\n:VF-SIP - [0:0]\n\
         -A f2b-sshd -s {banned} -j REJECT --reject-with {answer}\n-A f2b-sshd -j RETURN\n\
         -A foreign -p tcp -m comment --comment \"a \\\"b\\\" -j ACCEPT\" -j inner\n\
         -A inner -p tcp -m tcp --dport 80 -m state --state NEW -j ACCEPT\n\
         -A VF-INPUT -j VF-SIP\n-A VF-SIP -j ACCEPT\n"
    )
}

/// What stands in `INPUT`, and what must stand there after the edit.
fn cases() -> Vec<(Vec<&'static str>, Vec<&'static str>)> {
    let conditional = "-A INPUT -p udp -m comment --comment \"not ours\" -j VF-INPUT";
    vec![
        (vec![], vec![JUMP]),
        (vec![BAN], vec![BAN, JUMP]),
        (vec![BAN, OPEN], vec![BAN, JUMP, OPEN]),
        (vec![OPEN, BAN], vec![JUMP, OPEN, BAN]),
        (vec![BAN, CHAIN, JUMP], vec![BAN, JUMP, CHAIN]),
        (vec![OPEN, JUMP, BAN, JUMP], vec![JUMP, OPEN, BAN]),
        (vec![conditional, BAN, CHAIN], vec![BAN, JUMP, CHAIN]),
        (vec![conditional, JUMP, conditional, OPEN], vec![JUMP, OPEN]),
        (vec!["-A INPUT -g VF-INPUT", OPEN], vec![JUMP, OPEN]),
        (vec!["-A INPUT -j VF-SIP", BAN], vec![BAN, JUMP]),
    ]
}

#[test]
fn the_jump_is_put_right_on_nft() {
    in_namespace(|| put_right(Backend::Nft));
}

#[test]
fn the_jump_is_put_right_on_legacy() {
    in_namespace(|| put_right(Backend::Legacy));
}

fn put_right(backend: Backend) {
    let kernel = Kernel::new(backend);
    for family in Family::BOTH {
        for (before, after) in cases() {
            kernel
                .restore(family, &filter_section(&foreign(family)))
                .unwrap();
            let input: String = before.iter().flat_map(|rule| [rule, "\n"]).collect();
            kernel.restore(family, &filter_section(&input)).unwrap();

            let table = kernel.table(family).unwrap();
            if let Some(edit) = jump_edit(&table) {
                kernel.restore(family, &filter_section(&edit)).unwrap();
            }
            let table = kernel.table(family).unwrap();
            assert_eq!(
                table.chain("INPUT").unwrap().rules,
                after,
                "{family} {before:?}"
            );
            assert_eq!(table.jump(), JumpState::Right);
            assert_eq!(jump_edit(&table), None);
            kernel.edit(family, "-F").unwrap();
            kernel.edit(family, "-X").unwrap();
        }
    }
}

#[test]
fn removal_leaves_foreign_rules_as_they_were_on_nft() {
    in_namespace(|| removes(Backend::Nft));
}

#[test]
fn removal_leaves_foreign_rules_as_they_were_on_legacy() {
    in_namespace(|| removes(Backend::Legacy));
}

fn removes(backend: Backend) {
    let kernel = Kernel::new(backend);
    for family in Family::BOTH {
        let theirs: String = foreign(family)
            .lines()
            .filter(|line| !line.contains("VF-"))
            .chain([BAN, CHAIN, OPEN])
            .flat_map(|line| [line, "\n"])
            .collect();
        kernel.restore(family, &filter_section(&theirs)).unwrap();
        kernel.edit(family, "-P FORWARD DROP").unwrap();
        let before = without_comments(&kernel.save(family).unwrap());
        assert_eq!(removal(&kernel.table(family).unwrap()), None);

        let ours = ":VF-INPUT - [0:0]\n:VF-SIP - [0:0]\n-A VF-INPUT -j VF-SIP\n-A VF-SIP -j ACCEPT\n\
                    -I INPUT 2 -j VF-INPUT\n-A INPUT -p udp -j VF-INPUT\n-A foreign -j VF-SIP\n";
        kernel.restore(family, &filter_section(ours)).unwrap();
        assert_ne!(without_comments(&kernel.save(family).unwrap()), before);

        let input = removal(&kernel.table(family).unwrap()).unwrap();
        kernel.restore(family, &input).unwrap();
        assert_eq!(
            without_comments(&kernel.save(family).unwrap()),
            before,
            "{family}"
        );
    }
}

/// The output of iptables-save without its dates.
fn without_comments(saved: &str) -> String {
    saved
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(|line| [line, "\n"])
        .collect()
}
