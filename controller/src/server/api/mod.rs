//! The operator service: authorisation, and one file for each group of calls.

mod apply;
mod audit;
mod audit_detail;
mod authorize;
mod backup;
mod cut_off_names;
mod document_access;
mod document_usage;
mod documents;
mod drift;
mod emergency;
mod expiries;
mod fields;
mod history;
mod host_audit;
mod nodes;
mod noop;
mod operators;
mod parts;
mod plan;
mod plan_basis;
mod plan_sight;
mod push_request;
mod queue;
mod redact;
mod refusals;
mod render;
mod rollout_progress;
mod rollouts;
mod service;
mod source_quotas;
mod sources;
mod status;
mod stream_guard;
mod target;
mod tokens;

pub use authorize::{Access, AuditedCall, Caller, REQUEST_ID};
pub use parts::Parts;
pub use service::OperatorService;

use audit::AuditApi;
use backup::BackupApi;
use documents::DocumentsApi;
use emergency::EmergencyApi;
use operators::OperatorsApi;
use plan::PlanApi;
use rollouts::PushApi;
use sources::SourcesApi;
use status::FleetApi;
use tokens::TokensApi;

pub(crate) use crate::server::rpc_status::failed;

/// The largest request of an operator.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
