//! What the DNS names and feeds of a plan resolve to now. Their addresses are in no ruleset: they
//! change without a push.

use std::collections::BTreeSet;

use ipnet::IpNet;
use voipfleet_ruleset::ruleset::DynamicSetName;

use crate::records::{self, FeedRecord, ResolvedRecord};
use crate::store::{Store, StoreError, keys};

/// Addresses of one source that are shown; all of a name's, and the first of a feed's.
const SHOWN: usize = 20;

/// A DNS name or feed that rules use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedSource {
    pub name: DynamicSetName,
    /// The first of its addresses.
    pub first: Vec<IpNet>,
    /// How many there are.
    pub entries: usize,
    /// When they came, Unix time; none: never.
    pub at_ms: Option<u64>,
    /// Why there is no newer answer; empty: the last one was good.
    pub error: String,
    /// No node runs rules that use it.
    pub added: bool,
}

impl PlannedSource {
    /// What an operator should know of it.
    pub(super) fn warning(&self) -> Option<String> {
        let name = &self.name;
        let why = if self.error.is_empty() {
            "it has not been asked yet"
        } else {
            &self.error
        };
        if self.at_ms.is_none() {
            return Some(format!(
                "{name} never had a good answer, and matches no address: {why}"
            ));
        }
        (!self.error.is_empty()).then(|| {
            let entries = self.entries;
            format!("{name} has no good answer, and keeps its {entries} addresses: {why}")
        })
    }
}

/// Reads those of `used` that are names or feeds. `known` are used by what nodes run.
pub(super) async fn read(
    store: &dyn Store,
    used: BTreeSet<DynamicSetName>,
    known: &BTreeSet<DynamicSetName>,
) -> Result<Vec<PlannedSource>, StoreError> {
    let mut all = Vec::new();
    for name in used {
        let (nets, at_ms, error) = match &name {
            DynamicSetName::Name(host) => {
                let read = records::read::<ResolvedRecord>(store, &keys::resolved(host)).await?;
                let record = read.map(|read| read.record).unwrap_or_default();
                let nets: Vec<IpNet> = record.addresses.keys().map(|ip| (*ip).into()).collect();
                (nets, record.resolved_ms, record.error)
            }
            DynamicSetName::Feed(list) | DynamicSetName::DenyFeed(list) => {
                let read = records::read_protobuf::<FeedRecord>(store, &keys::feed(list)).await?;
                let record = read.unwrap_or_default();
                if matches!(name, DynamicSetName::Feed(_)) && record.is_wide() {
                    let why = "it is too wide for something to be opened to it, and opens nothing";
                    (Vec::new(), record.fetched_ms, why.to_owned())
                } else {
                    (record.elements(), record.fetched_ms, record.error)
                }
            }
            DynamicSetName::Cluster(_)
            | DynamicSetName::Block
            | DynamicSetName::BlockForced
            | DynamicSetName::Allow
            | DynamicSetName::Open => continue,
        };
        all.push(PlannedSource {
            added: !known.contains(&name),
            entries: nets.len(),
            first: nets.into_iter().take(SHOWN).collect(),
            name,
            at_ms: (at_ms != 0).then_some(at_ms),
            error,
        });
    }
    Ok(all)
}
