//! A store, a test clock, and the sources in use.

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::watch;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use voipfleet_controller::audit::Audit;
use voipfleet_controller::clock::Clock;
use voipfleet_controller::dynamic_sets::Used;
use voipfleet_controller::store::{Embedded, Store, Versioned};
use voipfleet_testkit::TestClock;

/// How long something may take that must happen; a test that passes never waits for it.
const PATIENCE: Duration = Duration::from_mins(1);
pub(crate) const MINUTE: u64 = 60_000;
pub(crate) const HOUR: u64 = 60 * MINUTE;

pub(crate) struct Scene {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) used: watch::Sender<Option<Arc<Used>>>,
    pub(crate) stop: CancellationToken,
    pub(crate) dir: TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let store = Embedded::open(&dir.path().join("store")).unwrap();
        Self {
            store: Arc::new(store),
            clock: Arc::new(TestClock::fixed(1_800_000_000_000)),
            used: watch::Sender::new(None),
            stop: CancellationToken::new(),
            dir,
        }
    }

    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock) as Arc<dyn Clock>
    }

    pub(crate) async fn audit(&self) -> Audit {
        let audit = Audit::open(Arc::clone(&self.store), self.clock());
        audit.await.unwrap()
    }

    pub(crate) fn now(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Turns the clock, and has what is due looked at: what is in use is said again.
    pub(crate) fn pass(&self, ms: u64) {
        self.clock.advance_ms(ms);
        self.used.send_modify(|_| {});
    }

    pub(crate) fn use_(&self, used: Used) {
        self.used.send_replace(Some(Arc::new(used)));
    }

    /// Waits until what a key holds is as it should be.
    pub(crate) async fn until<T>(
        &self,
        key: &str,
        mut wanted: impl FnMut(Option<Versioned>) -> Option<T>,
    ) -> T {
        let mut changes = self.store.watch_from_now(key).await;
        let waiting = async {
            loop {
                if let Some(found) = wanted(self.store.get(key).await.unwrap()) {
                    return found;
                }
                // One that was missed is a change as well.
                _ = changes.next().await.unwrap();
            }
        };
        let found = tokio::time::timeout(PATIENCE, waiting).await;
        found.unwrap_or_else(|_| panic!("{key} never became what it should"))
    }
}
