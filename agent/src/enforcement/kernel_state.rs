//! Reads the kernel: the output of its tools as tables and sets.

use std::collections::BTreeMap;

use voipfleet_ruleset::iptables::{KernelSet, Table, parse_save};
use voipfleet_ruleset::ruleset::Family;

use crate::kernel::{self, Kernel, KernelError, OurSets, Parts, SetObstacle};

/// Text that is worth a thread of its own to parse, in bytes.
const LARGE: usize = 256 << 10;

/// The state of the requested parts of the kernel.
#[derive(Debug, Default)]
pub struct KernelState {
    /// The filter tables of the requested families.
    pub tables: BTreeMap<Family, Result<Table, KernelError>>,
    /// Our sets; none where they were not requested.
    pub sets: Option<Result<Vec<KernelSet>, KernelError>>,
    /// What kept ipset from saving all sets, also foreign ones.
    pub set_obstacle: Option<SetObstacle>,
}

impl KernelState {
    /// The same where all of it could be read; else the first failure.
    pub(crate) fn complete(mut self) -> Result<Self, KernelError> {
        let tables = std::mem::take(&mut self.tables).into_iter();
        let read = tables.map(|(family, table)| Ok((family, Ok(table?))));
        self.tables = read.collect::<Result<_, KernelError>>()?;
        self.sets = self.sets.take().transpose()?.map(Ok);
        Ok(self)
    }

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
        let parsed = text.and_then(|text| {
            parse_save(&text).map_err(|source| KernelError::Rules { family, source })
        });
        (family, parsed)
    };
    let (large, small): (Vec<_>, Vec<_>) = printed
        .rules
        .into_iter()
        .partition(|(_, text)| text.as_ref().is_ok_and(|text| text.len() >= LARGE));
    let mut observed = std::thread::scope(|scope| {
        let started: Vec<_> = large
            .into_iter()
            .map(|text| scope.spawn(move || understand(text)))
            .collect();
        let mut observed = KernelState {
            tables: small.into_iter().map(understand).collect(),
            ..KernelState::default()
        };
        let sets = printed.sets.map(|text| ours(kernel, text, needed));
        (observed.sets, observed.set_obstacle) = split(sets);
        for thread in started {
            let understood = thread.join();
            let (family, table) =
                understood.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            observed.tables.insert(family, table);
        }
        observed
    });
    for (family, table) in &mut observed.tables {
        if let Err(error) = table {
            let error = std::mem::replace(error, KernelError::ScratchGone);
            *table = kernel::table_from(kernel, *family, Err(error));
        }
    }
    observed
}

/// The filter table of one family.
pub fn read_rules(kernel: &mut dyn Kernel, family: Family) -> Result<Table, KernelError> {
    kernel::read_table(kernel, family)
}

/// Our sets. A node without ipset has none, which suffices for a ruleset without sets.
pub fn read_sets(kernel: &mut dyn Kernel, needed: bool) -> Result<Vec<KernelSet>, KernelError> {
    let saved = kernel.ipset_save();
    ours(kernel, saved, needed).map(|ours| ours.sets)
}

fn ours(
    kernel: &mut dyn Kernel,
    saved: Result<String, KernelError>,
    needed: bool,
) -> Result<OurSets, KernelError> {
    match saved {
        Err(error) if error.is_not_installed() && !needed => Ok(OurSets::default()),
        saved => kernel::sets_from(kernel, saved),
    }
}

type Sets = Result<Vec<KernelSet>, KernelError>;

fn split(ours: Option<Result<OurSets, KernelError>>) -> (Option<Sets>, Option<SetObstacle>) {
    match ours {
        None => (None, None),
        Some(Err(error)) => (Some(Err(error)), None),
        Some(Ok(ours)) => (Some(Ok(ours.sets)), ours.obstacle),
    }
}
