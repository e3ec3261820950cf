//! Daemons that rulesets would close to whoever uses them now.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use voipfleet_ruleset::identifiers::NodeName;
use voipfleet_ruleset::ruleset::{Interface, Mode, Protocol, Ruleset, Verdict};
use voipfleet_ruleset::simulate::{Decision, Packet, simulate};

use super::lines::{Subject, protocol_name};
use super::warnings::some;

/// A socket that takes packets from other machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Its port.
    pub port: u16,
    /// The command that has it; empty: not known.
    pub process: String,
    /// Who uses it now: the first of them.
    pub users: Vec<IpAddr>,
    /// How many others there are.
    pub more_users: usize,
    /// Whether `users` can be known.
    pub users_known: bool,
    /// It is a server of SSH: the agent keeps it open to admins.
    pub is_ssh: bool,
}

/// A node with what listens there, what it runs and what it would run, dynamic sets filled in.
#[derive(Debug)]
pub struct ListeningNode<'r> {
    /// Its name.
    pub node: &'r NodeName,
    /// `None`: it runs nothing yet.
    pub before: Option<&'r Ruleset>,
    /// What it would run.
    pub after: &'r Ruleset,
    /// What listens.
    pub listeners: &'r [Listener],
}

/// Process, port and transport in words.
type Daemon = String;

/// What rulesets would close, alike on several nodes once. Nodes are added one by one: their rulesets
/// with all addresses need not be there together.
#[derive(Debug, Default)]
pub struct ClosedListeners {
    /// Servers of SSH on ports that the policy does not name.
    ssh: BTreeMap<u16, BTreeSet<String>>,
    /// In use: who loses them, and how many more may.
    used: BTreeMap<Daemon, Losers>,
    /// Daemons inside a range that is opened to the world, with what opens it.
    exposed: BTreeMap<(Daemon, String), BTreeSet<String>>,
    /// Closed, with users that are not known.
    unknown: BTreeMap<Daemon, BTreeSet<String>>,
    /// Closed to all, and not in use.
    idle: BTreeMap<BTreeSet<Daemon>, BTreeSet<String>>,
}

#[derive(Debug, Default)]
struct Losers {
    nodes: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
    more: usize,
}

impl ClosedListeners {
    /// Compares what a node lets in with who uses what listens there.
    pub fn add(&mut self, node: &ListeningNode<'_>) {
        if node.after.mode != Mode::Enforce {
            return;
        }
        let before = node.before.map(Judge::new);
        let after = Judge::new(node.after);
        let name = node.node.to_string();
        let mut idle = BTreeSet::new();
        for listener in node.listeners {
            if listener.is_ssh && !node.after.ssh_ports.contains(&listener.port) {
                let nodes = self.ssh.entry(listener.port).or_default();
                nodes.insert(name.clone());
            }
            let exposes = |ruleset| exposing(ruleset, listener);
            if let Some(opening) = exposes(node.after)
                && node.before.is_none_or(|before| exposes(before).is_none())
            {
                let nodes = self
                    .exposed
                    .entry((listener.daemon(), opening))
                    .or_default();
                nodes.insert(name.clone());
            }
            let lets_in = |judge: &Judge<'_>, user: &IpAddr| judge.lets_in(listener, *user);
            let was_open =
                |user: &&IpAddr| before.as_ref().is_none_or(|judge| lets_in(judge, user));
            let losers: Vec<&IpAddr> = listener
                .users
                .iter()
                .filter(was_open)
                .filter(|user| !lets_in(&after, user))
                .collect();
            if !losers.is_empty() {
                let used = self.used.entry(listener.daemon()).or_default();
                used.nodes.insert(name.clone());
                used.addresses.extend(losers);
                used.more += listener.more_users;
                continue;
            }
            let opened = |ruleset: &Ruleset| names_port(ruleset, listener);
            let closes = !opened(node.after) && node.before.is_none_or(opened);
            // SSH has its own line, and stays open to admins.
            if !closes || listener.is_ssh || !listener.users.is_empty() {
                continue;
            }
            if listener.users_known {
                idle.insert(listener.daemon());
            } else {
                let nodes = self.unknown.entry(listener.daemon()).or_default();
                nodes.insert(name.clone());
            }
        }
        if !idle.is_empty() {
            self.idle.entry(idle).or_default().insert(name);
        }
    }

    /// Warnings about what would be closed.
    pub fn warnings(self) -> Vec<String> {
        let list = |names: BTreeSet<String>| {
            let names: Vec<String> = names.into_iter().collect();
            some(names.into_iter())
        };
        let mut warnings = Vec::new();
        for (daemon, losers) in self.used {
            let addresses: Vec<String> = losers.addresses.iter().map(ToString::to_string).collect();
            let more = match losers.more {
                0 => String::new(),
                more => format!(", and perhaps by {more} more addresses"),
            };
            warnings.push(format!(
                "{daemon} of {} is in use by {}, which these rules do not let in{more}: it would be \
                 closed to them; open it in services or rules if they need it",
                list(losers.nodes),
                some(addresses.into_iter())
            ));
        }
        for (port, nodes) in self.ssh {
            warnings.push(format!(
                "ssh: the SSH server of {} listens on {port}, which services.ssh.ports does not name: \
                 the agent keeps it open to admins, and it is closed to others",
                list(nodes)
            ));
        }
        for ((daemon, opening), nodes) in self.exposed {
            warnings.push(format!(
                "the world would reach {daemon} of {}, which listens inside the ports of {opening}",
                list(nodes)
            ));
        }
        for (daemon, nodes) in self.unknown {
            warnings.push(format!(
                "{daemon} of {} listens and would be closed; who uses it now is not known there, \
                 since no connections are tracked yet",
                list(nodes)
            ));
        }
        for (daemons, nodes) in self.idle {
            warnings.push(format!(
                "{}: no rule opens {}; nobody is seen using it now",
                list(nodes),
                list(daemons)
            ));
        }
        warnings
    }
}

impl Listener {
    fn daemon(&self) -> Daemon {
        let protocol = protocol_name(self.protocol);
        if self.process.is_empty() {
            format!("an unknown program on {}/{protocol}", self.port)
        } else {
            format!("{} on {}/{protocol}", self.process, self.port)
        }
    }
}

/// What a ruleset lets in, on whatever interface that its rules name.
struct Judge<'r> {
    interfaces: BTreeSet<&'r Interface>,
    ruleset: &'r Ruleset,
}

impl<'r> Judge<'r> {
    fn new(ruleset: &'r Ruleset) -> Self {
        let rules = ruleset.chains.iter().flat_map(|chain| &chain.rules);
        Self {
            interfaces: rules
                .filter_map(|rule| rule.in_interface.as_ref())
                .collect(),
            ruleset,
        }
    }

    /// Facts do not say by which interface a user comes: one that lets it in suffices.
    fn lets_in(&self, listener: &Listener, user: IpAddr) -> bool {
        let user = user.to_canonical();
        let is_admin = || self.ruleset.admins.iter().any(|net| net.contains(&user));
        if listener.is_ssh && is_admin() {
            return true;
        }
        let any = [None].into_iter();
        let interfaces = any.chain(self.interfaces.iter().map(|one| Some((*one).clone())));
        interfaces.into_iter().any(|in_interface| {
            let packet = Packet {
                in_interface,
                ..Packet::new(user, listener.protocol, listener.port)
            };
            let decision = simulate(self.ruleset, &packet).decision;
            !matches!(decision, Decision::Drop | Decision::Reject)
        })
    }
}

/// What opens a range of ports to the world in which `listener` is; `None`: nothing does.
fn exposing(ruleset: &Ruleset, listener: &Listener) -> Option<String> {
    let mut rules = ruleset.chains.iter().flat_map(|chain| &chain.rules);
    let rule = rules.find(|rule| {
        let mut ranges = rule.destination_ports.ranges().iter();
        rule.verdict == Verdict::Accept
            && rule.states.is_any()
            && rule.protocol == Some(listener.protocol)
            && rule.source.is_none()
            && rule.source_set.is_none()
            && ranges.any(|range| range.first < range.last && range.contains(listener.port))
    })?;
    Some(Subject::of(rule).text)
}

/// Whether a rule opens the very port to somebody.
fn names_port(ruleset: &Ruleset, listener: &Listener) -> bool {
    let rules = ruleset.chains.iter().flat_map(|chain| &chain.rules);
    rules
        .filter(|rule| rule.verdict == Verdict::Accept && rule.states.is_any())
        .any(|rule| {
            rule.protocol == Some(listener.protocol)
                && rule.destination_ports.contains(listener.port)
        })
}

#[cfg(test)]
mod tests {
    use voipfleet_policy::{Documents, ServiceOverride, Site, Transport};
    use voipfleet_ruleset::role::Role;
    use voipfleet_ruleset::ruleset::PortRange;

    use super::*;
    use crate::fixtures::{documents, effective, node, word};

    fn changed(change: impl FnOnce(&mut Site)) -> Documents {
        let mut documents = documents();
        change(documents.sites.values_mut().next().unwrap());
        documents
    }

    fn ruleset(documents: &Documents) -> Ruleset {
        let nodes = [
            node("sip-1", 1, &[Role::Sip]),
            node("pbx-2", 2, &[Role::Pbx]),
        ];
        let compiled = effective(documents, &nodes).unwrap();
        compiled.rulesets[&"sip-1".parse().unwrap()].clone()
    }

    fn listener(process: &str, protocol: Protocol, port: u16, users: &[&str]) -> Listener {
        Listener {
            protocol,
            port,
            process: process.to_owned(),
            users: users.iter().map(|user| user.parse().unwrap()).collect(),
            more_users: 0,
            users_known: true,
            is_ssh: false,
        }
    }

    fn warnings(before: Option<&Ruleset>, after: &Ruleset, listeners: &[Listener]) -> Vec<String> {
        let mut closed = ClosedListeners::default();
        closed.add(&ListeningNode {
            node: &"sip-1".parse().unwrap(),
            before,
            after,
            listeners,
        });
        closed.warnings()
    }

    #[test]
    fn a_daemon_in_use_is_named_with_those_who_lose_it() {
        let after = ruleset(&documents());
        let found = |listener| warnings(None, &after, &[listener]);
        // A stranger to the policy, and one of the node's own.
        let users = ["198.51.100.77", "10.0.0.2"];
        let used = listener("zabbix_agentd", Protocol::Tcp, 10_050, &users);
        assert_eq!(
            found(used),
            [
                "zabbix_agentd on 10050/tcp of sip-1 is in use by 198.51.100.77, which these rules \
                 do not let in: it would be closed to them; open it in services or rules if they \
                 need it"
            ]
        );
        // A tenant's phone, and a member of the cluster by its interface.
        for user in ["203.0.113.9", "10.0.0.2"] {
            let sip = listener("kamailio", Protocol::Udp, 5060, &[user]);
            assert!(found(sip).is_empty(), "{user}");
        }
        let stranger = listener("kamailio", Protocol::Udp, 5060, &["198.51.100.77"]);
        assert!(found(stranger)[0].starts_with("kamailio on 5060/udp of sip-1 is in use by 198"));
        // IPv6 users count, also where they are written as IPv4 in IPv6.
        let mapped = listener(
            "nginx",
            Protocol::Tcp,
            8443,
            &["2001:db8:ffff::1", "::ffff:198.51.100.9"],
        );
        let text = found(mapped).concat();
        assert!(text.contains("2001:db8:ffff::1"), "{text}");
    }

    #[test]
    fn only_that_it_listens_is_said_where_no_more_is_known() {
        let after = ruleset(&documents());
        let unknown = Listener {
            users_known: false,
            ..listener("snmpd", Protocol::Udp, 161, &[])
        };
        let found = warnings(None, &after, &[unknown]).concat();
        assert!(
            found.starts_with("snmpd on 161/udp of sip-1 listens and would be closed; who uses it")
        );
        let idle = [
            listener("nginx", Protocol::Tcp, 8443, &[]),
            listener("", Protocol::Udp, 51_820, &[]),
            listener("kamailio", Protocol::Udp, 5060, &[]),
        ];
        assert_eq!(
            warnings(None, &after, &idle),
            [
                "sip-1: no rule opens an unknown program on 51820/udp, nginx on 8443/tcp; nobody is \
                 seen using it now"
            ]
        );
    }

    #[test]
    fn ssh_on_another_port_stays_open_to_admins_and_is_said() {
        let after = ruleset(&documents());
        let ssh = |users: &[&str]| Listener {
            is_ssh: true,
            ..listener("sshd", Protocol::Tcp, 42_422, users)
        };
        let said = "ssh: the SSH server of sip-1 listens on 42422, which services.ssh.ports does not \
                    name: the agent keeps it open to admins, and it is closed to others";
        assert_eq!(warnings(None, &after, &[ssh(&["198.51.100.10"])]), [said]);
        let stranger = warnings(None, &after, &[ssh(&["198.51.100.77"])]);
        assert!(stranger[0].starts_with("sshd on 42422/tcp of sip-1 is in use by 198.51.100.77"));
        assert_eq!(stranger[1], said);
        let named = ruleset(&changed(|site| {
            let ports = vec![PortRange::single(42_422)];
            let ssh = ServiceOverride {
                ports: Some(ports),
                ..ServiceOverride::default()
            };
            site.services.insert("ssh".to_owned(), ssh);
        }));
        assert!(warnings(None, &named, &[ssh(&["198.51.100.10"])]).is_empty());
    }

    #[test]
    fn a_daemon_inside_a_range_for_the_world_is_named() {
        let media = |from: u16, to: u16| {
            ruleset(&changed(|site| {
                site.rules.push(voipfleet_policy::CustomRule {
                    name: "relay".to_owned(),
                    traffic: voipfleet_policy::Traffic::Ports(
                        Transport::Udp,
                        vec![PortRange::new(from, to).unwrap()],
                    ),
                    interface: None,
                    from: vec![voipfleet_policy::AddressWord::World],
                    roles: Vec::new(),
                    dangerous: true,
                });
            }))
        };
        let listeners = [listener("", Protocol::Udp, 51_820, &[])];
        let wide = media(49_152, 65_535);
        assert_eq!(
            warnings(None, &wide, &listeners),
            [
                "the world would reach an unknown program on 51820/udp of sip-1, which listens inside \
                 the ports of rule relay"
            ]
        );
        assert!(warnings(Some(&wide), &wide, &listeners).is_empty());
        let beside = media(40_000, 41_000);
        assert!(
            !warnings(None, &beside, &listeners)
                .concat()
                .contains("the world")
        );
    }

    #[test]
    fn what_was_closed_before_and_what_only_observes_is_not_said() {
        let after = ruleset(&documents());
        let used = [listener("nginx", Protocol::Tcp, 8443, &["198.51.100.77"])];
        assert!(warnings(Some(&after), &after, &used).is_empty());
        let observing = ruleset(&changed(|site| site.mode = Mode::Observe));
        assert!(warnings(None, &observing, &used).is_empty());
        let open = ruleset(&changed(|site| {
            site.rules.push(voipfleet_policy::CustomRule {
                name: "console".to_owned(),
                traffic: voipfleet_policy::Traffic::Ports(
                    Transport::Tcp,
                    vec![PortRange::single(8443)],
                ),
                interface: None,
                from: vec![word("198.51.100.64/26")],
                roles: Vec::new(),
                dangerous: false,
            });
        }));
        assert_eq!(warnings(Some(&open), &after, &used).len(), 1);
        assert!(warnings(Some(&after), &open, &used).is_empty());
    }
}
