//! A machine that really boots, with the units of the project, and its neighbour: the
//! controller, an admin and a client are addresses of the other end of its one link.
//!
//! ```text
//! vb-boot, a network namespace                     the machine vb-boot
//! 10.77.0.1  the controller                        10.77.0.2, fd77::2
//! 10.77.0.10 an admin, 10.77.0.20 a client  -----  listens on 22, 9100, 9200 before any network
//! ```

mod image;
mod knock;
mod machine;

use std::fmt::Write as _;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

pub use image::missing_tool;
pub use knock::{Answers, Door, Knocker};
pub use machine::Running;

use crate::exec::{self, Logged};
use crate::lab::{Rules, SiteStatus, programs};

const NETNS: &str = "vb-boot";
const MACHINE: &str = "vb-boot";
const NODE_V4: &str = "10.77.0.2";
const NODE_V6: &str = "fd77::2";
const NEIGHBOUR: [&str; 6] = [
    "10.77.0.1/24",
    "10.77.0.10/24",
    "10.77.0.20/24",
    "fd77::1/64",
    "fd77::10/64",
    "fd77::20/64",
];
/// One machine of that name at a time.
const LOCK: &str = "/run/voipfleet-boot-tests.lock";
/// How long a condition may take to come true; a test that passes never waits for it.
const PATIENCE: Duration = Duration::from_mins(2);
const LOOK: Duration = Duration::from_millis(20);
/// Knocks that a closed door must have left unanswered while others stood open.
const ENOUGH: u64 = 100;

/// SSH's port, which the admin may reach.
pub const SSH: u16 = 22;
/// A port that the policy opens to the client.
pub const ALLOWED: u16 = 9100;
/// A port on which the machine listens too, and that the policy opens to nobody.
pub const REFUSED: u16 = 9200;

const POLICY: &str = r#"kind: Site
name: boots
admins: [10.77.0.10, "fd77::10"]
default: drop
rules:
  - {name: monitoring, accept: {proto: tcp, ports: [9100], from: [10.77.0.20, "fd77::20"]}}
deny: ["list:bad"]
---
kind: List
name: bad
addresses: [192.0.2.0/28, 198.51.100.66, "2001:db8:66::/64"]
"#;

const NETWORK: &str = "[Match]
Name=host0
[Network]
LinkLocalAddressing=no
IPv6AcceptRA=no
[Address]
Address=10.77.0.2/24
[Address]
Address=fd77::2/64
DuplicateAddressDetection=none
";

/// As early as anything can listen: were a port not filtered, it would answer from the moment
/// on which the interface is up.
const LISTENER: &str = "[Unit]
DefaultDependencies=no
After=local-fs.target
Before=network-pre.target
[Service]
ExecStart=/usr/local/bin/packets serve --tcp 22,9100,9200
[Install]
WantedBy=sysinit.target
";

/// Empties our chain, and lives on for a while, as the tools of others do that keep iptables
/// open: whoever looks can see who it is.
const EDITOR: &str = "#!/usr/bin/perl
open(my $restore, '|-', 'iptables-restore', '--noflush') or die;
print $restore \"*filter\\n:VF-INPUT - [0:0]\\nCOMMIT\\n\";
$restore->flush();
sleep 1;
";

fn must(argv: &[&str]) -> Result<String> {
    let ended = exec::run(argv, &[])?;
    ensure!(ended.success(), "{}: {}", argv.join(" "), ended.output());
    Ok(ended.stdout)
}

fn wait<T>(what: &str, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = condition()? {
            return Ok(found);
        }
        if start.elapsed() > PATIENCE {
            bail!("{what}: not within {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(LOOK);
    }
}

fn root_of_checkout() -> Result<PathBuf> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(tests.parent().context("no parent folder")?.to_owned())
}

/// One machine with its site.
#[derive(Debug)]
pub struct Boots {
    /// Ends before its network goes.
    machine: Option<Running>,
    controller: Option<Logged>,
    folder: tempfile::TempDir,
    bin: PathBuf,
    _lock: File,
}

impl Boots {
    /// Installs a machine with the backend `nft` or `legacy`, boots it, enrols it and pushes to
    /// it; gives it to `test`. An error carries the ends of the logs.
    pub fn run(backend: &str, test: impl FnOnce(&mut Boots) -> Result<()>) -> Result<()> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "a machine that boots needs root: run sudo tests/run.sh"
        );
        let lock = File::create(LOCK).with_context(|| format!("cannot make {LOCK}"))?;
        lock.lock().with_context(|| format!("cannot lock {LOCK}"))?;
        let target = root_of_checkout()?.join("target/boot");
        std::fs::create_dir_all(&target)?;
        let mut boots = Self {
            machine: None,
            controller: None,
            folder: tempfile::Builder::new().prefix("vb-").tempdir_in(target)?,
            bin: programs()?,
            _lock: lock,
        };
        machine::make_netns()?;
        boots
            .set_up(backend)
            .and_then(|()| test(&mut boots))
            .map_err(|error| anyhow!("{error:#}\n{}", boots.logs()))
    }

    /// The machine's files; change them only while it is off.
    pub fn system(&self) -> PathBuf {
        self.folder.path().join("system")
    }

    fn set_up(&mut self, backend: &str) -> Result<()> {
        let system = self.system();
        image::unpack(&system)?;
        let write = |path: &str, text: &str| -> Result<()> {
            let path = system.join(path);
            std::fs::create_dir_all(path.parent().context("no folder")?)?;
            Ok(std::fs::write(path, text)?)
        };
        write("etc/systemd/network/10-host0.network", NETWORK)?;
        write("etc/systemd/system/listener.service", LISTENER)?;
        write("etc/hostname", "node1\n")?;
        write("usr/local/bin/editor", EDITOR)?;
        self.chroot("chmod 755 /usr/local/bin/editor")?;
        std::fs::copy(
            self.bin.join("packets"),
            system.join("usr/local/bin/packets"),
        )?;
        let root = self.system_text()?;
        let bin = self.bin.to_str().context("its path is no text")?.to_owned();
        let install = root_of_checkout()?.join("deploy/install.sh");
        let install = install.to_str().context("its path is no text")?;
        must(&[install, "agent", "--bin", &bin, "--root", &root])?;
        self.systemctl(&["enable", "systemd-networkd.service", "listener.service"])?;
        for tool in ["iptables", "ip6tables"] {
            self.chroot(&format!(
                "update-alternatives --set {tool} /usr/sbin/{tool}-{backend}"
            ))?;
        }

        self.start_controller()?;
        self.boot()?;
        self.push()
    }

    fn system_text(&self) -> Result<String> {
        let system = self.system();
        Ok(system.to_str().context("its path is no text")?.to_owned())
    }

    /// `systemctl` on the machine that is off.
    pub fn systemctl(&self, arguments: &[&str]) -> Result<()> {
        let root = format!("--root={}", self.system_text()?);
        let argv: Vec<&str> = ["systemctl", &root]
            .iter()
            .chain(arguments)
            .copied()
            .collect();
        must(&argv).map(drop)
    }

    /// Runs a command line in the files of the machine that is off.
    pub fn chroot(&self, line: &str) -> Result<String> {
        let root = self.system_text()?;
        let mut argv = vec!["chroot", &root];
        argv.extend(line.split_whitespace());
        must(&argv)
    }

    // --- the controller ---

    fn data(&self) -> PathBuf {
        self.folder.path().join("controller")
    }

    /// Starts the controller, on data that is made the first time.
    pub fn start_controller(&mut self) -> Result<()> {
        let data = self.data();
        let text = data.to_str().context("its path is no text")?.to_owned();
        if !data.exists() {
            let program = self.bin.join("voipfleet-controller");
            let program = program.to_str().context("its path is no text")?;
            must(&[
                program,
                "init",
                "--data",
                &text,
                "--address",
                "10.77.0.1:7443",
            ])?;
        }
        let program = self.bin.join("voipfleet-controller");
        let net = format!("--net=/run/netns/{NETNS}");
        let argv = [
            "nsenter".as_ref(),
            net.as_ref(),
            "--".as_ref(),
            program.as_os_str(),
            "run".as_ref(),
            "--data".as_ref(),
            text.as_ref(),
        ];
        self.controller = Some(exec::start_logged(&argv, &self.log("controller"))?);
        Ok(())
    }

    /// Ends the controller without warning.
    pub fn kill_controller(&mut self) {
        self.controller = None;
    }

    /// Runs voipctl as the first admin; it must succeed.
    pub fn voipctl(&self, arguments: &[&str]) -> Result<String> {
        let net = format!("--net=/run/netns/{NETNS}");
        let context = format!(
            "VOIPCTL_CONFIG={}",
            self.data().join("admin.yaml").display()
        );
        let program = self.bin.join("voipctl");
        let program = program.to_str().context("its path is no text")?;
        let argv: Vec<&str> = ["nsenter", &net, "--", "env", &context, program]
            .iter()
            .chain(arguments)
            .copied()
            .collect();
        must(&argv)
    }

    /// What the controller knows of the site.
    pub fn status(&self) -> Result<SiteStatus> {
        SiteStatus::read(&self.voipctl(&["status", "boots", "-o", "json"])?)
    }

    /// Waits until the node runs what was pushed.
    pub fn wait_synced(&self) -> Result<()> {
        wait("the node synced and clean", || {
            let Ok(status) = self.status() else {
                return Ok(None); // the controller may just be starting
            };
            Ok(status.is_synced().then_some(()))
        })
    }

    /// Waits until the controller knows an error of the node, and gives it.
    pub fn wait_error(&self) -> Result<String> {
        wait("an error of the node", || {
            let Ok(status) = self.status() else {
                return Ok(None);
            };
            let node = status.node("node1")?;
            Ok(node.error.clone().filter(|_| node.state == "error"))
        })
    }

    /// Waits until the controller has records of drift that was repaired, and gives them.
    pub fn wait_drift(&self) -> Result<String> {
        wait("a record of drift", || {
            let records = self.voipctl(&["drift", "boots", "-o", "json"])?;
            let repaired = records.contains("\"repaired_after_ms\"")
                && !records
                    .replace(' ', "")
                    .contains("\"repaired_after_ms\":null");
            Ok(repaired.then_some(records))
        })
    }

    /// Enrols the machine, starts its agent, and pushes the policy.
    fn push(&mut self) -> Result<()> {
        let policy = self.folder.path().join("policy.yaml");
        std::fs::write(&policy, POLICY)?;
        let policy = policy.to_str().context("its path is no text")?;
        wait("the controller", || {
            let listed = self.voipctl(&["get", "site"]);
            Ok(listed.is_ok().then_some(()))
        })?;
        self.voipctl(&["apply", "-f", policy])?;
        let token = self.voipctl(&["token", "create", "--site", "boots", "--role", "sip"])?;
        let machine = self.machine()?;
        machine.must(&format!(
            "voipfleet-agent enroll --controller 10.77.0.1:7444 --token {}",
            token.trim()
        ))?;
        machine.must("systemctl start voipfleet-agent")?;
        wait("the agent's connection", || {
            let status = self.status()?;
            let offline = status
                .node("node1")
                .is_ok_and(|node| node.state == "offline");
            Ok((!status.nodes.is_empty() && !offline).then_some(()))
        })?;
        self.voipctl(&["push", "boots", "--yes"])?;
        self.wait_synced()
    }

    // --- the machine ---

    /// The machine; it must be on.
    pub fn machine(&self) -> Result<&Running> {
        self.machine.as_ref().context("the machine is off")
    }

    /// Switches it on, and waits until all is started.
    pub fn boot(&mut self) -> Result<()> {
        let log = self.log("console");
        let machine = Running::start(&self.system(), &log, &NEIGHBOUR)?;
        self.machine.insert(machine).settle()
    }

    /// Switches it off.
    pub fn off(&mut self) -> Result<()> {
        self.machine.take().context("the machine is off")?.off()
    }

    /// Boots it while the neighbour knocks at every door, until each closed one was knocked at
    /// often enough while another was open. `is_open` says of WHO and PORT what must be.
    pub fn boot_watched(&mut self, is_open: fn(&str, u16) -> bool) -> Result<()> {
        let knocker = Knocker::start(NETNS, doors()?);
        self.boot()?;
        wait("enough knocks at every door", || {
            let answers = knocker.answers();
            let enough = answers.iter().all(|(door, answers)| {
                if is_open(door.who, door.to.port()) {
                    answers.opened >= ENOUGH
                } else {
                    answers.silent_since_up + answers.opened + answers.refused >= ENOUGH
                }
            });
            Ok(enough.then_some(()))
        })
        .map_err(|error| anyhow!("{error}: {:#?}", knocker.answers()))?;
        for (door, answers) in knocker.finish()? {
            if !is_open(door.who, door.to.port()) {
                knock::was_never_open(&door, &answers)?;
            }
        }
        Ok(())
    }

    /// The rules of the machine that is on.
    pub fn rules(&self) -> Result<Rules> {
        self.machine()?.rules()
    }

    // --- logs ---

    fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    fn logs(&self) -> String {
        let tail = |text: &str| -> String {
            let lines: Vec<&str> = text.lines().collect();
            let from = lines.len().saturating_sub(40);
            lines.get(from..).unwrap_or_default().join("\n")
        };
        let mut text = String::new();
        for name in ["console", "controller"] {
            let log = std::fs::read(self.log(name)).unwrap_or_default();
            let log = tail(&String::from_utf8_lossy(&log));
            let _infallible = writeln!(text, "--- {name}\n{log}");
        }
        if let Some(machine) = &self.machine {
            for line in ["systemctl is-system-running", "systemctl list-jobs --full"] {
                let said = machine
                    .on(line)
                    .map(|ended| ended.output())
                    .unwrap_or_default();
                let _infallible = writeln!(text, "--- {line}\n{said}");
            }
            for unit in ["voipfleet-restore", "voipfleet-agent"] {
                let log = machine.journal(unit).unwrap_or_default();
                let _infallible = writeln!(text, "--- {unit}\n{}", tail(&log));
            }
        }
        text
    }
}

impl Drop for Boots {
    fn drop(&mut self) {
        self.machine = None;
        self.controller = None;
        machine::remove_netns();
        machine::clean_cgroups();
    }
}

/// Every port, from the admin and from the client, by both families.
fn doors() -> Result<Vec<Door>> {
    let mut doors = Vec::new();
    for (who, sources) in [
        ("admin", ["10.77.0.10", "fd77::10"]),
        ("client", ["10.77.0.20", "fd77::20"]),
    ] {
        for port in [SSH, ALLOWED, REFUSED] {
            for (from, to) in sources.into_iter().zip([NODE_V4, NODE_V6]) {
                let from: IpAddr = from.parse()?;
                let to = SocketAddr::new(to.parse()?, port);
                doors.push(Door { who, from, to });
            }
        }
    }
    Ok(doors)
}
