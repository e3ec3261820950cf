//! `voipfleet-agent status`

use std::net::ToSocketAddrs as _;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::json;
use voipfleet_proto::v1 as pb;
use voipfleet_ruleset::drift::Difference;
use voipfleet_ruleset::foreign::describe;

use super::{find_tools, print, start_log, with_fleet_clock};
use crate::cli::Status;
use crate::enforcement::dynamic_sets::{self, StoredSets};
use crate::enforcement::inspect::inspect;
use crate::enforcement::management_rules::describe_note;
use crate::enforcement::read_back::describe_difference;
use crate::foreign_firewalls::{ForeignFirewalls, Protected, cut_off_from_controller};
use crate::host::Host;
use crate::host::exec::Runner;
use crate::host::state_dir::{NodeConfig, StateDir};
use crate::kernel::{Kernel, System};
use crate::ledger::{Confirmed, Ledger};

/// How the kernel differs from the confirmed ruleset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DriftSummary {
    /// Nothing is confirmed.
    None,
    Clean,
    Drifted,
    Unreadable,
}

impl DriftSummary {
    fn as_str(self) -> &'static str {
        match self {
            DriftSummary::None => "none",
            DriftSummary::Clean => "clean",
            DriftSummary::Drifted => "drifted",
            DriftSummary::Unreadable => "unreadable",
        }
    }
}

/// The contents of the report.
struct StatusReport {
    config: Option<NodeConfig>,
    confirmed: Option<Confirmed>,
    dynamic_sets: StoredSets,
    drift: DriftSummary,
    /// Why the node runs its management rules.
    fallback: Option<String>,
    /// How packets come in past our rules.
    open: Vec<String>,
    /// Foreign rules and sets that the tools cannot print.
    warnings: Vec<String>,
    differences: Vec<Difference>,
    /// Foreign rules and sets that cut off what the policy opens, as sentences.
    foreign: Vec<String>,
    /// Those that cut the node off from its controller.
    cut_off: Option<String>,
}

pub(super) fn status(arguments: &Status) -> anyhow::Result<ExitCode> {
    start_log(arguments.tools.log_format);
    let state = StateDir::at(&arguments.tools.state.state);
    let ledger = Ledger::open_read_only(&state.ledger());
    let system = find_tools(&arguments.tools)?;
    let mut system = with_fleet_clock(system, &ledger, &Arc::default());
    let host = Host::new(Runner::new(&arguments.tools.tool_path));
    let report = StatusReport::read(&state, &ledger, &mut system, &host)?;
    if arguments.json {
        print(&report.json(&system)?)?;
    } else {
        for line in report.lines(&system) {
            print(&line)?;
        }
    }
    Ok(if report.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl StatusReport {
    /// Whether the node runs all that it should, with dynamic sets that are known, and can reach its
    /// controller as far as is known.
    fn is_clean(&self) -> bool {
        let sets_are_known = self.dynamic_sets.error().is_none();
        let runs_all = self.differences.is_empty() && self.fallback.is_none();
        runs_all && sets_are_known && !self.is_unprotected() && self.cut_off.is_none()
    }

    /// Whether the node was enrolled and has no rules of ours: everything is as it was before.
    fn is_unprotected(&self) -> bool {
        self.config.is_some() && self.confirmed.is_none() && self.fallback.is_none()
    }

    fn unprotected(&self) -> Option<String> {
        let config = self.config.as_ref().filter(|_| self.is_unprotected())?;
        Some(format!(
            "unprotected: this node has no ruleset yet; a connected agent is given one by itself \
             once the site was pushed: voipctl push {}",
            config.site
        ))
    }

    fn read(
        state: &StateDir,
        ledger: &Ledger,
        system: &mut System,
        host: &Host,
    ) -> anyhow::Result<Self> {
        let mut confirmed = ledger.confirmed()?;
        let dynamic_sets = dynamic_sets::load(system, ledger, confirmed.as_mut());
        let fallback = ledger.fallback().map(|note| describe_note(&note));
        // Differences from a ruleset that is known not to run mean nothing.
        let inspected = confirmed
            .as_ref()
            .filter(|_| fallback.is_none())
            .map(|confirmed| inspect(system, confirmed));
        let drift = match &inspected {
            None if fallback.is_some() => DriftSummary::Drifted,
            None => DriftSummary::None,
            Some(found) if found.is_unreadable() => DriftSummary::Unreadable,
            Some(found) if found.is_clean() => DriftSummary::Clean,
            Some(_) => DriftSummary::Drifted,
        };
        let inspected = inspected.unwrap_or_default();
        let open = inspected.open.iter();
        let config = state.config().ok();
        let found = foreign(config.as_ref(), confirmed.as_ref(), system, host);
        let words = |firewall: &pb::Neighbour| {
            describe(firewall).map(|hits| format!("{} {hits}", firewall.detail))
        };
        Ok(Self {
            foreign: found.iter().filter_map(words).collect(),
            cut_off: cut_off_from_controller(&found),
            config,
            confirmed,
            dynamic_sets,
            drift,
            fallback,
            open: open
                .map(|(family, why)| format!("{family}: {why}"))
                .collect(),
            warnings: inspected.obstacles.describe(|_| None),
            differences: inspected.differences,
        })
    }

    fn json(&self, system: &System) -> serde_json::Result<String> {
        let config = self.config.as_ref();
        let held = self.confirmed.as_ref().map(|confirmed| confirmed.held);
        let sets = self.dynamic_sets.held.as_ref();
        let differences: Vec<_> = self.differences.iter().map(difference_json).collect();
        serde_json::to_string(&json!({
            "site": config.map(|config| &config.site),
            "node": config.map(|config| &config.node),
            "controller": config.map(|config| &config.controller),
            "generation": held.map(|held| held.generation),
            "digest": held.map(|held| held.digest.to_string()),
            "backend": system.backend().as_str(),
            "iptables": system.version(),
            "drift": self.drift.as_str(),
            "unprotected": self.is_unprotected(),
            "fallback": self.fallback,
            "open": self.open,
            "warnings": self.warnings,
            "dynamic_digest": sets.map(|sets| sets.digest.to_string()),
            "dynamic_error": self.dynamic_sets.error(),
            "differences": differences,
            "foreign": self.foreign,
            "cut_off": self.cut_off,
        }))
    }

    fn lines(&self, system: &System) -> Vec<String> {
        let mut lines = Vec::new();
        let mut field = |name: &str, value: &dyn std::fmt::Display| {
            lines.push(format!("{name:<14}{value}"));
        };
        match &self.config {
            Some(config) => field("node", &format_args!("{}/{}", config.site, config.node)),
            None => field("node", &"not enrolled"),
        }
        match &self.confirmed {
            Some(confirmed) => {
                field("generation", &confirmed.held.generation);
                field("digest", &confirmed.held.digest);
            }
            None => field("generation", &"none confirmed"),
        }
        if let Some(sets) = &self.dynamic_sets.held {
            field("dynamic sets", &sets.digest);
        }
        let (backend, version) = (system.backend(), system.version());
        field("backend", &format_args!("{backend} (iptables {version})"));
        if let Some(by) = &self.cut_off {
            field("controller", &format_args!("cut off: {by}"));
        }
        field("drift", &self.drift.as_str());
        let open = self.open.iter().map(|why| format!("open now: {why}"));
        let warnings = self
            .warnings
            .iter()
            .map(|warning| format!("warning: {warning}"));
        let details = self.unprotected().into_iter().chain(open);
        let details = details.chain(self.fallback.iter().cloned()).chain(warnings);
        let details = details.chain(self.dynamic_sets.error());
        let differences = self.differences.iter();
        let details = details.chain(differences.map(|found| describe_difference(found, 0)));
        lines.extend(details.map(|detail| format!("  {detail}")));
        let foreign = self.foreign.iter();
        lines.extend(foreign.map(|found| format!("warning: {found}")));
        lines
    }
}

/// Foreign firewalls, and whom they cut off from what is confirmed. The controller's name is looked up
/// only where it was never dialled: without a way to DNS, that takes long.
fn foreign(
    config: Option<&NodeConfig>,
    confirmed: Option<&Confirmed>,
    system: &mut System,
    host: &Host,
) -> Vec<pb::Neighbour> {
    let dialled = confirmed.map(|confirmed| confirmed.failsafe.controllers.clone());
    let mut controllers = dialled.unwrap_or_default();
    if controllers.is_empty() {
        let looked_up = config.and_then(|config| config.controller.to_socket_addrs().ok());
        controllers.extend(looked_up.into_iter().flatten());
    }
    let protected = Protected {
        ruleset: confirmed.map(Confirmed::effective),
        controllers: &controllers,
        ..Protected::NOTHING
    };
    let mut foreign = ForeignFirewalls::default();
    foreign.check(host, system, protected);
    foreign.found()
}

fn difference_json(difference: &Difference) -> serde_json::Value {
    json!({
        "class": difference.class.as_str(),
        "family": difference.family.to_string(),
        "table": difference.table.as_str(),
        "chain": difference.chain.as_deref().unwrap_or_default(),
        "rule": difference.rule.as_deref().unwrap_or_default(),
        "wanted": difference.wanted.as_deref().unwrap_or_default(),
        "observed": difference.observed.as_deref().unwrap_or_default(),
    })
}
