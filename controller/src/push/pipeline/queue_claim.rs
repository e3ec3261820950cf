//! The place in the queue of a push that is committed.

use voipfleet_controller_core::proposal::Proposal;

use super::propose::Heads;
use crate::push::{PushError, PushRequest};
use crate::records::{Fate, QueueRecord, expected};
use crate::store::{Expect, StoreError, Transaction, keys};

/// A push's own place in the queue, for the transaction that starts it.
pub(super) struct QueueClaim {
    key: String,
    expect: Expect,
    /// The queue without the push; none: the push is not in it.
    left: Option<QueueRecord>,
}

impl QueueClaim {
    /// The place of a proposed push; none: it is not the first one any more. Without a ticket it
    /// may not pass those that wait.
    pub(super) fn of(
        request: &PushRequest,
        proposal: &Proposal,
        heads: &Heads,
    ) -> Result<Option<Self>, PushError> {
        let read = heads.queue.as_ref();
        let mut claim = Self {
            key: keys::queue(&request.site),
            expect: expected(read),
            left: None,
        };
        let mut queue = read.map(|read| read.record.clone()).unwrap_or_default();
        let Some(ticket) = request.ticket else {
            return match queue.waiting.len() {
                0 => Ok(Some(claim)),
                waiting => Err(PushError::Waiting {
                    site: request.site.clone(),
                    waiting,
                }),
            };
        };
        let current = proposal.current.as_ref();
        let fate = Fate::Started {
            before: current.map(|current| current.generation.number),
            generation: proposal.generation.number,
        };
        if !queue.take(ticket, fate) {
            return Ok(None);
        }
        claim.left = Some(queue);
        Ok(Some(claim))
    }

    /// Adds to a transaction that the queue is as it was read, and takes the push off it.
    pub(super) fn take(&self, tx: &mut Transaction<'_>) -> Result<(), StoreError> {
        tx.expect(self.key.clone(), self.expect);
        if let Some(left) = &self.left {
            tx.put_large_json(&self.key, &self.key, left)?;
        }
        Ok(())
    }
}
