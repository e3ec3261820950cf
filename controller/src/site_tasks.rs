//! One task for each site that has a key under a prefix: it works, then sleeps until something
//! changes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use voipfleet_ruleset::identifiers::SiteName;

use crate::clock::Clock;
use crate::store::{Store, each_key};

/// When a task works again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// It did something, and there may be more to do.
    Now,
    /// At this moment of the monotonic clock, or when something changes. A moment, since time
    /// passes between the decision and the sleep.
    At(Duration),
    /// After so long, or when something changes.
    After(Duration),
    /// When something changes.
    OnChange,
}

/// What is done for one site.
#[async_trait]
pub(crate) trait SiteTask: Send + 'static {
    async fn turn(&mut self) -> Next;

    /// Returns when something has changed; false: nothing will any more, and the task ends. It may
    /// be dropped before it returns.
    async fn changed(&mut self) -> bool;
}

/// Starts the task of every site that has, or gets, a key under `prefix`, until `stop`.
pub(crate) async fn run_all<T, F>(
    store: &dyn Store,
    prefix: &str,
    clock: &Arc<dyn Clock>,
    stop: &CancellationToken,
    mut task: impl FnMut(SiteName) -> F + Send,
) where
    T: SiteTask,
    F: Future<Output = T> + Send + 'static,
{
    let mut known = BTreeSet::new();
    let start = |key: &str| {
        let site = key.strip_prefix(prefix);
        let site: Option<SiteName> = site.and_then(|site| site.parse().ok());
        if let Some(site) = site
            && known.insert(site.clone())
        {
            let (task, clock, stop) = (task(site), Arc::clone(clock), stop.clone());
            tokio::spawn(async move { run(task.await, clock, stop).await });
        }
    };
    each_key(store, prefix, stop, start).await;
}

async fn run(mut task: impl SiteTask, clock: Arc<dyn Clock>, stop: CancellationToken) {
    loop {
        let end = match task.turn().await {
            Next::Now => continue,
            Next::At(end) => Some(end),
            Next::After(time) => Some(clock.monotonic().saturating_add(time)),
            Next::OnChange => None,
        };
        tokio::select! {
            () = sleep_until(clock.as_ref(), end) => {}
            alive = task.changed() => if !alive { return },
            () = stop.cancelled() => return,
        }
    }
}

/// Sleeps until then; none: forever.
async fn sleep_until(clock: &dyn Clock, end: Option<Duration>) {
    match end {
        Some(end) => clock.sleep_until(end).await,
        None => std::future::pending().await,
    }
}
