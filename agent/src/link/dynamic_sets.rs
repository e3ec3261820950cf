//! Announcements of dynamic sets: their content is fetched, one after the other.
//!
//! An announcement is finished also when a newer one arrives: that one waits, and of several only
//! the newest. So however fast they arrive, the node makes progress, and holds one at a time.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::spawn_blocking;
use tonic::transport::Channel;
use tracing::{debug, warn};
use voipfleet_proto::v1 as pb;
use voipfleet_proto::v1::fleet_client::FleetClient;
use voipfleet_protocol::errors::chain;
use voipfleet_ruleset::ruleset::dynamic_sets::{DynamicSetsDelta, InvalidDynamicSets};
use voipfleet_ruleset::ruleset::{Digest, DynamicSets};

use super::fetch::{FetchError, FetchLimits, Requested, fetch};
use super::{Link, backoff};
use crate::failpoint::{Step, Work, reach_in};
use crate::ledger::SiteSets;
use crate::mailbox::ReceivedSets;

/// Why announced dynamic sets are not here.
#[derive(Debug, thiserror::Error)]
enum SetsError {
    #[error("the announcement of dynamic sets has no digest")]
    NoDigest,
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Invalid(#[from] InvalidDynamicSets),
    #[error("cannot decode the dynamic sets")]
    Gone(#[source] tokio::task::JoinError),
}

type Content = Pin<Box<dyn Future<Output = Result<Arc<SiteSets>, SetsError>> + Send>>;

/// A fetch in progress.
struct Fetch {
    notice: pb::DynamicSetsNotice,
    received: Instant,
    content: Content,
    /// How often that failed.
    failed: u32,
}

/// The announcements of one session.
#[derive(Default)]
pub(super) struct Notices {
    now: Option<Fetch>,
    /// The newest of those that arrived meanwhile.
    waiting: Option<(pb::DynamicSetsNotice, Instant)>,
}

impl Notices {
    /// Takes an announcement.
    pub(super) fn take(
        &mut self,
        link: &Link,
        client: &FleetClient<Channel>,
        notice: pb::DynamicSetsNotice,
    ) {
        reach_in(Work::DynamicSets, Step::Announced);
        let received = Instant::now();
        match &self.now {
            // One that failed gives way, without waiting for its pause.
            Some(now) if now.failed == 0 => self.waiting = Some((notice, received)),
            _ => self.begin(link, client, notice, received),
        }
    }

    fn begin(
        &mut self,
        link: &Link,
        client: &FleetClient<Channel>,
        notice: pb::DynamicSetsNotice,
        received: Instant,
    ) {
        let content = Box::pin(fetch_announced(link, client, &notice));
        self.now = Some(Fetch {
            notice,
            received,
            content,
            failed: 0,
        });
    }

    /// Whether one is being fetched that has not failed.
    pub(super) fn is_busy(&self) -> bool {
        self.now.as_ref().is_some_and(|now| now.failed == 0)
    }

    /// Waits until the one that is being fetched is here, and hands it over. A failure is retried.
    pub(super) async fn next(&mut self, link: &Link, client: &FleetClient<Channel>) {
        let Some(now) = &mut self.now else {
            return pending().await;
        };
        let came = now.content.as_mut().await;
        let Some(now) = self.now.take() else {
            return;
        };
        match came {
            Ok(sets) => {
                reach_in(Work::DynamicSets, Step::Fetched);
                link.inbox.dynamic_sets(ReceivedSets {
                    sets,
                    received: now.received,
                });
            }
            Err(why) => {
                link.inbox.dynamic_sets_failed(chain(&why));
                if self.waiting.is_none() {
                    self.again(link, client, now);
                }
            }
        }
        if let Some((notice, received)) = self.waiting.take() {
            self.begin(link, client, notice, received);
        }
    }

    fn again(&mut self, link: &Link, client: &FleetClient<Channel>, failed: Fetch) {
        let again = fetch_announced(link, client, &failed.notice);
        let pause = backoff::of_notice(failed.failed, rand::random());
        debug!(seconds = pause.as_secs_f64(), "fetching dynamic sets again");
        self.now = Some(Fetch {
            content: Box::pin(async move {
                tokio::time::sleep(pause).await;
                again.await
            }),
            failed: failed.failed.saturating_add(1),
            ..failed
        });
    }
}

/// Fetches what is announced: by its delta where that is based on what the node holds, else as a
/// whole.
fn fetch_announced(
    link: &Link,
    client: &FleetClient<Channel>,
    notice: &pb::DynamicSetsNotice,
) -> impl Future<Output = Result<Arc<SiteSets>, SetsError>> + Send + 'static {
    let held = [link.inbox.last_dynamic_sets(), link.outbox.dynamic_sets()];
    let limits = link.fetch_limits;
    let client = client.clone();
    let notice = notice.clone();
    async move {
        let digest = Digest::try_from(notice.digest.as_slice()).map_err(|_| SetsError::NoDigest)?;
        let mut held = held.into_iter().flatten();
        let of = |held: &Arc<SiteSets>, digest: &[u8]| held.digest.as_bytes() == digest;
        if let Some(same) = held.clone().find(|held| of(held, &notice.digest)) {
            return Ok(same);
        }
        let base = held.find(|held| of(held, &notice.delta_from));
        if let (Some(base), Some(delta)) = (base, notice.delta) {
            match on_worker(move || change(&base, &delta)).await? {
                Ok(sets) if sets.digest == digest => return Ok(Arc::new(sets)),
                Ok(_) => warn!("delta of dynamic sets does not match its digest"),
                Err(error) => warn!(reason = chain(&error), "delta of dynamic sets refused"),
            }
        }
        whole(client, digest, notice.size, limits).await
    }
}

fn change(base: &SiteSets, delta: &pb::DynamicSetsDelta) -> Result<SiteSets, InvalidDynamicSets> {
    let delta = DynamicSetsDelta::try_from(delta)?;
    Ok(SiteSets::new(base.received.apply_delta(&delta)?))
}

async fn whole(
    client: FleetClient<Channel>,
    digest: Digest,
    size: u64,
    limits: FetchLimits,
) -> Result<Arc<SiteSets>, SetsError> {
    let content = fetch(Requested::DynamicSets, client, digest, size, limits).await?;
    let received = on_worker(move || DynamicSets::decode(&content)).await??;
    let kept = DynamicSets::new(received.site.clone());
    Ok(Arc::new(SiteSets {
        received,
        digest,
        kept,
    }))
}

/// Runs `work` beside the session: decoding large sets takes a while.
async fn on_worker<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, SetsError> {
    spawn_blocking(work).await.map_err(SetsError::Gone)
}
