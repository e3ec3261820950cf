//! The task's part about probes: they run beside it, and it goes on with its work meanwhile.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::info;
use voipfleet_protocol::session::Attempt;
use voipfleet_ruleset::ruleset::Probe;

use super::Reconciler;
use crate::failpoint::{Step, Work, during, reach};
use crate::mailbox::Probed;
use crate::probe::{self, Failed};

/// Probes that an error names; more of them say nothing that the first do not.
const MAX_NAMED: usize = 5;

impl Reconciler {
    /// Starts the probes of what is on trial. Without any, it is kept at once.
    pub(super) fn probe(&mut self, attempt: Attempt) {
        let (Some(trial), Some(deadline)) = (&self.trial, self.course.deadline()) else {
            return;
        };
        let probes = trial.candidate.ruleset.probes.clone();
        if probes.is_empty() {
            reach(Step::Probed);
            return self.keep(attempt);
        }
        let generation = attempt.held.generation;
        info!(generation, probes = probes.len(), "probes run");
        let left = deadline.saturating_duration_since(Instant::now());
        // They are told to end before the trial does: an undo then says which it was.
        let milliseconds = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let limit = probe::LIMIT.min(Duration::from_millis(milliseconds / 10 * 9));
        let inbox = Arc::clone(&self.inbox);
        let done = move |failed| inbox.probed(attempt, failed);
        if let Err(error) = probe::start(probes, limit, done) {
            self.roll_back(attempt, format!("the probes cannot be run: {error}"));
        }
    }

    /// Probes ended.
    pub(super) fn probed(&mut self, probed: Probed) {
        let Probed {
            attempt,
            failed,
            ended,
        } = probed;
        if !self.course.probed(attempt, ended) {
            let generation = attempt.held.generation;
            info!(generation, "probes that ended late, or of an earlier trial");
        } else if failed.is_empty() {
            let _work = during(Work::Apply);
            reach(Step::Probed);
            self.keep(attempt);
        } else {
            self.roll_back(attempt, describe(&failed));
        }
    }
}

/// Probes that failed, the first ones first.
fn describe(failed: &[Failed]) -> String {
    list(failed, "; ", "failed")
}

/// Probes of which nothing was heard.
pub(super) fn unfinished(probes: &[Probe], within: Duration) -> String {
    let seconds = within.as_secs_f64();
    let probes = list(probes, ", ", "");
    format!("the probes did not end within {seconds} s: {probes}")
}

fn list(items: &[impl ToString], separator: &str, what: &str) -> String {
    let named: Vec<String> = items
        .iter()
        .take(MAX_NAMED)
        .map(ToString::to_string)
        .collect();
    let mut text = named.join(separator);
    let more = items.len().saturating_sub(MAX_NAMED);
    if more > 0 {
        let _ = write!(text, "{separator}and {more} more {what}");
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use voipfleet_ruleset::ruleset::ProbeCheck;

    use crate::probe::ProbeError;

    fn probes(count: usize) -> Vec<Probe> {
        (0..count)
            .map(|index| Probe {
                name: format!("p{index}").parse().unwrap(),
                check: ProbeCheck::Icmp("192.0.2.1".parse().unwrap()),
            })
            .collect()
    }

    #[test]
    fn an_error_names_the_first_that_failed_and_stays_short() {
        let failed = |count: usize| -> Vec<Failed> {
            let error = || ProbeError::NoAnswer(Duration::from_millis(2700));
            let failed = |probe| Failed {
                probe,
                error: error(),
            };
            probes(count).into_iter().map(failed).collect()
        };
        assert_eq!(
            describe(&failed(2)),
            "probe \"p0\" (icmp 192.0.2.1) failed: no answer within 2.7 s; \
             probe \"p1\" (icmp 192.0.2.1) failed: no answer within 2.7 s"
        );
        let all = describe(&failed(16));
        assert!(all.ends_with("; and 11 more failed"), "{all}");
        assert_eq!(all.matches("probe \"").count(), MAX_NAMED);
        assert_eq!(
            unfinished(&probes(1), Duration::from_secs(5)),
            "the probes did not end within 5 s: probe \"p0\" (icmp 192.0.2.1)"
        );
    }
}
