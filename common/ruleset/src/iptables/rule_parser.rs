//! Rules of our chains as iptables-save prints them, read back to typed ones.

use std::str::FromStr;
use std::vec::IntoIter;

use ipnet::IpNet;

use super::COMMENT_PREFIX;
use super::rate::{DEFAULT_BURST, LIMIT_SCALE, as_printed, memory_ms, seconds};
use super::restore_text::{as_limited, reject_word};
use super::words::{shorten, split};
use crate::ruleset::{
    ChainName, ConnectionState, ConnectionStates, Family, LogPrefix, PortRange, Ports, Protocol,
    Rate, RateUnit, Rule, Scope, SetName, SetStem, SourceLimit, Verdict,
};

/// A line that is no rule that we would have written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a rule of ours, {why}: {line:?}")]
pub struct UnreadableRule {
    /// What is wrong.
    pub why: String,
    /// The line, cut to what is worth showing.
    pub line: String,
}

/// Reads `-A VF-… …` as iptables-save or ip6tables-save prints it. The rule's scope is
/// `family` alone: a table does not show what the other one holds.
pub fn read_rule(chain_line: &str, family: Family) -> Result<(ChainName, Rule), UnreadableRule> {
    let read = || {
        let words = split(chain_line).ok_or("a quote does not end")?;
        let mut reader = Reader::new(words, family);
        let chain = reader.chain()?;
        while let Some(word) = reader.words.next() {
            reader.option(&word)?;
        }
        reader.finish().map(|rule| (chain, rule))
    };
    read().map_err(|why: String| UnreadableRule {
        why,
        line: shorten(chain_line),
    })
}

/// The rule that [`read_rule`] gives back for `rule` once the kernel of `family` holds it:
/// rates in the kernel's steps, one family, no source in place of every source, and no subject,
/// which the kernel does not hold.
pub fn as_read(rule: &Rule, family: Family) -> Rule {
    Rule {
        subject: None,
        scope: Scope::from(family),
        source: rule.source.filter(|net| net.prefix_len() > 0),
        limit: rule.limit.map(|rate| as_printed(rate, LIMIT_SCALE)),
        source_limit: rule.source_limit.as_ref().map(as_limited),
        ..rule.clone()
    }
}

/// The options of one line, as far as they are read.
struct Reader {
    words: IntoIter<String>,
    family: Family,
    label: Option<String>,
    in_interface: Option<crate::ruleset::Interface>,
    source_set: Option<SetStem>,
    source: Option<IpNet>,
    protocol: Option<Protocol>,
    destination_ports: Option<Ports>,
    source_ports: Option<Ports>,
    states: Option<ConnectionStates>,
    icmp_type: Option<u8>,
    limit: Option<(u32, RateUnit)>,
    limit_burst: Option<u32>,
    above: Option<(u32, RateUnit)>,
    above_burst: Option<u32>,
    above_mode: Option<String>,
    above_name: Option<String>,
    above_memory: Option<u64>,
    target: Option<String>,
    log_prefix: Option<LogPrefix>,
    reject_with: Option<String>,
}

fn set<T>(slot: &mut Option<T>, value: T, option: &str) -> Result<(), String> {
    if slot.replace(value).is_some() {
        return Err(format!("{option} is given twice"));
    }
    Ok(())
}

fn parse<T: FromStr>(text: &str, option: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("{option} has the value {:?}", shorten(text)))
}

impl Reader {
    fn new(words: Vec<String>, family: Family) -> Self {
        Self {
            words: words.into_iter(),
            family,
            label: None,
            in_interface: None,
            source_set: None,
            source: None,
            protocol: None,
            destination_ports: None,
            source_ports: None,
            states: None,
            icmp_type: None,
            limit: None,
            limit_burst: None,
            above: None,
            above_burst: None,
            above_mode: None,
            above_name: None,
            above_memory: None,
            target: None,
            log_prefix: None,
            reject_with: None,
        }
    }

    fn chain(&mut self) -> Result<ChainName, String> {
        match (self.words.next().as_deref(), self.words.next()) {
            (Some("-A"), Some(chain)) => parse(&chain, "-A"),
            _ => Err("it does not begin with -A and a chain".to_owned()),
        }
    }

    fn value(&mut self, option: &str) -> Result<String, String> {
        self.words
            .next()
            .ok_or_else(|| format!("{option} has no value"))
    }

    fn option(&mut self, option: &str) -> Result<(), String> {
        let value = self.value(option)?;
        let value = value.as_str();
        match option {
            "-m" => known_match(value),
            "-s" => set(&mut self.source, source(value, self.family)?, option),
            "-i" => set(&mut self.in_interface, parse(value, option)?, option),
            "-p" => set(&mut self.protocol, protocol(value, self.family)?, option),
            "--match-set" => {
                if self.value(option)? != "src" {
                    return Err("a set is not matched with the source".to_owned());
                }
                let stem = set_stem(value, self.family)?;
                set(&mut self.source_set, stem, option)
            }
            "--dports" | "--dport" => set(&mut self.destination_ports, ports(value)?, option),
            "--sports" | "--sport" => set(&mut self.source_ports, ports(value)?, option),
            "--ctstate" | "--state" => set(&mut self.states, states(value)?, option),
            "--icmp-type" if self.family == Family::V4 => self.icmp(value, option),
            "--icmpv6-type" if self.family == Family::V6 => self.icmp(value, option),
            "--limit" => set(&mut self.limit, rate(value)?, option),
            "--limit-burst" => set(&mut self.limit_burst, parse(value, option)?, option),
            "--comment" => set(&mut self.label, value.to_owned(), option),
            "-j" => set(&mut self.target, value.to_owned(), option),
            "--log-prefix" => set(&mut self.log_prefix, parse(value, option)?, option),
            "--reject-with" => set(&mut self.reject_with, value.to_owned(), option),
            _ => self.hashlimit(option, value),
        }
    }

    fn hashlimit(&mut self, option: &str, value: &str) -> Result<(), String> {
        match option {
            "--hashlimit-above" => set(&mut self.above, rate(value)?, option),
            "--hashlimit-burst" => set(&mut self.above_burst, parse(value, option)?, option),
            "--hashlimit-mode" => set(&mut self.above_mode, value.to_owned(), option),
            "--hashlimit-name" => set(&mut self.above_name, value.to_owned(), option),
            "--hashlimit-htable-expire" => {
                set(&mut self.above_memory, parse(value, option)?, option)
            }
            _ => Err(format!("it has {:?}", shorten(option))),
        }
    }

    fn icmp(&mut self, value: &str, option: &str) -> Result<(), String> {
        set(&mut self.icmp_type, parse(value, option)?, option)
    }

    fn finish(self) -> Result<Rule, String> {
        let label = self
            .label
            .as_deref()
            .and_then(|comment| comment.strip_prefix(COMMENT_PREFIX))
            .ok_or("it has no comment of ours")?;
        let mut rule = Rule::new(parse(label, "--comment")?, self.verdict()?);
        rule.scope = Scope::from(self.family);
        rule.limit = match self.limit {
            Some(limit) => Some(bucket(limit, self.limit_burst)?),
            None => None,
        };
        rule.source_limit = self.source_limit()?;
        rule.in_interface = self.in_interface;
        rule.source_set = self.source_set;
        rule.source = self.source;
        rule.protocol = self.protocol;
        rule.destination_ports = self.destination_ports.unwrap_or_default();
        rule.source_ports = self.source_ports.unwrap_or_default();
        rule.states = self.states.unwrap_or_default();
        rule.icmp_type = self.icmp_type;
        Ok(rule)
    }

    fn verdict(&self) -> Result<Verdict, String> {
        let target = self.target.as_deref().ok_or("it has no target")?;
        if self.log_prefix.is_some() && target != "LOG" {
            return Err(format!("{target} has a log prefix"));
        }
        match (&self.reject_with, target) {
            (Some(answer), "REJECT") if answer != reject_word(self.family) => {
                return Err(format!("it rejects with {answer}"));
            }
            (Some(_), "REJECT") | (None, _) => {}
            (Some(_), _) => return Err(format!("{target} has an answer")),
        }
        match target {
            "ACCEPT" => Ok(Verdict::Accept),
            "DROP" => Ok(Verdict::Drop),
            "REJECT" => Ok(Verdict::Reject),
            "RETURN" => Ok(Verdict::Return),
            "LOG" => {
                let prefix = self.log_prefix.clone().ok_or("LOG has no prefix")?;
                Ok(Verdict::Log(prefix))
            }
            chain => parse(chain, "-j").map(Verdict::Jump),
        }
    }

    fn source_limit(&self) -> Result<Option<SourceLimit>, String> {
        let Some(above) = self.above else {
            return Ok(None);
        };
        let table = self.above_name.as_deref().ok_or("hashlimit has no name")?;
        let name = table
            .strip_prefix("vf-")
            .ok_or_else(|| format!("hashlimit has the name {table}"))?;
        let limit = SourceLimit {
            name: parse(name, "--hashlimit-name")?,
            above: bucket(above, self.above_burst)?,
        };
        // Left out where it is one unit of the rate.
        let memory = self.above_memory.unwrap_or(seconds(above.1) * 1000);
        if self.above_mode.as_deref() != Some("srcip") || memory != memory_ms(&limit) {
            return Err("hashlimit has options that are not ours".to_owned());
        }
        Ok(Some(limit))
    }
}

/// The matches whose options are read.
fn known_match(name: &str) -> Result<(), String> {
    match name {
        "comment" | "conntrack" | "hashlimit" | "icmp" | "icmp6" | "limit" | "multiport"
        | "set" | "state" | "tcp" | "udp" => Ok(()),
        _ => Err(format!("it has the match {:?}", shorten(name))),
    }
}

fn source(text: &str, family: Family) -> Result<IpNet, String> {
    let net: IpNet = match text.parse() {
        Ok(net) => net,
        Err(_) => IpNet::from(parse::<std::net::IpAddr>(text, "-s")?),
    };
    if Family::of(&net) == family && net.trunc() == net {
        Ok(net)
    } else {
        Err(format!("-s has the value {net}"))
    }
}

fn protocol(text: &str, family: Family) -> Result<Protocol, String> {
    match (text, family) {
        ("tcp" | "6", _) => Ok(Protocol::Tcp),
        ("udp" | "17", _) => Ok(Protocol::Udp),
        ("icmp" | "1", Family::V4) => Ok(Protocol::Icmp),
        ("ipv6-icmp" | "icmpv6" | "58", Family::V6) => Ok(Protocol::Icmpv6),
        _ => parse(text, "-p").map(Protocol::Other),
    }
}

fn set_stem(text: &str, family: Family) -> Result<SetStem, String> {
    SetName::from_kernel_name(text)
        .filter(|name| name.family == family)
        .map(|name| name.stem)
        .ok_or_else(|| format!("{:?} is no set of ours", shorten(text)))
}

/// `22,80:90`.
fn ports(text: &str) -> Result<Ports, String> {
    let range = |word: &str| {
        let (first, last) = word.split_once(':').unwrap_or((word, word));
        PortRange::new(first.parse().ok()?, last.parse().ok()?)
    };
    text.split(',')
        .map(range)
        .collect::<Option<Vec<_>>>()
        .and_then(|ranges| Ports::exact(ranges).ok())
        .ok_or_else(|| format!("it has the ports {:?}", shorten(text)))
}

fn states(text: &str) -> Result<ConnectionStates, String> {
    text.split(',')
        .map(|word| match word {
            "NEW" => Ok(ConnectionState::New),
            "ESTABLISHED" => Ok(ConnectionState::Established),
            "RELATED" => Ok(ConnectionState::Related),
            "INVALID" => Ok(ConnectionState::Invalid),
            _ => Err(format!("it has the connection state {:?}", shorten(word))),
        })
        .collect::<Result<Vec<_>, _>>()
        .map(ConnectionStates::new)
}

/// `20/sec`.
fn rate(text: &str) -> Result<(u32, RateUnit), String> {
    let wrong = || format!("it has the rate {:?}", shorten(text));
    let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
    let unit = match unit {
        "s" | "sec" | "second" => RateUnit::Second,
        "m" | "min" | "minute" => RateUnit::Minute,
        "h" | "hour" => RateUnit::Hour,
        _ => return Err(wrong()),
    };
    Ok((count.parse().map_err(|_| wrong())?, unit))
}

fn bucket(rate: (u32, RateUnit), burst: Option<u32>) -> Result<Rate, String> {
    Rate::new(rate.0, rate.1, burst.unwrap_or(DEFAULT_BURST))
        .ok_or_else(|| "a rate is out of bounds".to_owned())
}

#[cfg(test)]
#[path = "rule_parser_tests.rs"]
mod tests;
