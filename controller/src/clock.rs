//! The time, as a parameter.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;

/// Where the time comes from.
#[async_trait]
pub trait Clock: Send + Sync + fmt::Debug {
    /// The wall clock's: milliseconds since 1970, UTC. It may be set.
    fn now_ms(&self) -> u64;

    /// Since an arbitrary moment of this run; only grows.
    fn monotonic(&self) -> Duration;

    /// Returns at this moment of [`Clock::monotonic`]; at once if it has passed.
    async fn sleep_until(&self, end: Duration);
}

/// The machine's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        // A clock before 1970 counts as 1970: certificates and tokens then count as not valid.
        u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default()
    }

    fn monotonic(&self) -> Duration {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
    }

    async fn sleep_until(&self, end: Duration) {
        tokio::time::sleep(end.saturating_sub(self.monotonic())).await;
    }
}

/// The machine's clock, shared.
pub fn system() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

/// A time for people: RFC 3339, seconds, UTC.
pub fn show(ms: u64) -> String {
    i64::try_from(ms / 1000)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .map_or_else(|| format!("{ms} ms"), |time| time.to_string())
}
