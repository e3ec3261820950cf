//! What the kernel should hold: the ruleset, and what its live sources hold, as far as that is
//! known.

use std::collections::BTreeSet;
use std::sync::Arc;

use tracing::error;
use voipfleet_ruleset::iptables::KernelSet;
use voipfleet_ruleset::ruleset::{
    AddressSet, Expiring, LiveName, LiveSets, Ruleset, SetName, Until,
};

use super::kernel_state;
use crate::host::clock;
use crate::kernel::Kernel;
use crate::ledger::{Confirmed, KeptLive, Ledger, Live};

/// Sources that a message names.
const NAMED: usize = 5;

/// What a start has of live sets.
#[derive(Debug, Default)]
pub struct Found {
    /// What is held; none: nothing.
    pub held: Option<Arc<Live>>,
    /// Why that is not what was told last; empty: it is.
    pub damaged: String,
    /// Of which sources that the ruleset names nothing is known; empty: all are.
    pub unknown: String,
}

impl Found {
    /// What is wrong, for people.
    pub fn error(&self) -> Option<String> {
        let wrong = [self.damaged.as_str(), self.unknown.as_str()];
        let wrong: Vec<&str> = wrong.into_iter().filter(|why| !why.is_empty()).collect();
        (!wrong.is_empty()).then(|| wrong.join("; "))
    }
}

/// Reads the live sets, and makes `confirmed` what the kernel should hold with them.
///
/// Where they are damaged, a node runs with what there is: those before the last; else the sets
/// as they stand in the kernel, which a start of the agent alone leaves. What is known of neither
/// is nothing: that lets nobody in.
pub fn find(kernel: &mut dyn Kernel, ledger: &Ledger, confirmed: Option<&mut Confirmed>) -> Found {
    let mut found = match ledger.live() {
        KeptLive::Never => Found::default(),
        KeptLive::Last(live) => Found {
            held: Some(Arc::new(live)),
            ..Found::default()
        },
        KeptLive::Earlier(live, why) => Found {
            held: Some(Arc::new(live)),
            damaged: format!(
                "the live sets on this node are damaged, and it enforces those before the last \
                 until the controller tells it anew: {why}"
            ),
            ..Found::default()
        },
        KeptLive::Lost(why) => Found {
            damaged: format!("the live sets on this node are lost: {why}"),
            ..Found::default()
        },
    };
    if let Some(confirmed) = confirmed {
        let ours = |kernel: &mut dyn Kernel| {
            let now = clock::unix(clock::now());
            let sets = kernel_state::sets(kernel, false).unwrap_or_default();
            sets.iter().map(|set| stands(set, now)).collect()
        };
        let known = found.held.as_ref().map(|live| live.known());
        let stands = || ours(kernel);
        let (live, missing) = as_known(&confirmed.ruleset, known.as_deref(), None, stands);
        confirmed.live = live;
        found.unknown = describe(&missing);
    }
    for why in [&found.damaged, &found.unknown] {
        if !why.is_empty() {
            error!(reason = why, "live sets");
        }
    }
    found
}

/// What the kernel should hold of `ruleset` by what is known; none: the ruleset itself, which
/// names no source. A set that names a source of which nothing is known keeps what it has in
/// `stands`. Gives those sources, too. What it was by what was known `earlier` spares most of the
/// work: large sources seldom change.
pub(crate) fn as_known(
    ruleset: &Ruleset,
    known: Option<&LiveSets>,
    earlier: Option<(&Ruleset, &LiveSets)>,
    stands: impl FnOnce() -> Vec<AddressSet>,
) -> (Option<Arc<Ruleset>>, Vec<LiveName>) {
    let names = ruleset.live_names();
    if names.is_empty() {
        return (None, Vec::new());
    }
    let nothing = LiveSets::new(ruleset.site.clone());
    let known = known.unwrap_or(&nothing);
    let is_missing = |name: &LiveName| !known.sources.contains_key(name);
    let missing: BTreeSet<LiveName> = names.iter().filter(|n| is_missing(n)).cloned().collect();
    let filled;
    let all = if missing.is_empty() {
        known
    } else {
        filled = known.only(&names);
        &filled
    };
    let same = |name: &LiveName, before: &LiveSets| {
        let (before, now) = (before.sources.get(name), all.sources.get(name));
        before.zip(now).is_some_and(|(b, n)| Arc::ptr_eq(b, n))
    };
    let unchanged = |set: &AddressSet| {
        let (ran, before) = earlier?;
        let still = set.live.iter().all(|name| same(name, before));
        let mut sets = ran.sets.iter();
        sets.find(|ran| still && ran.name == set.name).cloned()
    };
    let kept: Vec<Option<AddressSet>> = ruleset.sets.iter().map(unchanged).collect();
    let mut changed = ruleset.clone();
    for (set, kept) in changed.sets.iter_mut().zip(&kept) {
        if kept.is_some() {
            set.live.clear();
        }
    }
    // Every name is there now.
    let Ok(mut effective) = changed.with_live(all) else {
        return (None, missing.into_iter().collect());
    };
    for (set, kept) in effective.sets.iter_mut().zip(kept) {
        if let Some(kept) = kept {
            *set = kept;
        }
    }
    if !missing.is_empty() {
        let stands = stands();
        for (set, of) in effective.sets.iter_mut().zip(&ruleset.sets) {
            if of.live.iter().any(|name| missing.contains(name)) {
                keep(set, stands.iter().find(|one| one.name == set.name));
            }
        }
    }
    (Some(Arc::new(effective)), missing.into_iter().collect())
}

/// What `stands` holds stays in the set.
fn keep(set: &mut AddressSet, stands: Option<&AddressSet>) {
    let Some(stands) = stands else {
        return;
    };
    let elements = set.elements.iter().chain(&stands.elements).copied();
    let expiring = set.expiring.iter().chain(&stands.expiring).copied();
    *set = AddressSet::new(set.name.clone(), elements).with_expiring(expiring);
}

/// A set of the kernel as one of a ruleset at `now`, Unix time in seconds.
fn stands(set: &KernelSet, now: u64) -> AddressSet {
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

/// Sources of which nothing is known, in words; empty: there is none.
pub(crate) fn describe(missing: &[LiveName]) -> String {
    if missing.is_empty() {
        return String::new();
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
    format!(
        "nothing is known of the live sources {}{more}: sets that name them stay as they are",
        named.join(", ")
    )
}
