//! The real kernel: iptables, ip6tables and ipset of this machine.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::sync::Arc;
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use voipfleet_ruleset::flows::Flow;
use voipfleet_ruleset::ruleset::Family;

use super::lock::{self, XtablesLock};
use super::scratch::Scratch;
use super::{
    Backend, ConntrackError, Cut, Kernel, KernelError, LOCK_FILE, Listing, LockHolder, NftForm,
    NoScratch, Parts, Printed, SetFingerprints, conntrack, set_fingerprints,
};
use crate::host::clock::FleetClock;
use crate::host::exec::{Ended, ExecError, OwnProcesses, Runner, Started};

/// How long a tool waits for the xtables lock.
const LOCK_WAIT: [&str; 2] = ["-w", "10"];
/// What they say then, since 1.4.20: `Another app is currently holding the xtables lock`.
const LOCK_REFUSAL: &str = "holding the xtables lock";
/// How long we do.
const LOCK_LIMIT: Duration = Duration::from_secs(10);

/// So many sets are read one by one, each by a run of the tool: 2 ms. More of them are read with
/// all others, of which one may be large: a set of 100,000 elements takes 100 ms.
const MOST_SAVES: usize = 16;

/// The tools of this machine, in the network namespace of the thread that calls.
#[derive(Debug)]
pub struct System {
    runner: Runner,
    backend: Backend,
    version: String,
    /// Whether `iptables-restore` takes `-w`: not in 1.4.21, nor needed with nft.
    restore_waits: bool,
    ipv6: bool,
    clock: Arc<FleetClock>,
    /// The xtables lock, while it is held for the tools.
    held: Option<XtablesLock>,
    /// Restores that were started before their input is known.
    waiting: BTreeMap<Family, Started>,
    writes: u64,
}

impl Clone for System {
    fn clone(&self) -> Self {
        Self {
            runner: self.runner.clone(),
            backend: self.backend,
            version: self.version.clone(),
            restore_waits: self.restore_waits,
            ipv6: self.ipv6,
            clock: Arc::clone(&self.clock),
            held: None,
            waiting: BTreeMap::new(),
            writes: self.writes,
        }
    }
}

/// Whether the kernel has IPv6. A sandbox may forbid its sockets, so there are two checks; the
/// first makes the kernel load the module where there is one.
fn has_ipv6() -> bool {
    let unknown =
        |error: std::io::Error| error.raw_os_error() == Some(nix::Error::EAFNOSUPPORT as i32);
    !std::net::UdpSocket::bind("[::]:0").is_err_and(unknown)
        || std::path::Path::new("/proc/thread-self/net/if_inet6").exists()
}

fn iptables(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}

/// `iptables v1.8.9 (nf_tables)`; before 1.8 there was one backend, and no word for it.
fn read_version(program: &'static str, text: &str) -> Result<(Backend, String), KernelError> {
    let unknown = || KernelError::Version {
        program,
        text: text.chars().take(80).collect(),
    };
    let mut words = text.split_whitespace();
    words.next().ok_or_else(unknown)?;
    let version = words
        .next()
        .and_then(|word| word.strip_prefix('v'))
        .filter(|version| version.starts_with(|c: char| c.is_ascii_digit()))
        .ok_or_else(unknown)?;
    let backend = match words.next() {
        Some("(nf_tables)") => Backend::Nft,
        Some("(legacy)") | None => Backend::Legacy,
        Some(_) => return Err(unknown()),
    };
    Ok((backend, version.to_owned()))
}

impl System {
    /// Measures the ends of set elements by this clock.
    #[must_use]
    pub fn measured_by(mut self, clock: Arc<FleetClock>) -> Self {
        self.clock = clock;
        self
    }

    /// Finds the tools, and asks iptables what it is.
    pub fn find(runner: Runner) -> Result<Self, KernelError> {
        let ask = |program: &'static str| -> Result<(Backend, String, String), KernelError> {
            let said = runner.run(program, &["-V"], "")?.stdout;
            let (backend, version) = read_version(program, &said)?;
            Ok((backend, version, said.trim().to_owned()))
        };
        let (backend, version, v4) = ask("iptables")?;
        let ipv6 = has_ipv6();
        if ipv6 {
            match ask("ip6tables") {
                Ok((other, _, v6)) if other != backend => {
                    return Err(KernelError::Mixed { v4, v6 });
                }
                Ok(_) => {}
                // A ruleset of a site that has no IPv6 here does without.
                Err(error) if error.is_not_installed() => {
                    tracing::warn!("ip6tables is not installed");
                }
                Err(error) => return Err(error),
            }
        }
        let help = runner.run("iptables-restore", &["--help"], "")?;
        let restore_waits = help.stdout.contains("--wait") || help.words.contains("--wait");
        Ok(Self {
            runner,
            backend,
            version,
            restore_waits,
            ipv6,
            clock: Arc::default(),
            held: None,
            waiting: BTreeMap::new(),
            writes: 0,
        })
    }

    fn start_restore(&self, family: Family) -> Result<Started, ExecError> {
        let program = format!("{}-restore", iptables(family));
        let mut arguments = vec!["--noflush"];
        if self.restore_waits {
            arguments.extend(LOCK_WAIT);
        }
        let runner = match &self.held {
            Some(held) => self.runner.clone().with_lock_file(held.stand_in()),
            None => self.runner.clone(),
        };
        runner.start(&program, &arguments)
    }

    /// The processes that were started here.
    pub fn own_processes(&self) -> OwnProcesses {
        self.runner.own()
    }
}

/// A hash of what `iptables-save` printed, but for times and counters.
fn without_counters(saved: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    for line in saved.lines().filter(|line| !line.starts_with('#')) {
        // Counters of a chain come last, in brackets.
        let line = match line.strip_prefix(':') {
            Some(chain) => chain.split(" [").next().unwrap_or_default(),
            None => line,
        };
        hasher.write(line.as_bytes());
        hasher.write_u8(b'\n');
    }
    hasher.finish()
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Adds the line that a tool speaks of by its number: `line 3 failed`, `Error occurred at
/// line: 3`, `Error in line 3: …`.
fn with_line(source: ExecError, input: &str) -> KernelError {
    let ExecError::Refused { words, .. } = &source else {
        return source.into();
    };
    if words.contains(LOCK_REFUSAL) {
        return KernelError::Locked {
            waited: LOCK_LIMIT,
            holder: Box::new(LockHolder::of(LOCK_FILE.as_ref())),
        };
    }
    let number = words.split("line").skip(1).find_map(|rest| {
        let rest = rest.trim_start_matches([' ', ':']);
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<usize>().ok()
    });
    let line = number.and_then(|number| input.lines().nth(number.checked_sub(1)?));
    match line {
        // COMMIT is where legacy refuses a whole table; it does not name the cause.
        Some(line) if line != "COMMIT" => KernelError::Line {
            line: line.chars().take(300).collect(),
            source,
        },
        _ => source.into(),
    }
}

impl Kernel for System {
    fn backend(&self) -> Backend {
        self.backend
    }

    fn version(&self) -> &str {
        &self.version
    }

    fn now(&self) -> u64 {
        self.clock.now()
    }

    fn speaks(&self, family: Family) -> bool {
        self.ipv6 || family == Family::V4
    }

    fn restore(&mut self, family: Family, input: &str) -> Result<(), KernelError> {
        self.writes += 1;
        let started = match self.waiting.remove(&family) {
            Some(started) => started,
            None => self.start_restore(family)?,
        };
        started
            .finish(input)
            .map(drop)
            .map_err(|error| with_line(error, input))
    }

    fn lock(&mut self) -> Result<(), KernelError> {
        if self.backend == Backend::Legacy && lock::can_be_held(&self.version) {
            self.held = lock::take(LOCK_FILE.as_ref(), LOCK_LIMIT)?;
        }
        Ok(())
    }

    fn unlock(&mut self) {
        self.held = None;
    }

    /// The tool needs milliseconds until it reads its input, and reads the kernel only then.
    fn expect_restore(&mut self, families: &[Family]) {
        if self.backend == Backend::Legacy {
            return; // quick to start, and a release of its lock may mean no change
        }
        self.waiting.retain(|family, _| families.contains(family));
        for family in families {
            if !self.waiting.contains_key(family)
                && self.speaks(*family)
                && let Ok(started) = self.start_restore(*family)
            {
                self.waiting.insert(*family, started);
            }
        }
    }

    fn save(&mut self, family: Family) -> Result<String, KernelError> {
        let program = format!("{}-save", iptables(family));
        Ok(self.runner.run(&program, &["-t", "filter"], "")?.stdout)
    }

    fn list(
        &mut self,
        family: Family,
        chain: Option<&str>,
        rule: Option<usize>,
    ) -> Result<Listing, KernelError> {
        // Legacy takes its lock even to print. What it prints is as good without, as that of
        // iptables-save, which takes none.
        let stand_in = match (&self.held, self.backend) {
            (None, Backend::Legacy) => lock::stand_in(),
            _ => None,
        };
        let lock_file = match (&self.held, &stand_in) {
            (Some(held), _) => Some(held.stand_in()),
            (None, file) => file.as_ref().map(lock::path_of),
        };
        let runner = lock_file
            .into_iter()
            .fold(self.runner.clone(), Runner::with_lock_file);
        let rule = rule.map(|number| number.to_string());
        let mut arguments = vec!["-w", "-t", "filter", "-S"];
        arguments.extend(chain);
        arguments.extend(rule.as_deref());
        let program = iptables(family);
        let Ended { output, failed } = runner.start(program, &arguments)?.end("")?;
        Ok(Listing {
            text: output.stdout,
            refused: failed.map(|how| ExecError::Refused {
                program: program.to_owned(),
                how,
                words: output.words,
            }),
        })
    }

    fn nft_list(&mut self, family: Family, form: NftForm) -> Result<String, KernelError> {
        let form = match form {
            NftForm::Json => "-j",
            NftForm::Text => "-a",
        };
        let family = match family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        };
        let arguments = ["-s", form, "list", "table", family, "filter"];
        Ok(self.runner.run("nft", &arguments, "")?.stdout)
    }

    fn ipset_restore(&mut self, input: &str) -> Result<(), KernelError> {
        self.writes += 1;
        self.runner
            .run("ipset", &["restore"], input)
            .map(drop)
            .map_err(|error| with_line(error, input))
    }

    fn ipset_save(&mut self) -> Result<String, KernelError> {
        Ok(self.runner.run("ipset", &["save"], "")?.stdout)
    }

    fn ipset_names(&mut self) -> Result<String, KernelError> {
        Ok(self.runner.run("ipset", &["list", "-n"], "")?.stdout)
    }

    fn ipset_header(&mut self, name: &str) -> Result<String, KernelError> {
        Ok(self.runner.run("ipset", &["list", "-t", name], "")?.stdout)
    }

    fn ipset_save_of(&mut self, names: &[String]) -> Result<String, KernelError> {
        // One that this ipset does not understand keeps it from saving all.
        if names.len() > MOST_SAVES
            && let Ok(all) = self.ipset_save()
        {
            return Ok(all);
        }
        let mut all = String::new();
        for name in names {
            all.push_str(&self.runner.run("ipset", &["save", name], "")?.stdout);
        }
        Ok(all)
    }

    fn print(&mut self, parts: Parts) -> Printed {
        let families = parts.families(|family| self.speaks(family));
        // Threads inherit the network namespace of the one that starts them.
        std::thread::scope(|scope| {
            let started: Vec<_> = families
                .into_iter()
                .map(|family| {
                    let mut system = self.clone();
                    (family, scope.spawn(move || system.save(family)))
                })
                .collect();
            let sets = parts.sets.then(|| self.ipset_save());
            let rules = started
                .into_iter()
                .map(|(family, saving)| (family, joined(saving)))
                .collect();
            Printed { rules, sets }
        })
    }

    fn writes(&self) -> u64 {
        self.writes
    }

    fn set_fingerprints(&mut self) -> Option<SetFingerprints> {
        set_fingerprints::read().ok()
    }

    fn rules_fingerprint(&mut self, family: Family) -> Option<u64> {
        if self.backend == Backend::Nft || !self.speaks(family) {
            return None;
        }
        self.save(family).ok().map(|saved| without_counters(&saved))
    }

    fn save_other_backend(&mut self, family: Family) -> Option<String> {
        let other = match self.backend {
            Backend::Nft => "legacy",
            Backend::Legacy => "nft",
        };
        // Asking the legacy tool makes the kernel load and register its tables: only where
        // they are there already.
        if self.backend == Backend::Nft {
            let names = match family {
                Family::V4 => "/proc/thread-self/net/ip_tables_names",
                Family::V6 => "/proc/thread-self/net/ip6_tables_names",
            };
            let names = std::fs::read_to_string(names).ok()?;
            names.lines().find(|name| *name == "filter")?;
        }
        let program = format!("{}-{other}-save", iptables(family));
        let saved = self.runner.run(&program, &["-t", "filter"], "").ok()?;
        Some(saved.stdout)
    }

    fn cut_flows(&mut self, picks: &dyn Fn(&Flow<'_>) -> bool) -> Result<Cut, ConntrackError> {
        conntrack::cut(picks)
    }

    fn scratch(&self) -> Result<Box<dyn Kernel>, NoScratch> {
        Ok(Box::new(Scratch::new(self.clone())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_output_of_every_supported_iptables_is_parsed() {
        for (text, backend, version) in [
            ("iptables v1.8.9 (nf_tables)\n", Backend::Nft, "1.8.9"),
            ("iptables v1.8.9 (legacy)\n", Backend::Legacy, "1.8.9"),
            ("iptables v1.4.21\n", Backend::Legacy, "1.4.21"),
        ] {
            let read = read_version("iptables", text).unwrap();
            assert_eq!(read, (backend, version.to_owned()), "{text}");
        }
        for bad in ["", "iptables", "iptables 1.8.9", "iptables v1.8.9 (what)"] {
            assert!(read_version("iptables", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn refusal_quotes_the_offending_line() {
        let refused = |words: &str| ExecError::Refused {
            program: "iptables-restore".to_owned(),
            how: "exited with status 1".to_owned(),
            words: words.to_owned(),
        };
        let input = "*filter\n:VF-INPUT - [0:0]\n-A VF-INPUT -m nosuch\nCOMMIT\n";
        for words in [
            "no such match; Error occurred at line: 3",
            "iptables-restore: line 3 failed",
            "ipset v7.17: Error in line 3: bad",
        ] {
            let error = with_line(refused(words), input).to_string();
            assert!(
                error.ends_with("that line is: -A VF-INPUT -m nosuch"),
                "{error}"
            );
        }
        for words in [
            "line 4 failed",
            "line 0 failed",
            "line 99 failed",
            "no number",
        ] {
            assert!(matches!(
                with_line(refused(words), input),
                KernelError::Exec(_)
            ));
        }
    }
}
