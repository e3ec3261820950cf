//! The ruleset of a node that cannot run its own: open for repair by admins, closed otherwise.

use ipnet::IpNet;

use super::{
    Chain, ConnectionState, ConnectionStates, INPUT_CHAIN, InvalidToken, Mode, Rule, RuleSubject,
    Ruleset, Verdict,
};
use crate::identifiers::{NodeName, SiteName};

impl Ruleset {
    /// Closes the node but for what the agent's failsafe chain holds (loopback, SSH of
    /// `admins`, the controllers' replies, DHCP, neighbour discovery), and replies.
    ///
    /// It needs no set, and of the matches only those that come with every iptables.
    pub fn management(
        site: SiteName,
        node: NodeName,
        admins: Vec<IpNet>,
        ssh_ports: Vec<u16>,
    ) -> Result<Self, InvalidToken> {
        let rule = |label: &str, verdict| -> Result<Rule, InvalidToken> {
            Ok(Rule::new(format!("management:{label}").parse()?, verdict)
                .about(RuleSubject::Management))
        };
        let input = vec![
            Rule {
                states: ConnectionStates::new([
                    ConnectionState::Established,
                    ConnectionState::Related,
                ]),
                ..rule("replies", Verdict::Accept)?
            },
            rule("default", Verdict::Drop)?,
        ];
        Ok(Self {
            site,
            node,
            mode: Mode::Enforce,
            admins,
            ssh_ports,
            sets: Vec::new(),
            chains: vec![Chain {
                name: INPUT_CHAIN.parse()?,
                rules: input,
            }],
            probes: Vec::new(),
            without_ipv6: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iptables::{Failsafe, restore_input};
    use crate::ruleset::Family;

    #[test]
    fn only_admins_controllers_and_dhcp_get_in() {
        let ruleset = Ruleset::management(
            "site-a".parse().unwrap(),
            "sip1".parse().unwrap(),
            vec!["198.51.100.10/32".parse().unwrap()],
            vec![22, 2222],
        )
        .unwrap();
        assert_eq!(Ruleset::decode(&ruleset.encode()).unwrap(), ruleset);
        let failsafe = Failsafe {
            controllers: vec!["192.0.2.1:7443".parse().unwrap()],
            ssh_ports: Vec::new(),
        };
        let rules = |family| -> Vec<String> {
            restore_input(&ruleset, &failsafe, family)
                .lines()
                .filter_map(|line| line.split_once(" -m comment --comment \"vf:"))
                .map(|(matches, label)| format!("{matches} {}", label.replace('"', "")))
                .collect()
        };
        assert_eq!(
            rules(Family::V4),
            [
                "-A VF-FAILSAFE -i lo failsafe:loopback -j ACCEPT",
                "-A VF-FAILSAFE -s 192.0.2.1/32 -p tcp -m multiport --sports 7443 -m conntrack \
                 --ctstate ESTABLISHED failsafe:controller -j ACCEPT",
                "-A VF-FAILSAFE -s 198.51.100.10/32 -p tcp -m multiport --dports 22,2222 \
                 failsafe:admin-ssh -j ACCEPT",
                "-A VF-FAILSAFE -p udp -m multiport --dports 68 -m multiport --sports 67 \
                 failsafe:dhcp -j ACCEPT",
                "-A VF-INPUT failsafe -j VF-FAILSAFE",
                "-A VF-INPUT -m conntrack --ctstate ESTABLISHED,RELATED management:replies \
                 -j ACCEPT",
                "-A VF-INPUT management:default -j DROP",
            ]
        );
        let v6 = rules(Family::V6);
        assert_eq!(
            v6[v6.len() - 2..],
            [
                "-A VF-INPUT -m conntrack --ctstate ESTABLISHED,RELATED management:replies \
                 -j ACCEPT",
                "-A VF-INPUT management:default -j DROP",
            ]
        );
    }
}
