//! `voipfleet-agent status`

use std::process::ExitCode;
use std::sync::Arc;

use serde_json::json;
use voipfleet_ruleset::drift::Difference;

use super::{find_tools, print, start_log, with_fleet_clock};
use crate::cli::Status;
use crate::enforcement::dynamic_sets::{self, StoredSets};
use crate::enforcement::inspect::inspect;
use crate::enforcement::management_rules::describe_note;
use crate::enforcement::read_back::describe_difference;
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
    differences: Vec<Difference>,
}

pub(super) fn status(arguments: &Status) -> anyhow::Result<ExitCode> {
    start_log(arguments.tools.log_format);
    let state = StateDir::at(&arguments.tools.state.state);
    let ledger = Ledger::open_read_only(&state.ledger());
    let system = find_tools(&arguments.tools)?;
    let mut system = with_fleet_clock(system, &ledger, &Arc::default());
    let report = StatusReport::read(&state, &ledger, &mut system)?;
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
    /// Whether the node runs all that it should, with dynamic sets that are known.
    fn is_clean(&self) -> bool {
        let sets_are_known = self.dynamic_sets.error().is_none();
        self.differences.is_empty() && self.fallback.is_none() && sets_are_known
    }

    fn read(state: &StateDir, ledger: &Ledger, system: &mut System) -> anyhow::Result<Self> {
        let mut confirmed = ledger.confirmed()?;
        let dynamic_sets = dynamic_sets::load(system, ledger, confirmed.as_mut());
        let fallback = ledger.fallback().map(|note| describe_note(&note));
        // Differences from a ruleset that is known not to run mean nothing.
        let found = confirmed
            .as_ref()
            .filter(|_| fallback.is_none())
            .map(|confirmed| inspect(system, confirmed));
        let drift = match &found {
            None if fallback.is_some() => DriftSummary::Drifted,
            None => DriftSummary::None,
            Some(found) if found.is_unreadable() => DriftSummary::Unreadable,
            Some(found) if found.is_clean() => DriftSummary::Clean,
            Some(_) => DriftSummary::Drifted,
        };
        Ok(Self {
            config: state.config().ok(),
            confirmed,
            dynamic_sets,
            drift,
            fallback,
            differences: found.map(|found| found.differences).unwrap_or_default(),
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
            "fallback": self.fallback,
            "dynamic_digest": sets.map(|sets| sets.digest.to_string()),
            "dynamic_error": self.dynamic_sets.error(),
            "differences": differences,
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
        field("drift", &self.drift.as_str());
        let details = self.fallback.iter().cloned();
        let details = details.chain(self.dynamic_sets.error());
        let differences = self.differences.iter();
        let details = details.chain(differences.map(|found| describe_difference(found, 0)));
        lines.extend(details.map(|detail| format!("  {detail}")));
        lines
    }
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
