//! Reports of whom foreign rules cut off.

use voipfleet_ruleset::foreign::{Ports, Refusal};
use voipfleet_ruleset::ruleset::Protocol;

use super::known_names::{is_crowdsec, is_fail2ban, kind_of_table};
use super::{ForeignFirewall, ForeignFirewallKind, foreign_firewall};

/// Addresses that one advice repeats.
const MAX_ADVISED: usize = 3;

/// The report of one refusal.
pub(super) fn report(refusal: &Refusal) -> ForeignFirewall {
    let kind = kind(refusal);
    let mut report = foreign_firewall(kind, place(refusal), &advice(kind, refusal));
    refusal.add_to(&mut report);
    report
}

fn kind(refusal: &Refusal) -> ForeignFirewallKind {
    let names = [Some(refusal.chain.as_str()), refusal.set.as_deref()];
    let mut names = names.into_iter().flatten();
    if names.clone().any(is_fail2ban) {
        return ForeignFirewallKind::Fail2ban;
    }
    if names.any(is_crowdsec) {
        return ForeignFirewallKind::Crowdsec;
    }
    match refusal.table.split_once(' ') {
        Some((_, table)) if is_native(refusal) => kind_of_table(table),
        _ => ForeignFirewallKind::ForeignRules,
    }
}

/// Whether the table is one of `nf_tables` alone: iptables has one word for its own.
fn is_native(refusal: &Refusal) -> bool {
    ["ip ", "ip6 ", "inet ", "netdev "]
        .iter()
        .any(|family| refusal.table.starts_with(family))
}

/// Where it is: `chain f2b-asterisk`, `set sipban, by a rule in mangle PREROUTING`.
fn place(refusal: &Refusal) -> String {
    let chain = if is_native(refusal) {
        format!("chain {} of table {}", refusal.chain, refusal.table)
    } else if refusal.table == "filter" {
        format!("chain {}", refusal.chain)
    } else {
        format!("chain {} of table {}", refusal.chain, refusal.table)
    };
    match &refusal.set {
        _ if refusal.by_policy => format!("the policy of {chain}"),
        Some(set) if *set != refusal.chain => format!("set {set} in {chain}"),
        _ => chain,
    }
}

fn advice(kind: ForeignFirewallKind, refusal: &Refusal) -> String {
    let hit = refusal.whom.iter().take(MAX_ADVISED);
    let addresses: Vec<String> = hit.map(|whom| whom.net.network().to_string()).collect();
    let listed = addresses.join(" ");
    match kind {
        ForeignFirewallKind::Fail2ban if !addresses.is_empty() => {
            format!(
                "fail2ban-client unban {listed}, and add what must never be banned to `ignoreip`"
            )
        }
        ForeignFirewallKind::Crowdsec if !addresses.is_empty() => {
            let delete: Vec<String> = addresses
                .iter()
                .map(|address| format!("cscli decisions delete --ip {address}"))
                .collect();
            format!(
                "{}, and put them on an allowlist of CrowdSec",
                delete.join("; ")
            )
        }
        _ if is_native(refusal) && !refusal.everyone.is_empty() => {
            format!(
                "packets must pass both: open the same ports there ({})",
                openings(refusal).join("; ")
            )
        }
        _ if is_native(refusal) => format!(
            "if it is not meant, take it out in the program that wrote it (see `nft list chain {} \
             {}`)",
            refusal.table, refusal.chain
        ),
        _ => match &refusal.set {
            Some(set) if !addresses.is_empty() => format!(
                "if it is not meant, exempt it in the program that fills the set, then: ipset del \
                 {set} {}",
                addresses.first().map(String::as_str).unwrap_or_default()
            ),
            _ => format!(
                "if it is not meant, exempt it in the program that wrote the rule (see `{} -t {} -S \
                 {}`)",
                program(refusal),
                refusal.table.split(' ').next().unwrap_or_default(),
                refusal.chain
            ),
        },
    }
}

fn program(refusal: &Refusal) -> &'static str {
    let is_v6 = |whom: &voipfleet_ruleset::foreign::Whom| whom.net.network().is_ipv6();
    if !refusal.whom.is_empty() && refusal.whom.iter().all(is_v6) {
        "ip6tables"
    } else {
        "iptables"
    }
}

/// `nft insert rule inet mine input udp dport { 5050, 5060 } accept`, for each protocol.
fn openings(refusal: &Refusal) -> Vec<String> {
    let of = |protocol: Protocol, word: &str| {
        let ports = refusal
            .everyone
            .iter()
            .filter(|one| one.protocol == protocol);
        let ports: Vec<String> = ports.map(|Ports { range, .. }| range.to_string()).collect();
        (!ports.is_empty()).then(|| {
            format!(
                "nft insert rule {} {} {word} dport {{ {} }} accept",
                refusal.table,
                refusal.chain,
                ports.join(", ")
            )
        })
    };
    let both = [(Protocol::Udp, "udp"), (Protocol::Tcp, "tcp")];
    both.into_iter()
        .filter_map(|(protocol, word)| of(protocol, word))
        .collect()
}
