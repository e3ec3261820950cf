//! The time, as a parameter.

use std::fmt;
use std::sync::Arc;

/// Where the wall clock's time comes from.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Milliseconds since 1970, UTC.
    fn now_ms(&self) -> u64;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        // A clock before 1970 counts as 1970: certificates and tokens then count as not valid.
        u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default()
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

/// Sleeps so long; none: for ever.
pub(crate) async fn sleep(time: Option<std::time::Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}
