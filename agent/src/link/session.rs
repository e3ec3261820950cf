//! One session: Hello, then reports up, offers and confirmations down.

use std::future::pending;
use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use tracing::{debug, info, warn};
use voipfleet_proto::v1 as pb;
use voipfleet_proto::v1::agent_message::Kind as Up;
use voipfleet_proto::v1::controller_message::Kind as Down;
use voipfleet_proto::v1::fleet_client::FleetClient;
use voipfleet_protocol::limits::MAX_CONTROLLER_MESSAGE_BYTES;
use voipfleet_protocol::session::{Answer, Attempt, Held, confirm_within, judge};
use voipfleet_ruleset::ruleset::Digest;

use super::connection_errors::explain;
use super::dynamic_sets::Notices;
use super::fetch::{FetchError, Requested, fetch};
use super::{Link, LinkError};
use crate::failpoint::{Step, Work, reach_in};
use crate::host::{self, clock};
use crate::mailbox::{Content, DialResult, Offered};

/// How long the controller may take to answer Hello.
const WELCOME_LIMIT: Duration = Duration::from_secs(20);
/// Messages on their way to the stream; a slow controller holds us up here, not in memory.
const IN_FLIGHT: usize = 16;

/// How long a session that is given up may go on delivering its last messages.
const LINGER: Duration = Duration::from_secs(5);

type Fetching = Pin<Box<dyn Future<Output = Result<Vec<u8>, FetchError>> + Send>>;

/// An offer whose content is on its way.
struct Fetch {
    offer: pb::Offer,
    held: Held,
    received: Instant,
    content: Fetching,
}

/// A session that the controller has welcomed.
pub(super) struct Session {
    client: FleetClient<Channel>,
    up: mpsc::Sender<pb::AgentMessage>,
    down: Streaming<pb::ControllerMessage>,
    /// The trial that Hello announced. Only that one may be confirmed here.
    announced: Option<u64>,
}

impl Session {
    /// Sends Hello over a new connection, and waits for the controller's answer. `trial` is the one
    /// that was on when the connection was dialled.
    pub(super) async fn open(
        link: &Link,
        channel: Channel,
        trial: Option<u64>,
    ) -> Result<Self, LinkError> {
        let address = link.config.controller.as_str();
        let mut client =
            FleetClient::new(channel).max_decoding_message_size(MAX_CONTROLLER_MESSAGE_BYTES);
        let (up, stream) = mpsc::channel(IN_FLIGHT);
        let hello = hello(link);
        let announced = announced(&hello);
        if announced.is_some() && announced != trial {
            // It began after the connection: that one proves nothing.
            return Err(LinkError::Trial);
        }
        if send(&up, Up::Hello(hello)).await.is_err() {
            return Err(closed(address));
        }
        let opening = async {
            let mut down = client
                .session(ReceiverStream::new(stream))
                .await?
                .into_inner();
            let first = down.message().await?;
            Ok::<_, tonic::Status>((down, first))
        };
        let (down, first) = match tokio::time::timeout(WELCOME_LIMIT, opening).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(status)) => return Err(refused(&status, address)),
            Err(_) => {
                return Err(LinkError::Controller(format!(
                    "the controller at {address} did not answer within {} s",
                    WELCOME_LIMIT.as_secs()
                )));
            }
        };
        let Some(Down::Welcome(welcome)) = first.and_then(|message| message.kind) else {
            let why = format!("the server at {address} is not a Voipfleet controller");
            return Err(LinkError::Controller(why));
        };
        info!(
            controller = address,
            version = welcome.controller_version,
            trial = announced.is_some(),
            "session with the controller opened"
        );
        if let Some(nonce) = announced {
            reach_in(Work::Apply, Step::Welcomed);
            link.inbox.dialled(nonce, DialResult::Welcomed);
        }
        link.inbox.clock().hear(welcome.clock_ms);
        Ok(Self {
            client,
            up,
            down,
            announced,
        })
    }

    /// Holds the session until it ends. Returns why.
    pub(super) async fn hold(mut self, link: &Link) -> LinkError {
        let address = link.config.controller.as_str();
        let trial = link.outbox.trial();
        let mut fetching: Option<Fetch> = None;
        // An offer that waits for the dynamic sets that were announced before it.
        let mut fetched: Option<(Fetch, Content)> = None;
        let mut notices = Notices::default();
        loop {
            if let Some((fetch, content)) = fetched.take_if(|_| !notices.is_busy()) {
                hand_over(link, &fetch.offer, fetch.held, fetch.received, content);
            }
            tokio::select! {
                message = self.down.message() => match message {
                    Ok(Some(message)) => match message.kind {
                        Some(Down::Offer(offer)) => {
                            link.inbox.clock().hear(offer.clock_ms);
                            fetched = None;
                            fetching = take(link, &self.client, offer);
                        }
                        Some(Down::DynamicSets(notice)) => {
                            link.inbox.clock().hear(notice.clock_ms);
                            notices.take(link, &self.client, notice);
                        }
                        Some(Down::DriftAck(ack)) => link.outbox.acknowledged(&ack.ids),
                        Some(Down::Confirm(confirm)) => self.confirm(link, &confirm),
                        Some(Down::Ping(ping)) => {
                            let answer = pb::Pong { nonce: ping.nonce };
                            if send(&self.up, Up::Pong(answer)).await.is_err() {
                                return closed(address);
                            }
                        }
                        // Of a newer controller, or repeated.
                        Some(Down::Welcome(_)) | None => {}
                    },
                    Ok(None) => return closed(address),
                    Err(status) => return refused(&status, address),
                },
                () = link.outbox.filled() => {
                    for message in link.outbox.take() {
                        if send(&self.up, message).await.is_err() {
                            return closed(address);
                        }
                    }
                    let begun = *trial.borrow();
                    if begun.is_some() && begun != self.announced {
                        self.end();
                        return LinkError::Trial;
                    }
                }
                content = content_of(&mut fetching) => {
                    if let Some(fetch) = fetching.take() {
                        reach_in(Work::Apply, Step::Fetched);
                        let content = match content {
                            Ok(bytes) => Content::Bytes(bytes),
                            Err(error) => Content::Missing(error.to_string()),
                        };
                        fetched = Some((fetch, content));
                    }
                }
                () = notices.next(link, &self.client) => {}
            }
        }
    }

    fn confirm(&self, link: &Link, confirm: &pb::Confirm) {
        let digest = Digest::try_from(confirm.digest.as_slice());
        match digest {
            Ok(digest) if self.announced == Some(confirm.nonce) => {
                reach_in(Work::Apply, Step::Confirmed);
                link.inbox.confirm(Attempt {
                    nonce: confirm.nonce,
                    held: Held {
                        generation: confirm.generation,
                        digest,
                    },
                });
            }
            // A session that is older than the trial proves nothing.
            _ => warn!(
                generation = confirm.generation,
                "confirmation ignored: this session announced no such trial"
            ),
        }
    }

    /// Abandons the connection without waiting. Its last messages are still delivered, if possible.
    fn end(self) {
        let Self {
            client,
            up,
            mut down,
            ..
        } = self;
        tokio::spawn(async move {
            drop(up);
            let drained = async { while let Ok(Some(_)) = down.message().await {} };
            // Under the new rules this may never end by itself.
            let _ended = tokio::time::timeout(LINGER, drained).await;
            drop(client);
        });
    }
}

fn refused(error: &tonic::Status, address: &str) -> LinkError {
    LinkError::Controller(explain(error, address))
}

/// The trial that a Hello announces.
fn announced(hello: &pb::Hello) -> Option<u64> {
    let status = hello.status.as_ref()?;
    (status.state() == pb::NodeState::Trial).then_some(status.nonce)
}

async fn content_of(fetching: &mut Option<Fetch>) -> Result<Vec<u8>, FetchError> {
    match fetching {
        Some(fetch) => fetch.content.as_mut().await,
        None => pending().await,
    }
}

fn closed(address: &str) -> LinkError {
    LinkError::Controller(format!("the controller at {address} ended the session"))
}

async fn send(up: &mpsc::Sender<pb::AgentMessage>, mut kind: Up) -> Result<(), ()> {
    let clock_ms = clock::unix_ms(clock::now());
    match &mut kind {
        Up::Hello(hello) => hello.clock_ms = clock_ms,
        Up::Status(status) => status.clock_ms = clock_ms,
        Up::Drift(_) | Up::Facts(_) | Up::Pong(_) => {}
    }
    let message = pb::AgentMessage { kind: Some(kind) };
    up.send(message).await.map_err(drop)
}

fn hello(link: &Link) -> pb::Hello {
    let (facts, status) = link.outbox.hello();
    pb::Hello {
        site: link.config.site.to_string(),
        node: link.config.node.to_string(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: host::boot_id(),
        instance: link.instance.clone(),
        generation: status.confirmed_generation,
        digest: status.confirmed_digest.clone(),
        dynamic_digest: status.dynamic_digest.clone(),
        clock_ms: 0,
        facts: Some(facts),
        status: Some(status),
    }
}

/// Takes an offer; its content is fetched only where it is to be applied. A newer offer ends the
/// fetch of an older one.
fn take(link: &Link, client: &FleetClient<Channel>, offer: pb::Offer) -> Option<Fetch> {
    let received = Instant::now();
    let Ok(digest) = Digest::try_from(offer.digest.as_slice()) else {
        warn!(
            generation = offer.generation,
            "offer ignored: it has no digest"
        );
        return None;
    };
    let held = Held {
        generation: offer.generation,
        digest,
    };
    debug!(generation = held.generation, digest = %digest.short(), "offer");
    match judge(link.outbox.confirmed(), held) {
        Answer::Take => {
            reach_in(Work::Apply, Step::Offered);
            let content = Box::pin(fetch(
                Requested::Ruleset,
                client.clone(),
                digest,
                offer.size,
                link.fetch_limits,
            ));
            Some(Fetch {
                offer,
                held,
                received,
                content,
            })
        }
        Answer::Renumber | Answer::Same | Answer::Refuse(_) => {
            hand_over(link, &offer, held, received, Content::NotNeeded);
            None
        }
    }
}

fn hand_over(link: &Link, offer: &pb::Offer, held: Held, received: Instant, content: Content) {
    link.inbox.offer(Offered {
        nonce: offer.nonce,
        held,
        content,
        confirm_within: confirm_within(offer.confirm_within_ms),
        received,
    });
}
