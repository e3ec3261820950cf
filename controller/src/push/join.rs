//! Nodes that enrolled after the last push: each gets the site's generation by itself, compiled
//! from the documents that the generation was made of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::ruleset::Ruleset;

use super::stored_content::{documents_of, generation};
use super::{Compiler, PushError, Pushes};
use crate::audit::{Audit, Event};
use crate::errors::chain;
use crate::fleet::Fleet;
use crate::records::{Content, GenerationRecord, NodeId, QueueRecord, Read, RolloutState};
use crate::rollout::Rollouts;
use crate::rulesets::Packed;
use crate::site_inputs::{self, SiteNode, Snapshot, Targets};
use crate::store::{Expect, Store, Transaction, keys};

/// When nodes that had to wait are looked at again.
const AGAIN: Duration = Duration::from_secs(2);

/// Adds nodes to the generations of their sites.
#[derive(Debug, Clone)]
pub struct Joiner {
    store: Arc<dyn Store>,
    fleet: Fleet,
    rollouts: Rollouts,
    compiler: Compiler,
    audit: Audit,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Joined {
    /// They are part of the generation, or nothing can be done for them.
    Settled,
    /// A rollout is under way or halted, pushes wait, or another change was faster.
    Later,
}

/// A site's generation with the nodes that it lacks.
struct Lacking {
    targets: Targets,
    newest: Read<GenerationRecord>,
    /// All nodes of the site.
    nodes: BTreeMap<NodeName, SiteNode>,
    /// Those that enrolled later.
    late: BTreeSet<NodeName>,
}

impl Joiner {
    /// What it does is written into `audit`.
    pub fn new(pushes: &Pushes, audit: Audit) -> Self {
        let pipeline = &pushes.pipeline;
        Self {
            store: Arc::clone(&pipeline.store),
            fleet: pipeline.fleet.clone(),
            rollouts: pipeline.rollouts.clone(),
            compiler: pipeline.compiler.clone(),
            audit,
        }
    }

    /// Works until the fleet stops.
    pub async fn run(&self) {
        let stop = self.fleet.stop_token();
        let mut waiting: BTreeSet<NodeId> = BTreeSet::new();
        loop {
            tokio::select! {
                came = self.fleet.late_nodes() => waiting.extend(came),
                () = tokio::time::sleep(AGAIN), if !waiting.is_empty() => {}
                () = stop.cancelled() => return,
            }
            let mut sites: BTreeMap<SiteName, BTreeSet<NodeName>> = BTreeMap::new();
            for id in std::mem::take(&mut waiting) {
                // One that has left comes again.
                if self.fleet.view(&id).is_some() {
                    sites.entry(id.site).or_default().insert(id.node);
                }
            }
            for (site, names) in sites {
                let joined = match self.join(&site, &names).await {
                    Ok(joined) => joined,
                    Err(error) => {
                        tracing::warn!(%site, error = chain(&error), "late nodes get no ruleset");
                        match error {
                            PushError::Store(_) => Joined::Later,
                            _ => Joined::Settled,
                        }
                    }
                };
                if joined == Joined::Later {
                    waiting.extend(names.into_iter().map(|node| NodeId {
                        site: site.clone(),
                        node,
                    }));
                }
            }
        }
    }

    /// Adds those of `names` that the site's generation lacks.
    async fn join(&self, site: &SiteName, names: &BTreeSet<NodeName>) -> Result<Joined, PushError> {
        let Some(lacking) = self.lacking(site, names).await? else {
            return Ok(Joined::Settled);
        };
        if !self.is_at_rest(site, &lacking).await? {
            return Ok(Joined::Later);
        }
        let record = &lacking.newest.record;
        let Some(documents) = documents_of(self.store.as_ref(), record).await? else {
            let generation = record.number;
            tracing::warn!(%site, generation, "late nodes get no ruleset: its documents are unknown");
            return Ok(Joined::Settled);
        };
        let snapshot = Snapshot {
            site: site.clone(),
            documents: Arc::new(documents),
            stored: None,
            version: record.documents.unwrap_or_default(),
            changed_by: None,
            nodes: lacking.nodes.clone(),
        };
        let (_, compiled) = self.compiler.compile(&snapshot).await?;
        let mut rulesets = compiled.rulesets;
        rulesets.retain(|name, _| lacking.late.contains(name));
        let owner = site.clone();
        // Encoding takes a while where sets are long: off the async threads.
        let packing = tokio::task::spawn_blocking(move || pack(owner, rulesets));
        let broken = |_| PushError::Broken(site.clone());
        let (contents, packed) = packing.await.map_err(broken)?;
        self.commit(site, lacking, contents, packed).await
    }

    /// None: every one of them is part of the generation.
    async fn lacking(
        &self,
        site: &SiteName,
        names: &BTreeSet<NodeName>,
    ) -> Result<Option<Lacking>, PushError> {
        let store = self.store.as_ref();
        let Some(targets) = Targets::read(store, site).await? else {
            return Ok(None);
        };
        let newest = generation(store, site, targets.record().generation).await?;
        let nodes = site_inputs::nodes(store, site).await?;
        let is_late = |name: &&NodeName| {
            let node = nodes.get(*name);
            node.is_some_and(|node| !newest.record.is_for(name, node.enrolled_ms))
        };
        let late: BTreeSet<NodeName> = names.iter().filter(is_late).cloned().collect();
        Ok((!late.is_empty()).then_some(Lacking {
            targets,
            newest,
            nodes,
            late,
        }))
    }

    /// Whether the newest generation is what the site's nodes run: no rollout brings it, or was
    /// stopped by a failure, and no push that waits will bring another one. A machine that took
    /// the place of another one in a rollout is awaited by it.
    async fn is_at_rest(&self, site: &SiteName, lacking: &Lacking) -> Result<bool, PushError> {
        let store = self.store.as_ref();
        let queue = crate::records::read::<QueueRecord>(store, &keys::queue(site)).await?;
        let waits = queue.is_some_and(|queue| !queue.record.waiting.is_empty());
        let Some(rollout) = self.rollouts.read(site).await? else {
            return Ok(!waits);
        };
        let rollout = rollout.record;
        let awaited = || {
            let mut late = lacking.late.iter();
            late.all(|name| rollout.nodes.contains_key(name))
        };
        Ok(match rollout.state {
            RolloutState::Done | RolloutState::RolledBack => !waits,
            RolloutState::Running | RolloutState::RollingBack => awaited(),
            RolloutState::Paused | RolloutState::Halted | RolloutState::Aborted => false,
        })
    }

    async fn commit(
        &self,
        site: &SiteName,
        lacking: Lacking,
        contents: BTreeMap<NodeName, (Ruleset, Content)>,
        packed: Packed,
    ) -> Result<Joined, PushError> {
        let Lacking {
            targets,
            newest,
            nodes,
            ..
        } = lacking;
        let mut record = newest.record;
        let stored = record.nodes.values().map(|content| content.digest);
        let stored = stored.collect();
        let mut names = Vec::new();
        for (name, (ruleset, content)) in contents {
            record.dynamic.extend(ruleset.dynamic_names());
            record.nodes.insert(name.clone(), content);
            if let Some(node) = nodes.get(&name) {
                record.joined.insert(name.clone(), node.enrolled_ms);
            }
            names.push(name);
        }
        let mut tx = Transaction::new(self.store.as_ref());
        let (current, key) = (keys::current(site), keys::generation(site, record.number));
        tx.expect(current.clone(), Expect::At(targets.revision()));
        tx.expect(key.clone(), Expect::At(newest.revision));
        packed.stage(&stored, &mut tx).await?;
        tx.find_parts(&key).await?;
        tx.put_large_json(&key, &key, &record)?;
        // As it is: sessions look again at what their nodes should run.
        tx.find_parts(&current).await?;
        tx.put_large_json(&current, &current, targets.record())?;
        if tx.commit().await?.is_none() {
            return Ok(Joined::Later);
        }
        let generation = record.number;
        for name in names {
            tracing::info!(%site, node = %name, generation, "late node gets the generation");
            let event = Event::new("NodeJoined")
                .site(site)
                .object(format!("Node/{site}/{name}"))
                .generations(None, Some(generation))
                .detail("it enrolled after the push");
            self.audit.note(event).await;
        }
        Ok(Joined::Settled)
    }
}

fn pack(
    site: SiteName,
    rulesets: BTreeMap<NodeName, Ruleset>,
) -> (BTreeMap<NodeName, (Ruleset, Content)>, Packed) {
    let mut packed = Packed::new(site);
    let contents = rulesets.into_iter().map(|(name, ruleset)| {
        let content = packed.add(&ruleset);
        (name, (ruleset, content))
    });
    (contents.collect(), packed)
}
