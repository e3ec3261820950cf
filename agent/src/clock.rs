//! The only place that asks what time it is.

use std::time::{SystemTime, UNIX_EPOCH};

/// The wall clock; for certificates and for records that people read, never for waiting.
#[allow(clippy::disallowed_methods)] // the one caller that the ban points everybody to
pub fn now() -> SystemTime {
    SystemTime::now()
}

/// Milliseconds of Unix time.
pub fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
