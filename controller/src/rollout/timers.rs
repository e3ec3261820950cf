//! How much time has passed for a stored rollout, by this machine's monotonic clock.
//!
//! A rollout is stored with the time that is left of its deadlines. This run of the controller
//! counts it down from the moment at which it wrote or first read that revision.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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
    /// Another run of the controller has begun it.
    taken_over: bool,
    /// The driver has read it, or need not: it begins here.
    driven: bool,
    /// The revision that is counted down, and since when; none: it is not stored yet.
    counted: Option<(Revision, Duration)>,
}

/// A stored rollout's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Elapsed {
    /// Since the revision was written or first read, milliseconds.
    pub(super) ms: u64,
    /// Another run of the controller has begun it.
    pub(super) taken_over: bool,
    /// It was taken over, and this is the driver's first read of it.
    pub(super) first: bool,
}

impl Timers {
    /// A rollout of this number is about to be stored here.
    pub(super) fn started(&self, site: &SiteName, rollout: u64) {
        let timer = Timer {
            rollout,
            taken_over: false,
            driven: true,
            counted: None,
        };
        self.lock().insert(site.clone(), timer);
    }

    /// How much time has passed for what the driver has read; begins to count where it is new.
    pub(super) fn elapsed(
        &self,
        site: &SiteName,
        read: &Read<RolloutRecord>,
        now: Duration,
    ) -> Elapsed {
        let mut sites = self.lock();
        let known = sites.get(site).copied();
        let known = known.filter(|timer| timer.rollout == read.record.number);
        let taken_over = known.is_none_or(|timer| timer.taken_over);
        let since = known.and_then(|timer| timer.since(read.revision));
        let since = since.unwrap_or(now);
        let timer = Timer {
            rollout: read.record.number,
            taken_over,
            driven: true,
            counted: Some((read.revision, since)),
        };
        sites.insert(site.clone(), timer);
        Elapsed {
            ms: millis(now.saturating_sub(since)),
            taken_over,
            first: known.is_none_or(|timer| !timer.driven),
        }
    }

    /// How much time has passed for what was read, milliseconds; 0 where it is not counted.
    pub(super) fn peek(&self, site: &SiteName, read: &Read<RolloutRecord>, now: Duration) -> u64 {
        let timer = self.lock().get(site).copied();
        let since = timer.and_then(|timer| timer.since(read.revision));
        since.map_or(0, |since| millis(now.saturating_sub(since)))
    }

    /// This controller has written a revision whose time was right at `since`.
    pub(super) fn wrote(
        &self,
        site: &SiteName,
        record: &RolloutRecord,
        revision: Revision,
        since: Duration,
    ) {
        let mut sites = self.lock();
        let known = sites.get(site).copied();
        let known = known.filter(|timer| timer.rollout == record.number);
        let timer = known.unwrap_or(Timer {
            rollout: record.number,
            taken_over: true,
            driven: false,
            counted: None,
        });
        let counted = Some((revision, since));
        sites.insert(site.clone(), Timer { counted, ..timer });
    }

    /// The next read is the first again: what it led to was not stored.
    pub(super) fn forget(&self, site: &SiteName) {
        self.lock().remove(site);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SiteName, Timer>> {
        self.sites.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Timer {
    /// Since when a revision is counted; none: it is not.
    fn since(&self, revision: Revision) -> Option<Duration> {
        let counted = self.counted.filter(|(counted, _)| *counted == revision);
        counted.map(|(_, since)| since)
    }
}

/// A time in milliseconds.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
