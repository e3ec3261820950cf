//! The preflight: a ruleset is loaded in a scratch network namespace. A refusal costs nothing
//! there, and what iptables-save prints there is the canonical form of the rules.

use voipfleet_ruleset::drift::Wanted;
use voipfleet_ruleset::iptables::{Failsafe, Table, restore_input, set_shapes_input};
use voipfleet_ruleset::ruleset::{Family, Ruleset};

use super::kernel_state::read_rules;
use crate::kernel::{Kernel, KernelError, NoScratch};
use crate::ledger::Canonical;

/// The result of a preflight.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one for each push, and it is moved twice"
)]
pub enum Preflight {
    /// The kernel accepts the ruleset; this is its canonical form.
    Passed(Canonical),
    /// There was no namespace to try it in.
    Skipped(NoScratch),
}

/// Tries `ruleset`. Each family has a namespace of its own, so that neither waits for the
/// transaction of the other. Sets stay empty there: their elements cost time, and prove nothing.
pub fn preflight(
    kernel: &dyn Kernel,
    ruleset: &Ruleset,
    failsafe: &Failsafe,
) -> Result<Preflight, KernelError> {
    let [v4, v6] = match (kernel.scratch(), kernel.scratch()) {
        (Ok(v4), Ok(v6)) => [v4, v6],
        (Err(why), _) | (_, Err(why)) => return Ok(Preflight::Skipped(why)),
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
    Ok(Preflight::Passed(Canonical {
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
    if !scratch.speaks(family) || !ruleset.filters(family) {
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
    let table = read_rules(&mut *scratch, family)?.ours();
    Ok(Wanted {
        family,
        table,
        policy: None,
    })
}
