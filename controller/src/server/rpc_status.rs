//! Refusals that several services share.

use tonic::Status;
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1::Reason;
use voipfleet_ruleset::identifiers::SiteName;

use crate::errors::chain;
use crate::store::StoreError;

/// A failed store, for a caller; the log has the causes.
// Used as `map_err(failed)`, which hands the error over.
#[allow(clippy::needless_pass_by_value)]
pub(crate) fn failed(error: StoreError) -> Status {
    tracing::error!(error = %chain(&error), "store failed");
    let message = error.to_string();
    let full = matches!(error, StoreError::Full { .. });
    let reason = match error {
        StoreError::Contended { what } => return conflict(what),
        StoreError::Closed => {
            return Refusal::new(Reason::Stopping, "controller is stopping").into();
        }
        StoreError::OverLimit { .. } | StoreError::TooMany { .. } => Reason::LimitReached,
        _ => Reason::StoreFailed,
    };
    let refusal = Refusal::new(reason, message);
    if full {
        return refusal.hint("make room on the controller's disk").into();
    }
    refusal.into()
}

/// A failure whose cause is only in the log.
pub(crate) fn internal(message: &str) -> Status {
    Refusal::new(Reason::Internal, message)
        .hint("check the controller's log")
        .into()
}

pub(crate) fn unknown_site(site: &SiteName) -> Status {
    Refusal::new(Reason::UnknownSite, format!("there is no site {site}"))
        .hint("list the sites: voipctl get site")
        .fact("site", site)
        .into()
}

/// Others changed `what` between our read and our write, more often than we retry.
pub(crate) fn conflict(what: impl std::fmt::Display) -> Status {
    Refusal::new(
        Reason::Conflict,
        format!("{what} was modified concurrently"),
    )
    .into()
}

/// Why a call fails that reads and writes the store in a transaction.
#[derive(Debug)]
pub(crate) struct Failed(pub(crate) Status);

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self(status)
    }
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Self(refusal.into())
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
