//! The operator service: who may call, and one file for each group of calls.

mod apply;
mod audit;
mod audit_detail;
mod authorize;
mod backup;
mod convert;
mod document_access;
mod document_usage;
mod documents;
mod drift;
mod emergency;
mod history;
mod host_audit;
mod nodes;
mod noop;
mod operators;
mod plan;
mod queue;
mod redact;
mod render;
mod rollout_progress;
mod rollouts;
mod service;
mod source_quotas;
mod sources;
mod status;
mod stream_guard;
mod tokens;

use std::sync::Arc;

use voipfleet_ruleset::identifiers::OperatorName;

pub use authorize::{Begun, Caller, REQUEST_ID};
pub use backup::BackupTurn;
pub use document_usage::UsesCache;
pub use service::OperatorService;

use crate::audit::Audit;
use crate::clock::Clock;
use crate::dynamic_sets::Sources;
use crate::fleet::Fleet;
use crate::pki::Authority;
use crate::push::Pushes;
pub(crate) use crate::server::rpc_status::failed;
use crate::settings::Address;
use crate::store::Store;

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
