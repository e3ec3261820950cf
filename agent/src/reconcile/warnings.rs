//! Warnings about a node that the controller shows to operators.

use std::fmt;
use std::time::Duration;

/// One warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Warning {
    /// The agent ended during a trial; the start rolled it back. None: its journal is damaged.
    UndoneAtStart {
        generation: Option<u64>,
        reason: Option<String>,
    },
    /// The confirmed ruleset is lost, and nothing runs in its place.
    RulesetLost { reason: String },
    /// The confirmed ruleset could not be put in force.
    NotInForce { reason: String },
    /// The node runs its management rules, or nothing.
    Fallback { description: String },
    /// The ruleset was loaded without a preflight.
    NoPreflight { reason: String },
    /// Flows that should be cut go on.
    Flows { description: String },
    /// Dynamic sets are enforced, and not on disk.
    Unkept { description: String },
    /// A foreign rule or set that the tools cannot print.
    Obstacle { description: String },
    /// The canonical form was read from the live kernel.
    NoScratchNamespace,
    /// No events announce changes of the rules.
    PollingOnly { interval: Duration, reason: String },
    /// A rule of the site names an interface that is not there.
    NoInterface { interface: String },
    /// Drift records were dropped while the controller could not be reached.
    RecordsDropped { count: u64 },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::UndoneAtStart { generation, reason } => {
                f.write_str("the agent stopped before ")?;
                match generation {
                    Some(generation) => write!(f, "generation {generation}")?,
                    None => f.write_str("a ruleset")?,
                }
                f.write_str(" was confirmed; it was rolled back at the next start")?;
                match reason {
                    Some(reason) => write!(f, ": {reason}"),
                    None => Ok(()),
                }
            }
            Warning::RulesetLost { reason } => {
                write!(
                    f,
                    "the confirmed ruleset is lost until the next push: {reason}"
                )
            }
            Warning::NotInForce { reason } => {
                write!(f, "the confirmed ruleset is not in force: {reason}")
            }
            Warning::Fallback { description }
            | Warning::Flows { description }
            | Warning::Unkept { description }
            | Warning::Obstacle { description } => f.write_str(description),
            Warning::NoPreflight { reason } => {
                write!(f, "rulesets are loaded without a preflight: {reason}")
            }
            Warning::NoScratchNamespace => f.write_str(
                "drift is measured against what the kernel printed after the last push: this node \
                 cannot create a scratch network namespace",
            ),
            Warning::PollingOnly { interval, reason } => write!(
                f,
                "changes by other programs are noticed only every {} s: {reason}",
                interval.as_secs_f64()
            ),
            Warning::NoInterface { interface } => write!(
                f,
                "there is no interface {interface}: the site's rules that name it let nothing in"
            ),
            Warning::RecordsDropped { count } => write!(
                f,
                "{count} drift records were dropped while the controller could not be reached"
            ),
        }
    }
}
