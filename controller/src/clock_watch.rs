//! Notices that the controller's clock was set: times in the log and the ends of blocks depend on it.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::audit::{Audit, Event};
use crate::clock::{Clock, show};

/// How often it is looked at.
const EVERY: Duration = Duration::from_secs(10);
/// By how much the wall clock and the time that passed may differ between two looks.
const STEP_MS: u64 = 5000;

/// A look at both clocks.
#[derive(Debug, Clone, Copy)]
struct Look {
    wall_ms: u64,
    monotonic: Duration,
}

impl Look {
    fn now(clock: &dyn Clock) -> Self {
        Self {
            wall_ms: clock.now_ms(),
            monotonic: clock.monotonic(),
        }
    }

    /// What the wall clock showed if it had not been set since `self`.
    fn expected_ms(&self, later: &Look) -> u64 {
        let passed = later.monotonic.saturating_sub(self.monotonic);
        let passed = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
        self.wall_ms.saturating_add(passed)
    }
}

/// Writes every step into the log and the audit log, until `stop`.
pub(crate) async fn watch(clock: Arc<dyn Clock>, audit: Audit, stop: CancellationToken) {
    let mut last = Look::now(clock.as_ref());
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stop.cancelled() => return,
        }
        let look = Look::now(clock.as_ref());
        let expected_ms = last.expected_ms(&look);
        last = look;
        if let Some(event) = event(expected_ms, look.wall_ms) {
            tracing::warn!(
                from = show(expected_ms),
                to = show(look.wall_ms),
                "the controller's clock was set; check its time synchronization"
            );
            audit.note(event).await;
        }
    }
}

/// None: the clock was not set.
fn event(expected_ms: u64, found_ms: u64) -> Option<Event> {
    let by_s = expected_ms.abs_diff(found_ms) / 1000;
    let way = if found_ms > expected_ms {
        "ahead"
    } else {
        "back"
    };
    (expected_ms.abs_diff(found_ms) > STEP_MS).then(|| {
        Event::new("ClockSet").detail(format!(
            "the controller's clock was set {way} by {by_s} s, from {} to {}",
            show(expected_ms),
            show(found_ms)
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_from_time_that_passes() {
        let look = |wall_ms: u64, seconds: u64| Look {
            wall_ms,
            monotonic: Duration::from_secs(seconds),
        };
        let first = look(1_000_000, 50);
        for (wall_ms, seconds, wanted) in [
            (1_010_000, 60, None),
            (1_014_000, 60, None),
            (8_210_000, 60, Some("ahead by 7200 s")),
            (1_000_000, 60, Some("back by 10 s")),
        ] {
            let later = look(wall_ms, seconds);
            let event = event(first.expected_ms(&later), wall_ms);
            let detail = event.map(|event| event.record().detail.unwrap_or_default());
            assert_eq!(
                detail.is_some_and(|detail| wanted.is_some_and(|wanted| detail.contains(wanted))),
                wanted.is_some(),
                "{wall_ms}"
            );
        }
    }
}
