//! The ruleset to enforce, the scope of a repair, and their errors.

use std::collections::BTreeSet;
use std::time::Duration;

use voipfleet_ruleset::drift::{DriftSubject, DriftTable};
use voipfleet_ruleset::iptables::{Failsafe, RepairPart};
use voipfleet_ruleset::ruleset::{Family, Ruleset};

use crate::kernel::KernelError;
use crate::ledger::Canonical;

/// The state that the kernel should have.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    pub ruleset: &'a Ruleset,
    /// The controllers that the failsafe chain keeps open.
    pub failsafe: &'a Failsafe,
    /// The canonical form; none where no preflight could find it.
    pub canonical: Option<&'a Canonical>,
    /// Unix time in seconds: elements that have expired by then are ignored.
    pub now: u64,
    /// How far it is enforced.
    pub scope: RepairScope<'a>,
}

/// Where an enforcement failed; in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnforceStep {
    /// Sets and elements that the rules will name.
    SetsBefore,
    Rules(Family),
    /// Elements and sets that nothing names any more.
    SetsAfter,
    /// Reading rules and sets back.
    ReadBack,
}

impl std::fmt::Display for EnforceStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            EnforceStep::SetsBefore => f.write_str("filling the sets"),
            EnforceStep::Rules(family) => write!(f, "loading the {family} rules"),
            EnforceStep::SetsAfter => f.write_str("removing old elements and sets"),
            EnforceStep::ReadBack => f.write_str("reading back"),
        }
    }
}

/// The kernel does not hold what it should.
#[derive(Debug, thiserror::Error)]
pub enum EnforceError {
    /// The preflight failed.
    #[error("preflight: {0}")]
    Preflight(#[from] KernelError),
    /// A step was refused.
    #[error("{step}: {source}")]
    Step {
        step: EnforceStep,
        /// The refusal, with the kernel's words.
        source: KernelError,
    },
    /// The kernel accepted everything, but holds something else.
    #[error("the kernel accepted it, but holds something else: {0}")]
    Differs(String),
}

pub(crate) fn failed_at(step: EnforceStep) -> impl FnOnce(KernelError) -> EnforceError {
    move |source| EnforceError::Step { step, source }
}

/// How far differences are repaired.
#[derive(Debug, Clone, Copy)]
pub struct RepairScope<'a> {
    /// Chains and sets that are left alone for now.
    pub skip: Option<&'a BTreeSet<DriftSubject>>,
    /// Chains that differ are rewritten as a whole.
    pub rewrite_chains: bool,
    /// How long to wait until the kernel releases sets that no rule names any more.
    pub release_timeout: Duration,
}

/// `nf_tables` releases the sets of deleted rules a moment after the transaction
/// (`nf_tables_trans_destroy_work`); until then, ipset reports them as in use.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

impl RepairScope<'_> {
    /// For repairs of drift: a set that a foreign rule uses stays in use, and other repairs wait
    /// meanwhile. What the kernel releases later goes with the next inspection.
    pub const REPAIR_RELEASE_TIMEOUT: Duration = Duration::from_millis(100);

    /// Everything, rewriting each chain that differs.
    pub const WHOLE: RepairScope<'static> = RepairScope {
        skip: None,
        rewrite_chains: true,
        release_timeout: RELEASE_TIMEOUT,
    };

    pub(super) fn spares_sets(self) -> bool {
        self.skip.is_some_and(|spared| {
            spared
                .iter()
                .any(|subject| subject.table == DriftTable::Ipset)
        })
    }

    pub(super) fn spares(self, table: DriftTable, family: Family, part: &RepairPart) -> bool {
        self.skip.is_some_and(|spared| {
            spared.contains(&DriftSubject {
                table,
                family,
                part: part.clone(),
            })
        })
    }
}
