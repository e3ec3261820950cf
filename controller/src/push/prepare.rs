//! Compiled rulesets against the site's current generation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use voipfleet_controller_core::precondition::{BasisStaging, LastChanges, PlanBasis};
use voipfleet_policy::Rollout as Staging;
use voipfleet_protocol::session::{Generation, Held};
use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::role::Role;
use voipfleet_ruleset::ruleset::{Mode, Ruleset};

use super::{Order, PushError, Pushes};
use crate::documents;
use crate::records::{
    self, Cause, Content, DocumentsVersion, GenerationRecord, NodeId, OutcomeRecord, Read,
    TargetRecord,
};
use crate::rulesets::Packed;
use crate::site_inputs::Snapshot;
use crate::store::{Expect, StoreError, keys};

/// The most generations of a site: older ones are pruned.
const MAX_GENERATIONS: usize = 10_000;

/// How far beyond the site's number a node's word is believed: more pushes than a store that was
/// restored from a backup can have lost, and too few for a node that lies to use the numbers up.
pub(crate) const BELIEVED: Generation = 1_000_000;

/// A push that is ready to be started.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// What was asked for.
    pub order: Order,
    /// The generation that the site would be at.
    pub generation: Arc<GenerationRecord>,
    /// Whether it is a new one.
    pub changed: bool,
    /// The state of the documents that it was compiled from.
    pub documents: DocumentsVersion,
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
    /// How the site wants it to go through its nodes.
    pub staging: Staging,
    pub(super) basis: Before,
    pub(super) packed: Arc<Mutex<Option<Packed>>>,
}

pub(super) struct Compared {
    pub(super) generation: GenerationRecord,
    pub(super) changed: bool,
    differing: BTreeSet<NodeName>,
}

/// A site's newest generation and targets, as a push found them.
#[derive(Debug, Clone)]
pub(super) struct Before {
    pub(super) expect: Expect,
    pub(super) target: Option<TargetRecord>,
    pub(super) record: Option<GenerationRecord>,
}

impl Pushes {
    /// Compiles a site and compares it with the newest generation. Nothing is written.
    pub async fn prepare(&self, order: Order) -> Result<Prepared, PushError> {
        let basis = self.before(&order.site).await?;
        let (snapshot, compiled) = self
            .compile_as_if(&order.site, order.sources.clone())
            .await?;
        let mut fresh = self.fresh(&order, &snapshot);
        let live = compiled.rulesets.values().map(Ruleset::live_names);
        fresh.live = live.flatten().collect();
        let (contents, packed) = pack(&order.site, compiled.rulesets).await?;
        let confirmed = self.confirmed(&snapshot);
        let staging = BasisStaging::of(&staging(&snapshot), fresh.observe);
        self.still_stands(&order, &basis, &snapshot, &contents, &confirmed, staging)
            .await?;
        Ok(self.prepared(
            order,
            snapshot,
            basis,
            contents,
            packed,
            fresh,
            compiled.warnings,
        ))
    }

    /// The same with the content that generation `to` had, the last good one before the newest
    /// if none is named. Nodes that it does not know are compiled.
    pub async fn prepare_rollback(
        &self,
        order: Order,
        to: Option<Generation>,
    ) -> Result<Prepared, PushError> {
        let site = order.site.clone();
        let basis = self.before(&site).await?;
        let earlier = self.earlier(&basis, &site, to).await?;
        let snapshot =
            Snapshot::read(self.store.as_ref(), &self.documents, &site, Vec::new()).await?;
        let mut contents: BTreeMap<NodeName, Content> = snapshot
            .nodes
            .keys()
            .filter_map(|name| Some((name.clone(), *earlier.nodes.get(name)?)))
            .collect();
        let mut fresh = self.fresh(&order, &snapshot);
        fresh.observe = earlier.observe;
        fresh.documents = earlier.documents;
        fresh.live.clone_from(&earlier.live);
        fresh.cause = Cause::Rollback { to: earlier.number };
        let unknown = |name: &NodeName| !earlier.nodes.contains_key(name);
        let (snapshot, packed, warnings) = if snapshot.nodes.keys().any(unknown) {
            let (snapshot, mut compiled) = self.compile(&site).await?;
            compiled.rulesets.retain(|name, _| unknown(name));
            let live = compiled.rulesets.values().map(Ruleset::live_names);
            fresh.live.extend(live.flatten());
            let names: Vec<String> = compiled.rulesets.keys().map(ToString::to_string).collect();
            let (new, packed) = pack(&site, compiled.rulesets).await?;
            contents.extend(new);
            let warning = format!(
                "{} enrolled after generation {}: compiled from the documents of now",
                names.join(", "),
                earlier.number
            );
            (snapshot, packed, vec![warning])
        } else {
            (snapshot, Packed::new(site), Vec::new())
        };
        let confirmed = self.confirmed(&snapshot);
        let staging = BasisStaging::of(&staging(&snapshot), fresh.observe);
        self.still_stands(&order, &basis, &snapshot, &contents, &confirmed, staging)
            .await?;
        Ok(self.prepared(order, snapshot, basis, contents, packed, fresh, warnings))
    }

    /// The generation that a rollback brings back.
    pub(super) async fn earlier(
        &self,
        basis: &Before,
        site: &SiteName,
        to: Option<Generation>,
    ) -> Result<GenerationRecord, PushError> {
        let store = self.store.as_ref();
        let Some(newest) = &basis.record else {
            return Err(PushError::NothingBefore(site.clone()));
        };
        if let Some(to) = to {
            let read = records::read(store, &keys::generation(site, to)).await?;
            return read
                .map(|read: Read<GenerationRecord>| read.record)
                .ok_or_else(|| PushError::UnknownGeneration(site.clone(), to));
        }
        let entries = store.all(&keys::generations(site), MAX_GENERATIONS).await?;
        for entry in entries.iter().rev() {
            let record: GenerationRecord = records::from_json(&entry.key, &entry.held)?;
            if record.number >= newest.number || record.nodes == newest.nodes {
                continue;
            }
            let outcome: Option<Read<OutcomeRecord>> =
                records::read(store, &keys::outcome(site, record.number)).await?;
            // Of before there were outcomes: it was offered to every node.
            if outcome.is_none_or(|read| read.record.is_good_for(record.number)) {
                return Ok(record);
            }
        }
        Err(PushError::NothingBefore(site.clone()))
    }

    // One caller's facts on their way into one value.
    #[allow(clippy::too_many_arguments)]
    fn prepared(
        &self,
        order: Order,
        snapshot: Snapshot,
        basis: Before,
        contents: BTreeMap<NodeName, Content>,
        packed: Packed,
        fresh: GenerationRecord,
        warnings: Vec<String>,
    ) -> Prepared {
        let confirmed = self.confirmed(&snapshot);
        let (confirm_within_ms, documents) = (fresh.confirm_within_ms, fresh.documents);
        let compared = compare(
            basis.record.as_ref(),
            contents,
            &confirmed,
            newest(&snapshot),
            fresh,
        );
        let staging = staging(&snapshot);
        Prepared {
            generation: Arc::new(compared.generation),
            changed: compared.changed,
            documents,
            confirm_within_ms,
            differing: compared.differing,
            confirmed,
            staging,
            roles: snapshot
                .nodes
                .into_iter()
                .map(|(name, node)| (name, node.roles))
                .collect(),
            warnings,
            order,
            basis,
            packed: Arc::new(Mutex::new(Some(packed))),
        }
    }

    pub(super) async fn before(&self, site: &SiteName) -> Result<Before, PushError> {
        let store = self.store.as_ref();
        let current: Option<Read<TargetRecord>> =
            records::read(store, &keys::current(site)).await?;
        let Some(current) = current else {
            return Ok(Before {
                expect: Expect::Absent,
                target: None,
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
            target: Some(current.record),
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

impl Pushes {
    /// Refuses an order whose plan no longer holds. Called between the compile and the commit,
    /// which expects the site's generation as it is here. Documents and nodes are those that the
    /// compile has read: what is compared is what is pushed, and a change after that is one of
    /// the next push.
    // One caller's facts on their way into one comparison.
    #[allow(clippy::too_many_arguments)]
    pub(super) async fn still_stands(
        &self,
        order: &Order,
        before: &Before,
        snapshot: &Snapshot,
        contents: &BTreeMap<NodeName, Content>,
        confirmed: &BTreeMap<NodeName, Held>,
        staging: BasisStaging,
    ) -> Result<(), PushError> {
        let Some(basis) = &order.basis else {
            return Ok(());
        };
        let now = PlanBasis::of(
            before.record.as_ref(),
            snapshot.version,
            contents,
            confirmed,
            staging,
        );
        let now = match order.ticket {
            0 => now,
            _ => PlanBasis::of_content(&now.content()),
        };
        let by = before.record.as_ref().map(|record| record.by.clone());
        let (documents, _) = documents::version(self.store.as_ref()).await?;
        let last = LastChanges {
            documents_by: documents.by,
            pushed_by: by.unwrap_or_default(),
        };
        let moved = basis.moved(&now, &last);
        if moved.is_empty() {
            return Ok(());
        }
        Err(PushError::Stale {
            site: order.site.clone(),
            moved,
        })
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

/// How the site's document wants a push to go through its nodes.
pub(super) fn staging(snapshot: &Snapshot) -> Staging {
    let policy = snapshot.documents.sites.get(&snapshot.site);
    policy.map_or_else(Staging::at_once, |policy| policy.rollout.clone())
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
    use voipfleet_ruleset::ruleset::Digest;

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
