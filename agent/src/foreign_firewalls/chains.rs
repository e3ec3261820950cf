//! Foreign chains and rules in the filter table.

use voipfleet_ruleset::iptables::{Table, TargetEffect, target, target_effect};
use voipfleet_ruleset::ruleset::Family;

use super::known_names::is_fail2ban;
use super::services::UFW;
use super::{ForeignFirewall, ForeignFirewallKind, foreign_firewall, listed};

/// A firewall that is recognised by the names of its chains.
struct Known {
    kind: ForeignFirewallKind,
    is: fn(&str) -> bool,
    advice: &'static str,
}

const KNOWN: [Known; 4] = [
    Known {
        kind: ForeignFirewallKind::Docker,
        is: |chain| chain.starts_with("DOCKER"),
        advice: "ports that containers publish pass FORWARD, where the policy does not see them: \
                 publish on private addresses only, or filter in DOCKER-USER",
    },
    Known {
        kind: ForeignFirewallKind::Fail2ban,
        is: is_fail2ban,
        advice: "",
    },
    Known {
        kind: ForeignFirewallKind::Firewalld,
        is: |chain| matches!(chain, "INPUT_ZONES" | "INPUT_direct" | "IN_public"),
        advice: "firewalld filters beside the policy: systemctl disable --now firewalld",
    },
    Known {
        kind: ForeignFirewallKind::Ufw,
        is: |chain| chain.starts_with("ufw-") || chain.starts_with("ufw6-"),
        advice: UFW,
    },
];

/// Firewalls by their chains and sets, and rules above our jump that only drop.
pub(super) fn find(saved: &[(Family, Table)]) -> Vec<ForeignFirewall> {
    let mut found: Vec<ForeignFirewall> =
        KNOWN.iter().filter_map(|known| known.find(saved)).collect();
    found.extend(above_us(saved));
    found
}

impl Known {
    fn find(&self, saved: &[(Family, Table)]) -> Option<ForeignFirewall> {
        let chains = saved.iter().flat_map(|(_, table)| &table.chains);
        let mut names: Vec<String> = chains
            .clone()
            .map(|chain| chain.name.clone())
            .filter(|name| (self.is)(name))
            .collect();
        names.sort_unstable();
        names.dedup();
        let is_fail2ban = self.kind == ForeignFirewallKind::Fail2ban;
        let rules = chains.flat_map(|chain| &chain.rules);
        let mut sets: Vec<String> = rules
            .filter_map(|rule| set_of(rule))
            .filter(|set| is_fail2ban && (self.is)(set))
            .map(str::to_owned)
            .collect();
        sets.sort_unstable();
        sets.dedup();
        let mut words = Vec::new();
        if !names.is_empty() {
            words.push(format!("chains {}", listed(&names)));
        }
        if !sets.is_empty() {
            words.push(format!("sets {}", listed(&sets)));
        }
        if words.is_empty() {
            return None;
        }
        let mut detail = words.join(", ");
        let mut advice = self.advice;
        if is_fail2ban {
            detail.push_str("; they stay above our rules as long as they only drop packets");
            if bans_every_port(saved) {
                // The vendor's installer does it so (`iptables-allports`).
                advice = "its bans cover every port, including SSH of the admins: add the \
                          admins to `ignoreip`";
            }
        }
        Some(foreign_firewall(self.kind, detail, advice))
    }
}

/// The set that a rule looks packets up in.
fn set_of(rule: &str) -> Option<&str> {
    let (_, rest) = rule.split_once(" --match-set ")?;
    rest.split(' ').next()
}

/// Whether a rule sends packets of every port to a chain or set of fail2ban.
fn bans_every_port(saved: &[(Family, Table)]) -> bool {
    let input = saved.iter().filter_map(|(_, table)| table.chain("INPUT"));
    let bans = |rule: &str| {
        target(rule).is_some_and(|to| is_fail2ban(&to)) || set_of(rule).is_some_and(is_fail2ban)
    };
    let mut rules = input.flat_map(|input| &input.rules);
    rules.any(|rule| bans(rule) && !rule.contains("--dport"))
}

fn above_us(saved: &[(Family, Table)]) -> Option<ForeignFirewall> {
    let mut names = Vec::new();
    let mut rules = 0_usize;
    for (_, table) in saved {
        for rule in table.tolerated() {
            match target(rule) {
                Some(to) if KNOWN.iter().any(|known| (known.is)(&to)) => {}
                _ if set_of(rule).is_some_and(is_fail2ban) => {}
                Some(to) if table.chain(&to).is_some() => names.push(to),
                _ => rules += 1,
            }
        }
    }
    names.sort_unstable();
    names.dedup();
    let mut words = Vec::new();
    match names.len() {
        0 => {}
        1 => words.push(format!("chain {}", listed(&names))),
        _ => words.push(format!("chains {}", listed(&names))),
    }
    match rules {
        0 => {}
        1 => words.push("1 rule".to_owned()),
        _ => words.push(format!("{rules} rules")),
    }
    (!words.is_empty()).then(|| {
        foreign_firewall(
            ForeignFirewallKind::ForeignRules,
            format!(
                "above our rules in INPUT: {}; they only drop packets",
                words.join(", ")
            ),
            "",
        )
    })
}

/// Rules that only drop and that ours come before, because a rule above them accepts.
pub(super) fn overruled(saved: &[(Family, Table)]) -> Vec<ForeignFirewall> {
    let mut names: Vec<(ForeignFirewallKind, String, String)> = Vec::new();
    for (_, table) in saved {
        for found in table.overruled() {
            let to = target(found.drops).unwrap_or_default();
            let by_set = set_of(found.drops).filter(|set| is_fail2ban(set));
            let is_ban = is_fail2ban(&to) || by_set.is_some();
            // Closing rules at the end of INPUT are overruled everywhere, and rightly.
            if !is_ban && table.chain(&to).is_none() {
                continue;
            }
            let kind = if is_ban {
                ForeignFirewallKind::Fail2ban
            } else {
                ForeignFirewallKind::ForeignRules
            };
            let name = by_set.map_or(to, str::to_owned);
            let accepts = found.accepts.trim_start_matches("-A INPUT ").to_owned();
            if !names.iter().any(|(_, known, _)| *known == name) {
                names.push((kind, name, accepts));
            }
        }
    }
    names
        .into_iter()
        .map(|(kind, name, accepts)| {
            let detail = format!(
                "{name} is below `{accepts}` in INPUT, and our rules come before that: it does not \
                 stop what the policy opens"
            );
            let advice = match kind {
                ForeignFirewallKind::Fail2ban => format!(
                    "systemctl restart fail2ban puts {name} on top again; our rules then stay below it"
                ),
                _ => format!(
                    "put the jump to {name} above that rule, in the program that makes it; our rules \
                     then stay below it"
                ),
            };
            foreign_firewall(kind, detail, &advice)
        })
        .collect()
}

/// Rules of other tables that drop before any of our rules sees a packet. Whom they surely cut off is found
/// apart from this; of the others it is only known that they are there.
pub(super) fn other_tables(others: &[(Family, &'static str, Table)]) -> Option<ForeignFirewall> {
    let mut places: Vec<String> = Vec::new();
    for (_, name, table) in others {
        for chain in &table.chains {
            let refuses = |rule: &&String| {
                target(rule).is_some_and(|to| {
                    table.chain(&to).is_none() && target_effect(&to) == TargetEffect::Refuses
                })
            };
            if chain.rules.iter().any(|rule| refuses(&rule)) {
                places.push(format!("{} of table {name}", chain.name));
            }
        }
    }
    places.sort_unstable();
    places.dedup();
    (!places.is_empty()).then(|| {
        foreign_firewall(
            ForeignFirewallKind::ForeignRules,
            format!(
                "before all our rules, rules in {} drop packets",
                listed(&places)
            ),
            "",
        )
    })
}

/// A target of a media proxy below our jump.
pub(super) fn unreached(saved: &[(Family, Table)]) -> Option<ForeignFirewall> {
    const QUEUES: [&str; 3] = ["ACCEPT", "NFQUEUE", "QUEUE"];
    let mut targets: Vec<String> = Vec::new();
    for (_, table) in saved.iter().filter(|(_, table)| !table.jumps().is_empty()) {
        let foreign = table.chains.iter().flat_map(|chain| &chain.rules);
        targets.extend(foreign.filter_map(|rule| target(rule)).filter(|to| {
            let is_taking = target_effect(to) == TargetEffect::Takes && to != "RETURN";
            is_taking && table.chain(to).is_none() && !QUEUES.contains(&to.as_str())
        }));
    }
    targets.sort_unstable();
    targets.dedup();
    (!targets.is_empty()).then(|| {
        foreign_firewall(
            ForeignFirewallKind::ForeignRules,
            format!(
                "rules with the target {} are below our rules: what the policy accepts or drops does \
                 not come to them, so a media proxy relays in its own process, not in the kernel",
                listed(&targets)
            ),
            "",
        )
    })
}

#[cfg(test)]
mod tests {
    use voipfleet_ruleset::iptables::parse_save;

    use super::*;

    fn saved(rules: &str) -> Vec<(Family, Table)> {
        let text = format!("*filter\n:INPUT ACCEPT [0:0]\n{rules}COMMIT\n");
        vec![(Family::V4, parse_save(&text).unwrap())]
    }

    fn reported(rules: &str) -> Vec<(ForeignFirewallKind, String, String)> {
        find(&saved(rules))
            .into_iter()
            .map(|found| (found.kind(), found.detail, found.advice))
            .collect()
    }

    #[test]
    fn empty_table_reports_no_firewall() {
        assert_eq!(reported(""), []);
        assert_eq!(reported(":VF-INPUT - [0:0]\n-A INPUT -j VF-INPUT\n"), []);
    }

    #[test]
    fn docker_and_fail2ban_are_recognised_by_their_chains() {
        let found = reported(
            ":DOCKER - [0:0]\n:DOCKER-USER - [0:0]\n:f2b-sshd - [0:0]\n:VF-INPUT - [0:0]\n\
             -A INPUT -p tcp -m multiport --dports 22 -j f2b-sshd\n-A INPUT -j VF-INPUT\n\
             -A f2b-sshd -s 192.0.2.9/32 -j REJECT\n-A f2b-sshd -j RETURN\n",
        );
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0].0, ForeignFirewallKind::Docker);
        assert_eq!(found[0].1, "chains DOCKER, DOCKER-USER");
        assert_eq!(
            (found[1].0, found[1].2.as_str()),
            (ForeignFirewallKind::Fail2ban, "")
        );
    }

    #[test]
    fn fail2ban_jail_of_all_ports_is_advised_against() {
        let found = reported(":f2b-kamailio - [0:0]\n-A INPUT -j f2b-kamailio\n");
        assert!(found[0].2.contains("ignoreip"), "{found:?}");
    }

    #[test]
    fn foreign_rules_above_the_jump_that_only_drop_are_tolerated() {
        let found = reported(
            ":BADIPS - [0:0]\n:VF-INPUT - [0:0]\n:LATER - [0:0]\n-A INPUT -j BADIPS\n\
             -A INPUT -s 192.0.2.200/32 -j DROP\n-A INPUT -j VF-INPUT\n-A INPUT -j LATER\n\
             -A BADIPS -s 192.0.2.0/28 -j DROP\n",
        );
        let detail = "above our rules in INPUT: chain BADIPS, 1 rule; they only drop packets";
        assert_eq!(
            found,
            [(
                ForeignFirewallKind::ForeignRules,
                detail.to_owned(),
                String::new()
            )]
        );
    }
}
