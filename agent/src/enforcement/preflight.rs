//! A ruleset is tried in a scratch network namespace: the kernel's refusal costs nothing
//! there, and what iptables-save prints there is what it must print of the live kernel.

use voipfleet_ruleset::drift::Wanted;
use voipfleet_ruleset::iptables::{Failsafe, Table, restore_input, set_shapes_input};
use voipfleet_ruleset::ruleset::{Family, Ruleset};

use super::kernel_state::rules;
use crate::kernel::{Kernel, KernelError, NoScratch};
use crate::ledger::Canonical;

/// What came of it.
#[derive(Debug)]
pub enum Staged {
    /// The kernel takes it, in these words.
    Proved(Canonical),
    /// There was nowhere to try it.
    Untried(NoScratch),
}

/// Tries `ruleset`. Each family has a namespace of its own, so that neither waits for the
/// other's transaction. Its sets stay empty there: their elements need no proof, and cost time.
pub fn stage(
    kernel: &dyn Kernel,
    ruleset: &Ruleset,
    failsafe: &Failsafe,
) -> Result<Staged, KernelError> {
    let [v4, v6] = match (kernel.scratch(), kernel.scratch()) {
        (Ok(v4), Ok(v6)) => [v4, v6],
        (Err(why), _) | (_, Err(why)) => return Ok(Staged::Untried(why)),
    };
    let (v4, v6) = std::thread::scope(|scope| {
        let beside = scope.spawn(|| print(v6, ruleset, failsafe, Family::V6));
        let v4 = print(v4, ruleset, failsafe, Family::V4);
        let v6 = beside.join();
        (
            v4,
            v6.unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        )
    });
    Ok(Staged::Proved(Canonical {
        tables: [v4?, v6?],
        backend: kernel.backend(),
        version: kernel.version().to_owned(),
        read_back: false,
    }))
}

fn print(
    mut scratch: Box<dyn Kernel>,
    ruleset: &Ruleset,
    failsafe: &Failsafe,
    family: Family,
) -> Result<Wanted, KernelError> {
    if !scratch.speaks(family) {
        return Ok(Wanted {
            family,
            table: Table::default(),
            policy: None,
        });
    }
    // A rule names sets of its own family only.
    let sets = ruleset.sets.iter().filter(|set| set.name.family == family);
    let sets = set_shapes_input(sets);
    if !sets.is_empty() {
        scratch.ipset_restore(&sets)?;
    }
    scratch.restore(family, &restore_input(ruleset, failsafe, family))?;
    let table = rules(&mut *scratch, family)?.ours();
    Ok(Wanted {
        family,
        table,
        policy: None,
    })
}
