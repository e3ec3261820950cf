//! Nodes, as far as operators change them.

use tonic::Status;
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1::Reason;

use super::target::node_id;
use super::{Caller, FleetApi, failed};
use crate::server::rpc_status::Failed;
use crate::store::{every, keys, transact, write_batched};

impl FleetApi {
    /// Deletes a node, with everything that is known of it, and ends its session. Its rules
    /// stay in its kernel: `voipfleet-agent teardown` on the machine removes them.
    pub(super) async fn delete_node(&self, caller: &Caller, name: &str) -> Result<(), Status> {
        let id = node_id(name)?;
        let key = keys::node(&id.site, &id.node);
        let store = self.store.as_ref();
        transact(store, &format!("node {id}"), async |mut tx| {
            if tx.get(&key).await?.is_none() {
                return Err(Failed::from(
                    Refusal::new(Reason::UnknownNode, format!("there is no node {id}"))
                        .hint("list the nodes: voipctl nodes")
                        .fact("site", &id.site)
                        .fact("node", &id.node),
                ));
            }
            tx.delete(&key);
            tx.delete(keys::status(&id.site, &id.node));
            Ok(tx.done(()))
        })
        .await?;
        // Once the node is gone, no record of it is added.
        let records = every(store, &keys::node_drift(&id.site, &id.node)).await;
        let records = records.map_err(failed)?.into_iter();
        let deletes = write_batched(store, records.map(|record| (record.key, None)));
        deletes.await.map_err(failed)?;
        self.fleet.deleted(&id);
        tracing::info!(operator = %caller.name, node = %id, "node deleted");
        Ok(())
    }
}
