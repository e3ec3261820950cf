//! A machine that boots: systemd-nspawn on a system of its own.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{MACHINE, NETNS, must, wait};
use crate::exec::{self, Ended, Logged};
use crate::lab::Rules;

/// The link of the machine, as seen by its neighbour: named by nspawn.
const LINK: &str = "ve-vb-boot";
/// Where nspawn puts the processes; one of its own, so that the machine's are not beside ours.
const CGROUPS: [&str; 3] = [
    "/sys/fs/cgroup",
    "/sys/fs/cgroup/unified",
    "/sys/fs/cgroup/systemd",
];

/// A machine that is on.
#[derive(Debug)]
pub struct Running {
    nspawn: Logged,
    /// Its process 1, as seen from here.
    leader: String,
}

impl Running {
    /// Switches the machine on, and connects its neighbour.
    pub fn start(system: &Path, log: &Path, addresses: &[&str]) -> Result<Self> {
        // The shell puts itself, and so nspawn, where the machine's processes should be.
        let script = "
            for group in $1; do
                if [ -e $group/cgroup.procs ]; then
                    mkdir -p $group/vb-boot && echo $$ >$group/vb-boot/cgroup.procs
                fi
            done
            shift
            exec \"$@\"";
        let netns = format!("--net=/run/netns/{NETNS}");
        let system = system.to_str().context("its path is no text")?;
        let groups = CGROUPS.join(" ");
        let argv = [
            "sh",
            "-c",
            script,
            "sh",
            &groups,
            // A test that is killed takes its machine along.
            "setpriv",
            "--pdeathsig",
            "TERM",
            "nsenter",
            &netns,
            "--",
            "systemd-nspawn",
            "--quiet",
            "--boot",
            "--network-veth",
            "--register=no",
            "--keep-unit",
            "--console=pipe",
            "--link-journal=no",
            // No machine denies these; a container does unless it is told.
            "--system-call-filter=fanotify_init fanotify_mark",
            "--machine",
            MACHINE,
            "-D",
            system,
        ];
        let mut machine = Self {
            nspawn: exec::start_logged(&argv, log)?,
            leader: String::new(),
        };
        let nspawn = machine.nspawn.pid();
        // A child of nspawn that prepares the way has a network of its own too, and ends.
        let (leader, mac) = wait("the machine's network interface", || {
            let Some(leader) = leader_of(nspawn)? else {
                return Ok(None);
            };
            let net = format!("--net=/proc/{leader}/ns/net");
            let shown = exec::run(&["nsenter", &net, "ip", "-o", "link", "show", "host0"], &[])?;
            let mac = shown.stdout.split_once("link/ether ").map(|(_, rest)| rest);
            let mac = mac.and_then(|rest| rest.split(' ').next().map(str::to_owned));
            Ok(mac.map(|mac| (leader, mac)))
        })?;
        machine.leader = leader;
        connect(&mac, addresses)?;
        Ok(machine)
    }

    /// Waits until systemd has started all that it will start.
    pub fn settle(&mut self) -> Result<()> {
        wait("the end of the boot", || {
            ensure!(
                !self.nspawn.has_ended()?,
                "the machine ended while it booted"
            );
            let state = self.on("systemctl is-system-running")?.stdout;
            Ok(matches!(state.trim(), "running" | "degraded").then_some(()))
        })
    }

    /// Runs a command line on the machine, split at blanks, whatever its exit status.
    pub fn on(&self, line: &str) -> Result<Ended> {
        let mut argv = vec![
            "nsenter",
            "-t",
            &self.leader,
            "-a",
            "--",
            "/usr/bin/env",
            "-i",
        ];
        argv.push("PATH=/usr/sbin:/usr/bin:/sbin:/bin");
        argv.extend(line.split_whitespace());
        exec::run(&argv, &[])
    }

    /// The same; it must succeed. Gives its output.
    pub fn must(&self, line: &str) -> Result<String> {
        let ended = self.on(line)?;
        ensure!(ended.success(), "{line}: {}", ended.output());
        Ok(ended.stdout)
    }

    /// What its kernel holds.
    pub fn rules(&self) -> Result<Rules> {
        Rules::read(|line| self.must(line))
    }

    /// A property of a unit.
    pub fn unit(&self, unit: &str, property: &str) -> Result<String> {
        let shown = self.must(&format!("systemctl show --value -p {property} {unit}"))?;
        Ok(shown.trim().to_owned())
    }

    /// What a unit said in this boot.
    pub fn journal(&self, unit: &str) -> Result<String> {
        self.must(&format!("journalctl --no-pager -b -o cat -u {unit}"))
    }

    /// Switches it off as an operator does.
    pub fn off(mut self) -> Result<()> {
        self.must("systemctl --no-block poweroff")?;
        wait("the machine's end", || {
            Ok(self.nspawn.has_ended()?.then_some(()))
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The machine outlives a nspawn that is killed; with its process 1 all of it ends.
        if !self.nspawn.has_ended().unwrap_or(true)
            && let Ok(Some(leader)) = leader_of(self.nspawn.pid())
            && let Ok(leader) = leader.parse()
        {
            let _gone = kill(Pid::from_raw(leader), Signal::SIGKILL);
            // nspawn sees it, and tidies up.
            let ended = || Ok(self.nspawn.has_ended()?.then_some(()));
            let _tidy = wait("the machine's end", ended);
        }
    }
}

/// Gives the neighbour its addresses, and tells it the machine's link address: a packet is then
/// sent at once, and not when the machine answers who it is.
fn connect(mac: &str, addresses: &[&str]) -> Result<()> {
    let mut batch = format!("link set lo up\nlink set {LINK} up\n");
    for address in addresses {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        let _infallible = writeln!(batch, "addr add {address} dev {LINK}{nodad}");
    }
    for address in [super::NODE_V4, super::NODE_V6] {
        let _infallible = writeln!(
            batch,
            "neigh replace {address} lladdr {mac} dev {LINK} nud permanent"
        );
    }
    let ended = exec::run_with_input(&["ip", "-n", NETNS, "-batch", "-"], &batch)?;
    ensure!(ended.success(), "{}", ended.output());
    Ok(())
}

/// The child of nspawn that is process 1 of a network of its own.
fn leader_of(nspawn: u32) -> Result<Option<String>> {
    let net_of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let outside = net_of(&nspawn.to_string());
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().filter(|name| name.parse::<u32>().is_ok()) else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue; // it has ended
        };
        // `PID (NAME) STATE PARENT`, and a name may hold anything.
        let parent = stat
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.split(' ').nth(1));
        if parent == Some(&nspawn.to_string()) && outside.is_some() && net_of(pid) != outside {
            return Ok(Some(pid.to_owned()));
        }
    }
    if !Path::new(&format!("/proc/{nspawn}")).exists() {
        bail!("systemd-nspawn has ended");
    }
    Ok(None)
}

/// Removes what a machine left in the control groups.
pub(super) fn clean_cgroups() {
    for group in CGROUPS {
        let mut folders = vec![PathBuf::from(group).join("vb-boot")];
        let mut next = 0;
        while let Some(folder) = folders.get(next).cloned() {
            let inside = std::fs::read_dir(folder).into_iter().flatten().flatten();
            folders.extend(
                inside
                    .map(|entry| entry.path())
                    .filter(|path| path.is_dir()),
            );
            next += 1;
        }
        for folder in folders.iter().rev() {
            // One that is in use, or never was, stays as it is.
            let _gone = std::fs::remove_dir(folder);
        }
    }
}

/// Removes namespaces of a run that was killed.
pub(super) fn make_netns() -> Result<()> {
    remove_netns();
    must(&["ip", "netns", "add", NETNS]).map(drop)
}

pub(super) fn remove_netns() {
    if Path::new("/run/netns").join(NETNS).exists() {
        let _gone = must(&["ip", "netns", "del", NETNS]);
    }
}
