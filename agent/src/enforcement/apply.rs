//! One offer: checked, tried, journalled, enforced and read back; or rolled back.

use std::sync::Arc;
use std::time::SystemTime;

use voipfleet_protocol::session::Held;
use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::iptables::{Failsafe, SetCount};
use voipfleet_ruleset::ruleset::dynamic_sets::Missing;
use voipfleet_ruleset::ruleset::{Digest, DynamicSets, Ruleset};

use super::kernel_state::{KernelState, read_kernel};
use super::preflight::{Preflight, preflight};
use super::read_back;
use super::target::{EnforceError, RepairScope, Target};
use super::write::{self, Effort};
use crate::failpoint::{Step, reach};
use crate::kernel::{Kernel, KernelError, NoScratch, Parts};
use crate::ledger::{Confirmed, Journal, Ledger, LedgerError, effective};

/// Why a ruleset is not run. The kernel was not touched.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    /// Its content did not arrive.
    #[error("{0}")]
    Missing(String),
    /// Its content has another digest.
    #[error("its content has digest {found}, not {wanted}")]
    Digest {
        /// The digest offered.
        wanted: Digest,
        /// The digest of what came.
        found: Digest,
    },
    /// Its content is not a valid ruleset.
    #[error(transparent)]
    Invalid(#[from] voipfleet_ruleset::ruleset::InvalidRuleset),
    /// It names a dynamic set that this node has not received.
    #[error(
        "it uses {}, whose content this node has not received; push again",
        .0.0
    )]
    UnknownDynamicSet(Missing),
    /// The dynamic sets that go with it did not arrive.
    #[error("the dynamic sets that it needs are missing: {0}")]
    DynamicSetsRefused(String),
    /// It was compiled for another node.
    #[error("it was compiled for another node: {site}/{node}")]
    NotOurs { site: SiteName, node: NodeName },
    /// The preflight failed.
    #[error("this node's kernel refuses it: {0}")]
    Kernel(#[source] KernelError),
    /// Another program holds the lock of the node's tools.
    #[error("nothing was changed: {0}")]
    Locked(#[source] KernelError),
    /// What cannot be read can be neither changed nor put back.
    #[error(
        "nothing was changed, because this node's rules or sets cannot be read: {0}; see \
         `nft -a list ruleset` and `ipset list` on the node"
    )]
    Unreadable(#[source] KernelError),
    /// Without a journal, a crash could not be rolled back.
    #[error("cannot write the journal")]
    Journal(#[source] LedgerError),
}

/// Why a ruleset is not in force.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The kernel.
    #[error(transparent)]
    Enforce(#[from] EnforceError),
    #[error("cannot save it as the ruleset to boot with")]
    Ledger(#[from] LedgerError),
}

impl Failure {
    /// Whether it may succeed a moment later.
    pub fn may_pass(&self) -> bool {
        match self {
            Failure::Enforce(
                EnforceError::Preflight(source) | EnforceError::Step { source, .. },
            ) => !source.is_not_installed(),
            Failure::Enforce(EnforceError::Differs(_)) => true,
            Failure::Ledger(_) => false,
        }
    }
}

/// The node that the agent works for.
#[derive(Debug, Clone)]
pub struct NodeId {
    pub site: SiteName,
    pub node: NodeName,
}

/// Decodes the content of an offer, and checks that it is what was offered, for this node.
pub fn check_content(node: &NodeId, held: Held, content: &[u8]) -> Result<Ruleset, Rejection> {
    let found = Digest::of(content);
    if found != held.digest {
        return Err(Rejection::Digest {
            wanted: held.digest,
            found,
        });
    }
    let ruleset = Ruleset::decode(content)?;
    if ruleset.site != node.site || ruleset.node != node.node {
        return Err(Rejection::NotOurs {
            site: ruleset.site,
            node: ruleset.node,
        });
    }
    reach(Step::Checked);
    Ok(ruleset)
}

/// A ruleset that passed the preflight, where there was one.
#[derive(Debug)]
pub struct Prepared {
    /// Its number and digest.
    pub held: Held,
    pub ruleset: Ruleset,
    /// The controllers that the failsafe chain keeps open.
    pub failsafe: Failsafe,
    /// The ruleset with its dynamic sets; none where it names none.
    filled: Option<Arc<Ruleset>>,
    preflight: Preflight,
    /// What the kernel holds; none: it is read when it is changed.
    before: Option<KernelState>,
}

impl Prepared {
    /// Tries a ruleset, with the dynamic sets that it names, in a scratch namespace.
    pub fn preflight(
        kernel: &dyn Kernel,
        held: Held,
        ruleset: Ruleset,
        sets: Option<&DynamicSets>,
        failsafe: Failsafe,
    ) -> Result<Self, Rejection> {
        let filled = effective(&ruleset, sets).map_err(Rejection::UnknownDynamicSet)?;
        let effective = filled.as_deref().unwrap_or(&ruleset);
        let preflight = preflight(kernel, effective, &failsafe).map_err(|error| match error {
            KernelError::Locked { .. } => Rejection::Locked(error),
            _ => Rejection::Kernel(error),
        })?;
        reach(Step::PreflightPassed);
        Ok(Self {
            held,
            ruleset,
            failsafe,
            filled,
            preflight,
            before: None,
        })
    }

    /// Reads what the kernel holds, before anything is noted or changed.
    pub fn read_kernel(&mut self, kernel: &mut dyn Kernel) -> Result<(), Rejection> {
        let read = self.read(kernel).complete();
        self.before = Some(read.map_err(Rejection::Unreadable)?);
        Ok(())
    }

    fn read(&self, kernel: &mut dyn Kernel) -> KernelState {
        let needed = !self.target(kernel.now()).ruleset.sets.is_empty();
        read_kernel(kernel, Parts::ALL, needed)
    }

    /// Why there was no preflight.
    pub fn skipped_preflight(&self) -> Option<&NoScratch> {
        match &self.preflight {
            Preflight::Passed(_) => None,
            Preflight::Skipped(why) => Some(why),
        }
    }

    /// Notes in the journal that the kernel is about to change. A failure leaves the old journal or
    /// this one: the next start rolls back with either.
    pub fn begin(&self, ledger: &Ledger, nonce: u64, now: SystemTime) -> Result<(), Rejection> {
        let journal = Journal {
            held: self.held,
            nonce,
            begun: now,
        };
        ledger.begin(&journal).map_err(Rejection::Journal)
    }

    fn target(&self, now: u64) -> Target<'_> {
        Target {
            ruleset: self.filled.as_deref().unwrap_or(&self.ruleset),
            failsafe: &self.failsafe,
            canonical: match &self.preflight {
                Preflight::Passed(canonical) => Some(canonical),
                Preflight::Skipped(_) => None,
            },
            now,
            scope: RepairScope::WHOLE,
        }
    }

    /// Enforces it, and reads it back. It is not confirmed by that: a new connection must reach the
    /// controller first.
    pub fn enforce(mut self, kernel: &mut dyn Kernel) -> Result<Confirmed, EnforceError> {
        self.write(kernel)?;
        Ok(self.read_back(kernel)?.0)
    }

    /// Loads it into the kernel.
    pub fn write(&mut self, kernel: &mut dyn Kernel) -> Result<(), EnforceError> {
        let before = self.before.take();
        let before = before.unwrap_or_else(|| self.read(kernel));
        let effort = Effort::UntilRefused;
        let target = self.target(kernel.now());
        write::write_over(kernel, target, Parts::ALL, effort, before)
    }

    /// Reads it back, and counts the elements of its sets.
    pub fn read_back(self, kernel: &mut dyn Kernel) -> Result<(Confirmed, SetCount), EnforceError> {
        let now = kernel.now();
        let read = read_back::read_back(kernel, self.target(now))?;
        let candidate = Confirmed {
            held: self.held,
            ruleset: self.ruleset,
            failsafe: self.failsafe,
            canonical: read.canonical,
            filled: self.filled,
        };
        Ok((candidate, read.sets))
    }
}

/// Rolls a change back: to the confirmed ruleset, or to no rules of ours.
pub fn roll_back(
    kernel: &mut dyn Kernel,
    ledger: &Ledger,
    confirmed: Option<&mut Confirmed>,
) -> Result<(), Failure> {
    match confirmed {
        Some(confirmed) => enforce_confirmed(kernel, ledger, confirmed)?,
        // What to go back to is lost: the caller has decided what runs now.
        None if ledger.is_lost() => {}
        None => write::clear(kernel)?,
    }
    Ok(ledger.settle()?)
}

/// Puts the confirmed ruleset in force, and reads it back.
///
/// Where its canonical form is that of another version of iptables, a preflight finds it again.
pub fn enforce_confirmed(
    kernel: &mut dyn Kernel,
    ledger: &Ledger,
    confirmed: &mut Confirmed,
) -> Result<(), Failure> {
    let fits = confirmed.canonical.fits(kernel, &confirmed.ruleset);
    let mut known = true;
    if !fits {
        match preflight(kernel, confirmed.effective(), &confirmed.failsafe)
            .map_err(EnforceError::from)?
        {
            Preflight::Passed(mut canonical) => {
                canonical.keep_policies(&confirmed.canonical);
                confirmed.canonical = canonical;
            }
            Preflight::Skipped(_) => known = false,
        }
    }
    let target = Target {
        ruleset: confirmed.effective(),
        failsafe: &confirmed.failsafe,
        canonical: known.then_some(&confirmed.canonical),
        now: kernel.now(),
        scope: RepairScope::WHOLE,
    };
    let mut canonical = write::enforce(kernel, target, Effort::AsFarAsPossible)?;
    if !fits {
        canonical.keep_policies(&confirmed.canonical);
        confirmed.canonical = canonical;
        ledger.confirm(confirmed)?;
    }
    Ok(())
}

/// Makes the failsafe chain of what runs keep other controllers open. Returns what runs then.
///
/// Without a journal: the ruleset stays the same, and after a crash in between the next check or
/// start repairs the chain.
pub fn refresh_failsafe(
    kernel: &mut dyn Kernel,
    running: &Confirmed,
    failsafe: Failsafe,
) -> Result<Confirmed, EnforceError> {
    let preflight = preflight(kernel, running.effective(), &failsafe)?;
    reach(Step::PreflightPassed);
    let prepared = Prepared {
        held: running.held,
        ruleset: running.ruleset.clone(),
        failsafe,
        filled: running.filled.clone(),
        preflight,
        before: None,
    };
    let mut refreshed = prepared.enforce(kernel)?;
    refreshed.canonical.keep_policies(&running.canonical);
    Ok(refreshed)
}
