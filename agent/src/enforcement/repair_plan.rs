//! The changes of a repair: the plan for the sets, and the input of `iptables-restore`.

use voipfleet_ruleset::drift::DriftTable;
use voipfleet_ruleset::iptables::{
    KernelSet, Repair, RepairPart, SetPlan, Table, apply_input, repair_input, set_plan,
};
use voipfleet_ruleset::ruleset::{Family, SetName};

use super::target::Target;

impl Target<'_> {
    /// The changes of the sets.
    pub(crate) fn set_plan(self, observed: &[KernelSet]) -> SetPlan {
        if !self.scope.spares_sets() {
            return set_plan(self.ruleset, observed, self.now);
        }
        let spares = |name: &SetName| {
            let wanted = self.ruleset.sets.iter().any(|set| set.name == *name);
            let part = if wanted {
                RepairPart::Named(name.kernel_name())
            } else {
                RepairPart::Unwanted
            };
            self.scope.spares(DriftTable::Ipset, name.family, &part)
        };
        let mut ruleset = self.ruleset.clone();
        ruleset.sets.retain(|set| !spares(&set.name));
        let mut observed = observed.to_vec();
        observed.retain(|set| !spares(&set.name));
        set_plan(&ruleset, &observed, self.now)
    }

    /// The input of `iptables-restore`; none where the rules equal the canonical form.
    pub(crate) fn rules_input(self, family: Family, observed: &Table) -> Option<String> {
        let Some(canonical) = self.canonical else {
            let input = apply_input(self.ruleset, self.failsafe, family, observed);
            return Some(input);
        };
        let wanted = canonical.of(family);
        let repair = Repair {
            spares: &|part| self.scope.spares(DriftTable::Filter, family, part),
            whole_chains: self.scope.rewrite_chains,
            ..Repair::of(&wanted.table, wanted.policy.as_deref())
        };
        repair_input(&repair, observed)
    }
}
