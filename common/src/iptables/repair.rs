//! The smallest restore that turns what the kernel holds into what it should hold.

use std::fmt::Write as _;

use super::jump::{jump_edit, retire};
use super::words::is_ours;
use super::{SavedChain, Table, filter_section};

/// One input of `iptables-restore --noflush` that makes our chains in `observed`, the whole
/// filter table, those of `wanted`; none when they are, and the jump is right.
///
/// Both are in the words of the same iptables-save. Chains that are equal are left alone,
/// and so keep their counters. Chains of ours that are not wanted go, with every rule that
/// jumps to them. The kernel takes all of it or nothing.
pub fn repair_input(wanted: &Table, observed: &Table) -> Option<String> {
    let differing: Vec<&SavedChain> = wanted
        .chains
        .iter()
        .filter(|chain| {
            observed
                .chain(&chain.name)
                .is_none_or(|found| found.rules != chain.rules)
        })
        .collect();
    let stale: Vec<&str> = observed
        .chains
        .iter()
        .map(|chain| chain.name.as_str())
        .filter(|name| is_ours(name) && wanted.chain(name).is_none())
        .collect();
    let jump = jump_edit(observed);
    if differing.is_empty() && stale.is_empty() && jump.is_none() {
        return None;
    }
    let mut lines = String::new();
    // Declaring a chain makes it, and empties it where it exists.
    for name in differing
        .iter()
        .map(|chain| chain.name.as_str())
        .chain(stale.iter().copied())
    {
        let _ = writeln!(lines, ":{name} - [0:0]");
    }
    for rule in differing.iter().flat_map(|chain| &chain.rules) {
        let _ = writeln!(lines, "{rule}");
    }
    lines.push_str(&jump.unwrap_or_default());
    lines.push_str(&retire(&stale, observed));
    Some(filter_section(&lines))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iptables::parse_save;

    const WANTED: &str = "*filter
:VF-INPUT - [0:0]
:VF-SIP - [0:0]
-A VF-INPUT -j VF-SIP
-A VF-SIP -p udp -j ACCEPT
COMMIT
";

    fn observed(ours: &str, input: &str) -> Table {
        let text =
            format!("*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n{ours}{input}COMMIT\n");
        parse_save(&text).unwrap()
    }

    #[test]
    fn what_is_right_is_left_alone() {
        let wanted = parse_save(WANTED).unwrap();
        let ours = ":VF-SIP - [0:0]\n:VF-INPUT - [0:0]\n-A VF-SIP -p udp -j ACCEPT\n-A VF-INPUT -j VF-SIP\n";
        let right = observed(ours, "-A INPUT -j VF-INPUT\n");
        assert_eq!(repair_input(&wanted, &right), None);
        let without_jump = observed(ours, "");
        assert_eq!(
            repair_input(&wanted, &without_jump).unwrap(),
            "*filter\n-A INPUT -j VF-INPUT\nCOMMIT\n"
        );
    }

    #[test]
    fn only_the_chain_that_differs_is_written() {
        let wanted = parse_save(WANTED).unwrap();
        let ours = ":VF-SIP - [0:0]\n:VF-INPUT - [0:0]\n-A VF-INPUT -j VF-SIP\n";
        let flushed = observed(ours, "-A INPUT -j VF-INPUT\n");
        assert_eq!(
            repair_input(&wanted, &flushed).unwrap(),
            "*filter\n:VF-SIP - [0:0]\n-A VF-SIP -p udp -j ACCEPT\nCOMMIT\n"
        );
    }

    #[test]
    fn a_chain_that_nobody_wants_goes_with_its_jumps() {
        let wanted = parse_save(WANTED).unwrap();
        let ours = ":VF-SIP - [0:0]\n:VF-INPUT - [0:0]\n:VF-X - [0:0]\n-A VF-X -j DROP\n\
                    -A VF-SIP -p udp -j ACCEPT\n-A VF-INPUT -j VF-SIP\n-A FORWARD -j VF-X\n";
        let found = observed(ours, "-A INPUT -j VF-INPUT\n");
        assert_eq!(
            repair_input(&wanted, &found).unwrap(),
            "*filter\n:VF-X - [0:0]\n-D FORWARD -j VF-X\n-X VF-X\nCOMMIT\n"
        );
    }
}
