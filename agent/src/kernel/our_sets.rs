//! Our sets, also beside a foreign set that keeps ipset from saving all of them.

use voipfleet_ruleset::iptables::{KernelSet, parse_ipset_save};
use voipfleet_ruleset::ruleset::SetName;

use super::{Kernel, KernelError};

/// How often it is begun anew because another program removed a set meanwhile.
const ATTEMPTS: usize = 3;
/// Foreign sets that are tried one by one.
const MAX_TRIED: usize = 32;

/// Our sets, and what kept ipset from saving all sets.
#[derive(Debug, Default)]
pub struct OurSets {
    pub sets: Vec<KernelSet>,
    /// None where it saved all of them.
    pub obstacle: Option<SetObstacle>,
}

/// Why ipset could not save all sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetObstacle {
    /// The words of ipset.
    pub reason: String,
    /// The foreign sets that it does not understand, as far as they are known.
    pub sets: Vec<String>,
}

/// Our sets in the output of `ipset save`; by their names where there is none.
pub fn sets_from(
    kernel: &mut dyn Kernel,
    saved: Result<String, KernelError>,
) -> Result<OurSets, KernelError> {
    let error = match saved.and_then(|text| Ok(parse_ipset_save(&text)?)) {
        Ok(sets) => {
            return Ok(OurSets {
                sets,
                obstacle: None,
            });
        }
        Err(error) if error.is_unprintable() => error,
        Err(error) => return Err(error),
    };
    for _ in 0..ATTEMPTS {
        let Ok(names) = kernel.ipset_names() else {
            break;
        };
        let names = names.lines().map(str::to_owned);
        let (ours, foreign): (Vec<String>, Vec<String>) =
            names.partition(|name| SetName::from_kernel_name(name).is_some());
        // Each by itself: a save of many may be one of all.
        let saved: Result<String, KernelError> = ours
            .chunks(1)
            .map(|name| kernel.ipset_save_of(name))
            .collect();
        let Ok(saved) = saved else {
            continue;
        };
        let foreign = foreign.into_iter().take(MAX_TRIED);
        return Ok(OurSets {
            sets: parse_ipset_save(&saved)?,
            obstacle: Some(SetObstacle {
                reason: error.to_string(),
                sets: foreign
                    .filter(|name| kernel.ipset_header(name).is_err())
                    .collect(),
            }),
        });
    }
    Err(error)
}
