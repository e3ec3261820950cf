//! Notices of a site's dynamic sets to one node.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use voipfleet_proto::v1::DynamicSetsNotice;
use voipfleet_ruleset::ruleset::{Digest, DynamicSetName};

use crate::dynamic_sets::{SetsSnapshot, Subscriptions};
use crate::records::NodeId;

/// How long a notice may be unanswered before a newer one replaces it. An answer takes a few
/// milliseconds, and after it the newer one can be a difference.
const UNANSWERED: Duration = Duration::from_secs(1);
/// How long after a node failed to apply dynamic sets the notice is sent again.
const AGAIN: Duration = Duration::from_secs(15);

/// A node's dynamic sets, as its session knows them.
pub(super) struct Notices {
    dynamic: watch::Receiver<Option<Arc<SetsSnapshot>>>,
    /// The digest that the node reported.
    held: Option<Digest>,
    /// The last notice of this session.
    told: Option<Told>,
}

struct Told {
    value: Arc<SetsSnapshot>,
    at: Instant,
    answer: Answer,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Awaited,
    Held,
    Failed,
}

impl Notices {
    /// For a node that reported `held`.
    pub(super) fn new(dynamic: &Subscriptions, id: &NodeId, held: Option<Digest>) -> Self {
        Self {
            dynamic: dynamic.subscribe(&id.site),
            held,
            told: None,
        }
    }

    /// What to send now, if anything.
    pub(super) fn next(&mut self) -> Option<DynamicSetsNotice> {
        let now = self.dynamic.borrow_and_update().clone()?;
        let from = match &self.told {
            None if self.held == Some(now.digest) => {
                self.tell(now, Answer::Held);
                return None;
            }
            None => self.held,
            Some(told) => {
                let same = told.value.digest == now.digest;
                let send = match told.answer {
                    Answer::Awaited => !same && told.at.elapsed() >= UNANSWERED,
                    Answer::Held => !same,
                    Answer::Failed => !same || told.at.elapsed() >= AGAIN,
                };
                if !send {
                    return None;
                }
                match told.answer {
                    // It may or may not have applied the last notice: a delta has no certain base.
                    Answer::Awaited => None,
                    Answer::Held | Answer::Failed => self.held,
                }
            }
        };
        let notice = now.notice(from);
        self.tell(now, Answer::Awaited);
        Some(notice)
    }

    fn tell(&mut self, value: Arc<SetsSnapshot>, answer: Answer) {
        let at = Instant::now();
        self.told = Some(Told { value, at, answer });
    }

    /// Whether a notice of this session covered these sources: before, it takes no offer
    /// that names them.
    pub(super) fn told(&self, sources: &BTreeSet<DynamicSetName>) -> bool {
        self.told.as_ref().is_some_and(|told| {
            let known = &told.value.sets.sources;
            sources.iter().all(|source| known.contains_key(source))
        })
    }

    /// Takes the node's report: the digest it holds, and why it could not apply the last notice.
    pub(super) fn heard(&mut self, held: Option<Digest>, error: &str) {
        self.held = held;
        if let Some(told) = &mut self.told {
            if held == Some(told.value.digest) {
                told.answer = Answer::Held;
            } else if !error.is_empty() && told.answer == Answer::Awaited {
                told.answer = Answer::Failed;
                told.at = Instant::now();
            }
        }
    }

    /// Waits until there may be something to send.
    pub(super) async fn changed(&mut self) {
        let wait = self.told.as_ref().and_then(|told| {
            let newer =
                self.dynamic.borrow().as_ref().map(|now| now.digest) != Some(told.value.digest);
            match told.answer {
                Answer::Awaited if newer => Some(told.at + UNANSWERED),
                Answer::Failed => Some(told.at + AGAIN),
                Answer::Awaited | Answer::Held => None,
            }
        });
        let overdue = async {
            match wait {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // The sender lives as long as the fleet.
            _ = self.dynamic.changed() => {}
            () = overdue => {}
        }
    }
}
