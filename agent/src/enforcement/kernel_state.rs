//! Reads the kernel: the output of its tools as tables and sets.

use std::collections::BTreeMap;

use voipfleet_ruleset::iptables::{KernelSet, Table, parse_ipset_save, parse_save};
use voipfleet_ruleset::ruleset::Family;

use crate::kernel::{Kernel, KernelError, Parts};

/// Text that is worth a thread of its own to parse, in bytes.
const LARGE: usize = 256 << 10;

/// The state of the requested parts of the kernel.
#[derive(Debug, Default)]
pub struct KernelState {
    /// The filter tables of the requested families.
    pub tables: BTreeMap<Family, Result<Table, KernelError>>,
    /// Our sets; none where they were not requested.
    pub sets: Option<Result<Vec<KernelSet>, KernelError>>,
}

impl KernelState {
    /// Takes the table of one family; reads it where that was not requested before.
    pub(crate) fn table(
        &mut self,
        kernel: &mut dyn Kernel,
        family: Family,
    ) -> Result<Table, KernelError> {
        let read = self.tables.remove(&family);
        read.unwrap_or_else(|| read_rules(kernel, family))
    }

    /// Takes the sets; reads them where that was not requested before.
    pub(crate) fn sets(
        &mut self,
        kernel: &mut dyn Kernel,
        needed: bool,
    ) -> Result<Vec<KernelSet>, KernelError> {
        let read = self.sets.take();
        read.unwrap_or_else(|| read_sets(kernel, needed))
    }
}

/// Reads `parts` of the kernel. A node without ipset has no sets, which is an error only where they
/// are `needed`.
pub fn read_kernel(kernel: &mut dyn Kernel, parts: Parts, needed: bool) -> KernelState {
    let printed = kernel.print(parts);
    let understand = |(family, text): (Family, Result<String, KernelError>)| {
        (family, text.and_then(|text| table(family, &text)))
    };
    let (large, small): (Vec<_>, Vec<_>) = printed
        .rules
        .into_iter()
        .partition(|(_, text)| text.as_ref().is_ok_and(|text| text.len() >= LARGE));
    std::thread::scope(|scope| {
        let started: Vec<_> = large
            .into_iter()
            .map(|text| scope.spawn(move || understand(text)))
            .collect();
        let mut observed = KernelState {
            tables: small.into_iter().map(understand).collect(),
            sets: printed.sets.map(|text| ours(text, needed)),
        };
        for thread in started {
            let understood = thread.join();
            let (family, table) =
                understood.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            observed.tables.insert(family, table);
        }
        observed
    })
}

/// The filter table of one family.
pub fn read_rules(kernel: &mut dyn Kernel, family: Family) -> Result<Table, KernelError> {
    table(family, &kernel.save(family)?)
}

/// Our sets. A node without ipset has none, which suffices for a ruleset without sets.
pub fn read_sets(kernel: &mut dyn Kernel, needed: bool) -> Result<Vec<KernelSet>, KernelError> {
    ours(kernel.ipset_save(), needed)
}

fn table(family: Family, text: &str) -> Result<Table, KernelError> {
    parse_save(text).map_err(|source| KernelError::Rules { family, source })
}

fn ours(text: Result<String, KernelError>, needed: bool) -> Result<Vec<KernelSet>, KernelError> {
    match text {
        Ok(text) => Ok(parse_ipset_save(&text)?),
        Err(error) if error.is_not_installed() && !needed => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
