//! The session's part about live sets: what is noticed is brought here, one after the other.
//!
//! A notice is worked on to its end, also when a newer one comes: that one waits, and of several
//! the newest. So however fast they come, the node gets on, and holds one of them at a time.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::spawn_blocking;
use tonic::transport::Channel;
use tracing::{debug, warn};
use voipfleet_proto::v1 as pb;
use voipfleet_proto::v1::fleet_client::FleetClient;
use voipfleet_ruleset::ruleset::live::{InvalidLive, LiveDelta};
use voipfleet_ruleset::ruleset::{Digest, LiveSets};

use super::fetch::{FetchError, FetchLimits, What, fetch};
use super::{Link, backoff};
use crate::failpoint::{Step, Work, reach_in};
use crate::host::errors::chain;
use crate::ledger::Live;
use crate::mailbox::Noticed;

/// Why what was noticed is not here.
#[derive(Debug, thiserror::Error)]
enum Why {
    #[error("a notice of live sets names no digest")]
    NoDigest,
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Invalid(#[from] InvalidLive),
    #[error("the live sets could not be read")]
    Gone(#[source] tokio::task::JoinError),
}

type Coming = Pin<Box<dyn Future<Output = Result<Arc<Live>, Why>> + Send>>;

/// What is being brought here.
struct Fetch {
    notice: pb::LiveNotice,
    received: Instant,
    coming: Coming,
    /// How often that failed already.
    failed: u32,
}

/// The notices of one session.
#[derive(Default)]
pub(super) struct Notices {
    now: Option<Fetch>,
    /// The newest of those that came meanwhile.
    waiting: Option<(pb::LiveNotice, Instant)>,
}

impl Notices {
    /// Takes a notice up.
    pub(super) fn take(
        &mut self,
        link: &Link,
        client: &FleetClient<Channel>,
        notice: pb::LiveNotice,
    ) {
        reach_in(Work::Live, Step::Noticed);
        let received = Instant::now();
        match &self.now {
            // What failed gives way; its pause is not waited for.
            Some(now) if now.failed == 0 => self.waiting = Some((notice, received)),
            _ => self.begin(link, client, notice, received),
        }
    }

    fn begin(
        &mut self,
        link: &Link,
        client: &FleetClient<Channel>,
        notice: pb::LiveNotice,
        received: Instant,
    ) {
        let coming = Box::pin(bring(link, client, &notice));
        self.now = Some(Fetch {
            notice,
            received,
            coming,
            failed: 0,
        });
    }

    /// Whether a notice has come that is neither here nor failed.
    pub(super) fn is_busy(&self) -> bool {
        self.now.as_ref().is_some_and(|now| now.failed == 0)
    }

    /// Waits until what is worked on is here, or is not, and hands it over. What failed is tried
    /// again.
    pub(super) async fn next(&mut self, link: &Link, client: &FleetClient<Channel>) {
        let Some(now) = &mut self.now else {
            return pending().await;
        };
        let came = now.coming.as_mut().await;
        let Some(now) = self.now.take() else {
            return;
        };
        match came {
            Ok(live) => {
                reach_in(Work::Live, Step::Fetched);
                link.inbox.live(Noticed {
                    live,
                    received: now.received,
                });
            }
            Err(why) => {
                link.inbox.no_live(chain(&why));
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
        let again = bring(link, client, &failed.notice);
        let pause = backoff::of_notice(failed.failed, rand::random());
        debug!(
            seconds = pause.as_secs_f64(),
            "live sets are asked for again"
        );
        self.now = Some(Fetch {
            coming: Box::pin(async move {
                tokio::time::sleep(pause).await;
                again.await
            }),
            failed: failed.failed.saturating_add(1),
            ..failed
        });
    }
}

/// Brings here what a notice names: by its delta where that stands on what the node holds, else
/// as a whole.
fn bring(
    link: &Link,
    client: &FleetClient<Channel>,
    notice: &pb::LiveNotice,
) -> impl Future<Output = Result<Arc<Live>, Why>> + Send + 'static {
    let held = [link.inbox.last_live(), link.outbox.live()];
    let limits = link.fetch_limits;
    let client = client.clone();
    let notice = notice.clone();
    async move {
        let digest = Digest::try_from(notice.digest.as_slice()).map_err(|_| Why::NoDigest)?;
        let mut held = held.into_iter().flatten();
        let of = |held: &Arc<Live>, digest: &[u8]| held.digest.as_bytes() == digest;
        if let Some(same) = held.clone().find(|held| of(held, &notice.digest)) {
            return Ok(same);
        }
        let base = held.find(|held| of(held, &notice.delta_from));
        if let (Some(base), Some(delta)) = (base, notice.delta) {
            match aside(move || change(&base, &delta)).await? {
                Ok(live) if live.digest == digest => return Ok(Arc::new(live)),
                Ok(_) => warn!("a delta of live sets does not lead to the digest that it names"),
                Err(error) => warn!(reason = chain(&error), "a delta of live sets is not taken"),
            }
        }
        whole(client, digest, notice.size, limits).await
    }
}

fn change(base: &Live, delta: &pb::LiveDelta) -> Result<Live, InvalidLive> {
    let delta = LiveDelta::try_from(delta)?;
    Ok(Live::new(base.told.apply_delta(&delta)?))
}

async fn whole(
    client: FleetClient<Channel>,
    digest: Digest,
    size: u64,
    limits: FetchLimits,
) -> Result<Arc<Live>, Why> {
    let content = fetch(What::LiveSets, client, digest, size, limits).await?;
    let told = aside(move || LiveSets::decode(&content)).await??;
    let kept = LiveSets::new(told.site.clone());
    Ok(Arc::new(Live { told, digest, kept }))
}

/// Large ones take a while, in which the session goes on.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Why> {
    spawn_blocking(work).await.map_err(Why::Gone)
}
