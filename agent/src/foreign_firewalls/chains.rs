//! Foreign chains in the filter table.

use super::{ForeignFirewall, ForeignFirewallKind};
use voipfleet_ruleset::iptables::{Table, target};
use voipfleet_ruleset::ruleset::Family;

use super::services::UFW;
use super::{foreign_firewall, listed};

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

fn is_fail2ban(chain: &str) -> bool {
    chain.starts_with("f2b-") || chain.starts_with("fail2ban-")
}

/// Firewalls by their chains, and rules above our jump that only drop.
pub(super) fn find(saved: &[(Family, Table)]) -> Vec<ForeignFirewall> {
    let mut found: Vec<ForeignFirewall> =
        KNOWN.iter().filter_map(|known| known.find(saved)).collect();
    found.extend(above_us(saved));
    found
}

impl Known {
    fn find(&self, saved: &[(Family, Table)]) -> Option<ForeignFirewall> {
        let chains = saved.iter().flat_map(|(_, table)| &table.chains);
        let names = chains.map(|chain| chain.name.as_str());
        let mut names: Vec<String> = names
            .filter(|name| (self.is)(name))
            .map(str::to_owned)
            .collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() {
            return None;
        }
        let mut detail = format!("chains {}", listed(&names));
        let mut advice = self.advice;
        if self.kind == ForeignFirewallKind::Fail2ban {
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

/// Whether a rule sends packets of every port to a chain of fail2ban.
fn bans_every_port(saved: &[(Family, Table)]) -> bool {
    let input = saved.iter().filter_map(|(_, table)| table.chain("INPUT"));
    input
        .flat_map(|input| &input.rules)
        .any(|rule| target(rule).is_some_and(|to| is_fail2ban(&to)) && !rule.contains("--dport"))
}

fn above_us(saved: &[(Family, Table)]) -> Option<ForeignFirewall> {
    let mut names = Vec::new();
    let mut rules = 0_usize;
    for (_, table) in saved {
        for rule in table.tolerated() {
            match target(rule) {
                Some(to) if KNOWN.iter().any(|known| (known.is)(&to)) => {}
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
