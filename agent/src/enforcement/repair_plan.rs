//! How differences are put right: what is spared, and in what steps.

use std::collections::BTreeSet;
use std::time::Duration;

use voipfleet_ruleset::drift::{Subject, UNWANTED_SETS};
use voipfleet_ruleset::iptables::{
    KernelSet, Repair, SetPlan, Table, apply_input, repair_input, set_plan,
};
use voipfleet_ruleset::ruleset::{Family, SetName};

use super::write::Target;

/// How differences are put right.
#[derive(Debug, Clone, Copy)]
pub struct How<'a> {
    /// What is left as it is for now.
    pub spared: Option<&'a BTreeSet<Subject>>,
    /// Chains that differ are written anew as a whole.
    pub whole_chains: bool,
    /// How long the kernel may hold on to sets that no rule names any more.
    pub patience: Duration,
}

/// `nf_tables` lets go of the sets of deleted rules a moment after the transaction
/// (`nf_tables_trans_destroy_work`): until then ipset says that they are in use.
const RELEASED_WITHIN: Duration = Duration::from_secs(5);

impl How<'_> {
    /// For the repair of drift: a set that a rule of others holds stays in use, and whatever
    /// else drifts waits meanwhile. What the kernel is only slow with goes with the next look.
    pub const REPAIR_PATIENCE: Duration = Duration::from_millis(100);

    /// Everything, and each chain that differs as a whole.
    pub const WHOLE: How<'static> = How {
        spared: None,
        whole_chains: true,
        patience: RELEASED_WITHIN,
    };

    fn spares_sets(self) -> bool {
        self.spared
            .is_some_and(|spared| spared.iter().any(|subject| subject.table == "ipset"))
    }

    fn spares(self, table: &'static str, family: Family, name: &str) -> bool {
        self.spared.is_some_and(|spared| {
            spared.contains(&Subject {
                table,
                family,
                name: name.to_owned(),
            })
        })
    }
}

impl Target<'_> {
    /// What to do about the sets.
    pub(crate) fn set_plan(self, observed: &[KernelSet]) -> SetPlan {
        if !self.how.spares_sets() {
            return set_plan(self.ruleset, observed, self.now);
        }
        let spares = |name: &SetName| {
            let wanted = self.ruleset.sets.iter().any(|set| set.name == *name);
            let kernel_name = name.kernel_name();
            let subject = if wanted { &kernel_name } else { UNWANTED_SETS };
            self.how.spares("ipset", name.family, subject)
        };
        let mut ruleset = self.ruleset.clone();
        ruleset.sets.retain(|set| !spares(&set.name));
        let mut observed = observed.to_vec();
        observed.retain(|set| !spares(&set.name));
        set_plan(&ruleset, &observed, self.now)
    }

    /// What to give to `iptables-restore`; none where all is right by our canonical words.
    pub(crate) fn rules_input(self, family: Family, observed: &Table) -> Option<String> {
        let Some(canonical) = self.canonical else {
            let input = apply_input(self.ruleset, self.failsafe, family, observed);
            return Some(input);
        };
        let wanted = canonical.of(family);
        let repair = Repair {
            spares: &|name| self.how.spares("filter", family, name),
            whole_chains: self.how.whole_chains,
            ..Repair::of(&wanted.table, wanted.policy.as_deref())
        };
        repair_input(&repair, observed)
    }
}
