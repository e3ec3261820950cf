//! Rules of the other backend, and helpers that rewrite SIP.

use voipfleet_ruleset::iptables::{Table, target};
use voipfleet_ruleset::ruleset::Family;

use super::{ForeignFirewall, ForeignFirewallKind, foreign_firewall};
use crate::host::Root;
use crate::kernel::Backend;

/// `/proc/modules` of any machine is shorter.
const MAX_MODULES: u64 = 1 << 20;
/// Whether the kernel gives helpers to connections by itself; gone since Linux 6.0, which does so only by
/// rule.
const BY_ITSELF: &str = "/proc/sys/net/netfilter/nf_conntrack_helper";

/// Rules of the backend that is not this node's.
pub(super) fn other_backend(backend: Backend, saved: &[(Family, Table)]) -> Vec<ForeignFirewall> {
    let (other, tool) = match backend {
        Backend::Nft => ("legacy", "legacy-save"),
        Backend::Legacy => ("nft", "nft-save"),
    };
    let holds_rules =
        |(_, table): &&(Family, Table)| table.chains.iter().any(|chain| !chain.rules.is_empty());
    saved
        .iter()
        .filter(holds_rules)
        .map(|(family, _)| {
            let program = match family {
                Family::V4 => "iptables",
                Family::V6 => "ip6tables",
            };
            foreign_firewall(
                ForeignFirewallKind::OtherBackend,
                format!(
                    "{family} packets also pass rules of the {other} backend, which this node's \
                     {program} does not show"
                ),
                &format!(
                    "run {program}-{tool} to see them, and have the program that wrote them use the \
                     same iptables as this node (update-alternatives --display {program})"
                ),
            )
        })
        .collect()
}

/// A module that rewrites SIP packets of every connection.
pub(super) fn modules(root: &Root) -> Option<ForeignFirewall> {
    let modules = root.text("/proc/modules", MAX_MODULES)?;
    let sip = |line: &str| line.split(' ').next() == Some("nf_conntrack_sip");
    let by_itself = root.text(BY_ITSELF, MAX_MODULES)?;
    (modules.lines().any(sip) && by_itself.trim() == "1").then(|| {
        foreign_firewall(
            ForeignFirewallKind::NfConntrackSip,
            "the kernel module nf_conntrack_sip is loaded, and given to connections by itself",
            "it rewrites SIP and breaks calls: modprobe -r nf_nat_sip nf_conntrack_sip, and keep \
             it out with `install nf_conntrack_sip /bin/true` in /etc/modprobe.d",
        )
    })
}

/// Rules that give SIP connections the helper, of iptables and of `nf_tables`.
pub(super) fn helper_rules<'t>(
    tables: impl Iterator<Item = &'t (Family, &'static str, Table)>,
    native_text: &[String],
) -> Option<ForeignFirewall> {
    let mut places: Vec<String> = Vec::new();
    for (_, name, table) in tables {
        for chain in &table.chains {
            let assigns = |rule: &String| {
                target(rule).as_deref() == Some("CT") && rule.contains("--helper sip")
            };
            if chain.rules.iter().any(assigns) {
                places.push(format!("{} of table {name}", chain.name));
            }
        }
    }
    // `{"ct helper": {…, "type": "sip", …}}` declares one.
    let declares =
        |text: &&String| text.contains("\"ct helper\"") && text.contains("\"type\": \"sip\"");
    if native_text.iter().any(|text| declares(&text)) {
        places.push("a table of nf_tables".to_owned());
    }
    places.sort_unstable();
    places.dedup();
    (!places.is_empty()).then(|| {
        foreign_firewall(
            ForeignFirewallKind::NfConntrackSip,
            format!(
                "a rule in {} gives SIP packets to nf_conntrack_sip",
                places.join(", ")
            ),
            "it rewrites SIP and breaks calls: take the rule out in the program that wrote it (see \
             `iptables -t raw -S`)",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sip_helper_is_found_by_its_exact_name() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        assert_eq!(modules(&root), None);
        std::fs::create_dir(root.path("/proc")).unwrap();
        let line = "nf_conntrack 200704 1 nf_conntrack_sip, Live 0x0\n";
        std::fs::write(root.path("/proc/modules"), line).unwrap();
        assert_eq!(modules(&root), None);
        let line = format!("{line}nf_conntrack_sip 40960 0 - Live 0x0\n");
        std::fs::write(root.path("/proc/modules"), line).unwrap();
        // A kernel that gives helpers only by rule.
        assert_eq!(modules(&root), None);
        std::fs::create_dir_all(root.path("/proc/sys/net/netfilter")).unwrap();
        std::fs::write(root.path(BY_ITSELF), "0\n").unwrap();
        assert_eq!(modules(&root), None);
        std::fs::write(root.path(BY_ITSELF), "1\n").unwrap();
        assert_eq!(
            modules(&root).unwrap().kind(),
            ForeignFirewallKind::NfConntrackSip
        );
    }
}
