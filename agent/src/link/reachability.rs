//! Whether a controller that knows this node answers at an address.

use std::sync::Arc;
use std::time::Duration;

use tonic::Code;
use voipfleet_proto::channel;
use voipfleet_proto::v1::FetchRulesetRequest;
use voipfleet_proto::v1::fleet_client::FleetClient;
use voipfleet_protocol::identity::tls;
use voipfleet_ruleset::ruleset::Digest;

use super::connection_errors::explain;
use crate::host::state_dir::{NodeConfig, StateDir, StateError};

/// How long the controller may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// Why the address is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// Nothing of ours answers there, or it does not know this node.
    #[error("{0}; the address stays as it was")]
    Controller(String),
}

/// Dials the controller of `config` with the node's own certificate, and asks for a ruleset that
/// does not exist: only a controller of the node's CA that knows the node answers that.
///
/// A session would take the place of the running agent's.
pub async fn check(state: &StateDir, config: &NodeConfig) -> Result<(), Unreachable> {
    let address = config.controller.as_str();
    let identity = state.identity()?;
    let tls = Arc::new(tls::client(identity.credentials())?);
    let failed = |error: &(dyn std::error::Error + 'static)| {
        Unreachable::Controller(explain(error, address))
    };
    let channel = channel::connect_through(config.proxy.as_ref(), address, tls)
        .await
        .map_err(|error| failed(&*error))?;
    let request = FetchRulesetRequest {
        digest: Digest::of(b"").as_bytes().to_vec(),
    };
    let mut client = FleetClient::new(channel);
    let answer = tokio::time::timeout(ANSWER_LIMIT, client.fetch_ruleset(request)).await;
    let Ok(answer) = answer else {
        let why = format!(
            "the controller at {address} did not answer within {} s",
            ANSWER_LIMIT.as_secs()
        );
        return Err(Unreachable::Controller(why));
    };
    match answer {
        Ok(_) => Ok(()),
        // It knows the node, and has no such ruleset.
        Err(status) if matches!(status.code(), Code::FailedPrecondition | Code::NotFound) => Ok(()),
        Err(status) => Err(failed(&status)),
    }
}
