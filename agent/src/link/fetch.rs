//! Fetches a ruleset by its digest.

use std::time::Duration;

use tonic::Code;
use tonic::transport::Channel;
use voipfleet_common::ruleset::{Digest, MAX_RULESET_BYTES};
use voipfleet_proto::v1::FetchRulesetRequest;
use voipfleet_proto::v1::fleet_client::FleetClient;

/// The longest chunk.
const MAX_CHUNK: usize = 256 << 10;
/// Chunks are this long at least, but for the last ones. A controller sends [`MAX_CHUNK`].
const MIN_CHUNK: usize = 4 << 10;
const LAST_CHUNKS: usize = 16;
/// How often a controller that is too busy is asked.
const ATTEMPTS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// How long a fetch may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchLimits {
    /// Until the next chunk.
    pub chunk: Duration,
    /// All of it, every attempt included: 64 MiB in it are 1.8 Mbit/s.
    pub whole: Duration,
}

impl Default for FetchLimits {
    fn default() -> Self {
        Self {
            chunk: Duration::from_secs(30),
            whole: Duration::from_mins(5),
        }
    }
}

/// The content did not come.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// The controller says no.
    #[error("the controller does not give the ruleset: {}", .0.message())]
    Refused(tonic::Status),
    /// More bytes than were offered, or than anybody takes.
    #[error("the ruleset is longer than the {0} bytes that were offered")]
    TooLong(usize),
    /// A chunk that nobody sends.
    #[error("a chunk of {0} bytes came; the most is {MAX_CHUNK}")]
    ChunkTooLong(usize),
    /// It comes in crumbs.
    #[error("the ruleset comes in more than {0} chunks")]
    TooManyChunks(usize),
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
    #[error("the ruleset did not come: no data for {} s", .0.as_secs_f32())]
    Stalled(Duration),
    /// It goes on and on.
    #[error("the ruleset did not come within {} s", .0.as_secs_f32())]
    Late(Duration),
}

impl FetchError {
    fn is_passing(&self) -> bool {
        match self {
            FetchError::Refused(status) => matches!(
                status.code(),
                Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded
            ),
            FetchError::Stalled(_) => true,
            _ => false,
        }
    }
}

/// The bytes of `digest`, of which `size` were offered.
pub(super) async fn fetch(
    client: FleetClient<Channel>,
    digest: Digest,
    size: u64,
    limits: FetchLimits,
) -> Result<Vec<u8>, FetchError> {
    let fetched = tokio::time::timeout(limits.whole, attempts(client, digest, size, limits));
    let late = |_| Err(FetchError::Late(limits.whole));
    fetched.await.unwrap_or_else(late)
}

async fn attempts(
    client: FleetClient<Channel>,
    digest: Digest,
    size: u64,
    limits: FetchLimits,
) -> Result<Vec<u8>, FetchError> {
    let limit = usize::try_from(size)
        .ok()
        .filter(|size| *size <= MAX_RULESET_BYTES)
        .ok_or(FetchError::OfferTooLong(size))?;
    let mut pause = FIRST_PAUSE;
    let mut attempt = 1;
    loop {
        match once(client.clone(), digest, limit, limits.chunk).await {
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
    patience: Duration,
) -> Result<Vec<u8>, FetchError> {
    let request = FetchRulesetRequest {
        digest: digest.as_bytes().to_vec(),
    };
    let stalled = |_| FetchError::Stalled(patience);
    let mut chunks = tokio::time::timeout(patience, client.fetch_ruleset(request))
        .await
        .map_err(stalled)?
        .map_err(FetchError::Refused)?
        .into_inner();
    let most = limit / MIN_CHUNK + LAST_CHUNKS;
    let mut left = most;
    let mut content = Vec::new();
    while let Some(chunk) = tokio::time::timeout(patience, chunks.message())
        .await
        .map_err(stalled)?
        .map_err(FetchError::Refused)?
    {
        if chunk.data.len() > MAX_CHUNK {
            return Err(FetchError::ChunkTooLong(chunk.data.len()));
        }
        left = left.checked_sub(1).ok_or(FetchError::TooManyChunks(most))?;
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
