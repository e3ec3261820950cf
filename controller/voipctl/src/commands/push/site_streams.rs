//! Starts the pushes of several sites, a few at a time, and merges their events.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use voipfleet_proto::v1;
use voipfleet_proto::v1::push_event::Kind;
use voipfleet_ruleset::identifiers::SiteName;

use super::rollout_watch::{SILENCE, closed_early};
use crate::client::{ANSWER_TIMEOUT, Controller};
use crate::failure::Failure;

/// Events of all sites that are not shown yet; further ones wait.
const BACKLOG: usize = 256;

/// News of a site: an event (`None`: of a kind that this voipctl does not know), or its end.
pub(super) type SiteNews = (SiteName, Result<Option<Kind>, Failure>);

/// Pushes that are running. Dropped, it stops following them; the controller goes on.
pub(super) struct SiteStreams {
    pub(super) news: mpsc::Receiver<SiteNews>,
    _tasks: JoinSet<()>,
}

impl SiteStreams {
    /// Starts a push per request, at most `parallel` at the same time; those that wait for another
    /// rollout do not count. With `detach`, each is followed only to its start.
    pub(super) fn start(
        requests: BTreeMap<SiteName, v1::PushRequest>,
        parallel: u8,
        detach: bool,
        controller: &Arc<Controller>,
    ) -> Self {
        let (out, news) = mpsc::channel(BACKLOG);
        let permits = Arc::new(Semaphore::new(parallel.into()));
        let mut tasks = JoinSet::new();
        for (site, request) in requests {
            let (controller, out) = (Arc::clone(controller), out.clone());
            let permits = Arc::clone(&permits);
            tasks.spawn(async move {
                // The semaphore is never closed.
                let permit = permits.acquire_owned().await.ok();
                follow(&controller, site, request, detach, permit, &out).await;
            });
        }
        Self {
            news,
            _tasks: tasks,
        }
    }
}

/// Runs one push, and sends its events until its end.
async fn follow(
    controller: &Controller,
    site: SiteName,
    request: v1::PushRequest,
    detach: bool,
    mut permit: Option<OwnedSemaphorePermit>,
    out: &mpsc::Sender<SiteNews>,
) {
    let started = controller
        .within(ANSWER_TIMEOUT, controller.calls().push(request))
        .await;
    let mut stream = match started {
        Ok(events) => events.into_inner(),
        Err(failure) => {
            // A closed channel means that the user has stopped watching.
            let _ = out.send((site, Err(failure))).await;
            return;
        }
    };
    loop {
        let event = controller.within(SILENCE, stream.message()).await;
        let event = match event {
            Ok(Some(event)) => Ok(event.kind),
            Ok(None) => Err(closed_early()),
            Err(failure) => Err(failure),
        };
        let last = match &event {
            Ok(Some(Kind::Started(_) | Kind::Queued(_))) => detach,
            Ok(Some(Kind::Done(_))) | Err(_) => true,
            Ok(_) => false,
        };
        if matches!(event, Ok(Some(Kind::Queued(_)))) {
            // It waits for another rollout: other sites may start.
            drop(permit.take());
        }
        if out.send((site.clone(), event)).await.is_err() || last {
            return;
        }
    }
}
