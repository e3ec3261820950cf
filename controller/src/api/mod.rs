//! The operator service: who may call, and one file for each group of calls.

mod apply;
mod asked;
mod audit;
mod backup;
mod begin;
mod compare;
mod convert;
mod documents;
mod drift;
mod elsewhere;
mod emergency;
mod guard;
mod history;
mod nodes;
mod noop;
mod operators;
mod plan;
mod queue;
mod render;
mod rollout_progress;
mod rollouts;
mod scope;
mod service;
mod sight;
mod sources;
mod status;
mod tokens;
mod uses;

use std::sync::Arc;

use tonic::Status;
use voipfleet_common::names::OperatorName;

pub use backup::BackupTurn;
pub use begin::{Begun, Caller, REQUEST_ID};
pub use service::OperatorService;
pub use uses::UsesCache;

use crate::audit::Audit;
use crate::clock::Clock;
use crate::errors::chain;
use crate::fleet::Fleet;
use crate::live::Sources;
use crate::pki::Authority;
use crate::push::Pushes;
use crate::settings::Address;
use crate::store::{Store, StoreError};

/// The largest request of an operator.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// The largest answer to an operator.
pub const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;

/// What the calls work on.
#[derive(Debug, Clone)]
pub struct Api {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The CA, for its fingerprint.
    pub authority: Arc<Authority>,
    /// Who is connected.
    pub fleet: Fleet,
    /// Pushes that go on.
    pub pushes: Pushes,
    /// Where agents and operators dial.
    pub address: Address,
    /// Where machines enrol.
    pub enrol_address: Address,
    /// The audit log.
    pub audit: Audit,
    /// The first admin, who may do everything, whatever the store says: whoever is root on the
    /// controller's host decides, and nobody locks himself out.
    pub admin: OperatorName,
    /// Which documents the sites use, as last read.
    pub uses: Arc<UsesCache>,
    /// The turn to take a backup.
    pub backups: BackupTurn,
    /// Names and feeds.
    pub sources: Sources,
}

/// A failed store, for a caller: the log has the causes.
// Used as `map_err(failed)`, which hands the error over.
#[allow(clippy::needless_pass_by_value)]
pub(crate) fn failed(error: StoreError) -> Status {
    tracing::error!(error = %chain(&error), "the store failed");
    match error {
        StoreError::Closed => Status::unavailable("controller is stopping"),
        StoreError::OverLimit { .. } | StoreError::TooMany { .. } => {
            Status::resource_exhausted(error.to_string())
        }
        _ => Status::internal(error.to_string()),
    }
}
