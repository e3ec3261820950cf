//! How much time has passed for a stored rollout, by this machine's monotonic clock.
//!
//! A rollout is stored with the time that is left of its deadlines. This run of the controller
//! counts it down from the moment at which it wrote or first read that revision.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use voipfleet_ruleset::identifiers::SiteName;

use crate::records::{Read, RolloutRecord};
use crate::store::Revision;

#[derive(Debug, Default)]
pub(super) struct Timers {
    sites: Mutex<BTreeMap<SiteName, Timer>>,
}

#[derive(Debug, Clone, Copy)]
struct Timer {
    /// The rollout's number.
    rollout: u64,
    /// It was under way when this run of the controller first read it.
    taken_over: bool,
    /// The revision that is counted down, and since when; none: it is not known yet.
    counted: Option<(Revision, Instant)>,
}

/// A stored rollout's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Elapsed {
    /// Since the revision was written or first read, milliseconds.
    pub(super) ms: u64,
    /// Another run of the controller has begun it.
    pub(super) taken_over: bool,
    /// This is the first read of it.
    pub(super) first: bool,
}

impl Timers {
    /// A rollout of this number is about to be stored here.
    pub(super) fn started(&self, site: &SiteName, rollout: u64) {
        let timer = Timer {
            rollout,
            taken_over: false,
            counted: None,
        };
        self.lock().insert(site.clone(), timer);
    }

    /// How much time has passed for what was read; begins to count where it is new.
    pub(super) fn elapsed(
        &self,
        site: &SiteName,
        read: &Read<RolloutRecord>,
        now: Instant,
    ) -> Elapsed {
        let mut sites = self.lock();
        let known = sites.get(site).copied();
        let known = known.filter(|timer| timer.rollout == read.record.number);
        let taken_over = known.is_none_or(|timer| timer.taken_over);
        let since = known
            .and_then(|timer| timer.counted)
            .filter(|(revision, _)| *revision == read.revision)
            .map_or(now, |(_, since)| since);
        let timer = Timer {
            rollout: read.record.number,
            taken_over,
            counted: Some((read.revision, since)),
        };
        sites.insert(site.clone(), timer);
        let passed = now.saturating_duration_since(since).as_millis();
        Elapsed {
            ms: u64::try_from(passed).unwrap_or(u64::MAX),
            taken_over,
            first: known.is_none(),
        }
    }

    /// How much time has passed for what was read, milliseconds; 0 where it is not counted.
    pub(super) fn peek(&self, site: &SiteName, read: &Read<RolloutRecord>, now: Instant) -> u64 {
        let timer = self.lock().get(site).copied();
        let counted = timer.and_then(|timer| timer.counted);
        let since = counted.filter(|(revision, _)| *revision == read.revision);
        let passed = since.map(|(_, since)| now.saturating_duration_since(since));
        passed.map_or(0, |passed| {
            u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
        })
    }

    /// This controller has written a revision whose time was right at `since`.
    pub(super) fn wrote(&self, site: &SiteName, revision: Revision, since: Instant) {
        if let Some(timer) = self.lock().get_mut(site) {
            timer.counted = Some((revision, since));
        }
    }

    /// The next read is the first again: what it led to was not stored.
    pub(super) fn forget(&self, site: &SiteName) {
        self.lock().remove(site);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SiteName, Timer>> {
        self.sites.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
