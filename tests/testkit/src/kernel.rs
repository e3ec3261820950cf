//! A kernel whose calls a test sees, and can let fail.

use voipfleet_agent::kernel::{
    Backend, ConntrackError, Cut, Kernel, KernelError, Listing, NftForm, NoScratch, Parts, Printed,
    SetFingerprints,
};
use voipfleet_ruleset::flows::Flow;
use voipfleet_ruleset::ruleset::Family;

/// A call to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call<'a> {
    Restore(Family, &'a str),
    Save(Family),
    /// A way around `Save`: iptables or nft lists the table or a part of it.
    List(Family),
    RestoreSets(&'a str),
    SaveSets,
    SaveSetsOf(&'a [String]),
    /// The names of the sets, or the header of one.
    ListSets,
    /// Only hooks after the call see it.
    CutFlows,
}

impl Call<'_> {
    /// Whether it changes something.
    pub fn is_write(&self) -> bool {
        matches!(self, Call::Restore(..) | Call::RestoreSets(_))
    }
}

type Before<K> = Box<dyn FnMut(&mut K, &Call<'_>) -> Result<(), KernelError> + Send>;
type After = Box<dyn FnMut(&Call<'_>) + Send>;

/// Passes every call on to a kernel, with hooks around those of [`Call`].
///
/// The parts of a `print` are calls of their own: the hooks before them run before the first of
/// them, and those after them when all have ended, sets last.
pub struct Intercept<K: Kernel + ?Sized + 'static> {
    pub kernel: Box<K>,
    before: Vec<Before<K>>,
    after: Vec<After>,
    /// Speaks no IPv6, as with `ipv6.disable=1`.
    pub without_ipv6: bool,
    /// Makes no scratch namespace.
    pub without_scratch: bool,
    /// Lists no flows, as without `nf_conntrack_netlink`.
    pub without_conntrack: bool,
}

impl<K: Kernel + ?Sized + 'static> Intercept<K> {
    pub fn new(kernel: Box<K>) -> Self {
        Self {
            kernel,
            before: Vec::new(),
            after: Vec::new(),
            without_ipv6: false,
            without_scratch: false,
            without_conntrack: false,
        }
    }

    /// Has `hook` run before each call, on the kernel beneath. Its error is the answer, and the
    /// kernel is not called.
    #[must_use]
    pub fn before(
        mut self,
        hook: impl FnMut(&mut K, &Call<'_>) -> Result<(), KernelError> + Send + 'static,
    ) -> Self {
        self.before.push(Box::new(hook));
        self
    }

    /// Has `hook` run after each call that reached the kernel.
    #[must_use]
    pub fn after(mut self, hook: impl FnMut(&Call<'_>) + Send + 'static) -> Self {
        self.after.push(Box::new(hook));
        self
    }

    fn around<T>(
        &mut self,
        call: Call<'_>,
        run: impl FnOnce(&mut K) -> Result<T, KernelError>,
    ) -> Result<T, KernelError> {
        self.run_before(&call)?;
        let answer = run(&mut self.kernel);
        self.run_after(&call);
        answer
    }

    fn run_before(&mut self, call: &Call<'_>) -> Result<(), KernelError> {
        if let Call::Restore(family, _) | Call::Save(family) = call {
            assert!(self.speaks(*family), "{call:?}");
        }
        for hook in &mut self.before {
            hook(&mut self.kernel, call)?;
        }
        Ok(())
    }

    fn run_after(&mut self, call: &Call<'_>) {
        for hook in &mut self.after {
            hook(call);
        }
    }
}

impl<K: Kernel + ?Sized + 'static> Kernel for Intercept<K> {
    fn backend(&self) -> Backend {
        self.kernel.backend()
    }
    fn version(&self) -> &str {
        self.kernel.version()
    }
    fn now(&self) -> u64 {
        self.kernel.now()
    }
    fn speaks(&self, family: Family) -> bool {
        !(self.without_ipv6 && family == Family::V6) && self.kernel.speaks(family)
    }
    fn restore(&mut self, family: Family, input: &str) -> Result<(), KernelError> {
        self.around(Call::Restore(family, input), |kernel| {
            kernel.restore(family, input)
        })
    }
    fn lock(&mut self) -> Result<(), KernelError> {
        self.kernel.lock()
    }
    fn unlock(&mut self) {
        self.kernel.unlock();
    }
    fn expect_restore(&mut self, families: &[Family]) {
        self.kernel.expect_restore(families);
    }
    fn save(&mut self, family: Family) -> Result<String, KernelError> {
        self.around(Call::Save(family), |kernel| kernel.save(family))
    }
    fn list(
        &mut self,
        family: Family,
        chain: Option<&str>,
        rule: Option<usize>,
    ) -> Result<Listing, KernelError> {
        self.around(Call::List(family), |kernel| {
            kernel.list(family, chain, rule)
        })
    }
    fn nft_list(&mut self, family: Family, form: NftForm) -> Result<String, KernelError> {
        self.around(Call::List(family), |kernel| kernel.nft_list(family, form))
    }
    fn ipset_names(&mut self) -> Result<String, KernelError> {
        self.around(Call::ListSets, Kernel::ipset_names)
    }
    fn ipset_header(&mut self, name: &str) -> Result<String, KernelError> {
        self.around(Call::ListSets, |kernel| kernel.ipset_header(name))
    }
    fn ipset_restore(&mut self, input: &str) -> Result<(), KernelError> {
        self.around(Call::RestoreSets(input), |kernel| {
            kernel.ipset_restore(input)
        })
    }
    fn ipset_save(&mut self) -> Result<String, KernelError> {
        self.around(Call::SaveSets, Kernel::ipset_save)
    }
    fn ipset_save_of(&mut self, names: &[String]) -> Result<String, KernelError> {
        self.around(Call::SaveSetsOf(names), |kernel| {
            kernel.ipset_save_of(names)
        })
    }
    fn print(&mut self, parts: Parts) -> Printed {
        let mut allowed = Parts {
            v4: false,
            v6: false,
            sets: false,
        };
        let mut refused = Printed::default();
        for family in parts.families(|family| self.speaks(family)) {
            match self.run_before(&Call::Save(family)) {
                Ok(()) if family == Family::V4 => allowed.v4 = true,
                Ok(()) => allowed.v6 = true,
                Err(error) => refused.rules.push((family, Err(error))),
            }
        }
        if parts.sets {
            match self.run_before(&Call::SaveSets) {
                Ok(()) => allowed.sets = true,
                Err(error) => refused.sets = Some(Err(error)),
            }
        }
        let mut printed = self.kernel.print(allowed);
        for family in allowed.families(|_| true) {
            self.run_after(&Call::Save(family));
        }
        if allowed.sets {
            self.run_after(&Call::SaveSets);
        }
        printed.rules.append(&mut refused.rules);
        printed.sets = printed.sets.or(refused.sets);
        printed
    }
    fn writes(&self) -> u64 {
        self.kernel.writes()
    }
    fn set_fingerprints(&mut self) -> Option<SetFingerprints> {
        self.kernel.set_fingerprints()
    }
    fn rules_fingerprint(&mut self, family: Family) -> Option<u64> {
        self.kernel.rules_fingerprint(family)
    }
    fn save_other_backend(&mut self, family: Family) -> Option<String> {
        self.kernel.save_other_backend(family)
    }
    fn cut_flows(&mut self, picks: &dyn Fn(&Flow<'_>) -> bool) -> Result<Cut, ConntrackError> {
        if self.without_conntrack {
            // EINVAL is what the kernel answers then.
            return Err(ConntrackError::List(std::io::Error::from_raw_os_error(22)));
        }
        let cut = self.kernel.cut_flows(picks);
        self.run_after(&Call::CutFlows);
        cut
    }
    fn scratch(&self) -> Result<Box<dyn Kernel>, NoScratch> {
        if self.without_scratch {
            return Err(NoScratch(std::io::Error::other("refused by the test")));
        }
        let mut scratch = Intercept::new(self.kernel.scratch()?);
        scratch.without_ipv6 = self.without_ipv6;
        Ok(Box::new(scratch))
    }
}
