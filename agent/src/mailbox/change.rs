//! A change of the kernel's rules or sets, as a reason to inspect it.

use std::time::Instant;

use voipfleet_ruleset::ruleset::Family;

use crate::kernel::{Author, KernelEvent, Parts, Reach};

/// A reason to inspect the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    v4: FamilyChange,
    v6: FamilyChange,
    /// What is not as it was at the last look, though nothing announced it.
    unannounced: Parts,
    /// When the first change since the last inspection was noticed.
    pub noticed: Instant,
}

/// The reach and the author of changes in one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct FamilyChange {
    reach: Reach,
    author: Option<Box<Author>>,
}

impl Change {
    fn new(unannounced: Parts, noticed: Instant) -> Self {
        Self {
            v4: FamilyChange::default(),
            v6: FamilyChange::default(),
            unannounced,
            noticed,
        }
    }

    /// None where the event reached neither filter table.
    pub(super) fn of_event(event: &KernelEvent, noticed: Instant) -> Option<Self> {
        let (author, v4, v6) = match event {
            KernelEvent::Changed(by) => (by.author.as_deref(), by.v4, by.v6),
            KernelEvent::Lost => (None, Reach::Ours, Reach::Ours),
        };
        if v4.max(v6) == Reach::Nothing {
            return None;
        }
        let mut change = Self::new(Parts::NONE, noticed);
        change.v4.add(v4, author);
        change.v6.add(v6, author);
        Some(change)
    }

    /// Nothing announced it.
    pub(crate) fn unannounced(parts: Parts) -> Self {
        Self::new(parts, Instant::now())
    }

    /// Adds a later one.
    pub(crate) fn merge(&mut self, later: &Change) {
        self.v4.add(later.v4.reach, later.v4.author.as_deref());
        self.v6.add(later.v6.reach, later.v6.author.as_deref());
        self.unannounced = self.unannounced.and(later.unannounced);
    }

    fn of(&self, family: Family) -> &FamilyChange {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// The parts of the kernel that may have changed.
    pub(crate) fn parts(&self) -> Parts {
        self.unannounced.and(Parts {
            v4: self.touches(Family::V4),
            v6: self.touches(Family::V6),
            sets: false,
        })
    }

    /// Whether a change of the filter table of `family` was announced.
    pub fn touches(&self, family: Family) -> bool {
        self.of(family).reach > Reach::Nothing
    }

    /// Whether chains of ours in the filter table of `family` may have changed.
    pub fn reaches_ours(&self, family: Family) -> bool {
        self.of(family).reach == Reach::Ours
    }

    /// The author of the last change of `family`, where it is known. The author of a change of our
    /// chains is preferred.
    pub fn author(&self, family: Family) -> Option<&Author> {
        self.of(family).author.as_deref()
    }
}

impl FamilyChange {
    fn add(&mut self, reach: Reach, author: Option<&Author>) {
        if reach > self.reach {
            self.reach = reach;
            self.author = author.cloned().map(Box::new);
        } else if reach > Reach::Nothing && reach == self.reach && author.is_some() {
            self.author = author.cloned().map(Box::new);
        }
    }
}
