//! One node's session: a task that owns the stream.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt as _};
use tracing::Instrument as _;
use voipfleet_proto::v1::{
    AgentMessage, Confirm, ControllerMessage, DriftAck, DriftRecord, DriftReport, Hello, NodeFacts,
    NodeState, NodeStatus, Offer, Ping, Pong, Welcome, agent_message, controller_message,
};
use voipfleet_protocol::session::{Decision, Delivery};
use voipfleet_ruleset::ruleset::Digest;

use super::clock_skew::ClockSkew;
use super::drift::DriftLog;
use super::duplicates::{self, Challenge};
use super::notice::Notices;
use super::{End, Fleet, NotAdmitted, Offered, Registered, SessionEnd, View, Wanted, facts};
use crate::errors::chain;
use crate::log_limit::short;
use crate::pki::authority::Leaf;
use crate::records::{self, Duplicate, GenerationRecord, NodeId, StatusRecord};
use crate::site_inputs::{held, target};
use crate::store::{Expect, Outcome, Revision, StoreError, Txn, keys};

/// How long a node may take to send Hello.
const HELLO: Duration = Duration::from_secs(10);
/// How long a node may leave its inbox full.
const READING: Duration = Duration::from_secs(30);

/// How long an offer waits until the dynamic sets know of its push.
const MEMBERS: Duration = Duration::from_secs(1);

/// Messages of a node.
pub(crate) trait Inbox:
    Stream<Item = Result<AgentMessage, SessionEnd>> + Send + Unpin
{
}
impl<S: Stream<Item = Result<AgentMessage, SessionEnd>> + Send + Unpin> Inbox for S {}

/// Messages to a node; an error is the last.
type Outbox = mpsc::Sender<Result<ControllerMessage, SessionEnd>>;

/// A session before its Hello.
pub(super) struct Session {
    fleet: Fleet,
    id: NodeId,
    peer: SocketAddr,
    leaf: Leaf,
    out: Outbox,
}

/// A session after its Hello.
struct Greeted {
    fleet: Fleet,
    id: NodeId,
    number: u64,
    out: Outbox,
    delivery: Delivery,
    notices: Notices,
    clock_skew: ClockSkew,
    tries: u64,
    /// When the node enrolled, Unix time.
    enrolled_ms: u64,
    stored: StatusRecord,
    /// This session's last write of the node's status.
    written: Option<Revision>,
    drift: Option<DriftLog>,
    /// Machines that wait to know whether this node is still there.
    challenges: Vec<Challenge>,
    /// Of the question that it has not answered.
    ping: Option<u64>,
}

impl Session {
    pub(super) fn new(fleet: Fleet, id: NodeId, peer: SocketAddr, leaf: Leaf, out: Outbox) -> Self {
        Self {
            fleet,
            id,
            peer,
            leaf,
            out,
        }
    }

    /// Runs until the node hangs up (`Ok`) or the controller ends it.
    pub(super) async fn run(self, mut inbound: impl Inbox) -> Result<(), SessionEnd> {
        let span = tracing::info_span!("session", node = %self.id);
        async move {
            let stop = self.fleet.inner.stop.clone();
            let hello = tokio::select! {
                hello = self.hello(&mut inbound) => hello?,
                () = stop.cancelled() => return Err(SessionEnd::Stopping),
            };
            let (greeted, registered) = self.greet(hello).await?;
            greeted.run(inbound, registered, &self.leaf).await
        }
        .instrument(span)
        .await
    }

    async fn hello(&self, inbound: &mut impl Inbox) -> Result<Hello, SessionEnd> {
        let first = tokio::time::timeout(HELLO, inbound.next())
            .await
            .map_err(|_| SessionEnd::NoHello)?
            .transpose()?;
        let Some(agent_message::Kind::Hello(mut hello)) = first.and_then(|message| message.kind)
        else {
            return Err(SessionEnd::NotHello);
        };
        if hello.site != self.id.site.as_str() || hello.node != self.id.node.as_str() {
            tracing::warn!("session refused: Hello names another node than the certificate");
            return Err(SessionEnd::OtherNode(self.id.clone()));
        }
        facts::bound_hello(&mut hello);
        Ok(hello)
    }

    /// Takes the node's place among the connected ones.
    async fn greet(&self, hello: Hello) -> Result<(Greeted, Registered), SessionEnd> {
        let confirmed = held(hello.generation, &hello.digest);
        let store = self.fleet.inner.store.as_ref();
        let key = keys::status(&self.id.site, &self.id.node);
        let before = records::read_status(store, &key).await?.unwrap_or_default();
        self.fleet
            .contend(&self.id, &hello, self.peer, &before)
            .await?;
        let now_ms = self.fleet.inner.clock.now_ms();
        let duplicate = before
            .duplicate
            .clone()
            .filter(|seen| duplicates::is_guarded(Some(seen), now_ms));
        let dynamic_digest = Digest::try_from(hello.dynamic_digest.as_slice()).ok();
        let mut clock_skew = ClockSkew::default();
        let clock_skew_ms = clock_skew.hear(hello.clock_ms, self.fleet.inner.clock.now_ms());
        let status = facts::remember(before.status, hello.status);
        // A shorter report does not mean that the facts are gone: keep what is known.
        let lost = match &hello.facts {
            Some(now) => facts::lost(before.facts.as_ref(), before.lost, now, now_ms),
            None => before.lost,
        };
        let facts = hello.facts.or(before.facts);
        let mut delivery = Delivery::new(confirmed);
        let mut offered = None;
        if let Some((nonce, held, state)) = status.as_ref().and_then(facts::last_attempt) {
            let went_back = status.as_ref().is_some_and(facts::went_back);
            if state == NodeState::Trial {
                delivery = delivery.with_trial(nonce, held);
            } else if went_back {
                delivery = delivery.with_rolled_back(held);
            }
            if state == NodeState::Trial || went_back {
                // Of an earlier session, but as good as heard in this one.
                offered = Some(Offered {
                    nonce,
                    held,
                    answer: status.clone(),
                });
            }
        }
        let registered = self.fleet.register(
            &self.id,
            &hello.instance,
            View {
                peer: self.peer,
                agent_version: hello.agent_version.clone(),
                confirmed,
                offered,
                status: status.clone(),
                facts: facts.clone(),
                dynamic: dynamic_digest,
                clock_skew_ms,
                duplicate: duplicate.clone(),
            },
        );
        let greeted = Greeted {
            fleet: self.fleet.clone(),
            id: self.id.clone(),
            number: registered.session,
            out: self.out.clone(),
            delivery,
            notices: Notices::new(&self.fleet.inner.dynamic_sets, &self.id, dynamic_digest),
            clock_skew,
            tries: 0,
            enrolled_ms: 0,
            stored: StatusRecord {
                status,
                facts,
                agent_version: hello.agent_version,
                boot_id: hello.boot_id,
                last_seen_ms: now_ms,
                peer: self.peer.to_string(),
                lost,
                instance: hello.instance,
                duplicate,
            },
            challenges: Vec::new(),
            ping: None,
            written: None,
            drift: None,
        };
        Ok((greeted, registered))
    }
}

impl Greeted {
    async fn run(
        mut self,
        inbound: impl Inbox,
        registered: Registered,
        leaf: &Leaf,
    ) -> Result<(), SessionEnd> {
        if self.may_log() {
            tracing::info!(peer = self.stored.peer, "node connected");
        }
        let ended = self.serve(inbound, registered, leaf).await;
        if self.fleet.unregister(&self.id, self.number) {
            self.stored.last_seen_ms = self.fleet.inner.clock.now_ms();
            if let Err(error) = self.store_status().await {
                tracing::warn!(error = %chain(&error), "last_seen not stored");
            }
            if self.may_log() {
                tracing::info!("node disconnected");
            }
        }
        ended
    }

    async fn serve(
        &mut self,
        mut inbound: impl Inbox,
        mut registered: Registered,
        leaf: &Leaf,
    ) -> Result<(), SessionEnd> {
        // Deleted between the first look and the Hello: from here on a deletion ends it.
        self.fleet.admit(&self.id, leaf).await?;
        self.enrolled_ms = self.fleet.enrolled_ms(&self.id).await?;
        self.store_status().await?;
        self.send(controller_message::Kind::Welcome(Welcome {
            controller_version: env!("CARGO_PKG_VERSION").to_owned(),
            clock_ms: 0,
        }))
        .await?;
        let stop = self.fleet.inner.stop.clone();
        let left = leaf
            .expires_ms
            .saturating_sub(self.fleet.inner.clock.now_ms());
        let mut expiry = pin!(tokio::time::sleep(Duration::from_millis(left)));
        let mut wanted = self.first_wanted(&mut registered).await?;
        let known = wanted.generation.as_ref();
        if known.is_some_and(|known| !known.is_for(&self.id.node, self.enrolled_ms)) {
            self.fleet.came_late(&self.id);
        }
        loop {
            if let Some(notice) = self.notices.next() {
                self.send(controller_message::Kind::DynamicSets(notice))
                    .await?;
            }
            let sources = wanted
                .generation
                .as_ref()
                .map(|generation| &generation.dynamic);
            if self.notices.told(sources.unwrap_or(&BTreeSet::new())) {
                self.offer(&wanted).await?;
            }
            tokio::select! {
                message = inbound.next() => match message {
                    Some(message) => self.hear(message?).await?,
                    None => return Ok(()),
                },
                changed = registered.wanted.changed() => {
                    // The sender goes with the registration, whose reason comes through `end`.
                    if changed.is_ok() {
                        let next = registered.wanted.borrow_and_update().clone();
                        wanted = newest(wanted, next);
                        self.await_members(wanted.revision).await;
                    }
                }
                () = self.notices.changed() => {}
                Some(challenge) = registered.challenges.recv() => self.ask(challenge).await?,
                end = &mut registered.end => return Err(self.ended(end.ok().as_ref())),
                () = stop.cancelled() => return Err(SessionEnd::Stopping),
                () = &mut expiry => {
                    return Err(NotAdmitted::Expired.into());
                }
            }
        }
    }

    /// A push makes nodes members of the cluster. They are told before the rules are offered, so
    /// that no node shuts the others out in between; but rules do not wait for long.
    async fn await_members(&self, revision: Revision) {
        let computed = self.fleet.inner.dynamic_sets.caught_up(revision);
        let _late = tokio::time::timeout(MEMBERS, computed).await;
    }

    /// Asks the node whether it is there, for a machine that came with its identity.
    async fn ask(&mut self, challenge: Challenge) -> Result<(), SessionEnd> {
        self.challenges.retain(|one| !one.answer.is_closed());
        self.challenges.push(challenge);
        if self.ping.is_some() {
            return Ok(()); // its answer is for all
        }
        let nonce = self.fleet.next_nonce();
        self.ping = Some(nonce);
        let ping = controller_message::Kind::Ping(Ping { nonce });
        self.send(ping).await
    }

    /// It is there: the other machine is refused, and status shows it for a while.
    async fn hear_pong(&mut self, pong: Pong) -> Result<(), SessionEnd> {
        if self.ping != Some(pong.nonce) {
            return Ok(());
        }
        self.ping = None;
        let Some(peer) = self.challenges.last().map(|one| one.peer) else {
            return Ok(());
        };
        let duplicate = Duplicate {
            peer: peer.to_string(),
            at_ms: self.fleet.inner.clock.now_ms(),
        };
        self.stored.duplicate = Some(duplicate.clone());
        self.store_status().await?;
        self.fleet.update(&self.id, self.number, |view| {
            view.duplicate = Some(duplicate);
        });
        for challenge in self.challenges.drain(..) {
            // It may have hung up.
            let _ = challenge.answer.send(());
        }
        Ok(())
    }

    fn ended(&self, why: Option<&End>) -> SessionEnd {
        match why {
            Some(End::Deleted) => NotAdmitted::Deleted.into(),
            Some(End::Replaced(by)) => {
                if self.may_log() {
                    tracing::info!(old = self.stored.peer, new = %by, "session replaced by a newer one");
                }
                SessionEnd::Replaced(*by)
            }
            None => SessionEnd::Stopping,
        }
    }

    /// What the node should run, which may be older than this session: it was registered before
    /// the store is read, so that no push falls between the two.
    async fn first_wanted(&self, registered: &mut Registered) -> Result<Wanted, StoreError> {
        let (revision, stored) = target(self.fleet.inner.store.as_ref(), &self.id).await?;
        let told = registered.wanted.borrow_and_update().clone();
        let read = Wanted {
            revision,
            generation: stored.map(Arc::new),
            ..told.clone()
        };
        Ok(newest(read, told))
    }

    /// Confirms the trial that Hello announced, if that is what is wanted; offers what is
    /// wanted if the node needs it.
    async fn offer(&mut self, wanted: &Wanted) -> Result<(), SessionEnd> {
        let again = wanted.tries > self.tries;
        self.tries = wanted.tries;
        let made_for_it = |generation: &&Arc<GenerationRecord>| {
            generation.is_for(&self.id.node, self.enrolled_ms)
        };
        let Some(generation) = wanted.generation.as_ref().filter(made_for_it) else {
            return Ok(());
        };
        let (Some(target), Some(content)) = (
            generation.held(&self.id.node),
            generation.nodes.get(&self.id.node),
        ) else {
            return Ok(());
        };
        if let Some(nonce) = self.delivery.confirm(target) {
            tracing::info!(generation = target.generation, "trial confirmed");
            return self
                .send(controller_message::Kind::Confirm(Confirm {
                    nonce,
                    generation: target.generation,
                    digest: target.digest.as_bytes().to_vec(),
                }))
                .await;
        }
        let nonce = self.fleet.next_nonce();
        if self.delivery.want(target, again, nonce) != Decision::Offer {
            return Ok(());
        }
        self.fleet.update(&self.id, self.number, |view| {
            view.offered = Some(Offered {
                nonce,
                held: target,
                answer: None,
            });
        });
        self.send(controller_message::Kind::Offer(Offer {
            nonce,
            generation: target.generation,
            digest: target.digest.as_bytes().to_vec(),
            size: content.size,
            confirm_within_ms: wanted
                .confirm_within_ms
                .filter(|(number, _)| *number == generation.number)
                .map_or(generation.confirm_within_ms, |(_, asked)| asked),
            clock_ms: 0,
        }))
        .await
    }

    async fn hear(&mut self, message: AgentMessage) -> Result<(), SessionEnd> {
        match message.kind {
            Some(agent_message::Kind::Status(status)) => self.hear_status(status).await,
            Some(agent_message::Kind::Facts(found)) => self.hear_facts(found).await,
            Some(agent_message::Kind::Drift(report)) => self.hear_drift(report).await,
            Some(agent_message::Kind::Pong(pong)) => self.hear_pong(pong).await,
            Some(agent_message::Kind::Hello(_)) => Err(SessionEnd::SecondHello),
            // A message of a newer agent: ignored.
            None => Ok(()),
        }
    }

    async fn hear_status(&mut self, mut status: NodeStatus) -> Result<(), SessionEnd> {
        facts::bound_status(&mut status);
        let now_ms = self.fleet.inner.clock.now_ms();
        let clock_skew_ms = self.clock_skew.hear(status.clock_ms, now_ms);
        let confirmed = held(status.confirmed_generation, &status.confirmed_digest);
        let progress = facts::progress(status.state());
        let answers = progress.is_some_and(|progress| {
            let about = held(status.generation, &status.digest);
            let nonce = (status.nonce != 0).then_some(status.nonce);
            self.delivery.hear(nonce, about, progress, confirmed)
        });
        let dynamic = Digest::try_from(status.dynamic_digest.as_slice()).ok();
        self.notices.heard(dynamic, &status.dynamic_error);
        let working = progress == Some(voipfleet_protocol::session::Progress::Working);
        // An unasked status repeats the last error with every change of drift.
        if status.nonce != 0 && !status.error.is_empty() && self.may_log() {
            let state = status.state().word();
            tracing::warn!(
                generation = status.generation,
                state,
                error = short(&status.error),
                "status"
            );
        }
        if let Some(before) = &self.stored.status {
            facts::keep_count(before, &mut status);
            match (before.open.is_empty(), status.open.is_empty()) {
                (true, false) => tracing::error!(reason = status.open, "node is open"),
                (false, true) => tracing::info!("node is closed again"),
                _ => {}
            }
        }
        self.stored.status = Some(status.clone());
        // Lasting states are on disk before watchers see them; passing ones are not stored.
        if !working {
            self.store_status().await?;
        }
        self.fleet.update(&self.id, self.number, |view| {
            view.confirmed = confirmed;
            view.dynamic = dynamic;
            view.clock_skew_ms = clock_skew_ms.or(view.clock_skew_ms);
            if answers && let Some(offered) = &mut view.offered {
                offered.answer = Some(status.clone());
            }
            view.status = Some(status);
        });
        Ok(())
    }

    async fn hear_facts(&mut self, mut found: NodeFacts) -> Result<(), SessionEnd> {
        facts::bound_facts(&mut found);
        let lost = std::mem::take(&mut self.stored.lost);
        let now_ms = self.fleet.inner.clock.now_ms();
        self.stored.lost = facts::lost(self.stored.facts.as_ref(), lost, &found, now_ms);
        self.stored.facts = Some(found.clone());
        self.store_status().await?;
        self.fleet.update(&self.id, self.number, |view| {
            view.facts = Some(found);
        });
        Ok(())
    }

    async fn hear_drift(&mut self, mut report: DriftReport) -> Result<(), SessionEnd> {
        facts::bound_report(&mut report);
        let store = Arc::clone(&self.fleet.inner.store);
        let log = match &mut self.drift {
            Some(log) => log,
            None => self
                .drift
                .insert(DriftLog::load(store.as_ref(), &self.id).await?),
        };
        for record in &report.records {
            if self.fleet.may_log(&self.id) {
                log_drift(record);
            }
        }
        let now_ms = self.fleet.inner.clock.now_ms();
        let ids = match log.store(store.as_ref(), report.records, now_ms).await {
            // What is not acknowledged comes again in the next session.
            Err(StoreError::Full { .. }) => Vec::new(),
            stored => stored?,
        };
        self.send(controller_message::Kind::DriftAck(DriftAck { ids }))
            .await
    }

    /// Whether this node may cause one more line of the log.
    fn may_log(&self) -> bool {
        self.fleet.may_log(&self.id)
    }

    async fn store_status(&mut self) -> Result<(), StoreError> {
        let store = self.fleet.inner.store.as_ref();
        // A node that was deleted meanwhile must not leave a status behind.
        let node_key = keys::node(&self.id.site, &self.id.node);
        let node = store.get(&node_key).await?;
        if node.is_none() {
            return Ok(());
        }
        let key = keys::status(&self.id.site, &self.id.node);
        let mut txn = Txn::new().expect(node_key, (&node).into());
        if let Some(revision) = self.written {
            txn = txn.expect(key.clone(), Expect::At(revision));
        }
        let txn = txn.put(key, records::status_bytes(&self.stored));
        // A conflict means that the node was deleted or enrolled again in this moment, or that
        // a newer session has written: the last words of an old one must not undo its news.
        match store.commit(txn).await {
            Ok(Outcome::Committed { revision }) => self.written = Some(revision),
            Ok(Outcome::Conflict) => {}
            // The node says it again in its next session; one that ends now would undo a trial.
            Err(error @ StoreError::Full { .. }) => {
                tracing::debug!(error = %chain(&error), "status not stored");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn send(&self, mut kind: controller_message::Kind) -> Result<(), SessionEnd> {
        let clock_ms = self.fleet.inner.clock.now_ms();
        match &mut kind {
            controller_message::Kind::Welcome(welcome) => welcome.clock_ms = clock_ms,
            controller_message::Kind::Offer(offer) => offer.clock_ms = clock_ms,
            controller_message::Kind::DynamicSets(notice) => notice.clock_ms = clock_ms,
            controller_message::Kind::DriftAck(_)
            | controller_message::Kind::Confirm(_)
            | controller_message::Kind::Ping(_) => {}
        }
        let message = ControllerMessage { kind: Some(kind) };
        match tokio::time::timeout(READING, self.out.send(Ok(message))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(SessionEnd::HungUp),
            Err(_) => Err(SessionEnd::NotReading),
        }
    }
}

fn log_drift(record: &DriftRecord) {
    let author = record.by.as_ref();
    let starter = author.and_then(|author| author.started_by.as_ref());
    tracing::warn!(
        class = record.class().word(),
        chain = short(&record.chain),
        rule = short(&record.rule),
        differences = record.count(),
        by = author.map(|author| short(&author.comm)),
        started_by = starter.map(|starter| short(&starter.comm)),
        repaired_after_ms = record.all_repaired_after_ms(),
        "drift"
    );
}

/// The later of the two, with the newer wish.
fn newest(a: Wanted, b: Wanted) -> Wanted {
    let tries = a.tries.max(b.tries);
    let confirm_within_ms = b.confirm_within_ms.or(a.confirm_within_ms);
    let later = if b.revision > a.revision { b } else { a };
    Wanted {
        tries,
        confirm_within_ms,
        ..later
    }
}
