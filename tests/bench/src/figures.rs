//! Durations as people compare them.

use std::io::Write as _;
use std::time::Duration;

use anyhow::Result;

/// Several measurements of one thing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Series(Vec<Duration>);

impl Series {
    pub(crate) fn add(&mut self, measured: Duration) {
        self.0.push(measured);
        self.0.sort_unstable();
    }

    pub(crate) fn median(&self) -> Duration {
        self.0.get(self.0.len() / 2).copied().unwrap_or_default()
    }

    /// The value that 99 of 100 do not exceed.
    pub(crate) fn p99(&self) -> Duration {
        let index = (self.0.len() * 99).div_ceil(100).saturating_sub(1);
        self.0.get(index).copied().unwrap_or_default()
    }

    pub(crate) fn max(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }
}

/// `12.3 ms` or `1.23 s`.
pub(crate) fn show(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1000.0;
    if ms < 1000.0 {
        format!("{ms:.1} ms")
    } else {
        format!("{:.2} s", ms / 1000.0)
    }
}

/// How many times the floor.
pub(crate) fn ratio(measured: Duration, floor: Duration) -> String {
    format!("{:.1}x", measured.as_secs_f64() / floor.as_secs_f64())
}

/// Prints one line of the report.
pub(crate) fn say(line: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout().lock(), "{line}")?)
}
