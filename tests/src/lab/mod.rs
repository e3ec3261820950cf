//! The lab of `deploy/quickstart.sh`, in the hands of a test.

mod identity;
mod kernel;
mod outside;
mod process;
mod pushed;
mod report;

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

pub use identity::{Ca, Credentials};
pub use kernel::{Family, Foreign, Rules};
pub use outside::Source;
pub use pushed::with_rule;
pub use report::{Author, DriftRecord, NodeStatus, Push, Sets, SiteStatus};

use crate::exec::{self, Ended, Running};

/// How long a condition may take to come true: generous, for a machine that does other
/// things too. A test that passes never waits for it.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// Held by whoever uses the lab: its namespaces belong to the machine.
const LOCK: &str = "/run/voipfleet-tests.lock";
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How to bring the lab up.
#[derive(Debug, Clone)]
pub struct Options {
    /// 1 to 50.
    pub nodes: u32,
    /// `nft`, `legacy` or `mixed`.
    pub backend: &'static str,
    /// `each` or `all`: what a node does.
    pub roles: &'static str,
    /// Stop before the first push.
    pub bare: bool,
    /// How often agents look at the kernel unasked, for example `1s`.
    pub poll_interval: &'static str,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            nodes: 3,
            backend: "mixed",
            roles: "each",
            bare: false,
            poll_interval: "1s",
        }
    }
}

/// A node of the lab.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its number, from 1; its host part is 10 more.
    pub index: u32,
    /// Its roles.
    pub roles: Vec<String>,
    /// `nft` or `legacy`.
    pub backend: String,
}

/// A lab that is up; goes down when dropped. There is one on a machine at a time.
#[derive(Debug)]
pub struct Lab {
    root: PathBuf,
    state: PathBuf,
    bin: PathBuf,
    nodes: Vec<Node>,
    poll_interval: &'static str,
    /// Locked as long as the lab is up.
    _lock: File,
}

impl Lab {
    /// Brings the lab up, gives it to `test`, takes it down. The error of a failed test
    /// carries the ends of the lab's logs.
    pub fn run(options: &Options, test: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
        let lab = Self::up(options)?;
        test(&lab).map_err(|error| anyhow!("{error:#}\n{}", lab.logs()))
    }

    /// Brings the lab up.
    pub fn up(options: &Options) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "the lab needs root, for network namespaces and iptables: run sudo tests/run.sh"
        );
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("the tests have no parent folder")?
            .to_owned();
        let lock = File::create(LOCK).with_context(|| format!("cannot make {LOCK}"))?;
        lock.lock().with_context(|| format!("cannot lock {LOCK}"))?;
        let mut lab = Self {
            bin: programs()?,
            state: root.join("target/quickstart"),
            root,
            nodes: Vec::new(),
            poll_interval: options.poll_interval,
            _lock: lock,
        };
        let nodes = options.nodes.to_string();
        let mut arguments = vec!["up", "--nodes", &nodes];
        arguments.extend(["--backend", options.backend, "--roles", options.roles]);
        if options.bare {
            arguments.push("--bare");
        }
        let ended = lab.quickstart(&arguments)?;
        ensure!(
            ended.success(),
            "the lab does not come up: {}\n{}",
            ended.output(),
            lab.logs()
        );
        let nodes = std::fs::read_to_string(lab.state.join("nodes"))?;
        lab.nodes = nodes.lines().map(read_node).collect::<Result<_>>()?;
        Ok(lab)
    }

    /// Runs `deploy/quickstart.sh`.
    pub fn quickstart(&self, arguments: &[&str]) -> Result<Ended> {
        self.quickstart_polling(arguments, self.poll_interval)
    }

    fn quickstart_polling(&self, arguments: &[&str], poll_interval: &str) -> Result<Ended> {
        let mut argv = vec![self.root.join("deploy/quickstart.sh").into_os_string()];
        argv.extend(arguments.iter().map(OsString::from));
        exec::run(
            &argv,
            &[
                ("VOIPFLEET_BIN", self.bin.as_os_str()),
                ("VOIPFLEET_POLL_INTERVAL", OsStr::new(poll_interval)),
            ],
        )
    }

    /// The nodes, in order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The folder with the lab's state.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The folder of sample policies.
    pub fn policies(&self) -> PathBuf {
        self.root.join("deploy/policies")
    }

    /// One of the product's programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// Runs voipctl as the first admin, on the host.
    pub fn voipctl(&self, arguments: &[&str]) -> Result<Ended> {
        self.start_voipctl(arguments)?.finish()
    }

    /// Starts voipctl, to be waited for later.
    pub fn start_voipctl(&self, arguments: &[&str]) -> Result<Running> {
        let mut argv = vec![self.bin.join("voipctl").into_os_string()];
        argv.extend(arguments.iter().map(OsString::from));
        let context = self.state.join("controller/admin.yaml");
        exec::start(&argv, &[("VOIPCTL_CONFIG", context.as_os_str())])
    }

    /// Runs voipctl and gives its standard output; it must end with status 0.
    pub fn voipctl_ok(&self, arguments: &[&str]) -> Result<String> {
        let ended = self.voipctl(arguments)?;
        ensure!(
            ended.success(),
            "voipctl {}: {}",
            arguments.join(" "),
            ended.output()
        );
        Ok(ended.stdout)
    }

    /// Stores a document, given as YAML.
    pub fn apply(&self, document: &str) -> Result<Ended> {
        let mut file = tempfile::Builder::new().suffix(".yaml").tempfile()?;
        std::io::Write::write_all(&mut file, document.as_bytes())?;
        let path = file.path().to_string_lossy().into_owned();
        self.voipctl(&["apply", "-f", &path])
    }

    /// The site's document as stored, without its revision: tests put it back after others.
    pub fn site_document(&self) -> Result<String> {
        let fetched = self.voipctl_ok(&["get", "site", "site-a", "-o", "yaml"])?;
        let lines = fetched.split_inclusive('\n');
        Ok(lines
            .filter(|line| !line.starts_with("# revision:"))
            .collect())
    }

    /// Pushes site-a and reads what voipctl says, whatever its exit status.
    pub fn push(&self) -> Result<Push> {
        self.push_with(&[])
    }

    /// The same with more arguments.
    pub fn push_with(&self, more: &[&str]) -> Result<Push> {
        let mut arguments = vec!["push", "site-a", "--yes", "-o", "json"];
        arguments.extend(more);
        Push::read(self.voipctl(&arguments)?)
    }

    /// The status of site-a.
    pub fn status(&self) -> Result<SiteStatus> {
        SiteStatus::read(&self.voipctl_ok(&["status", "site-a", "-o", "json"])?)
    }

    /// The drift records of site-a. Drift makes exit status 1 only where asked.
    pub fn drift(&self) -> Result<Vec<DriftRecord>> {
        DriftRecord::read(
            &self.voipctl_ok(&["drift", "site-a", "--limit", "100000", "-o", "json"])?,
        )
    }

    /// Waits until every node is connected, on the site's generation and clean.
    pub fn wait_synced(&self) -> Result<SiteStatus> {
        self.wait("every node synced and clean", || {
            let Ok(status) = self.status() else {
                return Ok(None); // the controller may just be starting
            };
            Ok(status.is_synced().then_some(status))
        })
    }

    /// Looks again and again until `condition` gives something.
    pub fn wait<T>(
        &self,
        what: &str,
        mut condition: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
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

    /// The log of a process of the lab.
    pub fn log(&self, process: &str) -> String {
        std::fs::read_to_string(self.state.join(format!("log/{process}.log"))).unwrap_or_default()
    }

    /// The ends of all logs.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        let nodes = self.nodes.iter().map(|node| node.name.as_str());
        for process in std::iter::once("controller").chain(nodes) {
            let log = self.log(process);
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines
                .get(lines.len().saturating_sub(40)..)
                .unwrap_or(&lines);
            let _infallible = writeln!(text, "--- {process}\n{}", tail.join("\n"));
        }
        text
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // For looking into a failed test by hand.
        if std::env::var_os("VOIPFLEET_KEEP_LAB").is_none() {
            let _reported_by_the_next_lab = self.quickstart(&["down"]);
        }
    }
}

/// The folder with the product's programs: where cargo put this test too.
pub(crate) fn programs() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    // Tests are in its `deps`, benches beside the programs.
    let folder = test.parent().context("it is in no target folder")?;
    let folder = match folder.parent() {
        Some(parent) if folder.ends_with("deps") => parent,
        _ => folder,
    };
    for name in [
        "voipfleet-controller",
        "voipfleet-agent",
        "voipctl",
        "packets",
    ] {
        ensure!(
            folder.join(name).exists(),
            "{} is not built: run tests/run.sh, or cargo build --workspace --bins first",
            folder.join(name).display()
        );
    }
    Ok(folder.to_owned())
}

fn read_node(line: &str) -> Result<Node> {
    let [name, index, roles, backend] = line.split('\t').collect::<Vec<_>>()[..] else {
        bail!("a strange line in the list of nodes: {line:?}");
    };
    Ok(Node {
        name: name.to_owned(),
        index: index.parse()?,
        roles: roles.split(',').map(str::to_owned).collect(),
        backend: backend.to_owned(),
    })
}
