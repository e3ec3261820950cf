//! The dynamic sets of the site, as this node received them.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use voipfleet_protocol::errors::chain;
use voipfleet_ruleset::ruleset::dynamic_sets::{MAX_DYNAMIC_SETS_BYTES, Missing};
use voipfleet_ruleset::ruleset::{Digest, DynamicSetName, DynamicSets, Ruleset};

use super::format::{self, DynamicSetsFile, Kind};
use super::{Corrupt, Ledger, LedgerError, content};
use crate::host::disk;

pub(super) const LAST: &str = "dynamic-sets";
/// The sets before [`LAST`]: most of them are still right, should that be damaged.
pub(super) const PREVIOUS: &str = "dynamic-sets-previous";
/// Both parts, and what frames them.
const MAX_FILE: usize = 2 * MAX_DYNAMIC_SETS_BYTES + 4096;

/// The dynamic sets of the site, as this node received them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteSets {
    /// The sets that the controller sent last.
    pub received: DynamicSets,
    pub digest: Digest,
    /// Sources that it sends no more, but that a ruleset of this node names, as they were sent
    /// last. An unknown source is never taken as empty.
    pub kept: DynamicSets,
}

impl SiteSets {
    /// Without sources that are sent no more.
    pub fn new(received: DynamicSets) -> Self {
        let digest = received.digest();
        let kept = DynamicSets::new(received.site.clone());
        Self {
            received,
            digest,
            kept,
        }
    }

    /// The same after `earlier`: those of `names` that are sent no more are kept.
    #[must_use]
    pub fn after(&self, earlier: Option<&SiteSets>, names: &BTreeSet<DynamicSetName>) -> Self {
        let mut kept = DynamicSets::new(self.received.site.clone());
        for name in names {
            if self.received.sources.contains_key(name) {
                continue;
            }
            let known = earlier.and_then(|earlier| {
                let received = earlier.received.sources.get(name);
                received.or_else(|| earlier.kept.sources.get(name))
            });
            if let Some(value) = known {
                kept.sources.insert(name.clone(), Arc::clone(value));
            }
        }
        Self {
            received: self.received.clone(),
            digest: self.digest,
            kept,
        }
    }

    /// All that is known.
    pub fn known(&self) -> Cow<'_, DynamicSets> {
        if self.kept.sources.is_empty() {
            return Cow::Borrowed(&self.received);
        }
        let mut all = self.received.clone();
        let kept = self.kept.sources.iter();
        all.sources
            .extend(kept.map(|(name, value)| (name.clone(), Arc::clone(value))));
        Cow::Owned(all)
    }
}

/// `ruleset` with its dynamic sets; none: it names none.
pub(crate) fn effective(
    ruleset: &Ruleset,
    sets: Option<&DynamicSets>,
) -> Result<Option<Arc<Ruleset>>, Missing> {
    let Some(first) = ruleset.sets.iter().find_map(|set| set.dynamic.first()) else {
        return Ok(None);
    };
    let sets = sets.ok_or_else(|| Missing(first.clone()))?;
    ruleset.with_dynamic(sets).map(Arc::new).map(Some)
}

/// The dynamic sets in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeptSets {
    /// None were ever kept.
    Never,
    /// The last ones.
    Last(SiteSets),
    /// Those before the last, and why the last are damaged.
    Earlier(SiteSets, String),
    /// None can be read, and why.
    Lost(String),
}

impl Ledger {
    /// The dynamic sets. A corrupt file is renamed.
    pub fn dynamic_sets(&self) -> KeptSets {
        let last = match self.read_dynamic_sets(LAST) {
            Ok(Some(sets)) => return KeptSets::Last(sets),
            Ok(None) => None,
            Err(error) => Some(chain(&error)),
        };
        match (self.read_dynamic_sets(PREVIOUS), last) {
            (Ok(Some(sets)), last) => {
                let gone = || format!("{} is gone", self.file(LAST).display());
                KeptSets::Earlier(sets, last.unwrap_or_else(gone))
            }
            (Ok(None), None) if !self.corrupt(LAST).exists() => KeptSets::Never,
            (Ok(None), None) => KeptSets::Lost("their file was corrupt".to_owned()),
            (Err(error), None) => KeptSets::Lost(chain(&error)),
            (_, Some(why)) => KeptSets::Lost(why),
        }
    }

    fn read_dynamic_sets(&self, name: &str) -> Result<Option<SiteSets>, LedgerError> {
        let Some(bytes) = disk::read(&self.file(name), MAX_FILE)? else {
            return Ok(None);
        };
        format::decode::<DynamicSetsFile>(Kind::DynamicSets, &bytes)
            .and_then(SiteSets::try_from)
            .map(Some)
            .or_else(|reason| self.rename_corrupt(name, reason))
    }

    /// Keeps the dynamic sets, beside those kept before. Durable on return.
    pub fn keep_dynamic_sets(&self, sets: &SiteSets) -> Result<(), LedgerError> {
        let file = format::encode(Kind::DynamicSets, &DynamicSetsFile::from(sets));
        let (last, earlier) = (self.file(LAST), self.file(PREVIOUS));
        disk::keep_copy(&last, &earlier)?;
        disk::replace(&last, &file)?;
        if !earlier.exists() {
            disk::replace(&earlier, &file)?;
        }
        Ok(())
    }
}

impl From<&SiteSets> for DynamicSetsFile {
    fn from(sets: &SiteSets) -> Self {
        let kept = Some(&sets.kept).filter(|kept| !kept.sources.is_empty());
        Self {
            received: sets.received.encode(),
            kept: kept.map(DynamicSets::encode).unwrap_or_default(),
        }
    }
}

impl TryFrom<DynamicSetsFile> for SiteSets {
    type Error = Corrupt;

    fn try_from(file: DynamicSetsFile) -> Result<Self, Corrupt> {
        let read = |bytes: &[u8]| DynamicSets::decode(bytes).map_err(|why| content(&why));
        let received = read(&file.received)?;
        let kept = if file.kept.is_empty() {
            DynamicSets::new(received.site.clone())
        } else {
            read(&file.kept)?
        };
        Ok(Self {
            digest: Digest::of(&file.received),
            received,
            kept,
        })
    }
}
