//! A table of iptables, as iptables-save prints it.

use std::net::IpAddr;
use std::vec::IntoIter;

use ipnet::IpNet;

use super::{Action, Condition, ForeignChain, ForeignRule, ForeignTable, Hook, NetSet, Value};
use crate::iptables::words::{is_ours, split};
use crate::iptables::{Table, TargetEffect, target_effect};
use crate::ruleset::{ConnectionState, Family, INPUT_CHAIN, PortRange, Protocol};

/// Matches whose every option is understood, or counts as unknown by itself.
const UNDERSTOOD: [&str; 11] = [
    "addrtype",
    "comment",
    "conntrack",
    "icmp",
    "icmp6",
    "iprange",
    "multiport",
    "set",
    "state",
    "tcp",
    "udp",
];

/// The flags of `--syn`, as iptables-save prints them.
const SYN: [&str; 2] = ["FIN,SYN,RST,ACK", "SYN"];

/// Reads the table `name`, without our chains. `judged` says what becomes of a packet that the
/// policy lets in when it comes to our chain.
pub fn read_iptables(name: &str, family: Family, table: &Table, judged: &Action) -> ForeignTable {
    let chains = table.chains.iter().filter(|chain| !is_ours(&chain.name));
    let chains = chains.map(|chain| ForeignChain {
        name: chain.name.clone(),
        hook: match chain.name.as_str() {
            "INPUT" | "PREROUTING" => Some(Hook::In),
            "OUTPUT" => Some(Hook::Out),
            _ => None,
        },
        drops: chain.policy.as_deref() == Some("DROP"),
        rules: chain
            .rules
            .iter()
            .filter_map(|rule| Reader::new(rule)?.rule(table, judged))
            .collect(),
    });
    ForeignTable {
        name: name.to_owned(),
        family: Some(family),
        chains: chains.collect(),
        sets: None,
    }
}

/// The words of one rule, as far as they are read.
struct Reader {
    words: IntoIter<String>,
    conditions: Vec<Condition>,
}

impl Reader {
    fn new(rule: &str) -> Option<Self> {
        let mut words = split(rule)?.into_iter();
        words.nth(1)?; // -A CHAIN
        Some(Self {
            words,
            conditions: Vec::new(),
        })
    }

    fn rule(mut self, table: &Table, judged: &Action) -> Option<ForeignRule> {
        let mut negated = false;
        let mut is_known = true;
        let mut action = Action::Pass;
        while let Some(word) = self.words.next() {
            match word.as_str() {
                "!" => {
                    negated = true;
                    continue;
                }
                "-j" | "-g" => {
                    let target = self.words.next()?;
                    action = to_action(&target, word == "-g", table, judged);
                    break;
                }
                "-m" => {
                    let module = self.words.next()?;
                    is_known = UNDERSTOOD.contains(&module.as_str());
                    if !is_known {
                        self.conditions.push(Condition::UNKNOWN);
                    }
                }
                "-p" => {
                    let protocol = self.words.next()?;
                    if protocol != "all" {
                        let value = Value::Protocol(vec![to_protocol(&protocol)]);
                        self.conditions.push(Condition::new(value, negated));
                    }
                    is_known = true;
                }
                // An option of a match that is unknown already, or its value.
                _ if !is_known => {}
                option => self.option(option, negated)?,
            }
            negated = false;
        }
        Some(ForeignRule {
            conditions: self.conditions,
            action,
        })
    }

    fn option(&mut self, option: &str, negated: bool) -> Option<()> {
        let value = match option {
            "--comment" => {
                self.words.next()?;
                return Some(());
            }
            "-s" => Value::Source(self.net()?),
            "-d" => Value::Destination(self.net()?),
            "-i" => Value::InInterface(vec![self.words.next()?]),
            "-o" => Value::OutInterface(vec![self.words.next()?]),
            "--src-range" => Value::Source(self.range()?),
            "--dst-range" => Value::Destination(self.range()?),
            "--dport" | "--dports" | "--destination-ports" => {
                to_ports(&self.words.next()?).map_or(Value::Unknown, Value::DestinationPorts)
            }
            "--sport" | "--sports" | "--source-ports" => {
                to_ports(&self.words.next()?).map_or(Value::Unknown, Value::SourcePorts)
            }
            "--ctstate" | "--state" => to_states(&self.words.next()?),
            "--match-set" => {
                let name = self.words.next()?;
                match self.words.next()?.as_str() {
                    "src" => Value::SourceSet(name),
                    "dst" => Value::DestinationSet(name),
                    _ => Value::Unknown,
                }
            }
            "--tcp-flags" => {
                let flags = [self.words.next()?, self.words.next()?];
                if flags == SYN {
                    Value::Syn
                } else {
                    Value::Unknown
                }
            }
            "--dst-type" => match self.words.next()?.as_str() {
                "LOCAL" if !negated => return Some(()),
                _ => Value::Unknown,
            },
            "-f" => Value::Unknown,
            // An option that is not understood, with or without a value: the next word that is no
            // option is its value.
            other if other.starts_with('-') => Value::Unknown,
            _ => return Some(()),
        };
        self.conditions.push(Condition::new(value, negated));
        Some(())
    }

    fn net(&mut self) -> Option<NetSet> {
        let word = self.words.next()?;
        let net = word
            .parse::<IpNet>()
            .or_else(|_| word.parse::<IpAddr>().map(IpNet::from));
        // A mask with holes is read as no address.
        Some(net.ok().into_iter().collect())
    }

    fn range(&mut self) -> Option<NetSet> {
        let word = self.words.next()?;
        let (first, last) = word.split_once('-').unwrap_or((&word, &word));
        let range = first.parse::<IpAddr>().ok().zip(last.parse().ok());
        Some(range.into_iter().collect())
    }
}

fn to_action(target: &str, goes: bool, table: &Table, judged: &Action) -> Action {
    if target == INPUT_CHAIN {
        return judged.clone();
    }
    if table.chain(target).is_some() {
        return if goes {
            Action::Goto(target.to_owned())
        } else {
            Action::Jump(target.to_owned())
        };
    }
    if target == "RETURN" {
        return Action::Return;
    }
    match target_effect(target) {
        TargetEffect::Refuses => Action::Refuse,
        TargetEffect::Passes => Action::Pass,
        TargetEffect::Takes => Action::Accept,
    }
}

fn to_protocol(word: &str) -> Option<Protocol> {
    match word {
        "tcp" | "6" => Some(Protocol::Tcp),
        "udp" | "17" => Some(Protocol::Udp),
        "icmp" | "1" => Some(Protocol::Icmp),
        "icmpv6" | "ipv6-icmp" | "58" => Some(Protocol::Icmpv6),
        _ => None,
    }
}

/// `22`, `5060:5080,10000`.
fn to_ports(word: &str) -> Option<Vec<PortRange>> {
    let range = |text: &str| {
        let (first, last) = text.split_once(':').unwrap_or((text, text));
        let first: u16 = first.parse().ok()?;
        let last: u16 = last.parse().ok()?;
        // From 0 is from 1: nothing that is probed has port 0.
        PortRange::new(first.max(1), last)
    };
    word.split(',').map(range).collect()
}

fn to_states(word: &str) -> Value {
    let states: Option<Vec<ConnectionState>> = word
        .split(',')
        .map(|state| match state {
            "NEW" => Some(ConnectionState::New),
            "ESTABLISHED" => Some(ConnectionState::Established),
            "RELATED" => Some(ConnectionState::Related),
            "INVALID" => Some(ConnectionState::Invalid),
            _ => None, // UNTRACKED, SNAT, DNAT: what they say of a packet is not known
        })
        .collect();
    states.map_or(Value::Unknown, Value::States)
}
