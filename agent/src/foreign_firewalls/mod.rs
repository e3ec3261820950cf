//! Other programs that change the machine's firewall, or what its rules mean.
//!
//! They are reported with what to do about them; nothing of theirs is changed.

mod chains;
mod cut_offs;
mod foreign_sets;
mod guests;
mod kernel_modules;
mod kernel_tables;
mod known_names;
mod nft_presence;
mod nft_tables;
mod saved_files;
mod services;
mod vendor_script;

use std::net::SocketAddr;

use tracing::{info, warn};
use voipfleet_proto::v1::{
    CutOffKind, Neighbour as ForeignFirewall, NeighbourKind as ForeignFirewallKind,
};
use voipfleet_ruleset::foreign::{Action, ForeignTable, Policy, describe, refusals};
use voipfleet_ruleset::ruleset::{Digest, Mode, Ruleset};

use self::foreign_sets::ForeignSets;
use self::kernel_tables::KernelTables;
use crate::host::{Host, clock};
use crate::kernel::Kernel;

/// The most that one node reports.
const MAX_REPORTED: usize = 32;
/// The longest list of names in one detail.
const MAX_NAMES: usize = 8;

/// The digests of a ruleset and of its dynamic sets.
type Revision = (Option<Digest>, Option<Digest>);

/// What foreign firewalls must not cut off.
#[derive(Debug, Clone, Copy)]
pub struct Protected<'a> {
    /// The ruleset that runs, with its dynamic sets; none where none does.
    pub ruleset: Option<&'a Ruleset>,
    /// The digests of both: it did not change while they are the same.
    pub revision: Revision,
    /// The controllers that the agent dials.
    pub controllers: &'a [SocketAddr],
}

impl Protected<'static> {
    /// Nothing: a node without a ruleset, whose controllers are not known.
    pub const NOTHING: Self = Self {
        ruleset: None,
        revision: (None, None),
        controllers: &[],
    };
}

/// All of them, as they were found last.
#[derive(Debug, Default)]
pub struct ForeignFirewalls {
    tables: KernelTables,
    /// What is not ours of them.
    foreign: Vec<ForeignTable>,
    sets: ForeignSets,
    /// Found in files: services, crontabs, saved rules.
    of_host: Vec<ForeignFirewall>,
    /// Found in the kernel.
    of_kernel: Vec<ForeignFirewall>,
    checked: Option<(Revision, Vec<SocketAddr>)>,
}

impl ForeignFirewalls {
    /// Reads the machine's files. The next check reads the whole kernel.
    pub fn refresh(&mut self, host: &Host) {
        let mut found = services::find(host);
        found.extend(vendor_script::find(&host.root));
        found.extend(kernel_modules::modules(&host.root));
        found.extend(saved_files::find(host));
        self.of_host = found;
        self.checked = None;
    }

    /// Reads of the kernel what may have changed: a few runs of its tools, and with `nf_tables` none where
    /// nothing did. Returns whether what is found is not what was found before.
    pub fn check(
        &mut self,
        host: &Host,
        kernel: &mut dyn Kernel,
        protected: Protected<'_>,
    ) -> bool {
        let checked = (protected.revision, protected.controllers.to_vec());
        let is_new = self.checked.as_ref() != Some(&checked);
        let mut changed = self.tables.refresh(host, kernel, self.checked.is_none());
        let observes = |ruleset: &Ruleset| ruleset.mode == Mode::Observe;
        let judged = if protected.ruleset.is_none_or(observes) {
            Action::Pass
        } else {
            Action::Accept
        };
        changed |= is_new;
        if changed {
            self.foreign = self.tables.foreign(&judged);
        }
        let names = self.foreign.iter().flat_map(ForeignTable::named_sets);
        changed |= self.sets.refresh(&host.runner, names);
        self.checked = Some(checked);
        if !changed {
            return false;
        }
        let found = self.in_kernel(kernel, protected);
        let before = std::mem::replace(&mut self.of_kernel, found);
        log(&before, &self.of_kernel);
        before != self.of_kernel
    }

    fn in_kernel(&self, kernel: &dyn Kernel, protected: Protected<'_>) -> Vec<ForeignFirewall> {
        let read = &self.tables;
        let now = clock::unix(clock::now());
        let mut found = kernel_modules::other_backend(kernel.backend(), &read.other_backend);
        found.extend(kernel_modules::helper_rules(
            read.others.iter(),
            &read.native_text,
        ));
        found.extend(chains::find(&read.filter));
        found.extend(nft_tables::find(&read.native));
        found.extend(chains::overruled(&read.filter));
        found.extend(chains::unreached(&read.filter));
        found.extend(chains::other_tables(&read.others));
        let policy = Policy {
            ruleset: protected.ruleset,
            controllers: protected.controllers,
            now,
        };
        let refusals = refusals(&self.foreign, &self.sets.sets, &policy);
        found.extend(refusals.iter().map(cut_offs::report));
        if let Some(ruleset) = protected.ruleset {
            found.extend(guests::find(&self.foreign, ruleset, now));
        }
        found
    }

    /// What was found, what is to be done first.
    pub fn found(&self) -> Vec<ForeignFirewall> {
        // A service may be found in several places: its unit is more useful than its chains.
        let mut found: Vec<ForeignFirewall> = Vec::new();
        for firewall in self.of_host.iter().chain(&self.of_kernel) {
            let by_name = matches!(
                firewall.kind(),
                ForeignFirewallKind::Firewalld | ForeignFirewallKind::Ufw
            );
            let known = found.iter().any(|known| known.kind == firewall.kind);
            if !(by_name && known && cuts_off_nobody(firewall)) {
                found.push(firewall.clone());
            }
        }
        found.sort_by_key(|firewall| {
            let is_tolerated = firewall.advice.is_empty();
            (cuts_off_nobody(firewall), is_tolerated, firewall.kind)
        });
        found.truncate(MAX_REPORTED);
        found
    }
}

/// Logs who is cut off now, and by what nobody is any more.
fn log(before: &[ForeignFirewall], now: &[ForeignFirewall]) {
    for firewall in now.iter().filter(|now| !before.contains(now)) {
        if let Some(hits) = describe(firewall) {
            warn!(
                by = firewall.detail,
                hits, "foreign firewall cuts off what the policy opens"
            );
        }
    }
    let is_gone = |was: &&ForeignFirewall| !now.iter().any(|now| now.detail == was.detail);
    for firewall in before.iter().filter(is_gone) {
        if !cuts_off_nobody(firewall) {
            info!(
                by = firewall.detail,
                "foreign firewall no longer cuts off what the policy opens"
            );
        }
    }
}

/// What cuts the node off from its controller, in words: `chain OUTPUT drops the controller, …`.
pub fn cut_off_from_controller(found: &[ForeignFirewall]) -> Option<String> {
    let hits = found.iter().filter_map(|firewall| {
        let mut only = firewall.clone();
        only.cut_off
            .retain(|one| one.kind() == CutOffKind::Controller);
        only.cut_off_more = 0;
        only.closed_ports.clear();
        let hits = describe(&only)?;
        Some(format!("{} {hits}", firewall.detail))
    });
    let hits: Vec<String> = hits.collect();
    (!hits.is_empty()).then(|| hits.join("; "))
}

/// Whether nobody is known whom it refuses what the policy opens.
fn cuts_off_nobody(firewall: &ForeignFirewall) -> bool {
    firewall.cut_off.is_empty() && firewall.closed_ports.is_empty()
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
        ..ForeignFirewall::default()
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
