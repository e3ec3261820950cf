//! Processes, by their files in `/proc` while they live.

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::Root;

/// `TASK_COMM_LEN` is 16, its terminator counted.
const MAX_COMM: usize = 15;
/// The longest path or name that is reported.
const MAX_TEXT: usize = 255;
/// `/proc/PID/stat`, `status` and `cgroup` of any process are shorter.
const MAX_FILE: u64 = 16 << 10;
/// How much of a command line is read.
const MAX_COMMAND_LINE: u64 = 4 << 10;
/// `/etc/passwd` of a machine whose users come from elsewhere is small.
const MAX_PASSWD: u64 = 1 << 20;
/// The most processes, and links of all of them, that a search for sockets follows: some
/// 100 ms of work at the very worst.
const MAX_PROCESSES: usize = 20_000;
const MAX_LINKS: usize = 200_000;

/// The command of process 1 where systemd runs.
const SYSTEMD: &str = "systemd";

/// Facts about a process; empty where they cannot be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Its command, as the kernel knows it: at most 15 bytes, without control characters.
    pub comm: String,
    /// The file that it runs.
    pub executable: String,
    /// The unit of systemd that it belongs to.
    pub unit: String,
    /// Its real user: a name, or a number without one.
    pub user: String,
}

/// The processes of a machine.
#[derive(Debug, Clone)]
pub struct Processes {
    root: Root,
}

/// Which process has which socket, by the sockets' inodes.
#[derive(Debug, Default)]
pub struct Sockets(HashMap<u64, String>);

impl Processes {
    /// Those of `/proc` under `root`.
    pub fn new(root: &Root) -> Self {
        Self { root: root.clone() }
    }

    fn file(&self, pid: u32, name: &str) -> Option<String> {
        self.root.text(&format!("/proc/{pid}/{name}"), MAX_FILE)
    }

    /// Its parent's id and its name; none if it is gone.
    pub fn parent_and_comm(&self, pid: u32) -> Option<(u32, String)> {
        let stat = self.file(pid, "stat")?;
        // `PID (COMM) STATE PPID …`, where COMM may hold brackets and blanks itself.
        let (named, rest) = stat.rsplit_once(')')?;
        let (_, comm) = named.split_once('(')?;
        let parent = rest.split_ascii_whitespace().nth(1)?.parse().ok()?;
        Some((parent, comm_text(comm.as_bytes())))
    }

    /// Reads a process; none if it has ended.
    pub fn read(&self, pid: u32) -> Option<Process> {
        let (_, comm) = self.parent_and_comm(pid)?;
        // A process that has ended and is not reaped yet has no executable any more.
        let link = self.root.path(&format!("/proc/{pid}/exe"));
        let executable = std::fs::read_link(link)
            .map(|path| text(path.as_os_str().as_bytes(), MAX_TEXT))
            .unwrap_or_default();
        let uid = self
            .file(pid, "status")
            .and_then(|status| real_user(&status));
        let cgroup = self.file(pid, "cgroup");
        Some(Process {
            pid,
            comm,
            executable,
            unit: cgroup.and_then(|cgroup| unit(&cgroup)).unwrap_or_default(),
            user: uid.map(|uid| self.user(uid)).unwrap_or_default(),
        })
    }

    /// The name of a user. Only `/etc/passwd` is read: a directory service may take longer than the
    /// process lives.
    fn user(&self, uid: u32) -> String {
        let number = uid.to_string();
        let passwd = self
            .root
            .text("/etc/passwd", MAX_PASSWD)
            .unwrap_or_default();
        let name = passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)? == number).then(|| text(name.as_bytes(), MAX_TEXT))
        });
        name.filter(|name| !name.is_empty()).unwrap_or(number)
    }

    /// The ids of all processes.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        let names = self.root.names("/proc").into_iter();
        names
            .filter_map(|name| name.parse().ok())
            .take(MAX_PROCESSES)
    }

    /// The start of a process's command line, words separated by blanks. It may contain passwords:
    /// it must not be kept or logged.
    pub fn command_line(&self, pid: u32) -> Option<String> {
        let path = format!("/proc/{pid}/cmdline");
        let line = self.root.text(&path, MAX_COMMAND_LINE)?;
        Some(line.replace('\0', " "))
    }

    /// The owners of the sockets with these inodes.
    pub fn owners(&self, inodes: &[u64]) -> Sockets {
        let wanted: HashSet<u64> = inodes.iter().copied().collect();
        let mut owners: HashMap<u64, String> = HashMap::new();
        // systemd listens for a service that it starts; the service has the socket too.
        let mut of_systemd = 0;
        let mut left = MAX_LINKS;
        for pid in self.ids() {
            if owners.len() == wanted.len() && of_systemd == 0 || left == 0 {
                break;
            }
            let Ok(links) = std::fs::read_dir(self.root.path(&format!("/proc/{pid}/fd"))) else {
                continue;
            };
            for link in links.take(left).filter_map(Result::ok) {
                left -= 1;
                let inode = std::fs::read_link(link.path())
                    .ok()
                    .and_then(|to| socket_inode(to.to_str()?));
                let Some(inode) = inode.filter(|inode| wanted.contains(inode)) else {
                    continue;
                };
                let known = owners.get(&inode).map(String::as_str);
                if known.is_some_and(|known| known != SYSTEMD) {
                    continue;
                }
                if let Some((_, comm)) = self.parent_and_comm(pid) {
                    let was = usize::from(known == Some(SYSTEMD));
                    of_systemd = of_systemd + usize::from(comm == SYSTEMD) - was;
                    owners.insert(inode, comm);
                }
            }
        }
        Sockets(owners)
    }
}

impl Processes {
    /// The processes that have the file open.
    pub fn with_file(&self, path: &Path) -> Vec<u32> {
        let mut found = Vec::new();
        let mut left = MAX_LINKS;
        for pid in self.ids() {
            let Ok(links) = std::fs::read_dir(self.root.path(&format!("/proc/{pid}/fd"))) else {
                continue;
            };
            let is_open = links.take(left).filter_map(Result::ok).any(|link| {
                left -= 1;
                std::fs::read_link(link.path()).is_ok_and(|to| to == path)
            });
            if is_open {
                found.push(pid);
            }
        }
        found
    }
}

impl Sockets {
    /// The command that has the socket; empty if none was found.
    pub fn owner(&self, inode: u64) -> String {
        self.0.get(&inode).cloned().unwrap_or_default()
    }
}

/// `socket:[4711]`
fn socket_inode(link: &str) -> Option<u64> {
    let inode = link.strip_prefix("socket:[")?.strip_suffix(']')?;
    inode.parse().ok()
}

/// A command's name. Any process names itself as it likes: what reaches logs and terminals
/// is printable.
pub(crate) fn comm_text(bytes: &[u8]) -> String {
    text(bytes, MAX_COMM)
}

fn text(bytes: &[u8], limit: usize) -> String {
    let bytes = bytes.get(..limit).unwrap_or(bytes);
    String::from_utf8_lossy(bytes)
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// The real user in `/proc/PID/status`: `Uid: real effective saved filesystem`.
fn real_user(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// The unit in `/proc/PID/cgroup`: of systemd's own hierarchy, or of the only one there is,
/// the first part of the path that is no slice.
fn unit(cgroup: &str) -> Option<String> {
    let path = |line: &'_ str| -> Option<(bool, String)> {
        let mut fields = line.splitn(3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let systemd = controllers == "name=systemd";
        (systemd || number == "0").then(|| (systemd, path.to_owned()))
    };
    let mut paths: Vec<(bool, String)> = cgroup.lines().filter_map(path).collect();
    paths.sort_by_key(|(systemd, _)| !systemd);
    paths.iter().find_map(|(_, path)| {
        path.split('/')
            .find(|part| matches!(part.rsplit_once('.'), Some((_, "service" | "scope"))))
            .map(|unit| text(unit.as_bytes(), MAX_TEXT))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_process_is_read_and_ended_process_is_not() {
        let processes = Processes::new(&Root::new("/"));
        let own = processes.read(std::process::id()).unwrap();
        assert_eq!(own.pid, std::process::id());
        let program = std::env::current_exe().unwrap();
        assert_eq!(own.executable, program.to_str().unwrap());
        assert!(!own.comm.is_empty() && !own.user.is_empty(), "{own:?}");
        // Beyond the largest id that Linux gives (PID_MAX_LIMIT).
        assert_eq!(processes.read(4_194_305), None);
    }

    #[test]
    fn owner_of_a_socket_is_found() {
        use std::os::fd::AsRawFd;
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let link = format!("/proc/self/fd/{}", socket.as_raw_fd());
        let inode = socket_inode(std::fs::read_link(link).unwrap().to_str().unwrap()).unwrap();
        let processes = Processes::new(&Root::new("/"));
        let owners = processes.owners(&[inode]);
        let (_, comm) = processes.parent_and_comm(std::process::id()).unwrap();
        assert_eq!(owners.owner(inode), comm);
        assert_eq!(owners.owner(0), "");
    }

    #[test]
    fn systemd_unit_is_found_in_every_cgroup_hierarchy() {
        for (cgroup, wanted) in [
            ("0::/system.slice/cron.service\n", Some("cron.service")),
            (
                "11:cpu:/\n1:name=systemd:/system.slice/crond.service\n0::/\n",
                Some("crond.service"),
            ),
            (
                "0::/user.slice/user-0.slice/session-3.scope",
                Some("session-3.scope"),
            ),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope",
                Some("user@1000.service"),
            ),
            ("0::/\n", None),
            ("4:memory:/system.slice/x.service\n", None),
            ("nonsense", None),
        ] {
            assert_eq!(unit(cgroup).as_deref(), wanted, "{cgroup}");
        }
    }
}
