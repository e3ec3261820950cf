//! gRPC statuses of failures that every service shares.

use tonic::Status;

use crate::errors::chain;
use crate::store::StoreError;

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
        StoreError::Contended { .. } => Status::aborted(error.to_string()),
        _ => Status::internal(error.to_string()),
    }
}
