//! Dynamic sets: what changes between pushes is kept on disk, and then enforced, both in what runs
//! and in what the node would go back to.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};
use voipfleet_protocol::errors::chain;
use voipfleet_ruleset::drift::compare_sets;
use voipfleet_ruleset::identifiers::SiteName;
use voipfleet_ruleset::iptables::{
    KernelSet, SetCount, Slack, count_sets, parse_ipset_save, set_plan,
};
use voipfleet_ruleset::ruleset::{AddressSet, Digest, DynamicSetName, DynamicSets, Ruleset};

use super::node::Node;
use crate::enforcement::dynamic_sets::{self, StoredSets};
use crate::enforcement::target::{EnforceError, EnforceStep, RepairScope, Target, failed_at};
use crate::enforcement::write::{self, Effort};
use crate::enforcement::{kernel_state, read_back};
use crate::failpoint::{Step, reach};
use crate::kernel::{Kernel, KernelError, Parts};
use crate::ledger::{Confirmed, SiteSets};
use crate::mailbox::{Outbox, ReceivedSets};

/// What the kernel refused is tried again after this time at first, and after twice as long each
/// time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// The dynamic sets that the node holds, and how far they are in force.
#[derive(Debug, Default)]
pub(super) struct HeldSets {
    held: Option<Arc<SiteSets>>,
    /// Why the ones that were announced last are not held.
    refused: Option<String>,
    /// Why these are not the ones that were received last.
    damaged: Option<String>,
    /// Why the ones that are held are not on disk.
    unkept: Option<Unkept>,
    /// Sources that a ruleset names and of which nothing is known.
    unknown: Vec<DynamicSetName>,
    unfinished: Option<Unfinished>,
}

/// The sets that are held are not in force.
#[derive(Debug)]
struct Unfinished {
    /// The ruleset that was in force before.
    before: Arc<Ruleset>,
    why: String,
    retry_at: Instant,
    pause: Duration,
}

/// The sets that are held are enforced, and not on disk.
#[derive(Debug)]
struct Unkept {
    why: String,
    retry_at: Instant,
}

/// The result of taking dynamic sets.
pub(super) enum Taken {
    Refused,
    /// They are held already; the kernel may have lacked some.
    Unchanged(Option<Written>),
    Changed(Option<Written>),
}

/// The kernel's sets were changed.
pub(super) struct Written {
    /// The ruleset that was in force before.
    pub(super) before: Arc<Ruleset>,
    pub(super) counted: Counted,
}

/// Elements that were counted while sets were written and read back.
pub(super) enum Counted {
    /// There was nothing to write.
    Nothing,
    /// The sets that changed.
    Some(SetCount),
    /// Every set.
    All(SetCount),
}

impl HeldSets {
    pub(super) fn new(stored: StoredSets) -> Self {
        Self {
            held: stored.held,
            damaged: stored.damaged,
            unknown: stored.unknown,
            ..Self::default()
        }
    }

    pub(super) fn held(&self) -> Option<Arc<SiteSets>> {
        self.held.clone()
    }

    /// Why the dynamic sets that were announced last are not held.
    pub(super) fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// Why what is enforced will be gone at the next start.
    pub(super) fn unkept(&self) -> Option<&str> {
        self.unkept.as_ref().map(|unkept| unkept.why.as_str())
    }

    /// When to try again what the kernel refused.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.unfinished
            .as_ref()
            .map(|unfinished| unfinished.retry_at)
    }

    /// All that should run was just proved to run. Returns whether that finishes what was refused.
    pub(super) fn is_in_force(&mut self) -> bool {
        self.unfinished.take().is_some()
    }

    /// The ruleset on trial was compiled with all that it names, and is now what runs.
    pub(super) fn knows_all(&mut self) {
        self.unknown.clear();
    }

    /// Whether it is all that was received, and all that a ruleset names.
    fn is_complete(&self) -> bool {
        self.damaged.is_none() && self.unknown.is_empty()
    }

    /// Describes what is wrong.
    pub(super) fn error(&self) -> Option<String> {
        let unfinished = self.unfinished.as_ref().map(|unfinished| &unfinished.why);
        let unkept = self.unkept.as_ref().map(|unkept| &unkept.why);
        let known = [
            self.refused.as_ref(),
            unfinished,
            unkept,
            self.damaged.as_ref(),
        ];
        let unknown = dynamic_sets::describe_unknown(&self.unknown);
        let all: Vec<&str> = known
            .into_iter()
            .chain([unknown.as_ref()])
            .flatten()
            .map(String::as_str)
            .collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// The digest of the dynamic sets, where they are kept and enforced.
    pub(super) fn digest_in_force(&self, node: &Node) -> Option<Digest> {
        let in_force = self.is_complete() && self.unfinished.is_none() && !node.is_out_of_force();
        self.held
            .as_ref()
            .filter(|_| in_force)
            .map(|held| held.digest)
    }

    /// Dynamic sets that were announced did not come, or cannot be taken.
    pub(super) fn refuse(&mut self, why: String) {
        if self.refused.as_ref() != Some(&why) {
            warn!(reason = why, "dynamic sets refused");
        }
        self.refused = Some(why);
    }

    /// Takes dynamic sets: from here on they are what should be in force, also after a crash.
    pub(super) fn take(
        &mut self,
        received: &ReceivedSets,
        site: &SiteName,
        node: &mut Node,
        outbox: &Outbox,
    ) -> Taken {
        let new = &received.sets;
        if new.received.site != *site {
            let other = &new.received.site;
            self.refuse(format!(
                "the dynamic sets are those of site {other}, not {site}"
            ));
            return Taken::Refused;
        }
        let known_before = self.held.as_ref().map(|held| held.known().into_owned());
        let is_held = self
            .held
            .as_ref()
            .is_some_and(|held| held.digest == new.digest);
        if is_held && self.is_complete() {
            self.refused = None;
            return Taken::Unchanged(self.retry(node));
        }
        let named = node
            .all_rulesets()
            .flat_map(|one| one.ruleset.dynamic_names())
            .collect();
        let sets = new.after(self.held.as_deref(), &named);
        // What cannot be kept is enforced all the same: an attacker is out until the next boot.
        self.keep(node, &sets);
        self.refused = None;
        self.held = Some(Arc::new(sets));
        outbox.set_dynamic_sets(self.held());
        let ran = node.running().and_then(|running| running.filled.clone());
        self.damaged = None;
        self.adopt(node, known_before.as_ref());
        let written = ran.and_then(|ran| self.enforce(node, ran));
        let milliseconds = received.received.elapsed().as_millis();
        info!(
            digest = %new.digest.short(),
            milliseconds = u64::try_from(milliseconds).unwrap_or(u64::MAX),
            "dynamic sets changed"
        );
        Taken::Changed(written)
    }

    /// Writes the sets to disk, for the next start.
    fn keep(&mut self, node: &Node, sets: &SiteSets) {
        let Err(error) = node.ledger.keep_dynamic_sets(sets) else {
            if self.unkept.take().is_some() {
                info!("dynamic sets written to disk again");
            }
            return;
        };
        let why = format!(
            "the newest dynamic sets, blocks among them, are enforced, but gone at the next start \
             of the agent, because they cannot be written to disk: {}",
            chain(&error)
        );
        if self.unkept.is_none() {
            warn!(reason = chain(&error), "dynamic sets not written to disk");
        }
        self.unkept = Some(Unkept {
            why,
            retry_at: Instant::now() + LONGEST_PAUSE,
        });
    }

    /// Writes to disk what could not be written before. Returns whether that is done now.
    pub(super) fn retry_keeping(&mut self, node: &Node, now: Instant) -> bool {
        let is_due = self
            .unkept
            .as_ref()
            .is_some_and(|unkept| unkept.retry_at <= now);
        let Some(held) = self.held.clone().filter(|_| is_due) else {
            return false;
        };
        self.keep(node, &held);
        self.unkept.is_none()
    }

    /// Fills the held sets into the ruleset on trial and into the one to go back to.
    fn adopt(&mut self, node: &mut Node, before: Option<&DynamicSets>) {
        let known = self.held.as_ref().map(|held| held.known());
        let mut unknown = BTreeSet::new();
        for one in node.all_rulesets() {
            let Confirmed {
                ruleset, filled, ..
            } = one;
            let ran = filled.take();
            let in_kernel = || ran.iter().flat_map(|ran| ran.sets.clone()).collect();
            let earlier = ran.as_deref().zip(before);
            let (now, missing) =
                dynamic_sets::effective_ruleset(ruleset, known.as_deref(), earlier, in_kernel);
            *filled = now;
            unknown.extend(missing);
        }
        self.unknown = unknown.into_iter().collect();
    }

    /// Makes the kernel's sets what they should be by now; `ran` is what was in force.
    fn enforce(&mut self, node: &mut Node, ran: Arc<Ruleset>) -> Option<Written> {
        if node.is_out_of_force() {
            return None; // they follow with all else
        }
        let (kernel, running) = node.kernel_and_running();
        let running = running?;
        // What an earlier change did not finish belongs to this one too.
        let (before, counted) = if let Some(unfinished) = self.unfinished.take() {
            (unfinished.before, write_all(kernel, running))
        } else {
            let counted = write_changes(kernel, &ran, running);
            (ran, counted)
        };
        self.written(before, counted, FIRST_PAUSE)
    }

    /// Tries again what the kernel refused.
    pub(super) fn retry(&mut self, node: &mut Node) -> Option<Written> {
        if node.is_out_of_force() {
            self.unfinished = None;
            return None;
        }
        let (kernel, running) = node.kernel_and_running();
        let (running, unfinished) = (running?, self.unfinished.take()?);
        let counted = write_all(kernel, running);
        let pause = (unfinished.pause * 2).min(LONGEST_PAUSE);
        self.written(unfinished.before, counted, pause)
    }

    fn written(
        &mut self,
        before: Arc<Ruleset>,
        counted: Result<Counted, EnforceError>,
        pause: Duration,
    ) -> Option<Written> {
        match counted {
            Ok(counted) => Some(Written { before, counted }),
            Err(error) => {
                let error = chain(&error);
                warn!(reason = error, "dynamic sets not in force");
                let why =
                    format!("the newest dynamic sets are not in force, and are retried: {error}");
                self.unfinished = Some(Unfinished {
                    before,
                    why,
                    retry_at: Instant::now() + pause,
                    pause,
                });
                None
            }
        }
    }
}

/// Writes the changes from `ran` to what should run, and reads back those sets only: others may be
/// large. Where that fails, because another program changed the sets too, all of them are read and
/// written.
fn write_changes(
    kernel: &mut dyn Kernel,
    ran: &Ruleset,
    running: &Confirmed,
) -> Result<Counted, EnforceError> {
    let wanted = running.effective();
    let (before, after): (Vec<&AddressSet>, Vec<&AddressSet>) = ran
        .sets
        .iter()
        .zip(&wanted.sets)
        .filter(|(before, after)| before != after)
        .unzip();
    if after.is_empty() {
        return Ok(Counted::Nothing);
    }
    let now = kernel.now();
    let changed = Ruleset {
        site: wanted.site.clone(),
        node: wanted.node.clone(),
        mode: wanted.mode,
        admins: Vec::new(),
        ssh_ports: Vec::new(),
        sets: after.into_iter().cloned().collect(),
        chains: Vec::new(),
        probes: Vec::new(),
        without_ipv6: false,
    };
    let expected: Vec<KernelSet> = before
        .iter()
        .map(|set| KernelSet::written(set, now))
        .collect();
    let plan = set_plan(&changed, &expected, now);
    let written = write_plan(
        kernel,
        &format!("{}{}", plan.before, plan.after),
        &changed,
        now,
    );
    match written {
        Ok(Some(count)) => Ok(Counted::Some(count)),
        Ok(None) | Err(_) => write_all(kernel, running),
    }
}

/// None: the sets do not read back as they were written.
fn write_plan(
    kernel: &mut dyn Kernel,
    input: &str,
    changed: &Ruleset,
    now: u64,
) -> Result<Option<SetCount>, KernelError> {
    if !input.is_empty() {
        kernel.ipset_restore(input)?;
    }
    reach(Step::SetsChanged);
    let names = changed.sets.iter().map(|set| set.name.kernel_name());
    let names: Vec<String> = names.collect();
    let mut found = parse_ipset_save(&kernel.ipset_save_of(&names)?)?;
    found.retain(|found| changed.sets.iter().any(|set| set.name == found.name));
    reach(Step::ReadSets);
    let same = compare_sets(changed, &found, now, Slack::WRITTEN).is_empty();
    Ok(same.then(|| count_sets(changed, &found, now)))
}

/// Writes whatever differs in any set, and reads all of them back.
fn write_all(kernel: &mut dyn Kernel, running: &Confirmed) -> Result<Counted, EnforceError> {
    let wanted = running.effective();
    let now = kernel.now();
    let target = Target {
        ruleset: wanted,
        failsafe: &running.failsafe,
        canonical: Some(&running.canonical),
        now,
        scope: RepairScope::WHOLE,
    };
    write::write(kernel, target, Parts::SETS, Effort::AsFarAsPossible)?;
    let found = kernel_state::read_sets(kernel, true).map_err(failed_at(EnforceStep::ReadBack))?;
    let differences = compare_sets(wanted, &found, now, Slack::WRITTEN);
    match differences.first() {
        Some(first) => Err(EnforceError::Differs(read_back::describe_difference(
            first,
            differences.len() - 1,
        ))),
        None => Ok(Counted::All(count_sets(wanted, &found, now))),
    }
}
