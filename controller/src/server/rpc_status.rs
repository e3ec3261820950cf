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
    let reason = match error {
        StoreError::Closed => {
            return Refusal::new(Reason::Stopping, "controller is stopping").into();
        }
        StoreError::OverLimit { .. } | StoreError::TooMany { .. } => Reason::LimitReached,
        StoreError::Contended { .. } => Reason::Conflict,
        _ => Reason::StoreFailed,
    };
    Refusal::new(reason, message).into()
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
