//! What rulesets need of kernels that do not have it.

use std::collections::{BTreeMap, BTreeSet};

use voipfleet_ruleset::identifiers::NodeName;
use voipfleet_ruleset::kernel_feature::KernelFeature;
use voipfleet_ruleset::ruleset::{Family, Ruleset};

use super::warnings::some;

/// A feature that a node's kernel lacks in one family, and the module that brings it.
pub type Missing = (KernelFeature, Family, String);

/// Warnings about rulesets that the kernels of their nodes would refuse.
pub fn missing_features<'n>(
    nodes: impl IntoIterator<Item = (&'n NodeName, &'n Ruleset, &'n [Missing])>,
) -> Vec<String> {
    let mut lacking: BTreeMap<(KernelFeature, &str), BTreeSet<&NodeName>> = BTreeMap::new();
    for (node, ruleset, missing) in nodes {
        for (feature, family, module) in missing {
            if feature.is_needed(ruleset, *family) {
                let nodes = lacking.entry((*feature, module.as_str())).or_default();
                nodes.insert(node);
            }
        }
    }
    let warning = |((feature, module), nodes): ((KernelFeature, &str), BTreeSet<&NodeName>)| {
        let nodes: Vec<String> = nodes.into_iter().map(ToString::to_string).collect();
        let refuses = if nodes.len() == 1 {
            "it refuses"
        } else {
            "they refuse"
        };
        format!(
            "{}: the kernel has no {feature}, and {refuses} these rules; load the module there first: \
             modprobe {module}",
            some(nodes.into_iter())
        )
    };
    lacking.into_iter().map(warning).collect()
}
