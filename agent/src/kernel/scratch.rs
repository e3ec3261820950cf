//! An empty network namespace in which a ruleset is tried before the node runs it.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use nix::sched::{CloneFlags, unshare};
use voipfleet_ruleset::flows::Flow;
use voipfleet_ruleset::ruleset::Family;

use super::{
    Backend, ConntrackError, Cut, Kernel, KernelError, Listing, NftForm, NoScratch, Parts, Printed,
};

type Job<K> = Box<dyn FnOnce(&mut K) + Send>;

/// A thread that left the network namespace of the process, and runs the tools where it went.
/// The kernel takes the namespace away when the thread ends.
pub(super) struct Scratch<K> {
    jobs: Option<SyncSender<Job<K>>>,
    thread: Option<std::thread::JoinHandle<()>>,
    kernel: K,
}

impl<K: Kernel + Clone + 'static> Scratch<K> {
    pub(super) fn new(kernel: K) -> Result<Self, NoScratch> {
        let (jobs, todo) = sync_channel::<Job<K>>(1);
        let (made, wait) = sync_channel(1);
        let theirs = kernel.clone();
        let thread = std::thread::Builder::new()
            .name("scratch".to_owned())
            .spawn(move || {
                // Only this thread moves, and only it and its children ever see the place.
                let entered = unshare(CloneFlags::CLONE_NEWNET);
                let ready = entered.is_ok();
                if made.send(entered).is_ok() && ready {
                    work(&todo, theirs);
                }
            })
            .map_err(NoScratch)?;
        match wait.recv() {
            Ok(Ok(())) => Ok(Self {
                jobs: Some(jobs),
                thread: Some(thread),
                kernel,
            }),
            Ok(Err(error)) => Err(NoScratch(error.into())),
            Err(_) => Err(NoScratch(std::io::Error::other("its thread ended"))),
        }
    }

    fn ask<T: Send + 'static>(
        &mut self,
        job: impl FnOnce(&mut K) -> Result<T, KernelError> + Send + 'static,
    ) -> Result<T, KernelError> {
        let (answer, wait) = sync_channel(1);
        let job: Job<K> = Box::new(move |kernel| {
            let _listening = answer.send(job(kernel));
        });
        let jobs = self.jobs.as_ref().ok_or(KernelError::ScratchGone)?;
        jobs.send(job).map_err(|_| KernelError::ScratchGone)?;
        wait.recv().map_err(|_| KernelError::ScratchGone)?
    }
}

/// Does `work` in an empty network namespace, which is gone afterwards. Programs that it starts run
/// there.
pub fn in_empty_namespace<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, NoScratch> {
    let entered = std::thread::scope(|scope| {
        let thread = scope.spawn(|| unshare(CloneFlags::CLONE_NEWNET).map(|()| work()));
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    entered.map_err(|error| NoScratch(error.into()))
}

fn work<K>(todo: &Receiver<Job<K>>, mut kernel: K) {
    while let Ok(job) = todo.recv() {
        job(&mut kernel);
    }
}

impl<K> Drop for Scratch<K> {
    fn drop(&mut self) {
        self.jobs = None; // ends the thread's loop
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

impl<K: Kernel + Clone + 'static> Kernel for Scratch<K> {
    fn backend(&self) -> Backend {
        self.kernel.backend()
    }

    fn version(&self) -> &str {
        self.kernel.version()
    }

    fn speaks(&self, family: Family) -> bool {
        self.kernel.speaks(family)
    }

    fn restore(&mut self, family: Family, input: &str) -> Result<(), KernelError> {
        let input = input.to_owned();
        self.ask(move |kernel| kernel.restore(family, &input))
    }

    fn save(&mut self, family: Family) -> Result<String, KernelError> {
        self.ask(move |kernel| kernel.save(family))
    }

    fn list(
        &mut self,
        family: Family,
        chain: Option<&str>,
        rule: Option<usize>,
    ) -> Result<Listing, KernelError> {
        let chain = chain.map(str::to_owned);
        self.ask(move |kernel| kernel.list(family, chain.as_deref(), rule))
    }

    fn nft_list(&mut self, family: Family, form: NftForm) -> Result<String, KernelError> {
        self.ask(move |kernel| kernel.nft_list(family, form))
    }

    fn ipset_restore(&mut self, input: &str) -> Result<(), KernelError> {
        let input = input.to_owned();
        self.ask(move |kernel| kernel.ipset_restore(&input))
    }

    fn ipset_save(&mut self) -> Result<String, KernelError> {
        self.ask(K::ipset_save)
    }

    fn ipset_names(&mut self) -> Result<String, KernelError> {
        self.ask(K::ipset_names)
    }

    fn ipset_header(&mut self, name: &str) -> Result<String, KernelError> {
        let name = name.to_owned();
        self.ask(move |kernel| kernel.ipset_header(&name))
    }

    fn ipset_save_of(&mut self, names: &[String]) -> Result<String, KernelError> {
        let names = names.to_vec();
        self.ask(move |kernel| kernel.ipset_save_of(&names))
    }

    fn print(&mut self, parts: Parts) -> Printed {
        let printed = self.ask(move |kernel| Ok(kernel.print(parts)));
        printed.unwrap_or_else(|_| Printed {
            rules: parts
                .families(|family| self.speaks(family))
                .into_iter()
                .map(|family| (family, Err(KernelError::ScratchGone)))
                .collect(),
            sets: parts.sets.then_some(Err(KernelError::ScratchGone)),
        })
    }

    fn save_other_backend(&mut self, _family: Family) -> Option<String> {
        None // no other program was ever there
    }

    fn cut_flows(&mut self, _picks: &dyn Fn(&Flow<'_>) -> bool) -> Result<Cut, ConntrackError> {
        Ok(Cut::default()) // no packet was ever there
    }

    fn scratch(&self) -> Result<Box<dyn Kernel>, NoScratch> {
        self.kernel.scratch()
    }
}
