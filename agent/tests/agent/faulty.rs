//! Failures of the kernel where a test wants them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use voipfleet_agent::host::exec::ExecError;
use voipfleet_agent::kernel::{
    Backend, ConntrackError, Cut, Kernel, KernelError, NoScratch, System,
};
use voipfleet_ruleset::flows::Flow;
use voipfleet_ruleset::ruleset::Family;

use crate::support::Place;

/// A kernel that refuses the nth change.
pub(crate) struct Faulty {
    pub(crate) system: System,
    changes: Arc<AtomicUsize>,
    fails_at: usize,
    /// This family's rules are refused, however often they are tried.
    pub(crate) refused: Option<Family>,
    /// The rules of both are refused while this is set.
    pub(crate) stuck: Arc<AtomicBool>,
    /// No set is changed while this is set.
    pub(crate) sets_stuck: Arc<AtomicBool>,
    pub(crate) scratch: bool,
    /// As with `ipv6.disable=1`.
    pub(crate) without_ipv6: bool,
    /// What happens right before a family's rules are restored.
    pub(crate) before_restore: Option<Box<dyn FnMut(Family) + Send>>,
    /// As without `nf_conntrack_netlink`.
    pub(crate) without_conntrack: bool,
}

impl Faulty {
    fn fails(&self) -> Result<(), KernelError> {
        if self.changes.fetch_add(1, Ordering::SeqCst) + 1 == self.fails_at {
            return Err(out_of_memory());
        }
        Ok(())
    }
}

impl Kernel for Faulty {
    fn backend(&self) -> Backend {
        self.system.backend()
    }
    fn version(&self) -> &str {
        self.system.version()
    }
    fn speaks(&self, family: Family) -> bool {
        !(self.without_ipv6 && family == Family::V6)
    }
    fn restore(&mut self, family: Family, input: &str) -> Result<(), KernelError> {
        assert!(self.speaks(family));
        self.fails()?;
        if let Some(happens) = &mut self.before_restore {
            happens(family);
        }
        if self.refused == Some(family) || self.stuck.load(Ordering::SeqCst) {
            return Err(out_of_memory());
        }
        self.system.restore(family, input)
    }
    fn save(&mut self, family: Family) -> Result<String, KernelError> {
        assert!(self.speaks(family));
        self.system.save(family)
    }
    fn lock(&mut self) -> Result<(), KernelError> {
        self.system.lock()
    }
    fn unlock(&mut self) {
        self.system.unlock();
    }
    fn ipset_restore(&mut self, input: &str) -> Result<(), KernelError> {
        self.fails()?;
        if self.sets_stuck.load(Ordering::SeqCst) {
            return Err(out_of_memory());
        }
        self.system.ipset_restore(input)
    }
    fn ipset_save(&mut self) -> Result<String, KernelError> {
        self.system.ipset_save()
    }
    fn save_other_backend(&mut self, family: Family) -> Option<String> {
        self.system.save_other_backend(family)
    }
    fn cut_flows(&mut self, picks: &dyn Fn(&Flow<'_>) -> bool) -> Result<Cut, ConntrackError> {
        if self.without_conntrack {
            let error = std::io::Error::from_raw_os_error(nix::Error::EINVAL as i32);
            return Err(ConntrackError::List(error));
        }
        self.system.cut_flows(picks)
    }
    fn scratch(&self) -> Result<Box<dyn Kernel>, NoScratch> {
        if self.scratch {
            let scratch = self.system.scratch()?;
            Ok(Box::new(Elsewhere {
                scratch,
                without_ipv6: self.without_ipv6,
            }))
        } else {
            Err(NoScratch(std::io::Error::other("not here")))
        }
    }
}

/// The scratch namespace of such a kernel.
struct Elsewhere {
    scratch: Box<dyn Kernel>,
    without_ipv6: bool,
}

impl Kernel for Elsewhere {
    fn backend(&self) -> Backend {
        self.scratch.backend()
    }
    fn version(&self) -> &str {
        self.scratch.version()
    }
    fn speaks(&self, family: Family) -> bool {
        !(self.without_ipv6 && family == Family::V6)
    }
    fn restore(&mut self, family: Family, input: &str) -> Result<(), KernelError> {
        assert!(self.speaks(family));
        self.scratch.restore(family, input)
    }
    fn save(&mut self, family: Family) -> Result<String, KernelError> {
        assert!(self.speaks(family));
        self.scratch.save(family)
    }
    fn ipset_restore(&mut self, input: &str) -> Result<(), KernelError> {
        self.scratch.ipset_restore(input)
    }
    fn ipset_save(&mut self) -> Result<String, KernelError> {
        self.scratch.ipset_save()
    }
    fn save_other_backend(&mut self, _family: Family) -> Option<String> {
        None
    }
    fn cut_flows(&mut self, picks: &dyn Fn(&Flow<'_>) -> bool) -> Result<Cut, ConntrackError> {
        self.scratch.cut_flows(picks)
    }
    fn scratch(&self) -> Result<Box<dyn Kernel>, NoScratch> {
        self.scratch.scratch()
    }
}

fn out_of_memory() -> KernelError {
    KernelError::Exec(ExecError::Refused {
        program: "iptables-restore".to_owned(),
        how: "exited with status 4".to_owned(),
        words: "out of memory".to_owned(),
    })
}

/// The `fails_at`th change fails, counted from 1.
pub(crate) fn faulty(place: &Place, fails_at: usize) -> Faulty {
    Faulty {
        system: place.system(),
        changes: Arc::default(),
        fails_at,
        refused: None,
        stuck: Arc::default(),
        sets_stuck: Arc::default(),
        scratch: true,
        without_ipv6: false,
        before_restore: None,
        without_conntrack: false,
    }
}
