//! Sending rulesets and dynamic sets to the nodes that they are for.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use voipfleet_proto::v1::Chunk;
use voipfleet_protocol::limits::MAX_CHUNK_BYTES;
use voipfleet_ruleset::ruleset::{Digest, Ruleset};

use super::{FetchError, Fleet};
use crate::records::NodeId;
use crate::rulesets;
use crate::site_inputs::target;

/// Fetches of one node at the same time. It needs one; more are what a broken connection leaves
/// behind. All nodes share a few turns, and no node may take them all.
const OF_ONE_NODE: usize = 4;
/// How long a fetch may wait for its turn.
const TURN: Duration = Duration::from_secs(20);
/// How long sending may take: 64 MiB at 10 Mbit/s.
const SENDING: Duration = Duration::from_mins(1);

impl Fleet {
    /// The chunks of a ruleset, if it is the one that the node should run.
    pub(crate) async fn fetch(&self, id: &NodeId, digest: Digest) -> Result<Chunks, FetchError> {
        let turns = self.turns(id).await?;
        let store = self.inner.store.as_ref();
        let (_, generation) = target(store, id).await?;
        let own = generation
            .as_ref()
            .and_then(|generation| generation.held(&id.node));
        let bytes = rulesets::get(store, &digest).await?;
        if own.is_none_or(|own| own.digest != digest) {
            return Err(not_yours(id, digest, bytes.as_deref()));
        }
        let bytes = bytes.ok_or_else(|| {
            tracing::error!(node = %id, %digest, "the node's current ruleset is missing from the store");
            FetchError::Lost
        })?;
        Ok(stream(bytes, turns))
    }

    /// The chunks of the dynamic sets of the node's site, if they are the current ones or were so
    /// not long ago.
    pub(crate) async fn fetch_dynamic(
        &self,
        id: &NodeId,
        digest: Digest,
    ) -> Result<Chunks, FetchError> {
        let turns = self.turns(id).await?;
        let value = self.inner.dynamic_sets.find(&id.site, &digest);
        let value = value.ok_or(FetchError::NotCurrent)?;
        Ok(stream(Arc::clone(&value.bytes), turns))
    }

    /// Waits until the node may fetch.
    async fn turns(&self, id: &NodeId) -> Result<Turns, FetchError> {
        let own = self.own_turn(id)?;
        let turn = Arc::clone(&self.inner.fetches).acquire_owned();
        let turn = tokio::time::timeout(TURN, turn)
            .await
            .map_err(|_| FetchError::Busy)?
            .map_err(|_| FetchError::Stopping)?;
        Ok((turn, own))
    }

    fn own_turn(&self, id: &NodeId) -> Result<OwnTurn, FetchError> {
        let mut fetching = self.fetching();
        let count = fetching.entry(id.clone()).or_default();
        if *count >= OF_ONE_NODE {
            return Err(FetchError::OwnBusy);
        }
        *count += 1;
        Ok(OwnTurn {
            fleet: self.clone(),
            id: id.clone(),
        })
    }

    fn fetching(&self) -> MutexGuard<'_, HashMap<NodeId, usize>> {
        // A count is changed whole: a panic leaves nothing half-done.
        self.inner
            .fetching
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A ruleset or dynamic sets, as they are sent.
pub(crate) type Chunks = ReceiverStream<Result<Chunk, FetchError>>;

/// A turn among all, and one of the node's own.
type Turns = (OwnedSemaphorePermit, OwnTurn);

/// Sends `content` in chunks, and then gives the turns back.
fn stream<C: AsRef<[u8]> + Send + Sync + 'static>(content: C, turns: Turns) -> Chunks {
    let (out, chunks) = mpsc::channel(2);
    tokio::spawn(async move {
        let _turns = turns;
        let sending = async {
            for part in content.as_ref().chunks(MAX_CHUNK_BYTES) {
                let chunk = Chunk {
                    data: part.to_vec(),
                };
                if out.send(Ok(chunk)).await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(SENDING, sending).await.is_err() {
            // The reader may have gone.
            let _ = out.try_send(Err(FetchError::NotReading));
        }
    });
    ReceiverStream::new(chunks)
}

/// One of a node's own fetches; ends when it is dropped.
struct OwnTurn {
    fleet: Fleet,
    id: NodeId,
}

impl Drop for OwnTurn {
    fn drop(&mut self) {
        let mut fetching = self.fleet.fetching();
        if let Some(count) = fetching.get_mut(&self.id) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                fetching.remove(&self.id);
            }
        }
    }
}

/// Refuses a digest that is not of the node's ruleset. Whether it exists is revealed only
/// of the node's own.
fn not_yours(id: &NodeId, digest: Digest, bytes: Option<&[u8]>) -> FetchError {
    let was_own = bytes
        .and_then(|bytes| Ruleset::decode(bytes).ok())
        .is_some_and(|ruleset| ruleset.site == id.site && ruleset.node == id.node);
    if was_own {
        return FetchError::Replaced;
    }
    tracing::warn!(node = %id, %digest, "node asked for another node's ruleset");
    FetchError::OtherNode
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::clock;
    use crate::store::Embedded;

    /// One node that reads slowly must not keep the others from their rulesets.
    #[tokio::test]
    async fn one_node_cannot_take_all_fetch_turns() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Embedded::open(dir.path()).unwrap());
        let fleet = Fleet::new(store, clock::system(), None, CancellationToken::new());
        let id = |node: &str| NodeId {
            site: "site-a".parse().unwrap(),
            node: node.parse().unwrap(),
        };
        let taken: Vec<_> = (0..OF_ONE_NODE)
            .map(|_| fleet.own_turn(&id("a")).unwrap())
            .collect();
        assert!(fleet.own_turn(&id("a")).is_err());
        assert!(fleet.own_turn(&id("b")).is_ok());
        drop(taken);
        assert!(fleet.own_turn(&id("a")).is_ok());
        assert!(
            fleet.fetching().is_empty(),
            "nothing is kept of nodes that are done"
        );
    }
}
