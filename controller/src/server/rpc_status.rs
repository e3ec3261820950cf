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

/// Why a call fails that reads and writes the store in a transaction.
#[derive(Debug)]
pub(crate) struct Failed(pub(crate) Status);

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self(status)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self(failed(error))
    }
}

impl From<Failed> for Status {
    fn from(failed: Failed) -> Self {
        failed.0
    }
}
