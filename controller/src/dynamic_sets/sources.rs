//! The tasks that resolve names and fetch feeds.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use voipfleet_ruleset::identifiers::ListName;

use super::dns_names::{Names, Resolver};
use super::feeds::{Asked, Feeds, Fetcher, Limits, system_roots};
use super::references::{Used, follow};
use crate::audit::Audit;
use crate::clock::Clock;
use crate::records::FeedRecord;
use crate::store::{Store, StoreError};

/// Requests of operators that wait to be seen.
const ASKED: usize = 16;

/// Where names are resolved, and where files of feeds may be.
#[derive(Debug, Clone, Default)]
pub struct SourceOptions {
    /// Name servers; none: those of the machine.
    pub resolvers: Vec<SocketAddr>,
    /// The folder that feeds with `file:` may come from; none: `feeds` in the data directory.
    pub feed_dir: Option<PathBuf>,
    /// Whether lists may be fetched from link-local addresses.
    pub feed_link_local: bool,
}

/// Names and feeds that are kept up to date.
#[derive(Debug, Clone)]
pub struct Sources {
    asked: mpsc::Sender<Asked>,
}

impl Sources {
    /// Starts; `feed_dir` is the folder for files unless the options name one.
    pub async fn start(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        options: SourceOptions,
        feed_dir: PathBuf,
        audit: Audit,
        stop: CancellationToken,
    ) -> Result<Self, StoreError> {
        let resolver = Resolver::new(options.resolvers);
        let names = Names::open(
            Arc::clone(&store),
            Arc::clone(&clock),
            resolver,
            audit.clone(),
        )
        .await?;
        let feed_dir = options.feed_dir.unwrap_or(feed_dir);
        let roots = tokio::task::spawn_blocking(system_roots).await;
        let fetcher = Fetcher::new(Limits::default(), feed_dir, roots.unwrap_or_default())
            .to_link_local(options.feed_link_local);
        let feeds = Feeds::open(Arc::clone(&store), clock, fetcher, audit).await?;

        let (out, used) = watch::channel(None::<Arc<Used>>);
        let (asked, asking) = mpsc::channel(ASKED);
        tokio::spawn(follow(store, out, stop.clone()));
        tokio::spawn(names.run(used.clone(), stop.clone()));
        tokio::spawn(feeds.run(used, asking, stop));
        Ok(Self { asked })
    }

    /// Fetches a list now; with `shrink` it may have become as short as it likes. None: no
    /// document has a source for it, or the controller stops.
    pub async fn fetch(&self, list: ListName, shrink: bool) -> Option<FeedRecord> {
        let (done, answer) = oneshot::channel();
        self.asked.send(Asked { list, shrink, done }).await.ok()?;
        answer.await.ok()
    }
}
