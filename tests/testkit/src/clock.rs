//! A clock that tests set.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// Milliseconds since 1970 that only move forward when a test says so, or with the machine's
/// clock.
#[derive(Debug)]
pub struct TestClock {
    /// Whether the machine's time is added.
    running: bool,
    started: Instant,
    ms: watch::Sender<u64>,
    /// By how much the wall clock was set, beside the time that passed.
    set_ms: AtomicI64,
}

impl TestClock {
    /// The machine's clock, ahead by what [`advance_ms`](Self::advance_ms) adds. For parts that
    /// check certificates, which TLS compares with the machine's clock.
    pub fn running() -> Self {
        Self::new(true, 0)
    }

    /// Stands still at a time.
    pub fn fixed(ms: u64) -> Self {
        Self::new(false, ms)
    }

    fn new(running: bool, ms: u64) -> Self {
        Self {
            running,
            started: Instant::now(),
            ms: watch::channel(ms).0,
            set_ms: AtomicI64::new(0),
        }
    }

    /// Moves it forward, and ends the sleeps that are over then.
    pub fn advance_ms(&self, ms: u64) {
        self.ms.send_modify(|shown| *shown += ms);
    }

    /// Sets the wall clock ahead, or back, without time that passes.
    pub fn set_ahead_ms(&self, ms: i64) {
        self.set_ms.store(ms, Ordering::Relaxed);
    }

    /// The time that it shows.
    pub fn now_ms(&self) -> u64 {
        let machine = if self.running {
            u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap()
        } else {
            0
        };
        let set_ms = self.set_ms.load(Ordering::Relaxed);
        (machine + *self.ms.borrow()).saturating_add_signed(set_ms)
    }

    /// The machine's monotonic time, ahead by what was added.
    pub fn monotonic(&self) -> Duration {
        self.started.elapsed() + Duration::from_millis(*self.ms.borrow())
    }

    /// Returns at this moment of [`monotonic`](Self::monotonic), also if time is added.
    pub async fn sleep_until(&self, end: Duration) {
        let mut advanced = self.ms.subscribe();
        while let Some(left) = end.checked_sub(self.monotonic())
            && !left.is_zero()
        {
            tokio::select! {
                () = tokio::time::sleep(left) => {}
                _ = advanced.changed() => {}
            }
        }
    }
}

#[cfg(feature = "controller-clock")]
#[async_trait::async_trait]
impl voipfleet_controller::clock::Clock for TestClock {
    fn now_ms(&self) -> u64 {
        TestClock::now_ms(self)
    }

    fn monotonic(&self) -> Duration {
        TestClock::monotonic(self)
    }

    async fn sleep_until(&self, end: Duration) {
        TestClock::sleep_until(self, end).await;
    }
}
