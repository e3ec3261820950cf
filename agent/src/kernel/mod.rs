//! The node's firewall in the kernel, through the node's own tools.

mod address_events;
mod author;
mod conntrack;
mod events;
mod lock;
mod lock_file;
mod scratch;
mod system;
mod watch;

use std::fmt;
use std::time::Duration;

use voipfleet_ruleset::drift::DriftTable;
use voipfleet_ruleset::flows::Flow;
use voipfleet_ruleset::iptables::{KernelSet, Unreadable, UnreadableSets, set_named};
use voipfleet_ruleset::ruleset::{Family, Ruleset};

use crate::host::exec::ExecError;

pub use address_events::{AddressEvents, AddressEventsError};
pub use author::Author;
pub use conntrack::{ConntrackError, Cut};
pub use events::{Events, EventsError, KernelEvent, Reach, Transaction};
pub use lock_file::{LOCK_FILE, LockFile, LockFileError, Notifier};
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
        "another program has held {LOCK_FILE} for {} s; find it with `fuser -v {LOCK_FILE}`",
        waited.as_secs()
    )]
    Locked {
        /// How long it was waited for.
        waited: Duration,
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

    /// The sets only.
    pub const SETS: Parts = Parts {
        v4: false,
        v6: false,
        sets: true,
    };

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

    /// `ipset restore`: line by line, so that the lines before a bad one take effect.
    fn ipset_restore(&mut self, input: &str) -> Result<(), KernelError>;

    /// `ipset save` of all sets.
    fn ipset_save(&mut self) -> Result<String, KernelError>;

    /// `ipset save` of the sets of these names, which are there.
    fn ipset_save_of(&mut self, _names: &[String]) -> Result<String, KernelError> {
        self.ipset_save()
    }

    /// The output of the tools for `parts`. They may be run at the same time.
    fn print(&mut self, parts: Parts) -> Printed;

    /// The rules of one family that the backend which is not ours holds; none where its tool
    /// is not installed.
    fn save_other_backend(&mut self, family: Family) -> Option<String>;

    /// Removes the flows of the node that `picks` chooses from connection tracking, so that their
    /// next packet is judged as a new one. Forwarded flows, loopback, and connections that belong
    /// to others are left alone.
    fn cut_flows(&mut self, picks: &dyn Fn(&Flow<'_>) -> bool) -> Result<Cut, ConntrackError>;

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

    /// Whether the tool itself is missing.
    pub fn is_not_installed(&self) -> bool {
        matches!(self, KernelError::Exec(ExecError::NotInstalled { .. }))
    }
}
