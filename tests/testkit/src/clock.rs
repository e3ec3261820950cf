//! A clock that tests set.

use std::sync::atomic::{AtomicU64, Ordering};

/// Milliseconds since 1970 that only move forward when a test says so, or with the machine's
/// clock.
#[derive(Debug)]
pub struct TestClock {
    /// Whether the machine's time is added.
    running: bool,
    ms: AtomicU64,
}

impl TestClock {
    /// The machine's clock, ahead by what [`advance_ms`](Self::advance_ms) adds. For parts that
    /// check certificates, which TLS compares with the machine's clock.
    pub fn running() -> Self {
        Self {
            running: true,
            ms: AtomicU64::new(0),
        }
    }

    /// Stands still at a time.
    pub fn fixed(ms: u64) -> Self {
        Self {
            running: false,
            ms: AtomicU64::new(ms),
        }
    }

    /// Moves it forward.
    pub fn advance_ms(&self, ms: u64) {
        self.ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// The time that it shows.
    pub fn now_ms(&self) -> u64 {
        let machine = if self.running {
            u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap()
        } else {
            0
        };
        machine + self.ms.load(Ordering::SeqCst)
    }
}

#[cfg(feature = "controller-clock")]
impl voipfleet_controller::clock::Clock for TestClock {
    fn now_ms(&self) -> u64 {
        TestClock::now_ms(self)
    }
}
