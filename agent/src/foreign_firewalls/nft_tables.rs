//! Tables of `nf_tables` that filter input beside iptables.

use voipfleet_ruleset::foreign::{ForeignTable, Hook};

use super::known_names::kind_of_table;
use super::{ForeignFirewall, ForeignFirewallKind, foreign_firewall};

/// The tables that filter input, but for those without any rule.
pub(super) fn find(native: &[ForeignTable]) -> Vec<ForeignFirewall> {
    let filters = |table: &&ForeignTable| {
        // Tables of iptables come here where iptables-save cannot print them.
        let is_iptables = [
            "ip filter",
            "ip raw",
            "ip mangle",
            "ip6 filter",
            "ip6 raw",
            "ip6 mangle",
        ]
        .contains(&table.name.as_str());
        let mut enters = table
            .chains
            .iter()
            .filter(|chain| chain.hook == Some(Hook::In));
        !is_iptables && enters.any(|chain| chain.drops || !chain.rules.is_empty())
    };
    native.iter().filter(filters).map(describe).collect()
}

fn describe(table: &ForeignTable) -> ForeignFirewall {
    let name = &table.name;
    let kind = kind_of_table(name.split(' ').next_back().unwrap_or_default());
    let detail = format!("table {name} of nf_tables filters input too");
    match kind {
        ForeignFirewallKind::Firewalld => foreign_firewall(
            kind,
            detail,
            "it drops what its zones do not open, whatever the policy opens: systemctl disable \
             --now firewalld",
        ),
        ForeignFirewallKind::NftTable => foreign_firewall(
            kind,
            detail,
            &format!(
                "packets must pass both, so it may drop what the policy opens: see `nft list table \
                 {name}`, and open the same ports there"
            ),
        ),
        // What these programs need; they write it again when it is gone.
        _ => foreign_firewall(kind, detail, ""),
    }
}
