//! What a store's writes say about the engine: whether it writes, and when the process must end.
//!
//! After an I/O error an engine may not write again, and may not say so. Nothing that is
//! acknowledged after it could be trusted, so the first such error is final: the owner of the
//! process ends it, and the next start reads what is really on disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::{
    Changes, Limits, Outcome, Page, Revision, Snapshot, Store, StoreError, Txn, Versioned,
};

/// How long a write may take to reach the disk.
pub const COMMIT_LIMIT: Duration = Duration::from_secs(10);

/// Whether the store can be written.
#[derive(Debug, Clone, Default)]
pub enum Health {
    /// The last write came to disk.
    #[default]
    Writable,
    /// Writes are refused until something is done; what is stored is safe. With the reason.
    Refusing(Arc<StoreError>),
    /// No write can be trusted any more: the process must end.
    Failed(StoreFailure),
}

impl Health {
    /// Why it cannot be written; `None`: it can.
    pub fn reason(&self) -> Option<String> {
        match self {
            Health::Writable => None,
            Health::Refusing(error) => Some(error.to_string()),
            Health::Failed(failure) => Some(failure.to_string()),
        }
    }
}

/// Why the process must end.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreFailure {
    /// The engine reported an error.
    #[error("the store failed")]
    Engine(#[source] Arc<StoreError>),
    /// A write does not come to disk.
    #[error(
        "a write to the store did not reach the disk within {} s; check the disk", .0.as_secs()
    )]
    Hung(Duration),
    /// The engine's thread ended.
    #[error("the store's writer ended unexpectedly")]
    Ended,
}

/// A store that watches its own writes.
#[derive(Debug, Clone)]
pub struct Supervised {
    inner: Arc<dyn Store>,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    health: watch::Sender<Health>,
    limit: Duration,
    /// From here on a closed engine is no failure.
    closing: AtomicBool,
}

impl Supervised {
    /// Watches an engine, whose writes may take [`COMMIT_LIMIT`].
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self::with_limit(inner, COMMIT_LIMIT)
    }

    /// The same with another limit.
    pub fn with_limit(inner: Arc<dyn Store>, limit: Duration) -> Self {
        Self {
            inner,
            state: Arc::new(State {
                health: watch::Sender::new(Health::Writable),
                limit,
                closing: AtomicBool::new(false),
            }),
        }
    }

    /// Whether it can be written, now and whenever that changes.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.state.health.subscribe()
    }

    /// Returns when the process must end.
    pub async fn failed(&self) -> StoreFailure {
        let mut health = self.health();
        let failed = health.wait_for(|health| matches!(health, Health::Failed(_)));
        if let Ok(health) = failed.await
            && let Health::Failed(failure) = &*health
        {
            return failure.clone();
        }
        // Its sender is of this very value: it does not go.
        std::future::pending().await
    }

    /// The engine is about to be closed.
    pub fn closing(&self) {
        self.state.closing.store(true, Ordering::SeqCst);
    }

    fn fail(&self, failure: StoreFailure) {
        self.state.health.send_if_modified(|health| {
            let first = !matches!(health, Health::Failed(_));
            if first {
                *health = Health::Failed(failure);
            }
            first
        });
    }

    fn set(&self, next: Health) {
        self.state.health.send_if_modified(|health| {
            let other = match (&*health, &next) {
                (Health::Failed(_), _) | (Health::Writable, Health::Writable) => false,
                // Each refusal names the room that was left: the newest counts, silently.
                (Health::Refusing(_), Health::Refusing(_)) => {
                    *health = next.clone();
                    return false;
                }
                _ => true,
            };
            if other {
                *health = next;
            }
            other
        });
    }

    /// Hands an error on, and notes what it says about the engine.
    fn noted(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Failed(_) | StoreError::Damaged(_) => {
                let shared = Arc::new(error);
                self.fail(StoreFailure::Engine(Arc::clone(&shared)));
                StoreError::Failed(Box::new(Shared(shared)))
            }
            StoreError::Closed => {
                if !self.state.closing.load(Ordering::SeqCst) {
                    self.fail(StoreFailure::Ended);
                }
                StoreError::Closed
            }
            error => error,
        }
    }

    async fn written<T>(
        &self,
        write: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(self.state.limit, write).await {
            Ok(Ok(done)) => {
                self.set(Health::Writable);
                Ok(done)
            }
            Ok(Err(StoreError::Full { path, free })) => {
                let full = |path| StoreError::Full { path, free };
                self.set(Health::Refusing(Arc::new(full(path.clone()))));
                Err(full(path))
            }
            Ok(Err(error)) => Err(self.noted(error)),
            Err(_) => {
                let failure = StoreFailure::Hung(self.state.limit);
                self.fail(failure.clone());
                Err(StoreError::Failed(Box::new(failure)))
            }
        }
    }
}

/// An error that callers and the owner of the process both get.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Shared(Arc<StoreError>);

#[async_trait]
impl Store for Supervised {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        let read = self.inner.revision().await;
        read.map_err(|error| self.noted(error))
    }

    async fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        let read = self.inner.get(key).await;
        read.map_err(|error| self.noted(error))
    }

    async fn get_at(&self, key: &str, at: Revision) -> Result<Option<Versioned>, StoreError> {
        let read = self.inner.get_at(key, at).await;
        read.map_err(|error| self.noted(error))
    }

    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let read = self.inner.range(prefix, after, limit).await;
        read.map_err(|error| self.noted(error))
    }

    async fn range_at(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Revision,
    ) -> Result<Page, StoreError> {
        let read = self.inner.range_at(prefix, after, limit, at).await;
        read.map_err(|error| self.noted(error))
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError> {
        self.written(self.inner.commit(txn)).await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.written(self.inner.probe()).await
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        let read = self.inner.snapshot().await;
        read.map_err(|error| self.noted(error))
    }

    fn watch(&self, prefix: &str, after: Revision) -> Changes {
        self.inner.watch(prefix, after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Fault, Memory};

    fn put(value: &str) -> Txn {
        Txn::new().put("a", value)
    }

    async fn value(store: &Supervised) -> Option<Vec<u8>> {
        store.get("a").await.unwrap().map(|held| held.value)
    }

    fn supervised() -> (Memory, Supervised) {
        let memory = Memory::default();
        let store = Supervised::new(Arc::new(memory.clone()));
        (memory, store)
    }

    fn is_failed(store: &Supervised) -> bool {
        matches!(&*store.health().borrow(), Health::Failed(_))
    }

    #[tokio::test]
    async fn the_suite_holds_under_supervision() {
        struct Subject(Memory, Arc<dyn Store>);
        impl crate::suite::Subject for Subject {
            fn store(&self) -> Arc<dyn Store> {
                Arc::clone(&self.1)
            }

            fn compact(&self) {
                self.0.compact();
            }

            fn set_available(&self, available: bool) -> bool {
                self.0.set_available(available);
                true
            }
        }
        crate::suite::run(async || {
            let (memory, store) = supervised();
            Subject(memory, Arc::new(store))
        })
        .await;
    }

    /// The first error of an engine is the last word: a write that seems to succeed after it
    /// changes nothing.
    #[tokio::test]
    async fn an_engine_error_is_final() {
        let (memory, store) = supervised();
        store.commit(put("1")).await.unwrap();
        memory.set_fault(Some(Fault::Engine));
        let error = store.commit(put("2")).await.unwrap_err();
        assert!(matches!(error, StoreError::Failed(_)), "{error}");
        memory.set_fault(None);
        store.commit(put("3")).await.unwrap();
        let failure = store.failed().await;
        assert!(matches!(failure, StoreFailure::Engine(_)), "{failure}");
        assert!(is_failed(&store));
        assert!(store.health().borrow().reason().is_some());
    }

    #[tokio::test]
    async fn an_engine_error_of_a_read_is_final() {
        let (memory, store) = supervised();
        memory.set_fault(Some(Fault::Engine));
        store.get("a").await.unwrap_err();
        store.failed().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_that_hangs_is_a_failure() {
        let (memory, store) = supervised();
        memory.set_fault(Some(Fault::Hang));
        let begun = tokio::time::Instant::now();
        let error = store.commit(put("1")).await.unwrap_err();
        assert!(matches!(error, StoreError::Failed(_)), "{error}");
        assert_eq!(begun.elapsed().as_secs(), COMMIT_LIMIT.as_secs());
        let failure = store.failed().await;
        assert!(matches!(failure, StoreFailure::Hung(_)), "{failure}");
    }

    /// The caller of a write that hangs may have gone: the probe finds it.
    #[tokio::test(start_paused = true)]
    async fn a_probe_that_hangs_is_a_failure() {
        let (memory, store) = supervised();
        store.probe().await.unwrap();
        assert!(!is_failed(&store));
        memory.set_fault(Some(Fault::Hang));
        store.probe().await.unwrap_err();
        store.failed().await;
    }

    #[tokio::test]
    async fn a_full_disk_refuses_writes_until_there_is_room() {
        let (memory, store) = supervised();
        store.commit(put("1")).await.unwrap();
        memory.set_fault(Some(Fault::Full));
        let error = store.commit(put("2")).await.unwrap_err();
        assert!(matches!(error, StoreError::Full { .. }), "{error}");
        let reason = store.health().borrow().reason().unwrap();
        assert!(reason.contains("full"), "{reason}");
        assert_eq!(value(&store).await, Some(b"1".to_vec()));
        memory.set_fault(None);
        store.probe().await.unwrap();
        assert!(store.health().borrow().reason().is_none());
        store.commit(put("3")).await.unwrap();
        assert!(!is_failed(&store));
    }

    /// An engine that is elsewhere may come back: no reason to end.
    #[tokio::test]
    async fn an_engine_that_is_unreachable_for_a_while_has_not_failed() {
        let (memory, store) = supervised();
        memory.set_available(false);
        store.commit(put("1")).await.unwrap_err();
        memory.set_available(true);
        store.commit(put("1")).await.unwrap();
        assert!(!is_failed(&store));
    }

    #[tokio::test]
    async fn an_engine_that_ends_by_itself_has_failed_and_one_that_is_closed_has_not() {
        let (memory, store) = supervised();
        store.closing();
        memory.set_fault(Some(Fault::Closed));
        store.commit(put("1")).await.unwrap_err();
        assert!(!is_failed(&store));

        let (memory, store) = supervised();
        memory.set_fault(Some(Fault::Closed));
        store.commit(put("1")).await.unwrap_err();
        let failure = store.failed().await;
        assert!(matches!(failure, StoreFailure::Ended), "{failure}");
    }
}
