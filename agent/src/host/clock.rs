//! The only place that reads the clock.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

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

/// Milliseconds since the machine booted, those that it slept among them; none: unknown.
fn since_boot_ms() -> Option<u64> {
    let time = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?);
    u64::try_from(time.as_millis()).ok()
}

/// The controller's clock, reckoned on from the last time that it was heard: ends of set elements
/// are moments of that clock. Whatever the wall clock of this machine shows, and however it is
/// set, a block lasts as long as it was meant to. Before the controller was ever heard, the wall
/// clock stands in for it.
#[derive(Debug, Default)]
pub struct FleetClock(Mutex<Reckoning>);

#[derive(Debug, Default)]
struct Reckoning {
    heard: Option<(u64, Instant)>,
    /// The one that was last given out to be kept.
    kept: Option<ClockReading>,
}

/// What is kept of the controller's clock for the next start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClockReading {
    /// The controller's, Unix time in milliseconds.
    pub fleet_ms: u64,
    /// This machine's wall clock then.
    pub wall_ms: u64,
    /// Since the machine had booted.
    pub since_boot_ms: u64,
    pub boot_id: String,
}

impl ClockReading {
    /// The controller's clock now.
    ///
    /// Within the same boot that is certain. After a reboot nothing is known but this machine's
    /// wall clock, which is taken to be as far off as it was, and time does not go back.
    fn reckon(&self, wall_ms: u64, since_boot_ms: Option<u64>, boot_id: &str) -> u64 {
        let passed = since_boot_ms
            .filter(|_| self.boot_id == boot_id)
            .and_then(|now| now.checked_sub(self.since_boot_ms))
            .unwrap_or_else(|| wall_ms.saturating_sub(self.wall_ms));
        self.fleet_ms.saturating_add(passed)
    }

    /// Whether both say the same, but for what passed between them.
    fn agrees_with(&self, later: &ClockReading) -> bool {
        let passed = later.since_boot_ms.saturating_sub(self.since_boot_ms);
        self.boot_id == later.boot_id
            && later
                .fleet_ms
                .abs_diff(self.fleet_ms.saturating_add(passed))
                <= KEPT_WITHIN_MS
    }
}

/// A reading is kept again where the reckoning differs by more than this.
const KEPT_WITHIN_MS: u64 = 1000;

impl FleetClock {
    /// The controller's clock shows this now.
    pub fn hear(&self, fleet_ms: u64) {
        if fleet_ms > 0 {
            self.lock().heard = Some((fleet_ms, Instant::now()));
        }
    }

    /// Goes on from what an earlier run kept.
    pub fn restore(&self, reading: ClockReading) {
        let fleet_ms = reading.reckon(unix_ms(now()), since_boot_ms(), &super::boot_id());
        let mut reckoning = self.lock();
        reckoning.heard = Some((fleet_ms, Instant::now()));
        reckoning.kept = Some(reading);
    }

    /// Unix time in milliseconds.
    pub fn now_ms(&self) -> u64 {
        match self.lock().heard {
            Some((fleet_ms, at)) => {
                let passed = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
                fleet_ms.saturating_add(passed)
            }
            None => unix_ms(now()),
        }
    }

    /// Unix time in seconds.
    pub fn now(&self) -> u64 {
        self.now_ms() / 1000
    }

    /// What should be kept for the next start; none: nothing was heard, or that is kept already.
    pub fn to_keep(&self) -> Option<ClockReading> {
        self.lock().heard?;
        let reading = ClockReading {
            fleet_ms: self.now_ms(),
            wall_ms: unix_ms(now()),
            since_boot_ms: since_boot_ms()?,
            boot_id: super::boot_id(),
        };
        let mut reckoning = self.lock();
        let known = reckoning.kept.as_ref();
        if known.is_some_and(|kept| kept.agrees_with(&reading)) {
            return None;
        }
        reckoning.kept = Some(reading.clone());
        Some(reading)
    }

    fn lock(&self) -> MutexGuard<'_, Reckoning> {
        // Each change under the lock is whole: a panic leaves nothing half-done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    fn fleet_clock_is_reckoned_across_restarts() {
        let kept = ClockReading {
            fleet_ms: 5_000_000,
            wall_ms: 12_200_000, // two hours ahead
            since_boot_ms: 60_000,
            boot_id: "a".to_owned(),
        };
        for (wall_ms, since_boot, boot, wanted) in [
            // The same boot: the wall clock does not matter.
            (12_210_000, Some(70_000), "a", 5_010_000),
            (5_010_000, Some(70_000), "a", 5_010_000),
            (0, Some(70_000), "a", 5_010_000),
            // Another one: as far off as before.
            (12_260_000, Some(5_000), "b", 5_060_000),
            // A clock that was lost does not go back.
            (0, Some(5_000), "b", 5_000_000),
            // A container whose time since boot begins anew.
            (12_210_000, Some(1_000), "a", 5_010_000),
            (12_210_000, None, "a", 5_010_000),
        ] {
            let found = kept.reckon(wall_ms, since_boot, boot);
            assert_eq!(found, wanted, "{wall_ms} {since_boot:?} {boot}");
        }
    }

    #[test]
    fn fleet_clock_follows_the_controller_and_not_the_wall() {
        let clock = FleetClock::default();
        assert!(clock.to_keep().is_none());
        assert!(clock.now_ms().abs_diff(unix_ms(now())) < 60_000);
        clock.hear(0);
        assert!(clock.now_ms() > 1_000_000, "0 is not said");
        clock.hear(7_200_000);
        assert!(clock.now_ms().abs_diff(7_200_000) < 60_000);
        let kept = clock.to_keep().unwrap();
        assert!(clock.to_keep().is_none(), "once is enough");
        clock.hear(3_600_000);
        assert!(clock.to_keep().is_some());
        let restored = FleetClock::default();
        restored.restore(kept);
        assert!(restored.now_ms().abs_diff(7_200_000) < 60_000);
    }

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
