//! Fetches a ruleset or dynamic sets by their digest.

use std::time::Duration;

use tonic::transport::Channel;
use tonic::{Code, Response, Status, Streaming};
use voipfleet_proto::v1::fleet_client::FleetClient;
use voipfleet_proto::v1::{Chunk, FetchDynamicSetsRequest, FetchRulesetRequest};
use voipfleet_protocol::limits::{MAX_CHUNK_BYTES, MAX_DYNAMIC_SETS_BYTES, MAX_RULESET_BYTES};
use voipfleet_ruleset::ruleset::Digest;

/// Chunks are this long at least, but for the last ones. A controller sends [`MAX_CHUNK_BYTES`].
const MIN_CHUNK: usize = 4 << 10;
const LAST_CHUNKS: usize = 16;
/// How often a busy controller is tried.
const ATTEMPTS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The content that is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Requested {
    Ruleset,
    DynamicSets,
}

impl Requested {
    fn most(self) -> usize {
        match self {
            Requested::Ruleset => MAX_RULESET_BYTES,
            Requested::DynamicSets => MAX_DYNAMIC_SETS_BYTES,
        }
    }

    async fn ask(
        self,
        client: &mut FleetClient<Channel>,
        digest: Digest,
    ) -> Result<Response<Streaming<Chunk>>, Status> {
        let digest = digest.as_bytes().to_vec();
        match self {
            Requested::Ruleset => client.fetch_ruleset(FetchRulesetRequest { digest }).await,
            Requested::DynamicSets => {
                client
                    .fetch_dynamic_sets(FetchDynamicSetsRequest { digest })
                    .await
            }
        }
    }
}

impl std::fmt::Display for Requested {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Requested::Ruleset => "the ruleset",
            Requested::DynamicSets => "the content of the dynamic sets",
        })
    }
}

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

/// The content did not arrive.
#[derive(Debug, thiserror::Error)]
#[error("{0} {1}")]
pub(super) struct FetchError(Requested, FetchFailure);

#[derive(Debug, thiserror::Error)]
enum FetchFailure {
    /// The controller refused.
    #[error("was refused by the controller: {}", .0.message())]
    Refused(Status),
    /// More bytes than were offered.
    #[error("is longer than the {0} bytes that were offered")]
    TooLong(usize),
    /// A chunk that no controller sends.
    #[error("came with a chunk of {0} bytes; the limit is {MAX_CHUNK_BYTES}")]
    ChunkTooLong(usize),
    /// Its chunks are too small.
    #[error("came in more than {0} chunks")]
    TooManyChunks(usize),
    /// The offer itself is too long.
    #[error("is offered with {offered} bytes; the limit is {most}")]
    OfferTooLong { offered: u64, most: usize },
    /// Other content than was offered.
    #[error("does not match the offer: its digest is {found}")]
    Digest { found: Digest },
    /// No data for a while.
    #[error("stalled: no data for {} s", .0.as_secs_f32())]
    Stalled(Duration),
    /// It takes too long.
    #[error("did not arrive within {} s", .0.as_secs_f32())]
    Late(Duration),
}

impl FetchFailure {
    fn is_passing(&self) -> bool {
        match self {
            FetchFailure::Refused(status) => matches!(
                status.code(),
                Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded
            ),
            FetchFailure::Stalled(_) => true,
            _ => false,
        }
    }
}

/// The bytes of `digest`, of which `size` were offered.
pub(super) async fn fetch(
    what: Requested,
    client: FleetClient<Channel>,
    digest: Digest,
    size: u64,
    limits: FetchLimits,
) -> Result<Vec<u8>, FetchError> {
    let fetched = tokio::time::timeout(limits.whole, attempts(what, client, digest, size, limits));
    let late = |_| Err(FetchFailure::Late(limits.whole));
    let fetched = fetched.await.unwrap_or_else(late);
    fetched.map_err(|why| FetchError(what, why))
}

async fn attempts(
    what: Requested,
    client: FleetClient<Channel>,
    digest: Digest,
    size: u64,
    limits: FetchLimits,
) -> Result<Vec<u8>, FetchFailure> {
    let most = what.most();
    let limit = usize::try_from(size)
        .ok()
        .filter(|size| *size <= most)
        .ok_or(FetchFailure::OfferTooLong {
            offered: size,
            most,
        })?;
    let mut pause = FIRST_PAUSE;
    let mut attempt = 1;
    loop {
        match once(what, client.clone(), digest, limit, limits.chunk).await {
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
    what: Requested,
    mut client: FleetClient<Channel>,
    digest: Digest,
    limit: usize,
    patience: Duration,
) -> Result<Vec<u8>, FetchFailure> {
    let stalled = |_| FetchFailure::Stalled(patience);
    let mut chunks = tokio::time::timeout(patience, what.ask(&mut client, digest))
        .await
        .map_err(stalled)?
        .map_err(FetchFailure::Refused)?
        .into_inner();
    let most = limit / MIN_CHUNK + LAST_CHUNKS;
    let mut left = most;
    let mut content = Vec::new();
    while let Some(chunk) = tokio::time::timeout(patience, chunks.message())
        .await
        .map_err(stalled)?
        .map_err(FetchFailure::Refused)?
    {
        if chunk.data.len() > MAX_CHUNK_BYTES {
            return Err(FetchFailure::ChunkTooLong(chunk.data.len()));
        }
        left = left
            .checked_sub(1)
            .ok_or(FetchFailure::TooManyChunks(most))?;
        if content.len() + chunk.data.len() > limit {
            return Err(FetchFailure::TooLong(limit));
        }
        content.extend(chunk.data);
    }
    let found = Digest::of(&content);
    if found == digest {
        Ok(content)
    } else {
        Err(FetchFailure::Digest { found })
    }
}
