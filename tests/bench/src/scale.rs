//! A controller with 20 sites of 30 nodes and 2,000 tenants of 25 networks each, all of them
//! served by every site: how long the daily calls take, and what the controller needs. The floor
//! is the part `plan`: compiler and comparison alone.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use voipfleet_testkit::RunningAgent;
use voipfleet_tests::fleet_sim::Installation;

use super::figures::{Series, say, show};
use super::push::mib;

/// How large the fleet is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) sites: usize,
    pub(crate) nodes: usize,
    pub(crate) tenants: usize,
    pub(crate) networks: usize,
}

/// What a large team has.
pub(crate) const FULL: Size = Size {
    sites: 20,
    nodes: 30,
    tenants: 2_000,
    networks: 25,
};

/// What the nodes of a site do, in turn.
const ROLES: [&str; 5] = ["sip", "pbx", "http", "sql", "que"];

pub(crate) fn run(size: Size, times: usize) -> Result<()> {
    let Size {
        sites,
        nodes,
        tenants,
        networks,
    } = size;
    say(&format!(
        "\n{tenants} tenants of {networks} networks, {sites} sites that serve all of them, {nodes} \
         simulated nodes each, medians of {times}"
    ))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut fleet = Fleet {
        installation: Installation::start()?,
        size,
        times,
    };
    fleet.apply_all()?;
    let connected = runtime.block_on(fleet.connect())?;
    let result = fleet.measure(&connected);
    if let Some(lost) = connected.iter().position(RunningAgent::has_ended) {
        result.with_context(|| format!("the session of node {lost} ended"))
    } else {
        result
    }
}

struct Fleet {
    installation: Installation,
    size: Size,
    times: usize,
}

fn site_name(site: usize) -> String {
    format!("site-{:02}", site + 1)
}

fn node_name(node: usize) -> String {
    format!("node{:02}", node + 1)
}

fn role(node: usize) -> &'static str {
    ROLES.get(node % ROLES.len()).copied().unwrap_or("sip")
}

/// All tenants. `round` adds a network to the first one, another one each time.
fn tenants(size: Size, round: usize) -> String {
    let mut text = String::new();
    for tenant in 0..size.tenants {
        let _infallible = write!(
            text,
            "{}kind: Tenant\nname: tenant-{tenant:04}\nnetworks:\n  offices:\n",
            if tenant == 0 { "" } else { "---\n" }
        );
        for network in 0..size.networks {
            // Every other /28 of 40.0.0.0/6: prefixes that cannot be joined.
            let index = u32::try_from(tenant * size.networks + network).unwrap_or_default();
            let [a, b, c, d] = (index << 5).to_be_bytes();
            let _infallible = writeln!(text, "    - {}.{b}.{c}.{d}/28", 40 + a);
        }
        if tenant == 0 && round > 0 {
            let _infallible = writeln!(text, "    - 198.18.{}.0/24", round % 250);
        }
    }
    text
}

fn site(index: usize, size: Size) -> String {
    let names: Vec<String> = (0..size.tenants)
        .map(|tenant| format!("tenant-{tenant:04}"))
        .collect();
    format!(
        "kind: Site\nname: {}\ntenants: [{}]\nadmins: [198.51.100.10]\n\
         cluster: {{interface: eth1, trust: full}}\n",
        site_name(index),
        names.join(", ")
    )
}

fn row(what: &str, figure: &str) -> Result<()> {
    say(&format!("{what:<58} {figure:>12}"))
}

impl Fleet {
    fn write(&self, name: &str, text: &str) -> Result<String> {
        let path = self.installation.folder().join(name);
        std::fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    }

    fn apply_all(&self) -> Result<()> {
        let tenants = self.write("tenants.yaml", &tenants(self.size, 0))?;
        let start = Instant::now();
        self.installation.voipctl(&["apply", "-f", &tenants])?;
        row("voipctl apply of all tenants", &show(start.elapsed()))?;
        let sites: Vec<String> = (0..self.size.sites)
            .map(|number| site(number, self.size))
            .collect();
        let sites = self.write("sites.yaml", &sites.join("---\n"))?;
        let start = Instant::now();
        self.installation.voipctl(&["apply", "-f", &sites])?;
        row("voipctl apply of all sites", &show(start.elapsed()))
    }

    async fn connect(&self) -> Result<Vec<RunningAgent>> {
        let start = Instant::now();
        let mut connected = Vec::new();
        for site in 0..self.size.sites {
            for node in 0..self.size.nodes {
                let address = [10, 20, u8::try_from(site)?, u8::try_from(node + 11)?];
                let node = self
                    .installation
                    .enrol(&site_name(site), &node_name(node), role(node), address)
                    .await?;
                connected.push(self.installation.connect(&node).await?);
            }
        }
        row(
            &format!("{} nodes enrolled and connected", connected.len()),
            &show(start.elapsed()),
        )?;
        Ok(connected)
    }

    fn measure(&mut self, connected: &[RunningAgent]) -> Result<()> {
        let first = site_name(0);
        self.memory("before the first push")?;
        self.time("voipctl plan of a site, all of it new", &["plan", &first])?;
        self.time_once("voipctl push of that site", &["push", &first, "--yes"])?;
        self.time_once("voipctl push --all", &["push", "--all", "--yes"])?;
        let behind = connected.iter().filter(|node| node.confirmed().is_none());
        ensure!(behind.count() == 0, "a node has nothing after the push");
        self.memory("after the push to all")?;
        self.time("voipctl plan of a site, nothing new", &["plan", &first])?;
        let mut plans = Series::default();
        let mut pushes = Series::default();
        for round in 1..=self.times {
            let file = self.write("tenants.yaml", &tenants(self.size, round))?;
            self.installation.voipctl(&["apply", "-f", &file])?;
            let start = Instant::now();
            self.installation.voipctl(&["plan", &first])?;
            plans.add(start.elapsed());
            let start = Instant::now();
            self.installation.voipctl(&["push", &first, "--yes"])?;
            pushes.add(start.elapsed());
        }
        row(
            "voipctl plan of a site, one network of a tenant new",
            &show(plans.median()),
        )?;
        row("voipctl push of that", &show(pushes.median()))?;
        self.time("voipctl status of a site", &["status", &first])?;
        self.time("voipctl status of all sites", &["status"])?;
        self.time("voipctl history of a site", &["history", &first])?;
        self.time_once(
            "voipctl block in all sites, until all enforce it",
            &["block", "192.0.2.66", "--all", "--reason", "bench"],
        )?;
        self.time_once(
            "voipctl push --all, one network new",
            &["push", "--all", "--yes"],
        )?;
        self.memory("at the end")?;
        row(
            "store on disk",
            &mib(self.installation.store_bytes()? / 1024),
        )
    }

    fn time(&self, what: &str, arguments: &[&str]) -> Result<()> {
        let mut series = Series::default();
        for _ in 0..self.times {
            series.add(self.took(arguments)?);
        }
        row(what, &show(series.median()))
    }

    fn time_once(&self, what: &str, arguments: &[&str]) -> Result<()> {
        row(what, &show(self.took(arguments)?))
    }

    fn took(&self, arguments: &[&str]) -> Result<Duration> {
        let start = Instant::now();
        self.installation.voipctl(arguments)?;
        Ok(start.elapsed())
    }

    fn memory(&self, when: &str) -> Result<()> {
        let memory = self.installation.memory()?;
        row(
            &format!("controller, {when}: resident"),
            &mib(memory.resident),
        )?;
        row(
            &format!("controller, {when}: highest so far"),
            &mib(memory.highest),
        )
    }
}
