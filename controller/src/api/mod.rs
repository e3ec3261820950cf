//! The operator service: who may call, and one file for each group of calls.

mod compare;
mod convert;
mod documents;
mod drift;
mod nodes;
mod render;
mod service;
mod status;
mod tokens;

use std::sync::Arc;

use tonic::{Request, Status};
use voipfleet_common::identity::Identity;
use voipfleet_common::names::OperatorName;

pub use service::OperatorService;

use crate::clock::Clock;
use crate::errors::chain;
use crate::fleet::Fleet;
use crate::listen::Peer;
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
    /// Where machines enrol.
    pub enrol_address: Address,
}

/// An operator whose certificate was checked.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Its name.
    pub name: OperatorName,
}

/// The one place that decides who may make an operator's call.
///
/// Every operator may make every call; rights by call and site come in here.
pub fn authorise<T>(
    request: &Request<T>,
    call: &'static str,
    now_ms: u64,
) -> Result<Caller, Status> {
    let peer = request
        .extensions()
        .get::<Peer>()
        .ok_or_else(|| Status::internal("the connection has no peer"))?;
    let Some(proven) = &peer.proven else {
        return Err(Status::unauthenticated("this call needs a certificate"));
    };
    if proven.leaf.expires_ms <= now_ms {
        return Err(Status::unauthenticated("its certificate has expired"));
    }
    match &proven.identity {
        Identity::Operator(name) => Ok(Caller { name: name.clone() }),
        identity => {
            tracing::warn!(peer = %peer.address, %identity, call, "only operators may make this call");
            Err(Status::permission_denied(format!(
                "only operators may make this call, and this certificate is of {identity}"
            )))
        }
    }
}

/// A failed store, for a caller: the log has the causes.
// Used as `map_err(failed)`, which hands the error over.
#[allow(clippy::needless_pass_by_value)]
pub(crate) fn failed(error: StoreError) -> Status {
    tracing::error!(error = %chain(&error), "the store failed");
    match error {
        StoreError::Closed => Status::unavailable("controller is stopping"),
        StoreError::TooLarge { .. } | StoreError::TooMany { .. } => {
            Status::resource_exhausted(error.to_string())
        }
        _ => Status::internal(error.to_string()),
    }
}
