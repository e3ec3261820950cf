//! What the kernel should hold: the ruleset, with the dynamic sets that it names as far as they are
//! known.

use std::collections::BTreeSet;
use std::sync::Arc;

use voipfleet_ruleset::iptables::KernelSet;
use voipfleet_ruleset::ruleset::{
    AddressSet, DynamicSetName, DynamicSets, Expiring, Ruleset, SetName, Until,
};

use super::kernel_state;
use crate::kernel::Kernel;
use crate::ledger::{Confirmed, KeptSets, Ledger, SiteSets};

/// Sources that a message names.
const NAMED: usize = 5;

/// The dynamic sets that a start found on disk.
#[derive(Debug, Default)]
pub struct StoredSets {
    /// The sets that the node holds.
    pub held: Option<Arc<SiteSets>>,
    /// Why these are not the ones that were received last.
    pub damaged: Option<String>,
    /// Sources that the ruleset names and of which nothing is known.
    pub unknown: Vec<DynamicSetName>,
}

impl StoredSets {
    /// Describes damage and unknown sources.
    pub fn error(&self) -> Option<String> {
        let unknown = describe_unknown(&self.unknown);
        let wrong: Vec<String> = self.damaged.iter().cloned().chain(unknown).collect();
        (!wrong.is_empty()).then(|| wrong.join("; "))
    }
}

/// Reads the dynamic sets, and makes `confirmed` what the kernel should hold with them.
///
/// Where they are damaged, the node runs with what is left: those before the last ones; else what
/// the kernel holds, which survives a restart of the agent. A source of which neither is known is
/// empty, so that it lets nothing in.
pub fn load(
    kernel: &mut dyn Kernel,
    ledger: &Ledger,
    confirmed: Option<&mut Confirmed>,
) -> StoredSets {
    let mut stored = match ledger.dynamic_sets() {
        KeptSets::Never => StoredSets::default(),
        KeptSets::Last(sets) => StoredSets {
            held: Some(Arc::new(sets)),
            ..StoredSets::default()
        },
        KeptSets::Earlier(sets, why) => StoredSets {
            held: Some(Arc::new(sets)),
            damaged: Some(format!(
                "the dynamic sets on disk are damaged; the node enforces the previous ones until \
                 the controller sends them again: {why}"
            )),
            ..StoredSets::default()
        },
        KeptSets::Lost(why) => StoredSets {
            damaged: Some(format!("the dynamic sets on disk are lost: {why}")),
            ..StoredSets::default()
        },
    };
    if let Some(confirmed) = confirmed {
        let ours = |kernel: &mut dyn Kernel| {
            let now = kernel.now();
            let sets = kernel_state::read_sets(kernel, false).unwrap_or_default();
            sets.iter().map(|set| as_address_set(set, now)).collect()
        };
        let known = stored.held.as_ref().map(|sets| sets.known());
        let in_kernel = || ours(kernel);
        let (filled, missing) =
            effective_ruleset(&confirmed.ruleset, known.as_deref(), None, in_kernel);
        confirmed.filled = filled;
        stored.unknown = missing;
    }
    stored
}

/// What the kernel should hold of `ruleset` with the sources that are `known`; none: the ruleset
/// itself, which names no source. A set that names an unknown source keeps what it has
/// `in_kernel`; these sources are given, too. Sets whose sources did not change since `earlier`
/// are taken from there: large sources seldom change.
pub(crate) fn effective_ruleset(
    ruleset: &Ruleset,
    known: Option<&DynamicSets>,
    earlier: Option<(&Ruleset, &DynamicSets)>,
    in_kernel: impl FnOnce() -> Vec<AddressSet>,
) -> (Option<Arc<Ruleset>>, Vec<DynamicSetName>) {
    let names = ruleset.dynamic_names();
    if names.is_empty() {
        return (None, Vec::new());
    }
    let nothing = DynamicSets::new(ruleset.site.clone());
    let known = known.unwrap_or(&nothing);
    let is_missing = |name: &DynamicSetName| !known.sources.contains_key(name);
    let missing: BTreeSet<DynamicSetName> =
        names.iter().filter(|n| is_missing(n)).cloned().collect();
    let filled;
    let all = if missing.is_empty() {
        known
    } else {
        filled = known.only(&names);
        &filled
    };
    let same = |name: &DynamicSetName, before: &DynamicSets| {
        let (before, now) = (before.sources.get(name), all.sources.get(name));
        before.zip(now).is_some_and(|(b, n)| Arc::ptr_eq(b, n))
    };
    let unchanged = |set: &AddressSet| {
        let (ran, before) = earlier?;
        let still = set.dynamic.iter().all(|name| same(name, before));
        let mut sets = ran.sets.iter();
        sets.find(|ran| still && ran.name == set.name).cloned()
    };
    let kept: Vec<Option<AddressSet>> = ruleset.sets.iter().map(unchanged).collect();
    let mut changed = ruleset.clone();
    for (set, kept) in changed.sets.iter_mut().zip(&kept) {
        if kept.is_some() {
            set.dynamic.clear();
        }
    }
    // Every name is there now.
    let Ok(mut effective) = changed.with_dynamic(all) else {
        return (None, missing.into_iter().collect());
    };
    for (set, kept) in effective.sets.iter_mut().zip(kept) {
        if let Some(kept) = kept {
            *set = kept;
        }
    }
    if !missing.is_empty() {
        let in_kernel = in_kernel();
        for (set, of) in effective.sets.iter_mut().zip(&ruleset.sets) {
            if of.dynamic.iter().any(|name| missing.contains(name)) {
                keep(set, in_kernel.iter().find(|one| one.name == set.name));
            }
        }
    }
    (Some(Arc::new(effective)), missing.into_iter().collect())
}

/// Elements that the kernel holds stay in the set.
fn keep(set: &mut AddressSet, held: Option<&AddressSet>) {
    let Some(held) = held else {
        return;
    };
    let elements = set.elements.iter().chain(&held.elements).copied();
    let expiring = set.expiring.iter().chain(&held.expiring).copied();
    let scheduled = set.scheduled.iter().copied();
    *set = AddressSet::new(set.name.clone(), elements)
        .with_expiring(expiring)
        .with_scheduled(scheduled);
}

/// A set of the kernel as one of a ruleset at `now`, Unix time in seconds.
fn as_address_set(set: &KernelSet, now: u64) -> AddressSet {
    let name = SetName {
        stem: set.name.stem.clone(),
        family: set.name.family,
    };
    let ending = set.expiring.iter().filter_map(|(net, left)| {
        Some(Expiring {
            net: *net,
            until: Until::from_unix(now + u64::from(*left))?,
        })
    });
    AddressSet::new(name, set.elements.iter().copied()).with_expiring(ending)
}

/// Sources of which nothing is known; none where there are none.
pub(crate) fn describe_unknown(missing: &[DynamicSetName]) -> Option<String> {
    if missing.is_empty() {
        return None;
    }
    let named: Vec<String> = missing
        .iter()
        .take(NAMED)
        .map(ToString::to_string)
        .collect();
    let more = match missing.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!(
        "this node does not know the content of {}{more}: sets that use them stay as they are",
        named.join(", ")
    ))
}
