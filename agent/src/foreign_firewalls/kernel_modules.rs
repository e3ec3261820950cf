//! Rules and modules of the kernel that iptables does not show.

use super::{ForeignFirewall, ForeignFirewallKind};
use voipfleet_ruleset::iptables::parse_save;
use voipfleet_ruleset::ruleset::Family;

use super::foreign_firewall;
use crate::host::Root;
use crate::kernel::{Backend, Kernel};

/// `/proc/modules` of any machine is shorter.
const MAX_MODULES: u64 = 1 << 20;

/// Rules of the other backend.
pub(super) fn other_backend(kernel: &mut dyn Kernel) -> Vec<ForeignFirewall> {
    let (other, tool) = match kernel.backend() {
        Backend::Nft => ("legacy", "legacy-save"),
        Backend::Legacy => ("nft", "nft-save"),
    };
    let mut holds_rules = |family: &Family| {
        if !kernel.speaks(*family) {
            return false;
        }
        let saved = kernel.save_other_backend(*family);
        let table = saved.and_then(|text| parse_save(&text).ok());
        table.is_some_and(|table| table.chains.iter().any(|chain| !chain.rules.is_empty()))
    };
    let families: Vec<Family> = Family::BOTH.into_iter().filter(&mut holds_rules).collect();
    families
        .into_iter()
        .map(|family| {
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
                &format!("run {program}-{tool} to see them, and remove them"),
            )
        })
        .collect()
}

/// Modules that rewrite SIP packets.
pub(super) fn modules(root: &Root) -> Option<ForeignFirewall> {
    let modules = root.text("/proc/modules", MAX_MODULES)?;
    let sip = |line: &str| line.split(' ').next() == Some("nf_conntrack_sip");
    modules.lines().any(sip).then(|| {
        foreign_firewall(
            ForeignFirewallKind::NfConntrackSip,
            "the kernel module nf_conntrack_sip is loaded",
            "it rewrites SIP and breaks calls: modprobe -r nf_nat_sip nf_conntrack_sip, and keep \
             it out with `install nf_conntrack_sip /bin/true` in /etc/modprobe.d",
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
        assert_eq!(
            modules(&root).unwrap().kind(),
            ForeignFirewallKind::NfConntrackSip
        );
    }
}
