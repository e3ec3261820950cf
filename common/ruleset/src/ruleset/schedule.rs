//! What a set holds at a moment: elements that are scheduled come by themselves.

use std::borrow::Cow;

use ipnet::IpNet;

use super::{AddressSet, Expiring, Family, Ruleset, Scheduled, Until, distinct, storable};

impl AddressSet {
    /// The same set with `scheduled` of its family besides. What is permanent wins.
    #[must_use]
    pub fn with_scheduled(mut self, scheduled: impl IntoIterator<Item = Scheduled>) -> Self {
        let parts = scheduled
            .into_iter()
            .filter(|one| Family::of(&one.net) == self.name.family)
            .flat_map(|one| {
                let part = move |net| Scheduled { net, ..one };
                storable(one.net).into_iter().map(part)
            });
        self.scheduled.extend(parts);
        self.without_covered();
        self.make_room();
        self
    }

    /// Drops the scheduled elements that are there for ever, and those that are there twice.
    pub(super) fn without_covered(&mut self) {
        let lasting = &self.elements;
        self.scheduled
            .retain(|one| lasting.binary_search(&one.net).is_err());
        self.scheduled.sort_unstable();
        self.scheduled.dedup();
    }

    /// Whether the kernel's set has timers.
    pub fn has_timers(&self) -> bool {
        let ends = |one: &Scheduled| one.until.is_some();
        !self.expiring.is_empty() || self.scheduled.iter().any(ends)
    }

    /// The set as it should be at `now`, Unix time in seconds: what has begun is an element as any
    /// other, and what has not is none. Its room is that of the whole.
    pub fn at(&self, now: u64) -> Cow<'_, AddressSet> {
        if self.scheduled.is_empty() {
            return Cow::Borrowed(self);
        }
        let mut set = self.clone();
        for one in std::mem::take(&mut set.scheduled) {
            if !one.has_begun(now) {
                continue;
            }
            match one.until {
                None => set.elements.push(one.net),
                Some(until) => set.expiring.push(Expiring {
                    net: one.net,
                    until,
                }),
            }
        }
        set.elements.sort_unstable();
        set.elements.dedup();
        set.expiring = distinct(std::mem::take(&mut set.expiring), &set.elements);
        Cow::Owned(set)
    }

    /// Whether `net` is an element at `now` that has come by itself.
    pub(crate) fn scheduled_now(&self, net: &IpNet, now: u64) -> bool {
        let mut all = self.scheduled.iter();
        all.any(|one| one.net == *net && one.has_begun(now))
    }

    /// Whether the presence of `net` changes within so many seconds of `now`, because it begins.
    pub(crate) fn begins_about(&self, net: &IpNet, now: u64, seconds: u64) -> bool {
        let start = self.scheduled.partition_point(|one| one.net < *net);
        let same = self.scheduled.iter().skip(start);
        same.take_while(|one| one.net == *net)
            .any(|one| one.from.unix().abs_diff(now) <= seconds)
    }
}

impl Ruleset {
    /// When the next element begins after `now`, Unix time in seconds.
    pub fn next_beginning(&self, now: u64) -> Option<Until> {
        let scheduled = self.sets.iter().flat_map(|set| &set.scheduled);
        scheduled
            .filter(|one| !one.has_begun(now))
            .map(|one| one.from)
            .min()
    }
}
