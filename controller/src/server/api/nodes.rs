//! Nodes, as far as operators change them.

use crate::server::rpc_status::conflict;
use tonic::Status;
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1::Reason;

use super::target::node_id;
use super::{Caller, FleetApi, failed};
use crate::store::{Expect, Outcome, Txn, keys};

/// Drift records that one deletion removes; a node has at most a thousand.
const MAX_RECORDS: usize = 10_000;

impl FleetApi {
    /// Deletes a node, with everything that is known of it, and ends its session. Its rules
    /// stay in its kernel: `voipfleet-agent teardown` on the machine removes them.
    pub(super) async fn delete_node(&self, caller: &Caller, name: &str) -> Result<(), Status> {
        let id = node_id(name)?;
        let key = keys::node(&id.site, &id.node);
        let Some(held) = self.store.get(&key).await.map_err(failed)? else {
            return Err(
                Refusal::new(Reason::UnknownNode, format!("there is no node {id}"))
                    .hint("list the nodes: voipctl nodes")
                    .fact("site", id.site)
                    .fact("node", id.node)
                    .into(),
            );
        };
        let mut txn = Txn::new()
            .expect(key.clone(), Expect::At(held.revision))
            .delete(key)
            .delete(keys::status(&id.site, &id.node));
        let records = self
            .store
            .all(&keys::node_drift(&id.site, &id.node), MAX_RECORDS)
            .await
            .map_err(failed)?;
        for record in records {
            txn = txn.delete(record.key);
        }
        if self.store.commit(txn).await.map_err(failed)? == Outcome::Conflict {
            return Err(conflict(format_args!("node {id}")));
        }
        self.fleet.deleted(&id);
        tracing::info!(operator = %caller.name, node = %id, "node deleted");
        Ok(())
    }
}
