//! Fetches a ruleset or dynamic sets by their digest.

use std::time::Duration;

use tonic::transport::Channel;
use tonic::{Code, Response, Status, Streaming};
use voipfleet_proto::v1::fleet_client::FleetClient;
use voipfleet_proto::v1::{Chunk, FetchLiveSetsRequest, FetchRulesetRequest};
use voipfleet_ruleset::ruleset::live::MAX_LIVE_BYTES;
use voipfleet_ruleset::ruleset::{Digest, MAX_RULESET_BYTES};

/// The longest chunk.
const MAX_CHUNK: usize = 256 << 10;
/// Chunks are this long at least, but for the last ones. A controller sends [`MAX_CHUNK`].
const MIN_CHUNK: usize = 4 << 10;
const LAST_CHUNKS: usize = 16;
/// How often a busy controller is tried.
const ATTEMPTS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// What is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Ruleset,
    LiveSets,
}

impl What {
    fn most(self) -> usize {
        match self {
            What::Ruleset => MAX_RULESET_BYTES,
            What::LiveSets => MAX_LIVE_BYTES,
        }
    }

    async fn ask(
        self,
        client: &mut FleetClient<Channel>,
        digest: Digest,
    ) -> Result<Response<Streaming<Chunk>>, Status> {
        let digest = digest.as_bytes().to_vec();
        match self {
            What::Ruleset => client.fetch_ruleset(FetchRulesetRequest { digest }).await,
            What::LiveSets => {
                client
                    .fetch_live_sets(FetchLiveSetsRequest { digest })
                    .await
            }
        }
    }
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            What::Ruleset => "the ruleset",
            What::LiveSets => "the content of the dynamic sets",
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
pub(super) struct FetchError(What, Why);

#[derive(Debug, thiserror::Error)]
enum Why {
    /// The controller refused.
    #[error("was refused by the controller: {}", .0.message())]
    Refused(Status),
    /// More bytes than were offered.
    #[error("is longer than the {0} bytes that were offered")]
    TooLong(usize),
    /// A chunk that no controller sends.
    #[error("came with a chunk of {0} bytes; the limit is {MAX_CHUNK}")]
    ChunkTooLong(usize),
    /// Its chunks are too small.
    #[error("came in more than {0} chunks")]
    TooManyChunks(usize),
    /// The offer itself is too long.
    #[error("is offered with {offered} bytes; the limit is {most}")]
    OfferTooLong { offered: u64, most: usize },
    /// Other content than was offered.
    #[error("does not match the offer: its digest is {found}")]
    Digest {
        /// What came.
        found: Digest,
    },
    /// No data for a while.
    #[error("stalled: no data for {} s", .0.as_secs_f32())]
    Stalled(Duration),
    /// It takes too long.
    #[error("did not arrive within {} s", .0.as_secs_f32())]
    Late(Duration),
}

impl Why {
    fn is_passing(&self) -> bool {
        match self {
            Why::Refused(status) => matches!(
                status.code(),
                Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded
            ),
            Why::Stalled(_) => true,
            _ => false,
        }
    }
}

/// The bytes of `digest`, of which `size` were offered.
pub(super) async fn fetch(
    what: What,
    client: FleetClient<Channel>,
    digest: Digest,
    size: u64,
    limits: FetchLimits,
) -> Result<Vec<u8>, FetchError> {
    let fetched = tokio::time::timeout(limits.whole, attempts(what, client, digest, size, limits));
    let late = |_| Err(Why::Late(limits.whole));
    let fetched = fetched.await.unwrap_or_else(late);
    fetched.map_err(|why| FetchError(what, why))
}

async fn attempts(
    what: What,
    client: FleetClient<Channel>,
    digest: Digest,
    size: u64,
    limits: FetchLimits,
) -> Result<Vec<u8>, Why> {
    let most = what.most();
    let limit = usize::try_from(size)
        .ok()
        .filter(|size| *size <= most)
        .ok_or(Why::OfferTooLong {
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
    what: What,
    mut client: FleetClient<Channel>,
    digest: Digest,
    limit: usize,
    patience: Duration,
) -> Result<Vec<u8>, Why> {
    let stalled = |_| Why::Stalled(patience);
    let mut chunks = tokio::time::timeout(patience, what.ask(&mut client, digest))
        .await
        .map_err(stalled)?
        .map_err(Why::Refused)?
        .into_inner();
    let most = limit / MIN_CHUNK + LAST_CHUNKS;
    let mut left = most;
    let mut content = Vec::new();
    while let Some(chunk) = tokio::time::timeout(patience, chunks.message())
        .await
        .map_err(stalled)?
        .map_err(Why::Refused)?
    {
        if chunk.data.len() > MAX_CHUNK {
            return Err(Why::ChunkTooLong(chunk.data.len()));
        }
        left = left.checked_sub(1).ok_or(Why::TooManyChunks(most))?;
        if content.len() + chunk.data.len() > limit {
            return Err(Why::TooLong(limit));
        }
        content.extend(chunk.data);
    }
    let found = Digest::of(&content);
    if found == digest {
        Ok(content)
    } else {
        Err(Why::Digest { found })
    }
}
