//! What voipctl prints with `-o json`: the names are a contract with scripts.

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::exec::Ended;

/// A node in `voipctl status`.
#[derive(Debug, Clone, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub node: String,
    /// Its roles.
    pub roles: Vec<String>,
    /// `synced`, `stale`, `not_sent`, `error` or `offline`.
    pub state: String,
    /// Confirmed on the node.
    pub generation: u64,
    /// Of the confirmed ruleset, hexadecimal.
    pub digest: Option<String>,
    /// `nft` or `legacy`.
    pub backend: Option<String>,
    /// `clean`, `drifted`, `unreadable` or `contended`.
    pub drift: Option<String>,
    /// What the kernel holds of its sets.
    pub sets: Option<Sets>,
    /// Why, where something is wrong.
    pub error: Option<String>,
    /// Live flows that its last push cut.
    pub flows_cut: u64,
}

/// Set elements of a node.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Sets {
    /// In the kernel.
    pub enforced: u64,
    /// That should be.
    pub wanted: u64,
}

/// A site in `voipctl status`.
#[derive(Debug, Clone, Deserialize)]
pub struct SiteStatus {
    /// Its name.
    pub site: String,
    /// Its last push; 0: none.
    pub generation: u64,
    /// Its nodes.
    pub nodes: Vec<NodeStatus>,
}

impl SiteStatus {
    pub(crate) fn read(text: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(text).context("status is not JSON")?;
        serde_json::from_value(value).with_context(|| format!("not the status of a site: {text}"))
    }

    /// A node of it.
    pub fn node(&self, name: &str) -> Result<&NodeStatus> {
        self.nodes
            .iter()
            .find(|node| node.node == name)
            .with_context(|| format!("status does not name {name}"))
    }

    /// Whether every node runs the site's generation, and nothing but it.
    pub fn is_synced(&self) -> bool {
        self.nodes.iter().all(|node| {
            node.state == "synced"
                && node.generation == self.generation
                && node.drift.as_deref() == Some("clean")
        })
    }
}

/// A record of `voipctl drift`.
#[derive(Debug, Clone, Deserialize)]
pub struct DriftRecord {
    /// The node's name.
    pub node: String,
    /// When it was noticed.
    pub at: Value,
    /// `missing`, `altered`, `extra`, `order`, `policy`, `set`, `bypass` or `unreadable`.
    pub class: String,
    /// `ipv4` or `ipv6`.
    pub family: Option<String>,
    /// The table.
    pub table: Option<String>,
    /// The chain, or the set's name.
    pub chain: Option<String>,
    /// The rule's label.
    pub rule: Option<String>,
    /// As the kernel prints it.
    pub wanted: Option<String>,
    /// As the kernel prints it.
    pub observed: Option<String>,
    /// Who did it, where that is known.
    pub by: Option<Author>,
    /// Until it was repaired.
    pub repaired_after_ms: Option<u64>,
    /// Differences that were made together have the same.
    pub act: String,
}

/// Who changed the kernel.
#[derive(Debug, Clone, Deserialize)]
pub struct Author {
    /// The process.
    pub pid: u32,
    /// Its command name.
    pub comm: String,
}

impl DriftRecord {
    /// Those that are not among `known`, in the order in which they were made: an act that goes
    /// on has more of them.
    pub fn newer(mut records: Vec<Self>, known: &[Self]) -> Vec<Self> {
        for known in known {
            if let Some(place) = records.iter().position(|record| record.is_same(known)) {
                records.remove(place);
            }
        }
        records
    }

    /// Whether it is the same difference, perhaps repaired since.
    fn is_same(&self, other: &Self) -> bool {
        let brief = |of: &Self| {
            let place = (of.class.clone(), of.family.clone(), of.chain.clone());
            (
                of.act.clone(),
                place,
                of.wanted.clone(),
                of.observed.clone(),
            )
        };
        brief(self) == brief(other)
    }

    pub(super) fn read(text: &str) -> Result<Vec<Self>> {
        #[derive(Deserialize)]
        struct Records {
            records: Vec<DriftRecord>,
        }
        let records: Records =
            serde_json::from_str(text).with_context(|| format!("not drift records: {text}"))?;
        Ok(records.records)
    }
}

/// What `voipctl push -o json` said: a line an event.
#[derive(Debug, Clone)]
pub struct Push {
    /// How voipctl ended.
    pub ended: Ended,
    /// Every line.
    pub events: Vec<Value>,
    /// The last line, `{"event":"done",...}`.
    pub done: Value,
}

impl Push {
    /// Reads what an ended push printed.
    pub fn read(ended: Ended) -> Result<Self> {
        let events = ended
            .stdout
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<Vec<Value>, _>>()
            .with_context(|| format!("push did not print JSON lines: {}", ended.output()))?;
        let Some(done) = events
            .last()
            .filter(|last| last["event"] == "done")
            .cloned()
        else {
            bail!("push did not end with a done event: {}", ended.output());
        };
        Ok(Self {
            ended,
            events,
            done,
        })
    }

    /// A number of the last line.
    pub fn count(&self, name: &str) -> Result<u64> {
        self.done
            .get(name)
            .and_then(Value::as_u64)
            .with_context(|| format!("the done event has no number {name}: {}", self.done))
    }

    /// The last that was said of a node: an event of its own, or its place in the first one.
    pub fn node(&self, name: &str) -> Result<&Value> {
        let first = self
            .events
            .iter()
            .filter_map(|event| event["nodes"].as_array());
        first
            .flatten()
            .chain(&self.events)
            .rfind(|said| said["node"] == name)
            .with_context(|| format!("push does not name {name}: {}", self.ended.output()))
    }
}
