//! Descriptions of the probes of a trial.

use std::fmt::Write as _;
use std::time::Duration;

use voipfleet_ruleset::ruleset::Probe;

use crate::probe::Failed;

/// Probes that an error names; more of them add nothing.
const MAX_NAMED: usize = 5;

/// Probes that failed, in the order of the document.
pub(super) fn describe_failed(failed: &[Failed]) -> String {
    list(failed, "; ", "failed")
}

/// Probes that did not end in time.
pub(super) fn describe_unfinished(probes: &[Probe], within: Duration) -> String {
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
    fn an_error_names_the_first_failed_probes_and_counts_the_rest() {
        let failed = |count: usize| -> Vec<Failed> {
            let error = || ProbeError::NoAnswer(Duration::from_millis(2700));
            let failed = |probe| Failed {
                probe,
                error: error(),
            };
            probes(count).into_iter().map(failed).collect()
        };
        assert_eq!(
            describe_failed(&failed(2)),
            "probe \"p0\" (icmp 192.0.2.1) failed: no answer within 2.7 s; \
             probe \"p1\" (icmp 192.0.2.1) failed: no answer within 2.7 s"
        );
        let all = describe_failed(&failed(16));
        assert!(all.ends_with("; and 11 more failed"), "{all}");
        assert_eq!(all.matches("probe \"").count(), MAX_NAMED);
        assert_eq!(
            describe_unfinished(&probes(1), Duration::from_secs(5)),
            "the probes did not end within 5 s: probe \"p0\" (icmp 192.0.2.1)"
        );
    }
}
