//! What rulesets may need of the kernel and its tools: each is tried in a scratch namespace, where
//! a refusal costs nothing.

use voipfleet_proto::v1 as pb;
use voipfleet_protocol::errors::chain;
use voipfleet_ruleset::kernel_feature::{KernelFeature, trial_rule, trial_set};
use voipfleet_ruleset::ruleset::Family;

use crate::kernel::{Kernel, KernelError};

/// The longest of a tool's words that are reported.
const MAX_WORDS: usize = 300;

/// The features that are missing.
#[derive(Debug, Default)]
pub(super) struct KernelFeatures {
    missing: Vec<pb::MissingFeature>,
    tried: bool,
}

impl KernelFeatures {
    pub(super) fn missing(&self) -> &[pb::MissingFeature] {
        &self.missing
    }

    /// Tries them at the start, and again as long as something is missing: what an operator loads
    /// counts at once, and what is there stays.
    pub(super) fn refresh(&mut self, kernel: &mut dyn Kernel) {
        if !self.tried || !self.missing.is_empty() {
            self.tried = true;
            self.try_all(kernel);
        }
    }

    /// Tries everything at once, and if that is refused, each by itself. Where no scratch
    /// namespace can be made, nothing is known to be missing.
    fn try_all(&mut self, kernel: &mut dyn Kernel) {
        let families = Family::BOTH.into_iter();
        let families: Vec<Family> = families.filter(|family| kernel.speaks(*family)).collect();
        let all = families
            .iter()
            .all(|family| refusal(kernel, *family, &KernelFeature::ALL).is_none());
        self.missing.clear();
        if all {
            return;
        }
        for family in families {
            // Without its table nothing else can be tried.
            if let Some(error) = refusal(kernel, family, &[]) {
                self.add(KernelFeature::FilterTable, family, kernel, &error);
                continue;
            }
            let mut has_sets = true;
            for feature in KernelFeature::ALL {
                if feature == KernelFeature::SetMatch && !has_sets {
                    continue; // it cannot be tried
                }
                if let Some(error) = refusal(kernel, family, &[feature]) {
                    has_sets &= feature != KernelFeature::HashNet;
                    self.add(feature, family, kernel, &error);
                }
            }
        }
    }

    fn add(
        &mut self,
        feature: KernelFeature,
        family: Family,
        kernel: &dyn Kernel,
        error: &KernelError,
    ) {
        let legacy = kernel.backend() == crate::kernel::Backend::Legacy;
        self.missing.push(pb::MissingFeature {
            feature: feature.as_str().to_owned(),
            family: match family {
                Family::V4 => pb::Family::V4,
                Family::V6 => pb::Family::V6,
            }
            .into(),
            module: feature.module(family, legacy).to_owned(),
            error: chain(error).chars().take(MAX_WORDS).collect(),
        });
    }

    /// What an operator should load for these families, each module once.
    pub(super) fn warnings(&self, families: &[Family]) -> Vec<String> {
        let mut warnings = Vec::new();
        let missing = self.missing.iter();
        for missing in missing.filter(|missing| families.contains(&family_of(missing))) {
            let Ok(feature) = missing.feature.parse::<KernelFeature>() else {
                continue;
            };
            let module = &missing.module;
            let warning = format!(
                "this kernel has no {feature}: load its module (modprobe {module}), or rulesets that \
                 need it are refused"
            );
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        warnings
    }
}

fn family_of(missing: &pb::MissingFeature) -> Family {
    match missing.family() {
        pb::Family::V6 => Family::V6,
        pb::Family::V4 | pb::Family::Unspecified => Family::V4,
    }
}

/// Why the kernel refuses a rule with these features; none: it does not, or it cannot be tried.
fn refusal(kernel: &dyn Kernel, family: Family, features: &[KernelFeature]) -> Option<KernelError> {
    let mut scratch = kernel.scratch().ok()?;
    let sets = trial_set(family, features);
    if !sets.is_empty()
        && let Err(error) = scratch.ipset_restore(&sets)
    {
        return Some(error);
    }
    let refused = scratch.restore(family, &trial_rule(family, features)).err();
    // A tool that waits in vain for its lock says nothing of the kernel.
    refused.filter(|error| !matches!(error, KernelError::Locked { .. }))
}
