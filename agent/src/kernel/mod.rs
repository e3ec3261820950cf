//! The node's firewall in the kernel, through the node's own tools.

mod address_events;
mod audit_records;
mod author;
mod conntrack;
mod events;
mod filter_table;
mod lock;
mod lock_file;
mod lock_holder;
mod netlink;
mod nft_generation;
mod nft_listing;
mod our_sets;
mod scratch;
mod set_fingerprints;
mod system;
mod watch;

use std::fmt;
use std::time::Duration;

use voipfleet_ruleset::drift::DriftTable;
use voipfleet_ruleset::flows::Flow;
use voipfleet_ruleset::iptables::{KernelSet, Unreadable, UnreadableSets, set_named};
use voipfleet_ruleset::ruleset::{Family, Ruleset};

use crate::host::clock;
use crate::host::exec::ExecError;

pub use address_events::{AddressEvents, AddressEventsError};
pub use author::Author;
pub use conntrack::{ConntrackError, Cut};
pub use events::{Events, EventsError, KernelEvent, Reach, Transaction};
pub use filter_table::{read_table, table_from};
pub use lock_file::{LOCK_FILE, LockFile, LockFileError, Notifier};
pub use lock_holder::LockHolder;
pub use nft_generation::nft_generation;
pub use our_sets::{OurSets, SetObstacle, sets_from};
pub use scratch::in_empty_namespace;
pub use set_fingerprints::SetFingerprints;
pub use system::System;
pub use watch::{Watch, WatchError};

/// Which kernel interface the node's iptables uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// iptables-nft: rules live in `nf_tables`.
    Nft,
    /// iptables-legacy: rules live in `ip_tables`.
    Legacy,
}

impl Backend {
    /// The word of the wire and of `voipctl status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Backend::Nft => "nft",
            Backend::Legacy => "legacy",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The kernel or one of its tools failed.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A tool failed.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// A tool refused one line of its input.
    #[error("{source}; that line is: {line}")]
    Line {
        line: String,
        /// The refusal.
        source: ExecError,
    },
    /// A foreign rule or list uses a set.
    #[error(
        "set {set} cannot be removed; if a foreign rule or list uses it, remove that first (see \
         `iptables-save`, `ip6tables-save` and `ipset list`): {source}"
    )]
    SetInUse {
        set: String,
        /// The refusal.
        source: Box<KernelError>,
    },
    /// A set takes no more elements.
    #[error(
        "set {set} is full: it should hold {wanted} elements, and holds {held} of at most \
         {room} (see `ipset list -t {set}` on the node); push again, and if that fails, find \
         the program that fills it: {source}"
    )]
    SetFull {
        set: String,
        /// How many elements it should hold.
        wanted: usize,
        /// How many it holds.
        held: usize,
        /// How many it can hold.
        room: u32,
        /// The refusal.
        source: Box<KernelError>,
    },
    /// The saved rules cannot be parsed.
    #[error("{family} rules: {source}")]
    Rules {
        family: Family,
        /// Why.
        source: Unreadable,
    },
    /// The saved sets cannot be parsed.
    #[error(transparent)]
    Sets(#[from] UnreadableSets),
    /// `iptables -V` names no version.
    #[error("{program} -V printed {text:?}, which is not a version of iptables")]
    Version {
        /// The tool.
        program: &'static str,
        /// Its output.
        text: String,
    },
    /// iptables and ip6tables speak to different parts of the kernel.
    #[error("iptables is {v4}, but ip6tables is {v6}: install the same variant of both")]
    Mixed {
        /// `iptables -V`.
        v4: String,
        /// `ip6tables -V`.
        v6: String,
    },
    /// Another program changes the table all the time.
    #[error("another program keeps changing the {family} rules while they are being loaded")]
    Unsettled { family: Family },
    /// Another program holds the xtables lock.
    #[error(
        "another program has held {LOCK_FILE} for {} s: {holder}; let it end, or stop it, then try \
         again",
        waited.as_secs()
    )]
    Locked {
        /// How long it was waited for.
        waited: Duration,
        /// The program.
        holder: Box<LockHolder>,
    },
    /// The thread of a scratch namespace is gone.
    #[error("the scratch network namespace is gone")]
    ScratchGone,
}

/// Why no scratch network namespace could be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot create a scratch network namespace")]
pub struct NoScratch(#[source] pub std::io::Error);

/// Parts of the kernel to read or write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// The rules of IPv4.
    pub v4: bool,
    /// The rules of IPv6.
    pub v6: bool,
    /// The sets of both.
    pub sets: bool,
}

impl Parts {
    pub const ALL: Parts = Parts {
        v4: true,
        v6: true,
        sets: true,
    };

    pub const NONE: Parts = Parts {
        v4: false,
        v6: false,
        sets: false,
    };

    /// The sets only.
    pub const SETS: Parts = Parts {
        v4: false,
        v6: false,
        sets: true,
    };

    /// Those of both.
    #[must_use]
    pub fn and(self, other: Parts) -> Parts {
        Parts {
            v4: self.v4 || other.v4,
            v6: self.v6 || other.v6,
            sets: self.sets || other.sets,
        }
    }

    /// Without the rules of a family that `ruleset` does not filter: its tools may be broken.
    #[must_use]
    pub fn of(self, ruleset: &Ruleset) -> Self {
        Self {
            v6: self.v6 && ruleset.filters(Family::V6),
            ..self
        }
    }

    /// Whether a table of a family belongs to it; the sets of both families are one part.
    pub fn covers(self, table: DriftTable, family: Family) -> bool {
        match (table, family) {
            (DriftTable::Ipset, _) => self.sets,
            (DriftTable::Filter, Family::V4) => self.v4,
            (DriftTable::Filter, Family::V6) => self.v6,
        }
    }

    /// The families whose rules belong to it, as far as the kernel `speaks` them.
    pub fn families(self, speaks: impl Fn(Family) -> bool) -> Vec<Family> {
        let chosen = |family: &Family| match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        };
        Family::BOTH
            .into_iter()
            .filter(|family| chosen(family) && speaks(*family))
            .collect()
    }
}

/// What `iptables -S` printed.
#[derive(Debug)]
pub struct Listing {
    /// Where it failed, that is what it printed before.
    pub text: String,
    /// Why it failed, with the tool's words.
    pub refused: Option<ExecError>,
}

/// The forms in which nft lists a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NftForm {
    /// For programs.
    Json,
    /// For people, with the handles of the rules.
    Text,
}

/// The output of the tools for the requested parts of the kernel.
#[derive(Debug, Default)]
pub struct Printed {
    /// `iptables-save` of each family.
    pub rules: Vec<(Family, Result<String, KernelError>)>,
    /// `ipset save`.
    pub sets: Option<Result<String, KernelError>>,
}

/// One network namespace's iptables, ip6tables and ipset. Calls block.
pub trait Kernel: Send {
    /// The backend that `iptables -V` names.
    fn backend(&self) -> Backend;

    /// The version of iptables, `1.8.9`.
    fn version(&self) -> &str;

    /// Whether there are packets of `family` to filter. With `ipv6.disable=1` the kernel has none
    /// of IPv6, and ip6tables only fails.
    fn speaks(&self, family: Family) -> bool;

    /// Unix time in seconds, by the clock that ends of set elements are moments of.
    fn now(&self) -> u64 {
        clock::unix(clock::now())
    }

    /// `iptables-restore --noflush` of one family: all of `input` takes effect, or nothing.
    fn restore(&mut self, family: Family, input: &str) -> Result<(), KernelError>;

    /// Keeps other tools from changing the rules of either family until `unlock`, where tools
    /// agree on a lock that can be held for them: legacy ones from 1.8.8 on. Elsewhere each
    /// restore is safe by itself, and nothing is done.
    fn lock(&mut self) -> Result<(), KernelError> {
        Ok(())
    }

    /// Ends `lock`.
    fn unlock(&mut self) {}

    /// Restores of these families, and of no others, are likely soon: what can be done for them
    /// before their input is known may be done now.
    fn expect_restore(&mut self, _families: &[Family]) {}

    /// `iptables-save` of the filter table of one family.
    fn save(&mut self, family: Family) -> Result<String, KernelError>;

    /// `iptables -S` of the filter table of one family; of one chain; of one rule, counted from 1.
    /// On a table that iptables-save cannot print, it still prints the chains without such rules.
    fn list(
        &mut self,
        family: Family,
        chain: Option<&str>,
        rule: Option<usize>,
    ) -> Result<Listing, KernelError>;

    /// The filter table of one family as nft lists it, without counters.
    fn nft_list(&mut self, family: Family, form: NftForm) -> Result<String, KernelError>;

    /// `ipset restore`: line by line, so that the lines before a bad one take effect.
    fn ipset_restore(&mut self, input: &str) -> Result<(), KernelError>;

    /// `ipset save` of all sets.
    fn ipset_save(&mut self) -> Result<String, KernelError>;

    /// The names of all sets, a line for each.
    fn ipset_names(&mut self) -> Result<String, KernelError>;

    /// The type and size of one set: fails for one that this ipset does not understand.
    fn ipset_header(&mut self, name: &str) -> Result<String, KernelError>;

    /// `ipset save` of the sets of these names, which are there.
    fn ipset_save_of(&mut self, _names: &[String]) -> Result<String, KernelError> {
        self.ipset_save()
    }

    /// The output of the tools for `parts`. They may be run at the same time.
    fn print(&mut self, parts: Parts) -> Printed;

    /// How often rules or sets were written here: what a fingerprint was compared with before is
    /// no longer what should be there.
    fn writes(&self) -> u64 {
        0
    }

    /// What a change of our sets shows in, read at little cost; none where the kernel cannot be
    /// asked.
    fn set_fingerprints(&mut self) -> Option<SetFingerprints> {
        None
    }

    /// What every change of the rules of one family shows in; none where the kernel announces
    /// changes, or the rules cannot be read.
    fn rules_fingerprint(&mut self, _family: Family) -> Option<u64> {
        None
    }

    /// The rules of one family that the backend which is not ours holds; none where its tool
    /// is not installed.
    fn save_other_backend(&mut self, family: Family) -> Option<String>;

    /// Removes the flows of the node that `picks` chooses from connection tracking, so that their
    /// next packet is judged as a new one. Forwarded flows, loopback, and connections that belong
    /// to others are left alone.
    fn cut_flows(&mut self, picks: &dyn Fn(&Flow<'_>) -> bool) -> Result<Cut, ConntrackError>;

    /// Shows the TCP and UDP flows of the node that are tracked, without those that `cut_flows`
    /// leaves alone.
    fn list_flows(&mut self, see: &mut dyn FnMut(&Flow<'_>)) -> Result<(), ConntrackError> {
        let see = std::cell::RefCell::new(see);
        self.cut_flows(&|flow| {
            (*see.borrow_mut())(flow);
            false
        })
        .map(drop)
    }

    /// The same tools in an empty network namespace of their own, gone when dropped.
    fn scratch(&self) -> Result<Box<dyn Kernel>, NoScratch>;
}

impl KernelError {
    /// Whether a set takes no more elements.
    pub fn is_full(&self) -> bool {
        // `Hash is full, cannot add more elements`, in every ipset since 6.0.
        matches!(
            self,
            KernelError::Line { source: ExecError::Refused { words, .. }, .. }
                if words.contains("is full")
        )
    }

    /// A refusal of a full set with what is known of that set.
    pub(crate) fn of_set(self, wanted: &Ruleset, observed: &[KernelSet]) -> Self {
        let KernelError::Line { line, .. } = &self else {
            return self;
        };
        let name = line.split(' ').nth(1).unwrap_or_default();
        let Some(set) = set_named(wanted, name) else {
            return self;
        };
        let held = observed.iter().find(|held| held.name == set.name);
        KernelError::SetFull {
            set: set.name.kernel_name(),
            wanted: set.len(),
            held: held.map_or(0, KernelSet::len),
            room: set.max_elements,
            source: Box::new(self),
        }
    }

    /// Whether a tool could not print what the kernel holds: another way may be open.
    pub(crate) fn is_unprintable(&self) -> bool {
        matches!(
            self,
            KernelError::Exec(ExecError::Refused { .. })
                | KernelError::Rules { .. }
                | KernelError::Sets(_)
        )
    }

    /// Whether the kernel has no such table, or the node no such tool: nothing can be in it.
    pub fn has_no_table(&self) -> bool {
        // `can't initialize ip6tables table `filter': Table does not exist`
        let says_so = |words: &str| words.contains("able does not exist");
        match self {
            KernelError::Exec(ExecError::Refused { words, .. }) => says_so(words),
            error => error.is_not_installed(),
        }
    }

    /// Whether the tool itself is missing.
    pub fn is_not_installed(&self) -> bool {
        matches!(self, KernelError::Exec(ExecError::NotInstalled { .. }))
    }
}
