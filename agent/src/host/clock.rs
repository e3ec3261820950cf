//! The only place that reads the clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The wall clock; for certificates and for records that people read, never for waiting.
#[allow(clippy::disallowed_methods)] // the one caller that the ban allows
pub fn now() -> SystemTime {
    SystemTime::now()
}

/// Milliseconds of Unix time.
pub fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// Seconds of Unix time.
pub fn unix(time: SystemTime) -> u64 {
    unix_ms(time) / 1000
}

/// How far the wall clock and monotonic time may diverge between two readings.
const STEP: Duration = Duration::from_secs(2);

/// Notices that the wall clock was set, or that the machine slept: the kernel's timers follow
/// neither.
#[derive(Debug, Default)]
pub struct Steps(Option<(SystemTime, Instant)>);

impl Steps {
    /// Whether the wall clock diverged from monotonic time since the last call.
    pub fn stepped(&mut self, wall: SystemTime, time: Instant) -> bool {
        let last = self.0.replace((wall, time));
        last.is_some_and(|(last_wall, last_time)| {
            let expected = last_wall + time.saturating_duration_since(last_time);
            let off = wall
                .duration_since(expected)
                .unwrap_or_else(|earlier| earlier.duration());
            off > STEP
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_step_is_noticed_once() {
        let mut steps = Steps::default();
        let (wall, time) = (UNIX_EPOCH + Duration::from_hours(9), Instant::now());
        let seconds = Duration::from_secs;
        assert!(!steps.stepped(wall, time));
        assert!(!steps.stepped(wall + seconds(61), time + seconds(60)));
        assert!(steps.stepped(wall + seconds(200), time + seconds(70)));
        assert!(!steps.stepped(wall + seconds(215), time + seconds(85)));
        assert!(steps.stepped(wall, time + seconds(100)), "backwards");
    }
}
