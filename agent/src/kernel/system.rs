//! The real kernel: iptables, ip6tables and ipset of this machine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use voipfleet_ruleset::flows::Flow;
use voipfleet_ruleset::ruleset::Family;

use super::lock::{self, XtablesLock};
use super::scratch::Scratch;
use super::{
    Backend, ConntrackError, Cut, Kernel, KernelError, LOCK_FILE, NoScratch, Parts, Printed,
    conntrack,
};
use crate::host::clock::FleetClock;
use crate::host::exec::{ExecError, OwnProcesses, Runner, Started};

/// How long a tool waits for the xtables lock.
const LOCK_WAIT: [&str; 2] = ["-w", "10"];
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
            let (backend_of_v6, _, v6) = ask("ip6tables")?;
            if backend != backend_of_v6 {
                return Err(KernelError::Mixed { v4, v6 });
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

    fn ipset_restore(&mut self, input: &str) -> Result<(), KernelError> {
        self.runner
            .run("ipset", &["restore"], input)
            .map(drop)
            .map_err(|error| with_line(error, input))
    }

    fn ipset_save(&mut self) -> Result<String, KernelError> {
        Ok(self.runner.run("ipset", &["save"], "")?.stdout)
    }

    fn ipset_save_of(&mut self, names: &[String]) -> Result<String, KernelError> {
        if names.len() > MOST_SAVES {
            return self.ipset_save();
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
