//! Other programs that change the machine's firewall, or what its rules mean.
//!
//! They are reported with what to do about them; nothing of theirs is changed.

mod chains;
mod kernel_modules;
mod nft_tables;
mod services;
mod vendor_script;

use voipfleet_proto::v1::{Neighbour as ForeignFirewall, NeighbourKind as ForeignFirewallKind};
use voipfleet_ruleset::iptables::Table;
use voipfleet_ruleset::ruleset::Family;

use crate::host::Host;
use crate::kernel::{Kernel, read_table};

/// The most that one node reports.
const MAX_REPORTED: usize = 32;
/// The longest list of names in one detail.
const MAX_NAMES: usize = 8;

/// Finds all of them.
pub fn find(host: &Host, kernel: &mut dyn Kernel) -> Vec<ForeignFirewall> {
    let saved: Vec<(Family, Table)> = Family::BOTH
        .into_iter()
        .filter(|family| kernel.speaks(*family))
        .collect::<Vec<_>>()
        .into_iter()
        .filter_map(|family| Some((family, read_table(kernel, family).ok()?)))
        .collect();
    let mut found = services::find(host);
    found.extend(vendor_script::find(&host.root));
    found.extend(kernel_modules::other_backend(kernel));
    found.extend(kernel_modules::modules(&host.root));
    found.extend(chains::find(&saved));
    found.extend(nft_tables::find(host, kernel.backend()));
    // A service may be found in several places: its unit is more useful than its chains.
    let mut kinds = Vec::new();
    found.retain(|firewall| {
        let only_once = !matches!(
            firewall.kind(),
            ForeignFirewallKind::NftTable
                | ForeignFirewallKind::OtherBackend
                | ForeignFirewallKind::VoipnowFirewall
        );
        let twice = only_once && kinds.contains(&firewall.kind);
        kinds.push(firewall.kind);
        !twice
    });
    found.sort_by_key(|firewall| (firewall.advice.is_empty(), firewall.kind));
    found.truncate(MAX_REPORTED);
    found
}

fn foreign_firewall(
    kind: ForeignFirewallKind,
    detail: impl Into<String>,
    advice: &str,
) -> ForeignFirewall {
    ForeignFirewall {
        kind: kind.into(),
        detail: detail.into(),
        advice: advice.to_owned(),
    }
}

/// Names as people list them, cut where they are many.
fn listed(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(MAX_NAMES).map(String::as_str).collect();
    let shown = shown.join(", ");
    match names.len().saturating_sub(MAX_NAMES) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
