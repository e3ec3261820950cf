//! A ruleset is tried in a scratch network namespace: the kernel's refusal costs nothing
//! there, and what iptables-save prints there is what it must print of the live kernel.

use voipfleet_common::drift::Wanted;
use voipfleet_common::iptables::{Failsafe, Table, parse_save, restore_input, set_create_input};
use voipfleet_common::ruleset::{Family, Ruleset};

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

/// Tries `ruleset`. Its sets stay empty there: their elements need no proof, and cost time.
pub fn stage(
    kernel: &dyn Kernel,
    ruleset: &Ruleset,
    failsafe: &Failsafe,
) -> Result<Staged, KernelError> {
    let mut scratch = match kernel.scratch() {
        Ok(scratch) => scratch,
        Err(why) => return Ok(Staged::Untried(why)),
    };
    if !ruleset.sets.is_empty() {
        scratch.ipset_restore(&set_create_input(&ruleset.sets, false))?;
    }
    let mut print = |family| -> Result<Wanted, KernelError> {
        if !scratch.speaks(family) {
            let table = Table::default();
            return Ok(Wanted { family, table });
        }
        scratch.restore(family, &restore_input(ruleset, failsafe, family))?;
        let table = parse_save(&scratch.save(family)?)
            .map_err(|source| KernelError::Rules { family, source })?
            .ours();
        Ok(Wanted { family, table })
    };
    Ok(Staged::Proved(Canonical {
        tables: [print(Family::V4)?, print(Family::V6)?],
        backend: kernel.backend(),
        version: kernel.version().to_owned(),
        read_back: false,
    }))
}
