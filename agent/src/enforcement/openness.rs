//! Whether packets come in past our rules.

use std::fmt;

use voipfleet_ruleset::drift::Wanted;
use voipfleet_ruleset::iptables::{JUMP, JumpState, Table, target};
use voipfleet_ruleset::ruleset::{INPUT_CHAIN, Mode};

/// How packets come in that the ruleset does not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Openness {
    /// `INPUT` does not jump to our chain.
    NoJump,
    /// A foreign rule above the jump decides before our chain does.
    Bypassed {
        /// As iptables-save prints it.
        rule: String,
    },
    /// Our chain ends without its default verdict.
    NoVerdict,
}

impl fmt::Display for Openness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Openness::NoJump => write!(f, "INPUT does not jump to {INPUT_CHAIN}"),
            Openness::Bypassed { rule } => {
                write!(f, "{rule} decides before {INPUT_CHAIN} is reached")
            }
            Openness::NoVerdict => write!(f, "{INPUT_CHAIN} has lost its default verdict"),
        }
    }
}

/// How `observed` lets packets in past `wanted`; none where it does not. A ruleset that only
/// observes closes nothing.
pub(super) fn openness(mode: Mode, wanted: &Wanted, observed: &Table) -> Option<Openness> {
    let verdict = rules(&wanted.table).last().filter(|rule| drops(rule))?;
    if mode != Mode::Enforce {
        return None;
    }
    let input = observed.chain("INPUT");
    let policy_drops = input.and_then(|input| input.policy.as_deref()) == Some("DROP");
    match observed.jump() {
        JumpState::Missing if !observed.is_guarded() => {
            return lets_in_without_jump(observed, policy_drops);
        }
        JumpState::Below { rule } if !drops(&rule) => return Some(Openness::Bypassed { rule }),
        JumpState::Missing
        | JumpState::Below { .. }
        | JumpState::Right
        | JumpState::Repeated
        | JumpState::Displaced { .. } => {}
    }
    // The words of a chain with a rule that iptables cannot print are not known.
    let is_known = observed.hidden_in(INPUT_CHAIN).next().is_none();
    let is_lost = is_known && !rules(observed).contains(verdict);
    (is_lost && !policy_drops).then_some(Openness::NoVerdict)
}

fn rules(table: &Table) -> &[String] {
    let chain = table.chain(INPUT_CHAIN);
    chain.map_or(&[], |chain| chain.rules.as_slice())
}

fn drops(rule: &str) -> bool {
    matches!(target(rule).as_deref(), Some("DROP" | "REJECT"))
}

/// Without the jump, the foreign rules of `INPUT` and its policy decide.
fn lets_in_without_jump(observed: &Table, policy_drops: bool) -> Option<Openness> {
    let mut with_jump = observed.clone();
    let chains = with_jump.chains.iter_mut();
    for chain in chains.filter(|chain| chain.name == "INPUT") {
        chain.rules.push(JUMP.to_owned());
    }
    let closed = match with_jump.jump() {
        JumpState::Below { rule } => drops(&rule),
        JumpState::Right | JumpState::Displaced { .. } => policy_drops,
        JumpState::Missing | JumpState::Repeated => false,
    };
    (!closed).then_some(Openness::NoJump)
}

#[cfg(test)]
mod tests {
    use voipfleet_ruleset::iptables::parse_save;
    use voipfleet_ruleset::ruleset::Family;

    use super::*;

    const OURS: &str = ":VF-INPUT - [0:0]\n-A VF-INPUT -p udp -j ACCEPT\n-A VF-INPUT -j DROP\n";

    fn table(policy: &str, rules: &str) -> Table {
        let text = format!("*filter\n:INPUT {policy} [0:0]\n{rules}COMMIT\n");
        parse_save(&text).unwrap()
    }

    #[test]
    fn node_is_open_where_packets_come_in_past_the_default_verdict() {
        let wanted = Wanted {
            family: Family::V4,
            table: table("ACCEPT", OURS).ours(),
            policy: None,
        };
        let accept = "-A INPUT -p tcp -j ACCEPT";
        let bypass = Some(Openness::Bypassed {
            rule: accept.to_owned(),
        });
        let guard = "-A INPUT -m comment --comment \"vf:guard\" -j VF-INPUT";
        let emptied = ":VF-INPUT - [0:0]\n-A INPUT -j VF-INPUT\n".to_owned();
        for (policy, rules, open) in [
            ("ACCEPT", format!("{OURS}{JUMP}\n"), None),
            ("ACCEPT", OURS.to_owned(), Some(Openness::NoJump)),
            ("ACCEPT", String::new(), Some(Openness::NoJump)),
            ("DROP", OURS.to_owned(), None),
            ("DROP", format!("{OURS}{accept}\n"), Some(Openness::NoJump)),
            ("ACCEPT", format!("{OURS}-A INPUT -j DROP\n"), None),
            (
                "ACCEPT",
                format!("{OURS}{accept}\n{JUMP}\n"),
                bypass.clone(),
            ),
            ("DROP", format!("{OURS}{accept}\n{JUMP}\n"), bypass),
            ("ACCEPT", format!("{OURS}-A INPUT -j DROP\n{JUMP}\n"), None),
            (
                "ACCEPT",
                format!("{OURS}-A INPUT -p tcp -j DROP\n{JUMP}\n"),
                None,
            ),
            ("ACCEPT", format!("{OURS}{guard}\n{accept}\n"), None),
            (
                "ACCEPT",
                format!("{OURS}{accept}\n{guard}\n"),
                Some(Openness::NoJump),
            ),
            ("ACCEPT", emptied.clone(), Some(Openness::NoVerdict)),
            ("DROP", emptied, None),
        ] {
            let observed = table(policy, &rules);
            assert_eq!(
                openness(Mode::Enforce, &wanted, &observed),
                open,
                "{policy}: {rules}"
            );
            assert_eq!(openness(Mode::Observe, &wanted, &observed), None);
        }
    }
}
