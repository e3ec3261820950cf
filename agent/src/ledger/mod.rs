//! The node's memory on disk: the confirmed ruleset, and a change that has begun.

mod dynamic_sets;
mod fleet_clock;
mod format;
mod management;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use voipfleet_protocol::session::Held;
use voipfleet_ruleset::drift::Wanted;
use voipfleet_ruleset::iptables::{Failsafe, SavedChain, Table};
use voipfleet_ruleset::ruleset::{Digest, Family, MAX_RULESET_BYTES, Ruleset};

use crate::failpoint::{Step, Work, reach_in};
use crate::host::clock;
use crate::host::disk::{self, DiskError};
use crate::kernel::{Backend, Kernel};
use dynamic_sets::{LAST, PREVIOUS};
use fleet_clock::CLOCK;
use format::{CanonicalFile, ChainFile, ConfirmedFile, JournalFile, Kind};
use management::{FALLBACK, MANAGEMENT};

pub(crate) use dynamic_sets::effective;
pub use dynamic_sets::{KeptSets, SiteSets};
pub use format::Corrupt;
pub use management::{Management, Note};

const CONFIRMED: &str = "confirmed";
const JOURNAL: &str = "journal";
/// The ruleset, and its chains in iptables' words for two families beside it.
const MAX_FILE: usize = 4 * MAX_RULESET_BYTES;

/// The ledger could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The disk's reason.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A file that is not what was written.
    #[error("{} cannot be used", path.display())]
    Corrupt {
        /// The file, by its name now: `….corrupt`, unless the ledger was opened for reading only,
        /// or a later version wrote it.
        path: PathBuf,
        /// The damage.
        #[source]
        reason: Corrupt,
    },
}

/// Our chains of both families, in the words of one version of the node's iptables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canonical {
    /// The backend that printed them.
    pub backend: Backend,
    /// The version of iptables that printed them.
    pub version: String,
    /// Both families.
    pub tables: [Wanted; 2],
    /// They were read back from the live kernel, for want of a scratch namespace.
    pub read_back: bool,
}

impl Canonical {
    /// The chains of one family.
    pub fn of(&self, family: Family) -> &Wanted {
        let [v4, v6] = &self.tables;
        match family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }

    /// Keeps the policies that were found when the ruleset was proved first.
    pub fn keep_policies(&mut self, of: &Canonical) {
        for wanted in &mut self.tables {
            wanted.policy.clone_from(&of.of(wanted.family).policy);
        }
    }

    /// Whether this kernel's tools print the same words, of the families that `ruleset` filters.
    pub fn fits(&self, kernel: &dyn Kernel, ruleset: &Ruleset) -> bool {
        let filtered = |family| kernel.speaks(family) && ruleset.filters(family);
        let spoken = |family| self.of(family).table.chains.is_empty() != filtered(family);
        self.backend == kernel.backend()
            && self.version == kernel.version()
            && Family::BOTH.into_iter().all(spoken)
    }
}

/// The ruleset that the node runs and boots with; or, in a trial, the one that it runs and
/// will boot with once it is confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmed {
    /// Its number and digest.
    pub held: Held,
    pub ruleset: Ruleset,
    /// The controllers that the failsafe chain keeps open.
    pub failsafe: Failsafe,
    /// The canonical form of its rules.
    pub canonical: Canonical,
    /// The ruleset with its dynamic sets, which the ledger keeps apart; none where it names none.
    pub filled: Option<Arc<Ruleset>>,
}

impl Confirmed {
    /// The ruleset that the kernel should hold.
    pub fn effective(&self) -> &Ruleset {
        self.filled.as_deref().unwrap_or(&self.ruleset)
    }

    /// The same, to keep.
    pub fn into_effective(self) -> Arc<Ruleset> {
        self.filled.unwrap_or_else(|| Arc::new(self.ruleset))
    }

    /// Whether the ledger keeps both alike.
    fn is_kept_as(&self, other: &Confirmed) -> bool {
        self.held == other.held
            && self.ruleset == other.ruleset
            && self.failsafe == other.failsafe
            && self.canonical == other.canonical
    }
}

/// A change of the kernel that has begun and is neither confirmed nor undone. What to go back
/// to is the confirmed ruleset, and no rules of ours where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Journal {
    /// The generation that is being applied.
    pub held: Held,
    /// The offer's nonce.
    pub nonce: u64,
    /// When it began.
    pub begun: SystemTime,
}

/// The folder of these files, and the only one that reads and writes them.
#[derive(Debug)]
pub struct Ledger {
    folder: PathBuf,
    /// Whether corrupt files are renamed.
    keeper: bool,
}

impl Ledger {
    /// The ledger in `folder`, which is made if need be.
    pub fn open(folder: &Path) -> Result<Self, LedgerError> {
        disk::make_private_dir(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            keeper: true,
        })
    }

    /// The ledger in `folder`, for reading only: nothing is created or renamed.
    pub fn open_read_only(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            keeper: false,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The confirmed ruleset, if there is one. A corrupt file is renamed and reported once;
    /// then there is none.
    pub fn confirmed(&self) -> Result<Option<Confirmed>, LedgerError> {
        let Some(bytes) = disk::read(&self.file(CONFIRMED), MAX_FILE)? else {
            return Ok(None);
        };
        format::decode::<ConfirmedFile>(Kind::Confirmed, &bytes)
            .and_then(Confirmed::try_from)
            .map(Some)
            .or_else(|reason| self.rename_corrupt(CONFIRMED, reason))
    }

    /// The change that has begun, if there is one. A corrupt file counts as a change of
    /// unknown content, which is as good a reason to go back.
    pub fn journal(&self) -> Result<Option<Journal>, LedgerError> {
        let Some(bytes) = disk::read(&self.file(JOURNAL), MAX_FILE)? else {
            return Ok(None);
        };
        format::decode::<JournalFile>(Kind::Journal, &bytes)
            .and_then(Journal::try_from)
            .map(Some)
            .or_else(|reason| self.rename_corrupt(JOURNAL, reason))
    }

    fn rename_corrupt<T>(&self, name: &str, reason: Corrupt) -> Result<T, LedgerError> {
        let mut path = self.file(name);
        // A later version's file is whole: the agent that wrote it can read it again.
        if self.keeper && !matches!(reason, Corrupt::Version(_)) {
            let kept = self.corrupt(name);
            disk::rename(&path, &kept)?;
            reach_in(Work::EnterFallback, Step::CorruptRenamed);
            path = kept;
        }
        Err(LedgerError::Corrupt { path, reason })
    }

    fn corrupt(&self, name: &str) -> PathBuf {
        self.file(&format!("{name}.corrupt"))
    }

    /// Where no confirmed ruleset can be read: whether there was one. Its file is renamed, or
    /// of a later version.
    pub fn is_lost(&self) -> bool {
        self.file(CONFIRMED).exists() || self.corrupt(CONFIRMED).exists()
    }

    /// Marks the confirmed ruleset as lost where its file is gone: the list of its admins is
    /// there, and no change is under way. True where that is so.
    pub fn find_loss(&self) -> Result<bool, LedgerError> {
        let explained = self.file(CONFIRMED).exists() || self.file(JOURNAL).exists();
        if explained || !self.knows_admins() {
            return Ok(false);
        }
        disk::replace(&self.corrupt(CONFIRMED), &[])?;
        Ok(true)
    }

    /// Makes `confirmed` what the node boots with. Durable on return.
    pub fn confirm(&self, confirmed: &Confirmed) -> Result<(), LedgerError> {
        // First, so that there is never a ruleset without it.
        self.keep_management(confirmed)?;
        let file = format::encode(Kind::Confirmed, &ConfirmedFile::from(confirmed));
        Ok(disk::replace(&self.file(CONFIRMED), &file)?)
    }

    /// Makes sure that `before` is what the node boots with, after a [`Self::confirm`] that
    /// failed: its file may have replaced the earlier one without being durable, and the list of
    /// admins was written before it.
    pub fn take_back(&self, before: Option<&Confirmed>) -> Result<(), LedgerError> {
        let kept = self.confirmed()?;
        match before {
            Some(before) if kept.is_some_and(|kept| kept.is_kept_as(before)) => {
                self.keep_management(before)
            }
            Some(before) => self.confirm(before),
            None => {
                disk::remove(&self.file(CONFIRMED))?;
                if !self.is_lost() {
                    disk::remove(&self.file(MANAGEMENT))?;
                }
                Ok(())
            }
        }
    }

    /// Notes that the kernel is about to change. Durable on return.
    pub fn begin(&self, journal: &Journal) -> Result<(), LedgerError> {
        let file = format::encode(Kind::Journal, &JournalFile::from(journal));
        Ok(disk::replace(&self.file(JOURNAL), &file)?)
    }

    /// Notes that the change is over, one way or the other. Durable on return.
    pub fn settle(&self) -> Result<(), LedgerError> {
        Ok(disk::remove(&self.file(JOURNAL))?)
    }

    /// Forgets everything, also renamed corrupt files.
    pub fn purge(&self) -> Result<(), LedgerError> {
        for name in [
            CONFIRMED, JOURNAL, MANAGEMENT, FALLBACK, LAST, PREVIOUS, CLOCK,
        ] {
            disk::remove(&self.file(name))?;
            disk::remove(&self.corrupt(name))?;
        }
        Ok(())
    }
}

fn chains(table: &Table) -> Vec<ChainFile> {
    let chain = |chain: &SavedChain| ChainFile {
        name: chain.name.clone(),
        rules: chain.rules.clone(),
    };
    table.chains.iter().map(chain).collect()
}

fn table(chains: Vec<ChainFile>) -> Table {
    let chain = |chain: ChainFile| SavedChain {
        name: chain.name,
        policy: None,
        rules: chain.rules,
    };
    Table {
        chains: chains.into_iter().map(chain).collect(),
        ..Table::default()
    }
}

impl From<&Confirmed> for ConfirmedFile {
    fn from(confirmed: &Confirmed) -> Self {
        let canonical = &confirmed.canonical;
        let [v4, v6] = &canonical.tables;
        let controllers: BTreeSet<_> = confirmed.failsafe.controllers.iter().collect();
        Self {
            generation: confirmed.held.generation,
            digest: confirmed.held.digest.as_bytes().to_vec(),
            ruleset: confirmed.ruleset.encode(),
            controllers: controllers.into_iter().map(ToString::to_string).collect(),
            canonical: Some(CanonicalFile {
                backend: canonical.backend.as_str().to_owned(),
                version: canonical.version.clone(),
                v4: chains(&v4.table),
                v6: chains(&v6.table),
                read_back: canonical.read_back,
                policy_v4: v4.policy.clone().unwrap_or_default(),
                policy_v6: v6.policy.clone().unwrap_or_default(),
            }),
            listening_ssh_ports: management::numbers(&confirmed.failsafe.ssh_ports),
        }
    }
}

fn content(why: &(impl ToString + ?Sized)) -> Corrupt {
    Corrupt::Content(why.to_string())
}

fn held(generation: u64, digest: &[u8]) -> Result<Held, Corrupt> {
    let digest = Digest::try_from(digest).map_err(|why| content(&why))?;
    Ok(Held { generation, digest })
}

impl TryFrom<ConfirmedFile> for Confirmed {
    type Error = Corrupt;

    fn try_from(file: ConfirmedFile) -> Result<Self, Corrupt> {
        let held = held(file.generation, &file.digest)?;
        if Digest::of(&file.ruleset) != held.digest {
            return Err(content("the ruleset does not match its digest"));
        }
        let canonical = file.canonical.ok_or_else(|| content("it has no chains"))?;
        let backend = [Backend::Nft, Backend::Legacy]
            .into_iter()
            .find(|backend| backend.as_str() == canonical.backend)
            .ok_or_else(|| content("unknown backend"))?;
        let controllers = file
            .controllers
            .iter()
            .map(|text| text.parse::<SocketAddr>().map_err(|why| content(&why)))
            .collect::<Result<_, _>>()?;
        let wanted = |family, chains, policy: String| Wanted {
            family,
            table: table(chains),
            policy: Some(policy).filter(|policy| !policy.is_empty()),
        };
        Ok(Self {
            held,
            ruleset: Ruleset::decode(&file.ruleset).map_err(|why| content(&why))?,
            failsafe: Failsafe {
                controllers,
                ssh_ports: ports(&file.listening_ssh_ports)?,
            },
            canonical: Canonical {
                backend,
                version: canonical.version,
                tables: [
                    wanted(Family::V4, canonical.v4, canonical.policy_v4),
                    wanted(Family::V6, canonical.v6, canonical.policy_v6),
                ],
                read_back: canonical.read_back,
            },
            filled: None,
        })
    }
}

/// Ports as a file holds them.
fn ports(numbers: &[u32]) -> Result<Vec<u16>, Corrupt> {
    let port = |port: &u32| u16::try_from(*port).map_err(|why| content(&why));
    numbers.iter().map(port).collect()
}

impl From<&Journal> for JournalFile {
    fn from(journal: &Journal) -> Self {
        Self {
            generation: journal.held.generation,
            digest: journal.held.digest.as_bytes().to_vec(),
            nonce: journal.nonce,
            begun_ms: clock::unix_ms(journal.begun),
        }
    }
}

impl TryFrom<JournalFile> for Journal {
    type Error = Corrupt;

    fn try_from(file: JournalFile) -> Result<Self, Corrupt> {
        Ok(Self {
            held: held(file.generation, &file.digest)?,
            nonce: file.nonce,
            begun: SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(file.begun_ms),
        })
    }
}
