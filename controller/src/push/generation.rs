//! Compiled rulesets against the site's current generation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use voipfleet_common::names::{NodeName, SiteName};
use voipfleet_common::role::Role;
use voipfleet_common::ruleset::{Digest, Mode, Ruleset};
use voipfleet_common::session::{Generation, Held};

use super::rulesets::Packed;
use super::{Order, PushError, Pushes, Snapshot};
use crate::records::{self, Cause, Content, GenerationRecord, NodeId, Read, TargetRecord};
use crate::store::{Expect, Outcome, StoreError, Txn, keys};

/// Tries to win against other pushes of the same site.
const TRIES: usize = 5;

/// How far beyond the site's number a node's word is believed: more pushes than a store that was
/// restored from a backup can have lost, and too few for a node that lies to use the numbers up.
pub(crate) const BELIEVED: Generation = 1_000_000;

/// A push whose generation is in the store (or, in a dry run, would be).
#[derive(Debug, Clone)]
pub struct Prepared {
    /// What was asked for.
    pub order: Order,
    /// The generation that the site is at now; in a dry run, the one that it would be at.
    pub generation: Arc<GenerationRecord>,
    /// Whether it is a new one.
    pub changed: bool,
    /// How long a trial of this push may last; of another try too.
    pub confirm_within_ms: u64,
    /// Its nodes with their roles.
    pub roles: BTreeMap<NodeName, BTreeSet<Role>>,
    /// Nodes whose content differs from the generation before.
    pub differing: BTreeSet<NodeName>,
    /// What each node has confirmed: as it says now, or as it last said.
    pub confirmed: BTreeMap<NodeName, Held>,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

pub(super) struct Compared {
    pub(super) generation: GenerationRecord,
    pub(super) changed: bool,
    differing: BTreeSet<NodeName>,
}

/// A site's current generation, as a push found it.
pub(super) struct Before {
    expect: Expect,
    pub(super) record: Option<GenerationRecord>,
}

impl Pushes {
    /// Compiles a site and, if anything changed, makes that its current generation.
    ///
    /// Of two pushes at once the later compile wins: the other one is compiled again.
    pub async fn prepare(&self, order: Order) -> Result<Prepared, PushError> {
        for _ in 0..TRIES {
            let before = self.before(&order.site).await?;
            let (snapshot, compiled) = self
                .compile_as_if(&order.site, order.sources.clone())
                .await?;
            let live = compiled.rulesets.values().map(Ruleset::live_names);
            let live = live.flatten().collect();
            let (contents, packed) = pack(&order.site, compiled.rulesets).await?;
            let confirmed = self.confirmed(&snapshot);
            self.still_stands(&order, &before, &snapshot, &contents, &confirmed)
                .await?;
            let fresh = GenerationRecord {
                live,
                ..self.fresh(&order, &snapshot)
            };
            let confirm_within_ms = fresh.confirm_within_ms;
            let compared = compare(
                before.record.as_ref(),
                contents,
                &confirmed,
                newest(&snapshot),
                fresh,
            );
            if compared.changed
                && !order.dry_run
                && !self
                    .commit(&order, &before, &compared.generation, packed)
                    .await?
            {
                continue;
            }
            return Ok(Prepared {
                generation: Arc::new(compared.generation),
                changed: compared.changed,
                confirm_within_ms,
                differing: compared.differing,
                confirmed,
                roles: snapshot
                    .nodes
                    .into_iter()
                    .map(|(name, node)| (name, node.roles))
                    .collect(),
                warnings: compiled.warnings,
                order,
            });
        }
        Err(PushError::Contended(order.site))
    }

    pub(super) async fn before(&self, site: &SiteName) -> Result<Before, PushError> {
        let store = self.store.as_ref();
        let current: Option<Read<TargetRecord>> =
            records::read(store, &keys::current(site)).await?;
        let Some(current) = current else {
            return Ok(Before {
                expect: Expect::Absent,
                record: None,
            });
        };
        let key = keys::generation(site, current.record.generation);
        let Some(generation) = records::read(store, &key).await? else {
            let why = "it is missing, and the site is at it";
            return Err(StoreError::Corrupt { key, why }.into());
        };
        Ok(Before {
            expect: Expect::At(current.revision),
            record: Some(generation.record),
        })
    }

    /// A generation without number and content.
    pub(super) fn fresh(&self, order: &Order, snapshot: &Snapshot) -> GenerationRecord {
        let policy = snapshot.documents.sites.get(&order.site);
        GenerationRecord {
            number: 0,
            at_ms: self.clock.now_ms(),
            by: order.by.clone(),
            confirm_within_ms: order
                .confirm_within_ms
                .or_else(|| policy.map(|policy| policy.rollout.confirm_within_ms))
                .unwrap_or_default(),
            observe: policy.is_some_and(|policy| policy.mode == Mode::Observe),
            documents: snapshot.version,
            cause: Cause::Push,
            live: BTreeSet::new(),
            nodes: BTreeMap::new(),
        }
    }

    /// Writes rulesets, generation and its number in one transaction; false: another push was
    /// faster.
    async fn commit(
        &self,
        order: &Order,
        before: &Before,
        record: &GenerationRecord,
        packed: Packed,
    ) -> Result<bool, PushError> {
        let site = &order.site;
        let current = keys::current(site);
        let target = TargetRecord::everywhere(record.number);
        let generation = keys::generation(site, record.number);
        let txn = Txn::new()
            .expect(current.clone(), before.expect)
            .expect(generation.clone(), Expect::Absent)
            .put(current.clone(), records::to_json(&current, &target)?)
            .put(generation.clone(), records::to_json(&generation, record)?);
        let stored: BTreeSet<Digest> = before
            .record
            .iter()
            .flat_map(|record| record.nodes.values())
            .map(|content| content.digest)
            .collect();
        let txn = packed.put(self.store.as_ref(), &stored, txn).await?;
        let Outcome::Committed { revision } = self.store.commit(txn).await? else {
            return Ok(false);
        };
        tracing::info!(%site, generation = record.number, by = order.by, "generation pushed");
        self.prune(site.clone(), revision);
        Ok(true)
    }

    /// What each node has confirmed: as it says now, or as it last said.
    pub(super) fn confirmed(&self, snapshot: &Snapshot) -> BTreeMap<NodeName, Held> {
        let confirmed = |name: &NodeName, stored: Option<Held>| {
            let id = NodeId {
                site: snapshot.site.clone(),
                node: name.clone(),
            };
            match self.fleet.view(&id) {
                Some(view) => view.confirmed,
                None => stored,
            }
        };
        snapshot
            .nodes
            .iter()
            .filter_map(|(name, node)| Some((name.clone(), confirmed(name, node.confirmed)?)))
            .collect()
    }
}

/// Each node's content, and all of it as it will be stored. It takes a while where sets are
/// long: off the async threads.
async fn pack(
    site: &SiteName,
    rulesets: BTreeMap<NodeName, Ruleset>,
) -> Result<(BTreeMap<NodeName, Content>, Packed), PushError> {
    let mut packed = Packed::new(site.clone());
    let packing = tokio::task::spawn_blocking(move || {
        let contents = rulesets
            .into_iter()
            .map(|(name, ruleset)| (name, packed.add(&ruleset)))
            .collect();
        (contents, packed)
    });
    packing.await.map_err(|_| PushError::Broken(site.clone()))
}

/// When the last of a site's nodes enrolled, Unix time.
pub(super) fn newest(snapshot: &Snapshot) -> u64 {
    let enrolled = snapshot.nodes.values().map(|node| node.enrolled_ms);
    enrolled.max().unwrap_or_default()
}

/// Decides whether there is anything new: a node that enrolled again under its old name too. `fresh` is the new generation without number and
/// content.
pub(super) fn compare(
    before: Option<&GenerationRecord>,
    contents: BTreeMap<NodeName, Content>,
    confirmed: &BTreeMap<NodeName, Held>,
    newest_ms: u64,
    fresh: GenerationRecord,
) -> Compared {
    let last = before.map_or(0, |before| before.number);
    let was = |name: &NodeName| before.and_then(|before| before.nodes.get(name));
    let differing: BTreeSet<NodeName> = contents
        .iter()
        .filter(|(name, content)| was(name).map(|was| was.digest) != Some(content.digest))
        .map(|(name, _)| name.clone())
        .collect();
    // A node that has confirmed more than the store knows (the store was restored from a
    // backup) refuses everything up to that: only a later number reaches it.
    let ahead = confirmed
        .iter()
        .filter(|(name, held)| {
            held.generation > last
                || (held.generation == last
                    && was(name).is_some_and(|was| was.digest != held.digest))
        })
        .map(|(_, held)| held.generation)
        .filter(|generation| *generation <= last.saturating_add(BELIEVED))
        .max();
    let changed = match before {
        None => true,
        Some(before) => {
            !differing.is_empty()
                || before.nodes.len() != contents.len()
                || before.observe != fresh.observe
                || before.at_ms < newest_ms
                || ahead.is_some()
        }
    };
    let generation = match before {
        Some(before) if !changed => before.clone(),
        _ => GenerationRecord {
            number: last.max(ahead.unwrap_or_default()).saturating_add(1),
            nodes: contents,
            ..fresh
        },
    };
    Compared {
        generation,
        changed,
        differing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(text: &str) -> Content {
        Content {
            digest: Digest::of(text.as_bytes()),
            size: 1,
        }
    }

    fn nodes(nodes: &[(&str, &str)]) -> BTreeMap<NodeName, Content> {
        nodes
            .iter()
            .map(|(name, text)| (name.parse().unwrap(), content(text)))
            .collect()
    }

    fn record(number: Generation, content: &[(&str, &str)]) -> GenerationRecord {
        GenerationRecord {
            number,
            at_ms: 0,
            by: "ada".to_owned(),
            confirm_within_ms: 30_000,
            observe: false,
            documents: 0,
            cause: Cause::Push,
            live: BTreeSet::new(),
            nodes: nodes(content),
        }
    }

    fn run(
        before: Option<&GenerationRecord>,
        now: &[(&str, &str)],
        confirmed: &[(&str, u64, &str)],
    ) -> (bool, Generation, usize) {
        let confirmed = confirmed
            .iter()
            .map(|(name, generation, text)| {
                let digest = Digest::of(text.as_bytes());
                let generation = *generation;
                (name.parse().unwrap(), Held { generation, digest })
            })
            .collect();
        let compared = compare(before, nodes(now), &confirmed, 0, record(0, &[]));
        (
            compared.changed,
            compared.generation.number,
            compared.differing.len(),
        )
    }

    #[test]
    fn the_same_content_is_no_new_generation() {
        let before = record(4, &[("a", "x"), ("b", "y")]);
        let now = [("a", "x"), ("b", "y")];
        assert_eq!(run(Some(&before), &now, &[("a", 3, "w")]), (false, 4, 0));
        assert_eq!(run(None, &now, &[]), (true, 1, 2));
        assert_eq!(
            run(Some(&before), &[("a", "z"), ("b", "y")], &[]),
            (true, 5, 1)
        );
        assert_eq!(run(Some(&before), &[("a", "x")], &[]), (true, 5, 0));
    }

    #[test]
    fn a_number_that_a_node_has_seen_is_not_given_again() {
        let before = record(4, &[("a", "x")]);
        assert_eq!(
            run(Some(&before), &[("a", "x")], &[("a", 9, "x")]),
            (true, 10, 0)
        );
        assert_eq!(
            run(Some(&before), &[("a", "x")], &[("a", 4, "q")]),
            (true, 5, 0)
        );
        assert_eq!(run(None, &[("a", "x")], &[("a", 9, "x")]), (true, 10, 1));
    }

    #[test]
    fn a_node_that_lies_does_not_use_up_the_numbers() {
        let before = record(4, &[("a", "x")]);
        for lie in [u64::MAX, u64::MAX - 1, 5 + BELIEVED] {
            let told = [("a", lie, "x")];
            assert_eq!(run(Some(&before), &[("a", "x")], &told), (false, 4, 0));
            assert_eq!(run(Some(&before), &[("a", "y")], &told), (true, 5, 1));
            assert_eq!(
                run(None, &[("a", "x")], &[("a", u64::MAX, "x")]),
                (true, 1, 1)
            );
        }
    }
}
