//! Tables of `nf_tables` that filter input beside iptables.

use super::{ForeignFirewall, ForeignFirewallKind};

use super::foreign_firewall;
use crate::host::Host;
use crate::kernel::Backend;

/// Tables of others whose rules are counted.
const MAX_TABLES: usize = 16;
/// The tables of iptables-nft; those of its other backend are reported elsewhere.
const IPTABLES: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];

/// A base chain, as `nft list chains` prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct BaseChain {
    family: String,
    table: String,
    name: String,
    drops: bool,
}

/// The tables that filter input, but for those of iptables and those without any rule.
pub(super) fn find(host: &Host, backend: Backend) -> Vec<ForeignFirewall> {
    // nft would load nf_tables into a kernel that does without.
    if backend == Backend::Legacy && !host.root.exists("/sys/module/nf_tables") {
        return Vec::new();
    }
    let Ok(listed) = host.runner.run("nft", &["list", "chains"], "") else {
        return Vec::new(); // not installed, or too old for this kernel
    };
    let mut tables: Vec<(String, String)> = Vec::new();
    let mut found = Vec::new();
    for chain in input_filters(&listed.stdout) {
        let table = (chain.family.clone(), chain.table.clone());
        if tables.contains(&table) || tables.len() == MAX_TABLES {
            continue;
        }
        if chain.drops || has_rules(host, &chain) {
            found.push(describe(&chain));
            tables.push(table);
        }
    }
    found
}

fn has_rules(host: &Host, chain: &BaseChain) -> bool {
    let BaseChain {
        family,
        table,
        name,
        ..
    } = chain;
    let arguments = ["list", "chain", family, table, name];
    let Ok(listed) = host.runner.run("nft", &arguments, "") else {
        return true; // there may be some
    };
    // A table line, a chain line, the hook, rules, and two closing brackets.
    let lines = listed.stdout.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.ends_with('{') && *line != "}")
        .any(|line| !line.starts_with("type "))
}

fn describe(chain: &BaseChain) -> ForeignFirewall {
    let BaseChain { family, table, .. } = chain;
    let detail = format!("table {family} {table} of nf_tables filters input too");
    match table.as_str() {
        "firewalld" => foreign_firewall(
            ForeignFirewallKind::Firewalld,
            detail,
            "it drops what its zones do not open, whatever the policy opens: systemctl disable \
             --now firewalld",
        ),
        "f2b-table" => foreign_firewall(ForeignFirewallKind::Fail2ban, detail, ""),
        _ => foreign_firewall(
            ForeignFirewallKind::NftTable,
            detail,
            &format!(
                "packets must pass both, so it may drop what the policy opens: see `nft list \
                 table {family} {table}`, and remove it"
            ),
        ),
    }
}

/// The base chains in the output of `nft list chains` that filter what comes in.
fn input_filters(listed: &str) -> Vec<BaseChain> {
    let mut found = Vec::new();
    let (mut family, mut table, mut name) = ("", "", "");
    for line in listed.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["table", in_family, in_table, "{", ..] => (family, table) = (*in_family, *in_table),
            ["chain", chain, "{", ..] => name = *chain,
            ["type", "filter", "hook", hook, rest @ ..] => {
                let inward = matches!(*hook, "input" | "prerouting" | "ingress");
                let for_ip = matches!(family, "ip" | "ip6" | "inet" | "netdev");
                let iptables = matches!(family, "ip" | "ip6")
                    && IPTABLES.contains(&table)
                    && matches!(name, "INPUT" | "PREROUTING");
                if inward && for_ip && !iptables {
                    found.push(BaseChain {
                        family: family.to_owned(),
                        table: table.to_owned(),
                        name: name.to_owned(),
                        drops: rest.join(" ").contains("policy drop"),
                    });
                }
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_chains_are_parsed_from_nft_output() {
        let listed = "table ip filter {\n\tchain INPUT {\n\t\ttype filter hook input priority \
                      filter; policy accept;\n\t}\n\tchain VF-INPUT {\n\t}\n}\ntable inet mine \
                      {\n\tchain input {\n\t\ttype filter hook input priority 10; policy \
                      drop;\n\t}\n\tchain out {\n\t\ttype filter hook output priority 0; policy \
                      drop;\n\t}\n}\ntable ip filter2 {\n\tchain INPUT {\n\t\ttype filter hook \
                      input priority 0; policy accept;\n\t}\n}\ntable bridge b {\n\tchain i \
                      {\n\t\ttype filter hook input priority 0; policy drop;\n\t}\n}\n";
        let found: Vec<(String, String, bool)> = input_filters(listed)
            .into_iter()
            .map(|chain| (chain.table, chain.name, chain.drops))
            .collect();
        assert_eq!(
            found,
            [
                ("mine".to_owned(), "input".to_owned(), true),
                ("filter2".to_owned(), "INPUT".to_owned(), false),
            ]
        );
        assert!(input_filters("nonsense {\n}\n").is_empty());
    }
}
