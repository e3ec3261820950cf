//! Sending a ruleset to the node that it is for.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use voipfleet_common::ruleset::{Digest, Ruleset};
use voipfleet_proto::v1::Chunk;

use super::{Fleet, current};
use crate::records::NodeId;
use crate::store::keys;

/// The largest chunk (design: at most 256 KiB).
const CHUNK_BYTES: usize = 256 * 1024;
/// How long a fetch may wait for its turn.
const TURN: Duration = Duration::from_secs(20);
/// How long sending may take: 64 MiB at 10 Mbit/s.
const SENDING: Duration = Duration::from_mins(1);

impl Fleet {
    /// The chunks of a ruleset, if it is the one that the node should run.
    pub(super) async fn fetch(
        &self,
        id: &NodeId,
        digest: Digest,
    ) -> Result<ReceiverStream<Result<Chunk, Status>>, Status> {
        let turn = Arc::clone(&self.inner.fetches).acquire_owned();
        let turn = tokio::time::timeout(TURN, turn)
            .await
            .map_err(|_| {
                Status::resource_exhausted("too many rulesets are being fetched; try again later")
            })?
            .map_err(|_| Status::unavailable("controller is stopping"))?;
        let store = self.inner.store.as_ref();
        let generation = current(store, &id.site).await.map_err(crate::api::failed)?;
        let own = generation
            .as_ref()
            .and_then(|generation| generation.held(&id.node));
        let bytes = store
            .get(&keys::ruleset(&digest))
            .await
            .map_err(crate::api::failed)?
            .map(|held| held.value);
        if own.is_none_or(|own| own.digest != digest) {
            return Err(not_yours(id, digest, bytes.as_deref()));
        }
        let bytes = bytes.ok_or_else(|| {
            tracing::error!(node = %id, %digest, "the ruleset of the current generation is missing");
            Status::data_loss("the controller has lost this ruleset; push the site again")
        })?;
        let (out, chunks) = mpsc::channel(2);
        tokio::spawn(async move {
            let _turn = turn;
            let sending = async {
                for part in bytes.chunks(CHUNK_BYTES) {
                    let chunk = Chunk {
                        data: part.to_vec(),
                    };
                    if out.send(Ok(chunk)).await.is_err() {
                        return;
                    }
                }
            };
            if tokio::time::timeout(SENDING, sending).await.is_err() {
                let slow = Status::deadline_exceeded("the ruleset was not read in time");
                // Nobody may be reading any more.
                let _ = out.try_send(Err(slow));
            }
        });
        Ok(ReceiverStream::new(chunks))
    }
}

/// A digest that is not the node's in the current generation. Whether it exists is told only
/// of the node's own.
fn not_yours(id: &NodeId, digest: Digest, bytes: Option<&[u8]>) -> Status {
    let was_own = bytes
        .and_then(|bytes| Ruleset::decode(bytes).ok())
        .is_some_and(|ruleset| ruleset.site == id.site && ruleset.node == id.node);
    if was_own {
        return Status::failed_precondition(
            "this ruleset was replaced by a newer one; wait for its offer",
        );
    }
    tracing::warn!(node = %id, %digest, "node asked for a ruleset that is not its own");
    Status::permission_denied("this ruleset is not for this node")
}
