//! Rulesets as input of `iptables-restore --noflush`.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;

use ipnet::IpNet;

use super::jump::{jump_edit, retire};
use super::rate::{SOURCE_LIMIT_SCALE, as_printed, memory_ms, unit_word};
use super::words::is_ours;
use super::{COMMENT_PREFIX, Table, filter_section};
use crate::ruleset::{
    ConnectionState, FAILSAFE_CHAIN, Family, INPUT_CHAIN, Ports, Protocol, Rate, Rule, Ruleset,
    SetName, SourceLimit, Verdict,
};

/// Neighbour discovery: router and neighbour solicitation and advertisement, redirect
/// (RFC 4861). The kernel itself drops those that did not start on the link.
pub(crate) const NEIGHBOUR_DISCOVERY: std::ops::RangeInclusive<u8> = 133..=137;
/// The client's port of DHCPv6 (RFC 8415, section 7.2). Servers and relays answer from any address,
/// also global ones, and connection tracking does not see these as answers: the question went to a
/// multicast address. Without them a node loses its address when the lease ends.
pub(crate) const DHCPV6_CLIENT: u16 = 546;
/// The ports of DHCP's server and client (RFC 2131). The question is a broadcast: again, tracking
/// sees no answer.
pub(crate) const DHCP_SERVER: u16 = 67;
pub(crate) const DHCP_CLIENT: u16 = 68;
/// The most ports of one multiport match.
const MAX_MULTIPORT: usize = 15;

/// What the agent's own chain must keep open, beside the ruleset's admins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failsafe {
    /// The controllers that the agent dials.
    pub controllers: Vec<SocketAddr>,
    /// Where SSH really listens, whatever the ruleset says; open to the ruleset's admins.
    pub ssh_ports: Vec<u16>,
}

/// Our chains of `family` as input of `iptables-restore --noflush`: `*filter` to `COMMIT`,
/// without the jump from `INPUT`.
///
/// The chains that it declares are emptied first where they exist; no other is touched.
pub fn restore_input(ruleset: &Ruleset, failsafe: &Failsafe, family: Family) -> String {
    let mut lines = declarations(ruleset);
    lines.push_str(&rules(ruleset, failsafe, family));
    filter_section(&lines)
}

/// One restore that turns `observed`, the whole filter table, into what is wanted: as
/// [`restore_input`], and our chains that are no longer wanted removed, and the jump from
/// `INPUT` put right. The kernel takes all of it or nothing.
pub fn apply_input(
    ruleset: &Ruleset,
    failsafe: &Failsafe,
    family: Family,
    observed: &Table,
) -> String {
    let stale: Vec<&str> = observed
        .chains
        .iter()
        .map(|chain| chain.name.as_str())
        .filter(|name| {
            is_ours(name)
                && *name != FAILSAFE_CHAIN
                && !ruleset
                    .chains
                    .iter()
                    .any(|chain| chain.name.as_str() == *name)
        })
        .collect();
    let mut lines = declarations(ruleset);
    for name in &stale {
        let _ = writeln!(lines, ":{name} - [0:0]");
    }
    lines.push_str(&rules(ruleset, failsafe, family));
    lines.push_str(&jump_edit(observed).unwrap_or_default());
    lines.push_str(&retire(&stale, observed));
    filter_section(&lines)
}

fn declarations(ruleset: &Ruleset) -> String {
    let mut lines = format!(":{FAILSAFE_CHAIN} - [0:0]\n");
    for chain in &ruleset.chains {
        let _ = writeln!(lines, ":{} - [0:0]", chain.name);
    }
    lines
}

fn rules(ruleset: &Ruleset, failsafe: &Failsafe, family: Family) -> String {
    let mut lines = failsafe_rules(ruleset, failsafe, family);
    let _ = writeln!(
        lines,
        "-A {INPUT_CHAIN}{}",
        tail("failsafe", FAILSAFE_CHAIN)
    );
    for chain in &ruleset.chains {
        for rule in chain.rules.iter().filter(|rule| rule.scope.covers(family)) {
            let _ = writeln!(lines, "-A {}{}", chain.name, rule_text(rule, family));
        }
    }
    lines
}

fn failsafe_rules(ruleset: &Ruleset, failsafe: &Failsafe, family: Family) -> String {
    let mut lines = String::new();
    let mut accept = |label: &str, matches: &str| {
        let _ = writeln!(
            lines,
            "-A {FAILSAFE_CHAIN}{matches}{}",
            tail(label, "ACCEPT")
        );
    };
    accept("failsafe:loopback", " -i lo");
    let controllers: BTreeSet<SocketAddr> = failsafe
        .controllers
        .iter()
        .map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()))
        .collect();
    for controller in controllers {
        let net = IpNet::from(controller.ip());
        if Family::of(&net) == family {
            accept(
                "failsafe:controller",
                &format!(
                    " -s {net} -p tcp -m multiport --sports {} -m conntrack --ctstate ESTABLISHED",
                    controller.port()
                ),
            );
        }
    }
    let listening = ruleset.ssh_ports.iter().chain(&failsafe.ssh_ports);
    let ports: BTreeSet<u16> = listening.copied().collect();
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    for admin in ruleset
        .admins
        .iter()
        .filter(|net| Family::of(net) == family)
    {
        for ports in ports.chunks(MAX_MULTIPORT) {
            accept(
                "failsafe:admin-ssh",
                &format!(
                    "{} -p tcp -m multiport --dports {}",
                    source(admin),
                    ports.join(",")
                ),
            );
        }
    }
    match family {
        Family::V4 => accept(
            "failsafe:dhcp",
            &format!(
                " -p udp -m multiport --dports {DHCP_CLIENT} -m multiport --sports {DHCP_SERVER}"
            ),
        ),
        Family::V6 => {
            for kind in NEIGHBOUR_DISCOVERY {
                accept(
                    "failsafe:neighbour-discovery",
                    &format!(" -p ipv6-icmp -m icmp6 --icmpv6-type {kind}"),
                );
            }
            accept(
                "failsafe:dhcpv6",
                &format!(" -p udp -m multiport --dports {DHCPV6_CLIENT}"),
            );
        }
    }
    lines
}

/// What ends every rule.
fn tail(label: &str, target: &str) -> String {
    format!(" -m comment --comment \"{COMMENT_PREFIX}{label}\" -j {target}")
}

/// A source of every address needs no match, and iptables-save prints none.
fn source(net: &IpNet) -> String {
    if net.prefix_len() == 0 {
        String::new()
    } else {
        format!(" -s {net}")
    }
}

/// A rule's conditions and target. The matches that count come last, so that they count
/// only packets for which everything else holds.
fn rule_text(rule: &Rule, family: Family) -> String {
    let mut text = rule.source.as_ref().map(source).unwrap_or_default();
    if let Some(interface) = &rule.in_interface {
        let _ = write!(text, " -i {interface}");
    }
    if let Some(protocol) = rule.protocol {
        let _ = write!(text, " -p {}", protocol_word(protocol));
    }
    if let Some(stem) = &rule.source_set {
        let name = SetName {
            stem: stem.clone(),
            family,
        };
        let _ = write!(text, " -m set --match-set {name} src");
    }
    for (option, ports) in [
        ("--dports", &rule.destination_ports),
        ("--sports", &rule.source_ports),
    ] {
        if !ports.is_any() {
            let _ = write!(text, " -m multiport {option} {}", ports_text(ports));
        }
    }
    if let Some(kind) = rule.icmp_type {
        text.push_str(match family {
            Family::V4 => " -m icmp --icmp-type ",
            Family::V6 => " -m icmp6 --icmpv6-type ",
        });
        text.push_str(&kind.to_string());
    }
    if !rule.states.is_any() {
        let states: Vec<&str> = rule
            .states
            .as_slice()
            .iter()
            .map(|state| state_word(*state))
            .collect();
        let _ = write!(text, " -m conntrack --ctstate {}", states.join(","));
    }
    if let Some(limit) = &rule.source_limit {
        text.push_str(&source_limit_text(limit));
    }
    if let Some(rate) = &rule.limit {
        let _ = write!(
            text,
            " -m limit --limit {} --limit-burst {}",
            rate_text(*rate),
            rate.burst
        );
    }
    text.push_str(&match &rule.verdict {
        Verdict::Accept => tail(rule.label.as_str(), "ACCEPT"),
        Verdict::Drop => tail(rule.label.as_str(), "DROP"),
        Verdict::Return => tail(rule.label.as_str(), "RETURN"),
        Verdict::Jump(chain) => tail(rule.label.as_str(), chain.as_str()),
        Verdict::Reject => {
            tail(rule.label.as_str(), "REJECT") + " --reject-with " + reject_word(family)
        }
        Verdict::Log(prefix) => {
            tail(rule.label.as_str(), "LOG") + &format!(" --log-prefix \"{prefix}\"")
        }
    });
    text
}

fn source_limit_text(limit: &SourceLimit) -> String {
    let limit = as_limited(limit);
    format!(
        " -m hashlimit --hashlimit-above {} --hashlimit-burst {} --hashlimit-mode srcip \
         --hashlimit-name {} --hashlimit-htable-expire {}",
        rate_text(limit.above),
        limit.above.burst,
        limit_table(&limit),
        memory_ms(&limit)
    )
}

/// A limit as the kernel counts it. It is handed over in this form, so that the memory
/// beside it is that of the rate that will be printed.
pub(super) fn as_limited(limit: &SourceLimit) -> SourceLimit {
    SourceLimit {
        name: limit.name.clone(),
        above: as_printed(limit.above, SOURCE_LIMIT_SCALE),
    }
}

/// The kernel's name of a hashlimit table: at most 15 bytes, all that revision 1 of the
/// match holds (iptables 1.4.21). Each family has its own tables.
pub(super) fn limit_table(limit: &SourceLimit) -> String {
    format!("vf-{}", limit.name)
}

fn rate_text(rate: Rate) -> String {
    format!("{}/{}", rate.count, unit_word(rate.unit))
}

fn ports_text(ports: &Ports) -> String {
    let words: Vec<String> = ports
        .ranges()
        .iter()
        .map(|range| {
            if range.first == range.last {
                range.first.to_string()
            } else {
                format!("{}:{}", range.first, range.last)
            }
        })
        .collect();
    words.join(",")
}

/// Others by number: which names a machine knows depends on its `/etc/protocols`.
fn protocol_word(protocol: Protocol) -> Cow<'static, str> {
    match protocol {
        Protocol::Tcp => "tcp".into(),
        Protocol::Udp => "udp".into(),
        Protocol::Icmp => "icmp".into(),
        Protocol::Icmpv6 => "ipv6-icmp".into(),
        Protocol::Other(other) => other.number().to_string().into(),
    }
}

fn state_word(state: ConnectionState) -> &'static str {
    match state {
        ConnectionState::New => "NEW",
        ConnectionState::Established => "ESTABLISHED",
        ConnectionState::Related => "RELATED",
        ConnectionState::Invalid => "INVALID",
    }
}

/// The answer of REJECT that both iptables take as their default.
pub(crate) fn reject_word(family: Family) -> &'static str {
    match family {
        Family::V4 => "icmp-port-unreachable",
        Family::V6 => "icmp6-port-unreachable",
    }
}

#[cfg(test)]
#[path = "restore_text_tests.rs"]
mod tests;
