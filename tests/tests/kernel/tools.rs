//! The kernel of a scratch network namespace, through the tools that the agent uses.

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, unshare};
use voipfleet_ruleset::iptables::{KernelSet, Table, parse_ipset_save, parse_save};
use voipfleet_ruleset::ruleset::Family;
use voipfleet_tests::exec::{run, run_with_input};

/// Runs `test` in a network namespace of its own, which goes when it ends.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "these tests load rules into the kernel, in network namespaces of their own: run them as \
         root, as tests/run.sh does"
    );
    // A thread of its own: what it unshares ends with it, and its children inherit it.
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace for the test");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Which of the two iptables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    /// `iptables-nft`.
    Nft,
    /// `iptables-legacy`.
    Legacy,
}

/// The kernel as one backend shows it.
pub(crate) struct Kernel(Backend);

impl Kernel {
    pub(crate) fn new(backend: Backend) -> Self {
        Self(backend)
    }

    fn program(&self, family: Family, verb: &str) -> String {
        let tool = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        let backend = match self.0 {
            Backend::Nft => "nft",
            Backend::Legacy => "legacy",
        };
        format!("/usr/sbin/{tool}-{backend}{verb}")
    }

    /// `iptables-restore --noflush`.
    pub(crate) fn restore(&self, family: Family, input: &str) -> Result<()> {
        let program = self.program(family, "-restore");
        let ended = run_with_input(&[program.as_str(), "--noflush", "-w", "20"], input)?;
        ensure!(ended.success(), "{}of this input:\n{input}", ended.output());
        Ok(())
    }

    /// One edit as a person makes it: `iptables …`, the arguments apart by blanks.
    pub(crate) fn edit(&self, family: Family, arguments: &str) -> Result<()> {
        let program = self.program(family, "");
        let argv: Vec<&str> = [program.as_str(), "-w", "20"]
            .into_iter()
            .chain(arguments.split(' '))
            .collect();
        let ended = run(&argv, &[])?;
        ensure!(ended.success(), "{arguments}: {}", ended.output());
        Ok(())
    }

    /// The text of `iptables-save -t filter`.
    pub(crate) fn save(&self, family: Family) -> Result<String> {
        let program = self.program(family, "-save");
        let ended = run(&[program.as_str(), "-t", "filter"], &[])?;
        ensure!(ended.success(), "{}", ended.output());
        Ok(ended.stdout)
    }

    /// The filter table.
    pub(crate) fn table(&self, family: Family) -> Result<Table> {
        let text = self.save(family)?;
        parse_save(&text).with_context(|| text.clone())
    }
}

/// `ipset restore`.
pub(crate) fn ipset_restore(input: &str) -> Result<()> {
    let ended = run_with_input(&["/usr/sbin/ipset", "restore"], input)?;
    ensure!(
        ended.success(),
        "{}of this input:\n{input:.2000}",
        ended.output()
    );
    Ok(())
}

/// Our sets.
pub(crate) fn saved_sets() -> Result<Vec<KernelSet>> {
    let ended = run(&["/usr/sbin/ipset", "save"], &[])?;
    ensure!(ended.success(), "{}", ended.output());
    Ok(parse_ipset_save(&ended.stdout)?)
}

/// One edit past iptables: `nft …`, the arguments apart by blanks.
pub(crate) fn nft(arguments: &str) -> Result<()> {
    let argv: Vec<&str> = ["/usr/sbin/nft"]
        .into_iter()
        .chain(arguments.split(' '))
        .collect();
    let ended = run(&argv, &[])?;
    ensure!(ended.success(), "{arguments}: {}", ended.output());
    Ok(())
}
