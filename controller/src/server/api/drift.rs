//! Drift records, newest first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use crate::server::rpc_status::unknown_site;
use prost::Message as _;
use tonic::Status;
use voipfleet_proto::v1::{DriftRecord, DriftRequest, DriftResponse, NodeDrift};
use voipfleet_ruleset::identifiers::SiteName;

use super::fields::parse;
use super::{FleetApi, failed};
use crate::records;
use crate::store::keys;

/// Records in an answer by default.
const DEFAULT_LIMIT: usize = 1000;
/// The most records in an answer, and about their bytes: a client takes no larger message.
const MAX_LIMIT: usize = 10_000;
const MAX_BYTES: usize = 3 << 20;
/// Records that are read at once.
const PAGE: usize = 1000;

/// The newest records of one node, the oldest of them first.
type OfNode = VecDeque<NodeDrift>;

/// The newest records, of each node as many as there is room for all.
struct Newest {
    limit: usize,
    nodes: BTreeMap<(String, String), OfNode>,
    held: usize,
    /// Some were left out.
    more: bool,
}

impl FleetApi {
    /// The newest records of a site, or of all.
    pub(super) async fn drift(&self, request: &DriftRequest) -> Result<DriftResponse, Status> {
        let limit = match request.limit {
            0 => DEFAULT_LIMIT,
            limit => usize::try_from(limit).unwrap_or(MAX_LIMIT).min(MAX_LIMIT),
        };
        let prefix = match request.site.as_str() {
            "" => keys::ALL_DRIFT.to_owned(),
            site => {
                let site: SiteName = parse(site)?;
                self.require_site(&site).await?;
                keys::site_drift(site)
            }
        };
        let since_ms = match request.within_ms {
            0 => 0,
            within_ms => self.clock.now_ms().saturating_sub(within_ms),
        };
        let mut newest = Newest::new(limit);
        let mut after: Option<String> = None;
        loop {
            let page = self.store.range(&prefix, after.as_deref(), PAGE).await;
            let page = page.map_err(failed)?;
            after = page.entries.last().map(|entry| entry.key.clone());
            for entry in page.entries {
                let Some((site, node)) = keys::site_and_node(&entry.key) else {
                    continue;
                };
                if !request.nodes.is_empty() && !request.nodes.iter().any(|name| name == node) {
                    continue;
                }
                let record: DriftRecord =
                    records::from_protobuf(&entry.key, &entry.held).map_err(failed)?;
                if record.received_ms < since_ms || !is_of_class(&record, request) {
                    continue;
                }
                newest.add(NodeDrift {
                    site: site.to_owned(),
                    node: node.to_owned(),
                    record: Some(record),
                });
            }
            newest.trim();
            if !page.more {
                break;
            }
        }
        Ok(newest.answer())
    }

    /// A site that is not there has no drift: an empty answer would look like a clean one.
    async fn require_site(&self, site: &SiteName) -> Result<(), Status> {
        let stored = self.documents.read().await.map_err(failed)?;
        let nodes = self.store.range(&keys::nodes(site), None, 1).await;
        if stored.documents.sites.contains_key(site) || !nodes.map_err(failed)?.entries.is_empty() {
            return Ok(());
        }
        Err(unknown_site(site))
    }
}

/// Whether one of its differences is of a class that was asked for.
fn is_of_class(record: &DriftRecord, request: &DriftRequest) -> bool {
    let wanted = &request.classes;
    wanted.is_empty()
        || wanted.contains(&record.class)
        || record.more.iter().any(|more| wanted.contains(&more.class))
}

impl Newest {
    fn new(limit: usize) -> Self {
        Self {
            limit,
            nodes: BTreeMap::new(),
            held: 0,
            more: false,
        }
    }

    /// Adds a record; those of a node come in the order in which they were received.
    fn add(&mut self, found: NodeDrift) {
        let key = (found.site.clone(), found.node.clone());
        let of_node = self.nodes.entry(key).or_default();
        of_node.push_back(found);
        if of_node.len() > self.limit {
            of_node.pop_front();
            self.more = true;
        } else {
            self.held += 1;
        }
    }

    /// Drops the oldest of the nodes that have most, until as many are left as were asked for.
    fn trim(&mut self) {
        let Some(surplus) = self.held.checked_sub(self.limit).filter(|n| *n > 0) else {
            return;
        };
        self.more = true;
        let mut counts: Vec<usize> = self.nodes.values().map(VecDeque::len).collect();
        counts.sort_unstable();
        // So many of each node fit, and one more of the first few that have it.
        let (mut room, mut each, mut extra) = (self.limit, 0, 0);
        for (index, count) in counts.iter().enumerate() {
            let nodes = counts.len() - index;
            if count.saturating_sub(each).saturating_mul(nodes) <= room {
                room -= (count - each) * nodes;
                each = *count;
            } else {
                each += room / nodes;
                extra = room % nodes;
                break;
            }
        }
        for of_node in self.nodes.values_mut() {
            let mut keep = each;
            if of_node.len() > each && extra > 0 {
                keep += 1;
                extra -= 1;
            }
            let gone = of_node.len().saturating_sub(keep);
            of_node.drain(..gone);
        }
        self.nodes.retain(|_, of_node| !of_node.is_empty());
        self.held -= surplus;
    }

    /// The newest of every node first, then the next one of each, as long as there is room; in
    /// the order in which they were received.
    fn answer(mut self) -> DriftResponse {
        let (mut records, mut bytes) = (Vec::new(), 0);
        'full: while !self.nodes.is_empty() {
            for of_node in self.nodes.values_mut() {
                let Some(found) = of_node.pop_back() else {
                    continue;
                };
                bytes += found.encoded_len();
                if bytes > MAX_BYTES && !records.is_empty() {
                    self.more = true;
                    break 'full;
                }
                records.push(found);
            }
            self.nodes.retain(|_, of_node| !of_node.is_empty());
        }
        let received = |found: &NodeDrift| {
            let record = found.record.as_ref();
            Reverse(record.map_or(0, |record| record.received_ms))
        };
        // Of a node, what was received at the same time stays in its order.
        records.sort_by_key(received);
        DriftResponse {
            records,
            more: self.more,
            sums: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(node: &str, received_ms: u64) -> NodeDrift {
        NodeDrift {
            site: "site-a".to_owned(),
            node: node.to_owned(),
            record: Some(DriftRecord {
                received_ms,
                ..DriftRecord::default()
            }),
        }
    }

    fn answer(limit: usize, counts: &[(&str, u64)]) -> (BTreeMap<String, usize>, DriftResponse) {
        let mut newest = Newest::new(limit);
        for (node, count) in counts {
            for n in 1..=*count {
                newest.add(found(node, n));
            }
            newest.trim();
        }
        let answer = newest.answer();
        let mut of_nodes = BTreeMap::new();
        for found in &answer.records {
            *of_nodes.entry(found.node.clone()).or_default() += 1;
        }
        (of_nodes, answer)
    }

    #[test]
    fn one_node_does_not_push_out_the_others() {
        let (of_nodes, found) = answer(100, &[("a", 5), ("loud", 5000), ("z", 30)]);
        let expected = [("a", 5), ("loud", 65), ("z", 30)].map(|(n, c)| (n.to_owned(), c));
        assert_eq!(of_nodes, BTreeMap::from(expected));
        assert!(found.more);
        let newest = found.records[0].record.as_ref().unwrap().received_ms;
        assert_eq!(newest, 5000);
        let (of_nodes, found) = answer(10, &[("a", 3), ("b", 4)]);
        assert_eq!(
            (of_nodes.len(), found.records.len(), found.more),
            (2, 7, false)
        );
        let (of_nodes, found) = answer(2, &[("a", 3), ("b", 4), ("c", 1)]);
        assert_eq!(
            (of_nodes.len(), found.records.len(), found.more),
            (2, 2, true)
        );
    }

    #[test]
    fn answer_is_bounded_in_bytes() {
        let mut newest = Newest::new(1000);
        for n in 0..1000 {
            let mut found = found("a", n);
            if let Some(record) = &mut found.record {
                record.wanted = "x".repeat(4096);
            }
            newest.add(found);
        }
        let answer = newest.answer();
        assert!(answer.more);
        assert!(answer.encoded_len() <= MAX_BYTES + PAGE * 8);
        assert_eq!(answer.records[0].record.as_ref().unwrap().received_ms, 999);
    }
}
