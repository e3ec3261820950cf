//! Connected nodes: what each is offered, and what it reports.

mod clock_skew;
mod drift;
mod duplicates;
mod facts;
mod fetch;
mod last_peers;
mod node_view;
mod notice;
mod refusal;
mod session;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, broadcast, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use voipfleet_proto::v1::ControllerMessage;
use voipfleet_protocol::session::Generation;
use voipfleet_ruleset::identifiers::{NodeName, SiteName};

use duplicates::Challenge;
pub(crate) use duplicates::is_guarded;
pub(crate) use fetch::Chunks;
pub use node_view::{Offered, View};
pub use refusal::{FetchError, NotAdmitted, SessionEnd};
pub(crate) use session::Inbox;
use session::Session;

use crate::audit::Audit;
use crate::clock::Clock;
use crate::dynamic_sets::Subscriptions;
use crate::errors::chain;
use crate::log_limit::{LogLimit, short};
use crate::pki::authority::Leaf;
use crate::records::{self, GenerationRecord, NodeId, NodeRecord};
use crate::site_inputs::Targets;
use crate::store::{Revision, Store, StoreError, keys};

/// Nodes whose state changed and that a slow listener has not looked at yet.
const EVENT_BACKLOG: usize = 4096;
/// Messages to one node that it has not read yet: Welcome, an offer, and answers to drift reports. When it
/// is full, reading from the node waits as well.
const OUTBOX: usize = 8;
/// Rulesets that are sent at the same time: each holds its bytes in memory.
const FETCHES: usize = 32;
/// Questions to one session whether its node is still there that wait.
const CHALLENGES: usize = 4;
/// How long after its connection ended a node may take to be back. An agent dials anew within
/// half a second, and once more within another; then it checks its rules, and sends Hello.
const REDIAL: Duration = Duration::from_secs(3);

/// The fleet: shared by every session, the pushes and the operators' calls.
#[derive(Debug, Clone)]
pub struct Fleet {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    audit: Option<Audit>,
    live: Mutex<Registry>,
    events: broadcast::Sender<NodeId>,
    dynamic_sets: Subscriptions,
    fetches: Arc<Semaphore>,
    fetching: Mutex<HashMap<NodeId, usize>>,
    /// Nodes that were connected to an earlier run dial anew from here on.
    started: Instant,
    stop: CancellationToken,
    sessions: TaskTracker,
    /// Lines of the log that nodes cause.
    node_lines: LogLimit,
    late: Mutex<BTreeSet<NodeId>>,
    late_came: Notify,
}

#[derive(Debug, Default)]
struct Registry {
    nodes: HashMap<NodeId, Live>,
    /// When the last connection of a node ended, not longer ago than [`REDIAL`].
    left: HashMap<NodeId, Instant>,
    last_session: u64,
    last_nonce: u64,
}

/// A connected node.
#[derive(Debug)]
struct Live {
    session: u64,
    view: View,
    /// Of the run of its agent.
    instance: String,
    /// Asks whether it is still there.
    challenge: mpsc::Sender<Challenge>,
    wanted: watch::Sender<Wanted>,
    end: Option<oneshot::Sender<End>>,
}

/// What a session should bring its node to.
#[derive(Debug, Clone, Default)]
struct Wanted {
    /// The transaction that wrote it: a halted rollout takes a node back to an earlier
    /// generation, so that generation numbers do not order these.
    revision: Revision,
    generation: Option<Arc<GenerationRecord>>,
    /// Grows with each request for another try.
    tries: u64,
    /// How long the trial of another try may last, milliseconds; with its generation.
    confirm_within_ms: Option<(Generation, u64)>,
}

/// Why a session is ended from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    /// The same node connected again.
    Replaced(SocketAddr),
    /// An operator deleted the node.
    Deleted,
}

/// A session's place among the connected nodes.
struct Registered {
    session: u64,
    challenges: mpsc::Receiver<Challenge>,
    wanted: watch::Receiver<Wanted>,
    end: oneshot::Receiver<End>,
}

impl Fleet {
    /// A fleet without nodes. Sessions end when `stop` is cancelled.
    /// Machines that come with the identity of another one are written to `audit`.
    pub fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        audit: Option<Audit>,
        stop: CancellationToken,
    ) -> Self {
        let registry = Registry {
            // Nonces of an earlier run must not come back: a node may still answer them.
            last_nonce: clock.now_ms() << 16,
            ..Registry::default()
        };
        let dynamic_sets = Subscriptions::new(Arc::clone(&store), Arc::clone(&clock), stop.clone());
        Self {
            inner: Arc::new(Inner {
                store,
                clock,
                audit,
                live: Mutex::new(registry),
                dynamic_sets,
                events: broadcast::channel(EVENT_BACKLOG).0,
                fetches: Arc::new(Semaphore::new(FETCHES)),
                fetching: Mutex::default(),
                started: Instant::now(),
                stop,
                sessions: TaskTracker::new(),
                node_lines: LogLimit::new("node"),
                late: Mutex::default(),
                late_came: Notify::new(),
            }),
        }
    }

    /// What the sites' dynamic sets are.
    pub fn dynamic_sets(&self) -> &Subscriptions {
        &self.inner.dynamic_sets
    }

    /// Brings what nodes should run to their sessions, as it changes, until the fleet stops.
    pub async fn follow(&self) {
        let mut changes = self.inner.store.watch_from_now(keys::ALL_CURRENT).await;
        loop {
            let change = tokio::select! {
                change = changes.next() => change,
                () = self.inner.stop.cancelled() => return,
            };
            let sites = match change {
                None => return,
                Some(Ok(change)) => change
                    .key
                    .strip_prefix(keys::ALL_CURRENT)
                    .and_then(|site| site.parse().ok())
                    .into_iter()
                    .collect(),
                Some(Err(_)) => self.sites(),
            };
            for site in sites {
                if let Err(error) = self.spread(&site).await {
                    tracing::error!(%site, error = %chain(&error), "generation not offered");
                }
            }
        }
    }

    /// Whether a certificate is a node's: the node exists, and it enrolled with this key.
    pub(crate) async fn admit(&self, id: &NodeId, leaf: &Leaf) -> Result<(), NotAdmitted> {
        if leaf.expires_ms <= self.inner.clock.now_ms() {
            return Err(NotAdmitted::Expired);
        }
        let key = keys::node(&id.site, &id.node);
        let read = records::read::<NodeRecord>(self.inner.store.as_ref(), &key).await?;
        let record = read.ok_or(NotAdmitted::Deleted)?.record;
        if record.key_hash == leaf.key_hash {
            Ok(())
        } else {
            Err(NotAdmitted::OtherKey)
        }
    }

    /// When a node enrolled, Unix time.
    async fn enrolled_ms(&self, id: &NodeId) -> Result<u64, StoreError> {
        let key = keys::node(&id.site, &id.node);
        let read = records::read::<NodeRecord>(self.inner.store.as_ref(), &key).await?;
        Ok(read.map_or(0, |read| read.record.enrolled_ms))
    }

    /// Runs a session in a task of its own. Its last message is why it ended.
    pub(crate) fn serve(
        &self,
        id: NodeId,
        peer: SocketAddr,
        leaf: Leaf,
        inbound: impl Inbox + 'static,
    ) -> Result<mpsc::Receiver<Result<ControllerMessage, SessionEnd>>, SessionEnd> {
        if self.inner.stop.is_cancelled() {
            return Err(SessionEnd::Stopping);
        }
        let (out, messages) = mpsc::channel(OUTBOX);
        let session = Session::new(self.clone(), id.clone(), peer, leaf, out.clone());
        let fleet = self.clone();
        self.inner.sessions.spawn(async move {
            if let Err(end) = session.run(inbound).await {
                if fleet.may_log(&id) {
                    let reason = chain(&end);
                    tracing::info!(node = %id, %peer, reason = short(&reason), "session ended");
                }
                // A full outbox means that the node does not read: it learns by the closing.
                let _ = out.try_send(Err(end));
            }
        });
        Ok(messages)
    }

    /// A node connected that enrolled after what it should run was pushed.
    fn came_late(&self, id: &NodeId) {
        let late = &self.inner.late;
        let mut late = late.lock().unwrap_or_else(PoisonError::into_inner);
        late.insert(id.clone());
        self.inner.late_came.notify_one();
    }

    /// Waits for nodes that connected and enrolled after what they should run was pushed.
    pub(crate) async fn late_nodes(&self) -> BTreeSet<NodeId> {
        self.inner.late_came.notified().await;
        let late = &self.inner.late;
        std::mem::take(&mut *late.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a node may cause one more line of the log.
    pub(crate) fn may_log(&self, id: &NodeId) -> bool {
        self.inner.node_lines.admits(&id.to_string())
    }

    /// Ends every session; returns when the last one has ended.
    pub async fn stopped(&self) {
        self.inner.sessions.close();
        self.inner.sessions.wait().await;
    }

    /// Cancelled when the controller stops.
    pub fn stop_token(&self) -> CancellationToken {
        self.inner.stop.clone()
    }

    /// Names of nodes whose [`View`] changed, from now on.
    pub fn events(&self) -> broadcast::Receiver<NodeId> {
        self.inner.events.subscribe()
    }

    /// A node's present view; none: not connected.
    pub fn view(&self, id: &NodeId) -> Option<View> {
        self.registry().nodes.get(id).map(|live| live.view.clone())
    }

    /// Until when a node that is not connected may be about to come back: its connection has
    /// just ended, or, where it is `known` from before, this controller has just started.
    pub fn may_be_back_until(&self, id: &NodeId, known: bool) -> Option<Instant> {
        let left = self.registry().left.get(id).copied();
        let started = known.then_some(self.inner.started);
        left.max(started).map(|since| since + REDIAL)
    }

    /// Has nodes whose turn in a rollout has come try once more, also what they have refused.
    pub async fn again_for(
        &self,
        site: &SiteName,
        nodes: &[NodeName],
        generation: Generation,
        confirm_within_ms: u64,
    ) {
        // First what they should run: another try is of that.
        if let Err(error) = self.spread(site).await {
            tracing::error!(%site, error = %chain(&error), "generation not offered");
        }
        for (id, live) in &self.registry().nodes {
            if id.site == *site && nodes.contains(&id.node) {
                live.wanted.send_modify(|wanted| {
                    wanted.tries += 1;
                    wanted.confirm_within_ms = Some((generation, confirm_within_ms));
                });
            }
        }
    }

    /// Ends the session of a node that was deleted.
    pub fn deleted(&self, id: &NodeId) {
        if let Some(live) = self.registry().nodes.get_mut(id) {
            live.end(End::Deleted);
        }
        self.changed(id);
    }

    /// Whether a node is no longer in the store. One that cannot be read counts as there.
    pub async fn is_deleted(&self, id: &NodeId) -> bool {
        let key = keys::node(&id.site, &id.node);
        matches!(self.inner.store.get(&key).await, Ok(None))
    }

    fn sites(&self) -> Vec<SiteName> {
        let mut sites: Vec<_> = self
            .registry()
            .nodes
            .keys()
            .map(|id| id.site.clone())
            .collect();
        sites.sort_unstable();
        sites.dedup();
        sites
    }

    /// Sends the sessions of a site what their nodes should run.
    async fn spread(&self, site: &SiteName) -> Result<(), StoreError> {
        let Some(targets) = Targets::read(self.inner.store.as_ref(), site).await? else {
            return Ok(());
        };
        for (id, live) in &self.registry().nodes {
            if id.site == *site {
                live.wanted.send_if_modified(|wanted| {
                    if wanted.revision >= targets.revision() {
                        return false;
                    }
                    wanted.revision = targets.revision();
                    let generation = targets.of(&id.node);
                    // A node that enrolled late is added to a generation that is there.
                    let content = |known: &Option<Arc<GenerationRecord>>| {
                        known.as_ref().map(|generation| {
                            let joined = generation.joined.get(&id.node).copied();
                            (generation.number, generation.held(&id.node), joined)
                        })
                    };
                    let other = content(&wanted.generation) != content(&generation);
                    if other {
                        wanted.generation = generation;
                    }
                    other
                });
            }
        }
        Ok(())
    }

    fn register(&self, id: &NodeId, instance: &str, view: View) -> Registered {
        let (challenge, challenges) = mpsc::channel(CHALLENGES);
        let (wanted, wanted_out) = watch::channel(Wanted::default());
        let (end, end_out) = oneshot::channel();
        let address = view.peer;
        let mut registry = self.registry();
        registry.left.remove(id);
        registry.last_session += 1;
        let session = registry.last_session;
        let live = Live {
            session,
            view,
            instance: instance.to_owned(),
            challenge,
            wanted,
            end: Some(end),
        };
        if let Some(mut older) = registry.nodes.insert(id.clone(), live) {
            older.end(End::Replaced(address));
        }
        drop(registry);
        self.changed(id);
        Registered {
            session,
            challenges,
            wanted: wanted_out,
            end: end_out,
        }
    }

    /// Takes a session off the list; false: a newer one has taken its place.
    fn unregister(&self, id: &NodeId, session: u64) -> bool {
        let mut registry = self.registry();
        let own = registry
            .nodes
            .get(id)
            .is_some_and(|live| live.session == session);
        if own {
            registry.nodes.remove(id);
            let now = Instant::now();
            registry.left.retain(|_, left| now < *left + REDIAL);
            registry.left.insert(id.clone(), now);
        }
        drop(registry);
        if own {
            self.changed(id);
        }
        own
    }

    /// Changes a session's view, and notifies its watchers.
    fn update(&self, id: &NodeId, session: u64, change: impl FnOnce(&mut View)) {
        if let Some(live) = self
            .registry()
            .nodes
            .get_mut(id)
            .filter(|live| live.session == session)
        {
            change(&mut live.view);
        }
        self.changed(id);
    }

    fn changed(&self, id: &NodeId) {
        // Without a push there is no receiver.
        let _ = self.inner.events.send(id.clone());
    }

    fn next_nonce(&self) -> u64 {
        let mut registry = self.registry();
        registry.last_nonce += 1;
        registry.last_nonce
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        // Every change under the lock is one assignment: a panic leaves nothing half-done.
        self.inner
            .live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    fn end(&mut self, why: End) {
        if let Some(end) = self.end.take() {
            // A session that has ended by itself needs no telling.
            let _ = end.send(why);
        }
    }
}

/// Returns when something has happened to a node of the site, or events were missed.
pub(crate) async fn of_site(events: &mut broadcast::Receiver<NodeId>, site: &SiteName) {
    loop {
        match events.recv().await {
            Ok(id) if id.site == *site => break,
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(_)) => break,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}
