//! The controller's clock, as it was last heard: a start without a controller goes on from it.

use super::format::{self, ClockFile, Kind};
use super::{Ledger, LedgerError};
use crate::host::clock::ClockReading;
use crate::host::disk;

pub(super) const CLOCK: &str = "clock";
const MAX_FILE: usize = 4096;

impl Ledger {
    /// The last reading. None where there is none that can be used: the wall clock stands in for
    /// it then.
    pub fn clock(&self) -> Option<ClockReading> {
        let bytes = disk::read(&self.file(CLOCK), MAX_FILE).ok()??;
        let file = format::decode::<ClockFile>(Kind::Clock, &bytes).ok()?;
        Some(ClockReading {
            fleet_ms: file.fleet_ms,
            wall_ms: file.wall_ms,
            since_boot_ms: file.since_boot_ms,
            boot_id: file.boot_id,
        })
    }

    /// Keeps a reading. Durable on return.
    pub fn keep_clock(&self, reading: &ClockReading) -> Result<(), LedgerError> {
        let file = ClockFile {
            fleet_ms: reading.fleet_ms,
            wall_ms: reading.wall_ms,
            since_boot_ms: reading.since_boot_ms,
            boot_id: reading.boot_id.clone(),
        };
        let file = format::encode(Kind::Clock, &file);
        Ok(disk::replace(&self.file(CLOCK), &file)?)
    }
}
