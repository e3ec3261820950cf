//! One offer: checked, staged, journalled, enforced, read back; or put back.

use std::sync::Arc;
use std::time::SystemTime;

use voipfleet_protocol::session::Held;
use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::iptables::{Failsafe, SetCount};
use voipfleet_ruleset::ruleset::live::Missing;
use voipfleet_ruleset::ruleset::{Digest, LiveSets, Ruleset};

use super::preflight::{Staged, stage};
use super::read_back;
use super::repair_plan::How;
use super::write::{self, Effort, EnforceError, Target};
use crate::failpoint::{Step, reach};
use crate::host::clock;
use crate::kernel::{Kernel, KernelError, NoScratch, Parts};
use crate::ledger::{Confirmed, Journal, Ledger, LedgerError, effective};

/// Why a ruleset is not run. The kernel was not touched.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    /// There is nothing to run.
    #[error("{0}")]
    Missing(String),
    /// Other bytes than the digest names.
    #[error("its content is not that of its digest: {found} in place of {wanted}")]
    Digest {
        /// The digest offered.
        wanted: Digest,
        /// The digest of what came.
        found: Digest,
    },
    /// Content that no compiler of ours makes.
    #[error(transparent)]
    Invalid(#[from] voipfleet_ruleset::ruleset::InvalidRuleset),
    /// Nothing is known of what it should hold.
    #[error(
        "it names a live source of which this node was not told: {}; the controller tells it with \
         the next push",
        .0.0
    )]
    NotTold(Missing),
    /// The live sets that go with it did not come.
    #[error("the live sets that were announced before it are not here: {0}")]
    NoLive(String),
    /// Compiled for somebody else.
    #[error("it was compiled for node {site}/{node}")]
    NotOurs {
        /// The site that it names.
        site: SiteName,
        /// The node that it names.
        node: NodeName,
    },
    /// The kernel or its tools refuse it.
    #[error("this node's kernel refuses it: {0}")]
    Kernel(#[source] KernelError),
    /// The journal could not be written: without it a crash could not be undone.
    #[error("the journal cannot be written")]
    Journal(#[source] LedgerError),
}

/// Why a ruleset that was begun is not run.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The kernel.
    #[error(transparent)]
    Enforce(#[from] EnforceError),
    /// The ledger.
    #[error("it could not be made the one to boot with")]
    Ledger(#[from] LedgerError),
}

impl Failure {
    /// Whether the same may succeed a moment later.
    pub fn may_pass(&self) -> bool {
        match self {
            Failure::Enforce(EnforceError::Stage(source) | EnforceError::Step { source, .. }) => {
                !source.is_not_installed()
            }
            Failure::Enforce(EnforceError::Differs(_)) => true,
            Failure::Ledger(_) => false,
        }
    }
}

/// Who this node is.
#[derive(Debug, Clone)]
pub struct Own {
    /// Its site.
    pub site: SiteName,
    /// Its name.
    pub node: NodeName,
}

/// Reads offered bytes, and checks that they are what was offered, for us.
pub fn check_content(own: &Own, held: Held, content: &[u8]) -> Result<Ruleset, Rejection> {
    let found = Digest::of(content);
    if found != held.digest {
        return Err(Rejection::Digest {
            wanted: held.digest,
            found,
        });
    }
    let ruleset = Ruleset::decode(content)?;
    if ruleset.site != own.site || ruleset.node != own.node {
        return Err(Rejection::NotOurs {
            site: ruleset.site,
            node: ruleset.node,
        });
    }
    reach(Step::Checked);
    Ok(ruleset)
}

/// A ruleset that the kernel is known to take, as far as that can be known before.
#[derive(Debug)]
pub struct Prepared {
    /// Its number and digest.
    pub held: Held,
    /// The ruleset.
    pub ruleset: Ruleset,
    /// What the failsafe chain keeps open.
    pub failsafe: Failsafe,
    live: Option<Arc<Ruleset>>,
    staged: Staged,
}

impl Prepared {
    /// Stages a ruleset that names no live source.
    pub fn new(
        kernel: &dyn Kernel,
        held: Held,
        ruleset: Ruleset,
        failsafe: Failsafe,
    ) -> Result<Self, Rejection> {
        Self::with_live(kernel, held, ruleset, None, failsafe)
    }

    /// Stages a ruleset with what live sources hold.
    pub fn with_live(
        kernel: &dyn Kernel,
        held: Held,
        ruleset: Ruleset,
        live: Option<&LiveSets>,
        failsafe: Failsafe,
    ) -> Result<Self, Rejection> {
        let live = effective(&ruleset, live).map_err(Rejection::NotTold)?;
        let effective = live.as_deref().unwrap_or(&ruleset);
        let staged = stage(kernel, effective, &failsafe).map_err(Rejection::Kernel)?;
        reach(Step::Staged);
        Ok(Self {
            held,
            ruleset,
            failsafe,
            live,
            staged,
        })
    }

    /// Why it could not be tried in a scratch namespace.
    pub fn untried(&self) -> Option<&NoScratch> {
        match &self.staged {
            Staged::Proved(_) => None,
            Staged::Untried(why) => Some(why),
        }
    }

    /// Notes in the journal that the kernel is about to change. A refusal leaves what the journal
    /// had noted, or this: the next start goes back by either.
    pub fn begin(&self, ledger: &Ledger, nonce: u64, now: SystemTime) -> Result<(), Rejection> {
        let journal = Journal {
            held: self.held,
            nonce,
            begun: now,
        };
        ledger.begin(&journal).map_err(Rejection::Journal)
    }

    fn target(&self) -> Target<'_> {
        Target {
            ruleset: self.live.as_deref().unwrap_or(&self.ruleset),
            failsafe: &self.failsafe,
            canonical: match &self.staged {
                Staged::Proved(canonical) => Some(canonical),
                Staged::Untried(_) => None,
            },
            now: clock::unix(clock::now()),
            how: How::WHOLE,
        }
    }

    /// Enforces it, and proves it by reading it back. What it gives is not confirmed by that:
    /// the controller must be reached anew first.
    pub fn enforce(self, kernel: &mut dyn Kernel) -> Result<Confirmed, EnforceError> {
        self.write(kernel)?;
        Ok(self.prove(kernel)?.0)
    }

    /// Makes the kernel what it says.
    pub fn write(&self, kernel: &mut dyn Kernel) -> Result<(), EnforceError> {
        let effort = Effort::UntilRefused;
        write::write(kernel, self.target(), Parts::ALL, effort)
    }

    /// Reads back that the kernel is what it says, and counts the elements of its sets.
    pub fn prove(self, kernel: &mut dyn Kernel) -> Result<(Confirmed, SetCount), EnforceError> {
        let proof = read_back::read_back(kernel, self.target())?;
        let candidate = Confirmed {
            held: self.held,
            ruleset: self.ruleset,
            failsafe: self.failsafe,
            canonical: proof.canonical,
            live: self.live,
        };
        Ok((candidate, proof.sets))
    }
}

/// Ends a change by going back: to the confirmed ruleset, or to nothing of ours.
pub fn put_back(
    kernel: &mut dyn Kernel,
    ledger: &Ledger,
    confirmed: Option<&mut Confirmed>,
) -> Result<(), Failure> {
    match confirmed {
        Some(confirmed) => enforce_confirmed(kernel, ledger, confirmed)?,
        // Nobody knows what to go back to: what runs now was decided on by the caller.
        None if ledger.is_lost() => {}
        None => write::clear(kernel)?,
    }
    Ok(ledger.settle()?)
}

/// Makes the kernel what the confirmed ruleset says, and proves it.
///
/// Where another version of iptables wrote down what it prints, that is found out anew.
pub fn enforce_confirmed(
    kernel: &mut dyn Kernel,
    ledger: &Ledger,
    confirmed: &mut Confirmed,
) -> Result<(), Failure> {
    let fits = confirmed.canonical.fits(kernel);
    let mut known = true;
    if !fits {
        match stage(kernel, confirmed.effective(), &confirmed.failsafe)
            .map_err(EnforceError::from)?
        {
            Staged::Proved(mut canonical) => {
                canonical.keep_policies(&confirmed.canonical);
                confirmed.canonical = canonical;
            }
            Staged::Untried(_) => known = false,
        }
    }
    let target = Target {
        ruleset: confirmed.effective(),
        failsafe: &confirmed.failsafe,
        canonical: known.then_some(&confirmed.canonical),
        now: clock::unix(clock::now()),
        how: How::WHOLE,
    };
    let mut canonical = write::enforce(kernel, target, Effort::AsFarAsPossible)?;
    if !fits {
        canonical.keep_policies(&confirmed.canonical);
        confirmed.canonical = canonical;
        ledger.confirm(confirmed)?;
    }
    Ok(())
}

/// Makes the failsafe chain of what runs keep other controllers open, and gives what runs
/// then.
///
/// No journal: the ruleset stays the same, and a crash in between leaves a chain that the
/// next check or start puts right.
pub fn refresh_failsafe(
    kernel: &mut dyn Kernel,
    running: &Confirmed,
    failsafe: Failsafe,
) -> Result<Confirmed, EnforceError> {
    let staged = stage(kernel, running.effective(), &failsafe)?;
    reach(Step::Staged);
    let prepared = Prepared {
        held: running.held,
        ruleset: running.ruleset.clone(),
        failsafe,
        live: running.live.clone(),
        staged,
    };
    let mut refreshed = prepared.enforce(kernel)?;
    refreshed.canonical.keep_policies(&running.canonical);
    Ok(refreshed)
}
