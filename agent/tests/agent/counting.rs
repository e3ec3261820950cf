//! How often the agent reads and writes the kernel.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use voipfleet_agent::kernel::{
    Backend, ConntrackError, Cut, Kernel, KernelError, NoScratch, System,
};
use voipfleet_ruleset::flows::Flow;
use voipfleet_ruleset::ruleset::Family;

use crate::reconciler::Agent;
use crate::support::Place;

/// Whole looks, and tools that changed something, both since the start.
#[derive(Clone, Default)]
pub(crate) struct Counts {
    pub(crate) looks: Arc<AtomicUsize>,
    pub(crate) writes: Arc<AtomicUsize>,
}

/// An agent whose work is counted.
pub(crate) fn counted(place: &Place, poll: Duration) -> (Agent, Counts) {
    let system = place.system();
    let own = system.own_processes();
    let counts = Counts::default();
    let kernel = Counting {
        system,
        counts: counts.clone(),
    };
    let agent = Agent::start_with(place, poll, Box::new(kernel), own);
    (agent, counts)
}

struct Counting {
    system: System,
    counts: Counts,
}

impl Kernel for Counting {
    fn backend(&self) -> Backend {
        self.system.backend()
    }
    fn version(&self) -> &str {
        self.system.version()
    }
    fn speaks(&self, family: Family) -> bool {
        self.system.speaks(family)
    }
    fn restore(&mut self, family: Family, input: &str) -> Result<(), KernelError> {
        self.counts.writes.fetch_add(1, Ordering::SeqCst);
        self.system.restore(family, input)
    }
    fn save(&mut self, family: Family) -> Result<String, KernelError> {
        self.system.save(family)
    }
    fn ipset_restore(&mut self, input: &str) -> Result<(), KernelError> {
        self.counts.writes.fetch_add(1, Ordering::SeqCst);
        self.system.ipset_restore(input)
    }
    /// The last of a whole look.
    fn ipset_save(&mut self) -> Result<String, KernelError> {
        let saved = self.system.ipset_save();
        self.counts.looks.fetch_add(1, Ordering::SeqCst);
        saved
    }
    fn save_other_backend(&mut self, family: Family) -> Option<String> {
        self.system.save_other_backend(family)
    }
    fn cut_flows(&mut self, picks: &dyn Fn(&Flow<'_>) -> bool) -> Result<Cut, ConntrackError> {
        self.system.cut_flows(picks)
    }
    fn scratch(&self) -> Result<Box<dyn Kernel>, NoScratch> {
        self.system.scratch()
    }
}
