//! The task's part about live sets: what changes between pushes is kept, and then enforced, in
//! what runs and in what would be gone back to.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};
use voipfleet_ruleset::drift::compare_sets;
use voipfleet_ruleset::iptables::{
    KernelSet, SetCount, Slack, count_sets, parse_ipset_save, set_plan,
};
use voipfleet_ruleset::ruleset::{AddressSet, LiveName, LiveSets, Ruleset};

use super::Reconciler;
use super::trial::running;
use crate::enforcement::dynamic_sets::{self, Found};
use crate::enforcement::repair_plan::How;
use crate::enforcement::write::{self, Effort, EnforceError, Step as At, Target};
use crate::enforcement::{kernel_state, read_back};
use crate::failpoint::{Step, Work, during, reach};
use crate::host::clock;
use crate::host::errors::chain;
use crate::kernel::{Kernel, KernelError, Parts};
use crate::ledger::{Confirmed, Live};
use crate::mailbox::Noticed;

/// What the kernel refused is tried again after this time at first, and after twice as long each
/// time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// What the node holds of live sets, and how far that is in force.
#[derive(Debug, Default)]
pub(super) struct LiveState {
    held: Option<Arc<Live>>,
    /// Why the ones that were noticed last are not held.
    refused: Option<String>,
    /// Why what is held is not what was told last; empty: it is.
    damaged: String,
    /// Of which sources nothing is known; empty: all are.
    unknown: String,
    unfinished: Option<Unfinished>,
}

/// What is held is not in force.
#[derive(Debug)]
struct Unfinished {
    /// What was in force before.
    before: Arc<Ruleset>,
    why: String,
    again: Instant,
    pause: Duration,
}

impl LiveState {
    pub(super) fn found(found: Found) -> Self {
        Self {
            held: found.held,
            damaged: found.damaged,
            unknown: found.unknown,
            ..Self::default()
        }
    }

    pub(super) fn held(&self) -> Option<Arc<Live>> {
        self.held.clone()
    }

    /// Why the live sets that were noticed last are not held.
    pub(super) fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// When to try again what the kernel refused.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.unfinished.as_ref().map(|unfinished| unfinished.again)
    }

    /// All that should run was just proved to run. Whether that is news.
    pub(super) fn is_in_force(&mut self) -> bool {
        self.unfinished.take().is_some()
    }

    /// Whether it is all that was told, and all that is named.
    fn is_whole(&self) -> bool {
        self.damaged.is_empty() && self.unknown.is_empty()
    }

    /// What the controller hears.
    pub(super) fn error(&self) -> String {
        let refused = self.refused.iter().map(String::as_str);
        let unfinished = self.unfinished.iter().map(|one| one.why.as_str());
        let others = [self.damaged.as_str(), self.unknown.as_str()];
        let all: Vec<&str> = refused.chain(unfinished).chain(others).collect();
        let told: Vec<&str> = all.into_iter().filter(|why| !why.is_empty()).collect();
        told.join("; ")
    }
}

impl Reconciler {
    /// The digest of the live sets, where they are kept and enforced.
    pub(super) fn live_digest(&self) -> Vec<u8> {
        let in_force =
            self.live.is_whole() && self.live.unfinished.is_none() && !self.is_out_of_force();
        let held = self.live.held.as_ref().filter(|_| in_force);
        held.map(|live| live.digest.as_bytes().to_vec())
            .unwrap_or_default()
    }

    /// Whether something else runs than what should: it follows with all else when that is over.
    fn is_out_of_force(&self) -> bool {
        self.course.undo_is_due() || (self.trial.is_none() && self.fallback.is_some())
    }

    /// Live sets that were noticed do not come, or cannot be taken.
    pub(super) fn refuse_live(&mut self, why: String) {
        if self.live.refused.as_ref() != Some(&why) {
            warn!(reason = why, "live sets are not taken");
        }
        self.live.refused = Some(why);
        self.tell(0, None);
    }

    /// Takes live sets up that were noticed: they are what should be in force from here on, also
    /// after a crash.
    pub(super) fn hear_live(&mut self, noticed: &Noticed) {
        let _work = during(Work::Live);
        let told = &noticed.live;
        let own = &self.settings.own.site;
        if told.told.site != *own {
            let site = &told.told.site;
            return self.refuse_live(format!("the live sets are those of site {site}, not {own}"));
        }
        let held = self.live.held.as_ref();
        let known_before = held.map(|held| held.known().into_owned());
        let is_held = held.is_some_and(|held| held.digest == told.digest);
        if is_held && self.live.is_whole() {
            self.live.refused = None;
            self.finish_live();
            return self.tell(0, None);
        }
        let live = told.after(held.map(AsRef::as_ref), &self.live_names());
        if let Err(error) = self.ledger.keep_live(&live) {
            let why = chain(&error);
            if let Some(held) = &self.live.held
                && let Err(error) = self.ledger.keep_live(held)
            {
                warn!(reason = chain(&error), "what a boot restores is not known");
            }
            return self.refuse_live(format!("the live sets cannot be kept: {why}"));
        }
        self.live.refused = None;
        self.live.held = Some(Arc::new(live));
        self.outbox.holds_live(self.live.held());
        let ran = running(self.trial.as_ref(), self.confirmed.as_ref())
            .and_then(|running| running.live.clone());
        self.live.damaged.clear();
        self.adopt(known_before.as_ref());
        if let Some(ran) = ran {
            self.enforce_live(ran);
        }
        let milliseconds = noticed.received.elapsed().as_millis();
        info!(
            digest = %noticed.live.digest.short(),
            milliseconds = u64::try_from(milliseconds).unwrap_or(u64::MAX),
            "live sets changed"
        );
        reach(Step::Told);
        self.tell(0, None);
    }

    /// The live sources that a ruleset of this node names.
    fn live_names(&self) -> BTreeSet<LiveName> {
        let trial = self.trial.as_ref().map(|trial| &trial.candidate);
        let mine = trial.into_iter().chain(&self.confirmed);
        mine.flat_map(|one| one.ruleset.live_names()).collect()
    }

    /// Both what is on trial and what would be gone back to hold what is held now.
    fn adopt(&mut self, before: Option<&LiveSets>) {
        let known = self.live.held.as_ref().map(|live| live.known());
        let trial = self.trial.as_mut().map(|trial| &mut trial.candidate);
        let mut unknown = BTreeSet::new();
        for one in trial.into_iter().chain(&mut self.confirmed) {
            let Confirmed { ruleset, live, .. } = one;
            let ran = live.take();
            let stands = || ran.iter().flat_map(|ran| ran.sets.clone()).collect();
            let earlier = ran.as_deref().zip(before);
            let (now, missing) = dynamic_sets::as_known(ruleset, known.as_deref(), earlier, stands);
            *live = now;
            unknown.extend(missing);
        }
        self.live.unknown = dynamic_sets::describe(&unknown.into_iter().collect::<Vec<_>>());
    }

    /// What was tried was told all that it names, and is all that is to run.
    pub(super) fn knows_all_live(&mut self) {
        self.live.unknown.clear();
    }

    /// Makes the kernel's sets what they should be by now; `ran` is what was in force.
    fn enforce_live(&mut self, ran: Arc<Ruleset>) {
        if self.is_out_of_force() {
            return;
        }
        let Some(running) = running(self.trial.as_ref(), self.confirmed.as_ref()) else {
            return;
        };
        // What an earlier change did not get to is a matter of this one too.
        let (before, written) = if let Some(unfinished) = self.live.unfinished.take() {
            (unfinished.before, write_all(&mut *self.kernel, running))
        } else {
            let written = write_changes(&mut *self.kernel, &ran, running);
            (ran, written)
        };
        self.written(before, written, FIRST_PAUSE);
    }

    /// Tries again what the kernel refused.
    pub(super) fn finish_live(&mut self) {
        if self.is_out_of_force() {
            self.live.unfinished = None;
            return;
        }
        let Some(running) = running(self.trial.as_ref(), self.confirmed.as_ref()) else {
            return;
        };
        let Some(unfinished) = self.live.unfinished.take() else {
            return;
        };
        let _work = during(Work::Live);
        let written = write_all(&mut *self.kernel, running);
        let pause = (unfinished.pause * 2).min(LONGEST_PAUSE);
        self.written(unfinished.before, written, pause);
        self.tell(0, None);
    }

    fn written(
        &mut self,
        before: Arc<Ruleset>,
        written: Result<Counted, EnforceError>,
        pause: Duration,
    ) {
        match written {
            Ok(Counted::Nothing) => {}
            Ok(Counted::Some(newer)) => {
                self.sets = self.sets.as_ref().map(|sets| sets.recounted(&newer));
                self.cut_by_live_sets(before);
            }
            Ok(Counted::All(sets)) => {
                self.sets = Some(sets);
                self.cut_by_live_sets(before);
            }
            Err(error) => {
                let error = chain(&error);
                let why = format!("the newest live sets are not in force, tried again: {error}");
                warn!(reason = why, "live sets");
                self.live.unfinished = Some(Unfinished {
                    before,
                    why,
                    again: Instant::now() + pause,
                    pause,
                });
            }
        }
        reach(Step::FlowsCut);
    }
}

/// What was written and read back, as it was counted.
enum Counted {
    /// There was nothing to write.
    Nothing,
    /// The sets that changed.
    Some(SetCount),
    /// Every set.
    All(SetCount),
}

/// Writes the changes from `ran` to what should run, and reads back those sets only: another one
/// may be large. Where that does not work out, because others changed the sets too, all of them
/// are read and written.
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
    let now = clock::unix(clock::now());
    let changed = Ruleset {
        site: wanted.site.clone(),
        node: wanted.node.clone(),
        mode: wanted.mode,
        admins: Vec::new(),
        ssh_ports: Vec::new(),
        sets: after.into_iter().cloned().collect(),
        chains: Vec::new(),
        probes: Vec::new(),
    };
    let held: Vec<KernelSet> = before
        .iter()
        .map(|set| KernelSet::written(set, now))
        .collect();
    let plan = set_plan(&changed, &held, now);
    let written = write_plan(kernel, &(plan.before + &plan.after), &changed, now);
    match written {
        Ok(Some(count)) => Ok(Counted::Some(count)),
        Ok(None) | Err(_) => write_all(kernel, running),
    }
}

/// None: the sets read otherwise.
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
    let now = clock::unix(clock::now());
    let sets_only = Parts {
        v4: false,
        v6: false,
        sets: true,
    };
    let target = Target {
        ruleset: wanted,
        failsafe: &running.failsafe,
        canonical: Some(&running.canonical),
        now,
        how: How::WHOLE,
    };
    write::write(kernel, target, sets_only, Effort::AsFarAsPossible)?;
    let found = kernel_state::sets(kernel, true).map_err(write::at(At::ReadBack))?;
    let differences = compare_sets(wanted, &found, now, Slack::WRITTEN);
    match differences.first() {
        Some(first) => Err(EnforceError::Differs(read_back::describe(
            first,
            differences.len() - 1,
        ))),
        None => Ok(Counted::All(count_sets(wanted, &found, now))),
    }
}
