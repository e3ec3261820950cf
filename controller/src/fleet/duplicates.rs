//! Two machines with one identity: the one that is there stays, and the other one is refused.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use voipfleet_compiler::InterfaceAddress;
use voipfleet_proto::v1::Hello;

use super::{Fleet, SessionEnd};
use crate::audit::Event;
use crate::records::{Duplicate, NodeId, StatusRecord};
use crate::site_inputs::read_addresses;

/// How long the node that is there may take to answer. An agent answers within milliseconds.
const ANSWER: Duration = Duration::from_secs(3);
/// For how long after the other machine was last seen only the one that was there is admitted.
const GUARDED_MS: u64 = 10 * 60 * 1000;

/// Whether another machine with the identity of a connected one was seen lately.
pub(crate) fn is_guarded(duplicate: Option<&Duplicate>, now_ms: u64) -> bool {
    duplicate.is_some_and(|seen| now_ms < seen.at_ms.saturating_add(GUARDED_MS))
}

/// Whether a Hello is from the machine that was there before: by the run of its agent, or, where
/// that was started anew, by where it is.
fn is_same_machine(before: &StatusRecord, hello: &Hello, peer: SocketAddr) -> bool {
    if before.instance == hello.instance {
        return true;
    }
    let addresses = |facts: Option<&voipfleet_proto::v1::NodeFacts>| -> Vec<InterfaceAddress> {
        facts.map_or_else(Vec::new, |facts| read_addresses(&facts.addresses))
    };
    let from = before.peer.parse::<SocketAddr>().ok();
    from.is_some_and(|from| from.ip() == peer.ip())
        && addresses(before.facts.as_ref()) == addresses(hello.facts.as_ref())
}

/// A machine that came with the identity of a connected node.
pub(super) struct Challenge {
    /// Where it is.
    pub(super) peer: SocketAddr,
    /// Sent if the node answers.
    pub(super) answer: oneshot::Sender<()>,
}

impl Fleet {
    /// Whether a machine may take its node's place; if not, where the one is that has it. That one
    /// is asked whether it is still there: of a machine that was started anew the earlier
    /// connection may not have ended yet.
    pub(super) async fn contend(
        &self,
        id: &NodeId,
        hello: &Hello,
        peer: SocketAddr,
        before: &StatusRecord,
    ) -> Result<(), SessionEnd> {
        if let Some((holder, asked)) = self.challenge(id, &hello.instance, peer) {
            let answer = tokio::time::timeout(ANSWER, asked).await;
            if answer.is_ok_and(|answer| answer.is_ok()) {
                self.report_duplicate(id, holder, peer).await;
                return Err(SessionEnd::Duplicate(holder.to_string()));
            }
        }
        let now_ms = self.inner.clock.now_ms();
        let guarded = is_guarded(before.duplicate.as_ref(), now_ms);
        if guarded && !is_same_machine(before, hello, peer) {
            return Err(SessionEnd::Duplicate(before.peer.clone()));
        }
        Ok(())
    }

    /// Asks the session of another run of the node's agent whether the node is there; none: there
    /// is no such session.
    fn challenge(
        &self,
        id: &NodeId,
        instance: &str,
        peer: SocketAddr,
    ) -> Option<(SocketAddr, oneshot::Receiver<()>)> {
        let registry = self.registry();
        let live = registry.nodes.get(id)?;
        if live.instance == instance {
            return None;
        }
        let (answer, asked) = oneshot::channel();
        let holder = live.view.peer;
        match live.challenge.try_send(Challenge { peer, answer }) {
            // Asked, or its session has just ended.
            Ok(()) | Err(TrySendError::Closed(_)) => {}
            // So many come that the node is asked anyway: none of them takes its place.
            Err(TrySendError::Full(challenge)) => _ = challenge.answer.send(()),
        }
        drop(registry);
        Some((holder, asked))
    }

    async fn report_duplicate(&self, id: &NodeId, holder: SocketAddr, peer: SocketAddr) {
        tracing::warn!(node = %id, %holder, %peer, "machine refused: another one has its identity");
        if let Some(audit) = &self.inner.audit {
            let event = Event::new("DuplicateNode")
                .site(&id.site)
                .object(format!("Node/{id}"))
                .detail(format!(
                    "a machine at {peer} has the identity of the one at {holder}, which stays"
                ))
                .failed("refused");
            audit.note_some(&format!("DuplicateNode/{id}"), event).await;
        }
    }
}
