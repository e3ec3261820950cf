//! The author of a change: the process that the kernel names, and the one that started it, read
//! while they live.

use voipfleet_proto::v1 as pb;

use crate::host::{Process, Processes};

/// Ancestors that are followed: a job of cron through shells and sudo has five.
const MAX_ANCESTORS: usize = 16;

/// Commands that are not the author of a change: firewall tools, shells, and wrappers. Their names
/// are cut to 15 bytes, as in the kernel.
const WRAPPERS: [&str; 40] = [
    "iptables",
    "ip6tables",
    "iptables-restor",
    "ip6tables-resto",
    "iptables-nft",
    "ip6tables-nft",
    "iptables-nft-re",
    "ip6tables-nft-r",
    "iptables-legacy",
    "ip6tables-legac",
    "xtables-nft-mul",
    "xtables-legacy-",
    "nft",
    "ipset",
    "sh",
    "bash",
    "dash",
    "ash",
    "ksh",
    "zsh",
    "busybox",
    "sudo",
    "su",
    "doas",
    "runuser",
    "env",
    "nice",
    "ionice",
    "chrt",
    "nohup",
    "setsid",
    "time",
    "timeout",
    "flock",
    "xargs",
    "script",
    "run-parts",
    "ip",
    "nsenter",
    "unshare",
];

/// The process that changed the rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Author {
    /// Itself: id and command from the kernel, the rest as long as it could be read.
    pub process: Process,
    /// The first of its ancestors that is neither a firewall tool nor a shell.
    pub started_by: Option<Process>,
}

impl Author {
    /// One of which only id and command are known.
    pub fn named(pid: u32, comm: String) -> Self {
        Self {
            process: Process {
                pid,
                comm,
                ..Process::default()
            },
            started_by: None,
        }
    }

    /// Adds what can still be read about it. Quick: it may end in a moment.
    #[must_use]
    pub fn looked_up(self, processes: &Processes) -> Self {
        let Self { process, .. } = self;
        // Its id may be another's by now.
        let Some((parent, _)) = processes
            .parent_and_comm(process.pid)
            .filter(|(_, comm)| *comm == process.comm)
        else {
            return Self {
                process,
                started_by: None,
            };
        };
        // The parent first: when the process is gone, so is the way to it.
        let starter = starter(processes, parent);
        let seen = processes
            .read(process.pid)
            .filter(|seen| seen.comm == process.comm);
        Self {
            process: seen.unwrap_or(process),
            started_by: starter.and_then(|pid| processes.read(pid)),
        }
    }

    /// The command that an operator will know: of what started it, where that is known.
    pub fn comm(&self) -> &str {
        let known = self.started_by.as_ref().unwrap_or(&self.process);
        &known.comm
    }

    /// Describes the process that an operator will know.
    pub fn describe(&self) -> String {
        let known = self.started_by.as_ref().unwrap_or(&self.process);
        let mut words = vec![format!("pid {}", known.pid)];
        for (what, word) in [
            ("unit ", &known.unit),
            ("user ", &known.user),
            ("", &known.executable),
        ] {
            if !word.is_empty() {
                words.push(format!("{what}{word}"));
            }
        }
        format!("{} ({})", known.comm, words.join(", "))
    }

    pub fn to_wire(&self) -> pb::Author {
        let Process {
            pid,
            comm,
            executable,
            unit,
            user,
        } = self.process.clone();
        pb::Author {
            pid,
            comm,
            executable,
            unit,
            user,
            started_by: self.started_by.clone().map(|starter| pb::Process {
                pid: starter.pid,
                comm: starter.comm,
                executable: starter.executable,
                unit: starter.unit,
                user: starter.user,
            }),
        }
    }
}

/// The first ancestor from `pid` on that is not a wrapper; else the last one below the first
/// process of the machine.
fn starter(processes: &Processes, mut pid: u32) -> Option<u32> {
    let mut last = None;
    for _ in 0..MAX_ANCESTORS {
        if pid <= 1 {
            break;
        }
        let Some((parent, comm)) = processes.parent_and_comm(pid) else {
            break;
        };
        last = Some(pid);
        if !WRAPPERS.contains(&comm.as_str()) {
            break;
        }
        pid = parent;
    }
    last
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::host::Root;

    struct Fake {
        _folder: tempfile::TempDir,
        root: Root,
    }

    impl Fake {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let root = Root::new(folder.path());
            fs::create_dir_all(root.path("/etc")).unwrap();
            let passwd = "root:x:0:0:root:/root:/bin/bash\nada:x:1005:1005::/home/ada:/bin/sh\n";
            fs::write(root.path("/etc/passwd"), passwd).unwrap();
            let fake = Self {
                _folder: folder,
                root,
            };
            fake.process(1, 0, "systemd", 0, "init.scope");
            fake
        }

        fn process(&self, pid: u32, parent: u32, comm: &str, uid: u32, unit: &str) {
            let folder = self.root.path(&format!("/proc/{pid}"));
            fs::create_dir_all(&folder).unwrap();
            let stat = format!("{pid} ({comm}) S {parent} {pid} {pid} 0 -1\n");
            fs::write(folder.join("stat"), stat).unwrap();
            let status = format!("Name:\t{comm}\nUid:\t{uid}\t0\t0\t0\n");
            fs::write(folder.join("status"), status).unwrap();
            fs::write(folder.join("cgroup"), format!("0::/system.slice/{unit}\n")).unwrap();
            symlink(format!("/usr/sbin/{comm}"), folder.join("exe")).unwrap();
        }

        fn author(&self, pid: u32, comm: &str) -> Author {
            let processes = Processes::new(&self.root);
            Author::named(pid, comm.to_owned()).looked_up(&processes)
        }
    }

    #[test]
    fn author_behind_a_cron_job_is_cron() {
        let fake = Fake::new();
        fake.process(500, 1, "cron", 0, "cron.service");
        fake.process(700, 500, "cron", 0, "cron.service");
        fake.process(701, 700, "sh", 0, "cron.service");
        fake.process(702, 701, "iptables", 0, "cron.service");
        let author = fake.author(702, "iptables");
        assert_eq!(author.process.executable, "/usr/sbin/iptables");
        assert_eq!(author.process.unit, "cron.service");
        let starter = author.started_by.clone().unwrap();
        assert_eq!((starter.pid, starter.comm.as_str()), (700, "cron"));
        assert_eq!(
            (starter.user.as_str(), starter.unit.as_str()),
            ("root", "cron.service")
        );
        assert_eq!(author.comm(), "cron");
    }

    #[test]
    fn author_behind_sudo_is_the_login_session() {
        let fake = Fake::new();
        fake.process(800, 1, "sshd) x", 1005, "session-3.scope");
        fake.process(801, 800, "bash", 1005, "session-3.scope");
        fake.process(802, 801, "sudo", 0, "session-3.scope");
        fake.process(803, 802, "nft", 0, "session-3.scope");
        let starter = fake.author(803, "nft").started_by.unwrap();
        assert_eq!(
            (starter.comm.as_str(), starter.user.as_str()),
            ("sshd) x", "ada")
        );
        assert_eq!(starter.unit, "session-3.scope");
    }

    #[test]
    fn service_that_runs_the_tool_itself_has_no_starter() {
        let fake = Fake::new();
        fake.process(900, 1, "iptables-restor", 0, "iptables.service");
        let author = fake.author(900, "iptables-restor");
        assert_eq!(author.started_by, None);
        assert_eq!(author.process.unit, "iptables.service");
        // A shell is better than nothing.
        fake.process(901, 1, "sh", 4711, "firewall.service");
        fake.process(902, 901, "iptables", 0, "firewall.service");
        let starter = fake.author(902, "iptables").started_by.unwrap();
        assert_eq!(
            (starter.comm.as_str(), starter.user.as_str()),
            ("sh", "4711")
        );
    }

    #[test]
    fn ended_process_keeps_the_name_that_the_kernel_gave() {
        let fake = Fake::new();
        let gone = Author::named(950, "iptables".to_owned());
        assert_eq!(fake.author(950, "iptables"), gone);
        // Another process with its id is not it.
        fake.process(950, 1, "nginx", 33, "nginx.service");
        assert_eq!(fake.author(950, "iptables"), gone);
    }
}
