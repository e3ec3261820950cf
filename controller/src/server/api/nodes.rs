//! Nodes, as far as operators change them.

use crate::server::rpc_status::conflict;
use tonic::Status;
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1::DeleteRequest;
use voipfleet_proto::v1::Reason;
use voipfleet_protocol::identity::rights::Target;

use super::convert::{invalid, parse};
use super::{Caller, FleetApi, failed};
use crate::records::NodeId;
use crate::store::{Expect, Outcome, Txn, keys};

/// Drift records that one deletion removes; a node has at most a thousand.
const MAX_RECORDS: usize = 10_000;

/// Whether the kind of a Delete means a node.
pub(super) fn is_node(kind: &str) -> bool {
    kind.eq_ignore_ascii_case("node") || kind.eq_ignore_ascii_case("nodes")
}

/// What a Delete is about.
pub(super) fn deleted(request: &DeleteRequest) -> Result<Target, Status> {
    if is_node(&request.kind) {
        let id = node_id(&request.name)?;
        return Ok(Target::Node(id.site, id.node));
    }
    Ok(Target::Document(
        parse(&request.kind)?,
        request.name.clone(),
    ))
}

fn node_id(name: &str) -> Result<NodeId, Status> {
    let (site, node) = name.split_once('/').ok_or_else(|| {
        let shown: String = name.chars().take(80).collect();
        invalid(format!("{shown:?} is not SITE/NODE"))
    })?;
    Ok(NodeId {
        site: parse(site)?,
        node: parse(node)?,
    })
}

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
