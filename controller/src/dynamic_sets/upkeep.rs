//! The loop of a task that keeps records of remote sources up to date.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::references::Used;
use crate::errors::chain;
use crate::store::StoreError;

/// The wait after a failure of the store.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Records of one kind of source, and the questions to their sources that are under way.
pub(super) trait Upkeep {
    /// The kind, for the log.
    const WHAT: &'static str;
    /// What an operator may ask for.
    type Request;
    /// The answer of a source.
    type Answer: Send + 'static;

    /// Asks the sources that are due.
    fn ask_due(&mut self);
    /// The time until [`Upkeep::ask_due`] has something to do.
    fn pause(&self) -> Duration;
    fn set_used(&mut self, used: &Used);
    fn hurry(&mut self, request: Self::Request);
    fn questions(&mut self) -> &mut JoinSet<Self::Answer>;
    /// None: the question's task panicked.
    fn hear(&mut self, answer: Option<Self::Answer>);
    /// Brings what has changed to the store.
    fn store_changes(&mut self) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// Runs until `stop`. Sources are asked as soon as they are in use, and then whenever they are due.
pub(super) async fn run<U: Upkeep>(
    mut records: U,
    mut used: watch::Receiver<Option<Arc<Used>>>,
    mut requests: mpsc::Receiver<U::Request>,
    stop: CancellationToken,
) {
    // The first value may have been sent before this began.
    used.mark_changed();
    loop {
        records.ask_due();
        let pause = records.pause();
        tokio::select! {
            () = stop.cancelled() => return,
            changed = used.changed() => {
                if changed.is_err() {
                    return;
                }
                let latest = used.borrow_and_update().clone();
                // None: not read yet, which is not "nothing is used".
                if let Some(latest) = latest {
                    records.set_used(&latest);
                }
            }
            // Answered once its source was asked: nothing to store yet.
            Some(request) = requests.recv() => {
                records.hurry(request);
                continue;
            }
            Some(answer) = records.questions().join_next() => records.hear(answer.ok()),
            () = tokio::time::sleep(pause) => {}
        }
        if let Err(error) = records.store_changes().await {
            tracing::error!(what = U::WHAT, error = %chain(&error), "records not stored; will retry");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(AFTER_FAILURE) => {}
            }
        }
    }
}
