//! What the live sources of the site hold: the other half of what the kernel should hold.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use voipfleet_ruleset::ruleset::live::{MAX_LIVE_BYTES, Missing};
use voipfleet_ruleset::ruleset::{Digest, LiveName, LiveSets, Ruleset};

use super::format::{self, Kind, LiveFile};
use super::{Corrupt, Ledger, LedgerError, content};
use crate::host::disk;
use crate::host::errors::chain;

pub(super) const LIVE: &str = "live";
/// What was kept before [`LIVE`]: the better part of it is right still, should that be damaged.
pub(super) const EARLIER: &str = "live-earlier";
/// Both parts, and what frames them.
const MAX_FILE: usize = 2 * MAX_LIVE_BYTES + 4096;

/// What the live sources of the site hold, as this node was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    /// What the controller told last.
    pub told: LiveSets,
    /// Its digest.
    pub digest: Digest,
    /// Sources that it tells of no more, but that a ruleset of this node names: as they were
    /// told last. What is not known is never taken as empty.
    pub kept: LiveSets,
}

impl Live {
    /// What was told.
    pub fn new(told: LiveSets) -> Self {
        let digest = told.digest();
        let kept = LiveSets::new(told.site.clone());
        Self { told, digest, kept }
    }

    /// The same after `earlier`: what is told no more of those `names` is kept.
    #[must_use]
    pub fn after(&self, earlier: Option<&Live>, names: &BTreeSet<LiveName>) -> Self {
        let mut kept = LiveSets::new(self.told.site.clone());
        for name in names {
            if self.told.sources.contains_key(name) {
                continue;
            }
            let known = earlier.and_then(|earlier| {
                let told = earlier.told.sources.get(name);
                told.or_else(|| earlier.kept.sources.get(name))
            });
            if let Some(value) = known {
                kept.sources.insert(name.clone(), Arc::clone(value));
            }
        }
        Self {
            told: self.told.clone(),
            digest: self.digest,
            kept,
        }
    }

    /// All that is known.
    pub fn known(&self) -> Cow<'_, LiveSets> {
        if self.kept.sources.is_empty() {
            return Cow::Borrowed(&self.told);
        }
        let mut all = self.told.clone();
        let kept = self.kept.sources.iter();
        all.sources
            .extend(kept.map(|(name, value)| (name.clone(), Arc::clone(value))));
        Cow::Owned(all)
    }
}

/// What the kernel should hold of `ruleset`; none: the ruleset itself, which names no source.
pub(crate) fn effective(
    ruleset: &Ruleset,
    live: Option<&LiveSets>,
) -> Result<Option<Arc<Ruleset>>, Missing> {
    let Some(first) = ruleset.sets.iter().find_map(|set| set.live.first()) else {
        return Ok(None);
    };
    let live = live.ok_or_else(|| Missing(first.clone()))?;
    ruleset.with_live(live).map(Arc::new).map(Some)
}

/// What the ledger has of live sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeptLive {
    /// None were ever kept.
    Never,
    /// The last ones.
    Last(Live),
    /// Those before the last, for these are damaged: why.
    Earlier(Live, String),
    /// Nothing that can be read: why.
    Lost(String),
}

impl Ledger {
    /// What the live sources hold. A corrupt file is put aside.
    pub fn live(&self) -> KeptLive {
        let last = match self.read_live(LIVE) {
            Ok(Some(live)) => return KeptLive::Last(live),
            Ok(None) => None,
            Err(error) => Some(chain(&error)),
        };
        match (self.read_live(EARLIER), last) {
            (Ok(Some(live)), last) => {
                let gone = || format!("{} is gone", self.file(LIVE).display());
                KeptLive::Earlier(live, last.unwrap_or_else(gone))
            }
            (Ok(None), None) if !self.corrupt(LIVE).exists() => KeptLive::Never,
            (Ok(None), None) => KeptLive::Lost("their file was corrupt".to_owned()),
            (Err(error), None) => KeptLive::Lost(chain(&error)),
            (_, Some(why)) => KeptLive::Lost(why),
        }
    }

    fn read_live(&self, name: &str) -> Result<Option<Live>, LedgerError> {
        let Some(bytes) = disk::read(&self.file(name), MAX_FILE)? else {
            return Ok(None);
        };
        format::decode::<LiveFile>(Kind::Live, &bytes)
            .and_then(Live::try_from)
            .map(Some)
            .or_else(|reason| self.put_aside(name, reason))
    }

    /// Keeps what the live sources hold, beside what was kept before. Durable on return.
    pub fn keep_live(&self, live: &Live) -> Result<(), LedgerError> {
        let file = format::encode(Kind::Live, &LiveFile::from(live));
        let (last, earlier) = (self.file(LIVE), self.file(EARLIER));
        disk::keep_copy(&last, &earlier)?;
        disk::replace(&last, &file)?;
        if !earlier.exists() {
            disk::replace(&earlier, &file)?;
        }
        Ok(())
    }
}

impl From<&Live> for LiveFile {
    fn from(live: &Live) -> Self {
        let kept = Some(&live.kept).filter(|kept| !kept.sources.is_empty());
        Self {
            told: live.told.encode(),
            kept: kept.map(LiveSets::encode).unwrap_or_default(),
        }
    }
}

impl TryFrom<LiveFile> for Live {
    type Error = Corrupt;

    fn try_from(file: LiveFile) -> Result<Self, Corrupt> {
        let read = |bytes: &[u8]| LiveSets::decode(bytes).map_err(|why| content(&why));
        let told = read(&file.told)?;
        let kept = if file.kept.is_empty() {
            LiveSets::new(told.site.clone())
        } else {
            read(&file.kept)?
        };
        Ok(Self {
            digest: Digest::of(&file.told),
            told,
            kept,
        })
    }
}
