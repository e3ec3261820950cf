//! Fetches a ruleset by its digest.

use std::time::Duration;

use tonic::Code;
use tonic::transport::Channel;
use voipfleet_common::ruleset::{Digest, MAX_RULESET_BYTES};
use voipfleet_proto::v1::FetchRulesetRequest;
use voipfleet_proto::v1::fleet_client::FleetClient;

/// How long the next chunk may take.
const CHUNK_LIMIT: Duration = Duration::from_secs(30);
/// How often a controller that is too busy is asked.
const ATTEMPTS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The content did not come.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// The controller says no.
    #[error("the controller does not give the ruleset: {}", .0.message())]
    Refused(tonic::Status),
    /// More bytes than were offered, or than anybody takes.
    #[error("the ruleset is longer than the {0} bytes that were offered")]
    TooLong(usize),
    /// An offer that is too long to begin with.
    #[error("a ruleset of {0} bytes is offered; the most is {MAX_RULESET_BYTES}")]
    OfferTooLong(u64),
    /// Other bytes than were offered.
    #[error("the ruleset that came is not the one that was offered: digest {found}")]
    Digest {
        /// What came.
        found: Digest,
    },
    /// Nothing came for a while.
    #[error("the ruleset did not come: no data for {} s", CHUNK_LIMIT.as_secs())]
    Stalled,
}

impl FetchError {
    fn is_passing(&self) -> bool {
        match self {
            FetchError::Refused(status) => matches!(
                status.code(),
                Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded
            ),
            FetchError::Stalled => true,
            _ => false,
        }
    }
}

/// The bytes of `digest`, of which `size` were offered.
pub(super) async fn fetch(
    client: FleetClient<Channel>,
    digest: Digest,
    size: u64,
) -> Result<Vec<u8>, FetchError> {
    let limit = usize::try_from(size)
        .ok()
        .filter(|size| *size <= MAX_RULESET_BYTES)
        .ok_or(FetchError::OfferTooLong(size))?;
    let mut pause = FIRST_PAUSE;
    let mut attempt = 1;
    loop {
        match once(client.clone(), digest, limit).await {
            Err(error) if error.is_passing() && attempt < ATTEMPTS => {
                tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
                pause *= 2;
                attempt += 1;
            }
            other => return other,
        }
    }
}

async fn once(
    mut client: FleetClient<Channel>,
    digest: Digest,
    limit: usize,
) -> Result<Vec<u8>, FetchError> {
    let request = FetchRulesetRequest {
        digest: digest.as_bytes().to_vec(),
    };
    let stalled = |_| FetchError::Stalled;
    let mut chunks = tokio::time::timeout(CHUNK_LIMIT, client.fetch_ruleset(request))
        .await
        .map_err(stalled)?
        .map_err(FetchError::Refused)?
        .into_inner();
    let mut content = Vec::new();
    while let Some(chunk) = tokio::time::timeout(CHUNK_LIMIT, chunks.message())
        .await
        .map_err(stalled)?
        .map_err(FetchError::Refused)?
    {
        if content.len() + chunk.data.len() > limit {
            return Err(FetchError::TooLong(limit));
        }
        content.extend(chunk.data);
    }
    let found = Digest::of(&content);
    if found == digest {
        Ok(content)
    } else {
        Err(FetchError::Digest { found })
    }
}
