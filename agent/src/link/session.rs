//! One session: Hello, then statuses and drift up, offers down.

use std::future::pending;
use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tracing::{debug, info, warn};
use voipfleet_common::ruleset::Digest;
use voipfleet_common::session::{Answer, Held, judge};
use voipfleet_proto::v1 as pb;
use voipfleet_proto::v1::agent_message::Kind as Up;
use voipfleet_proto::v1::controller_message::Kind as Down;
use voipfleet_proto::v1::fleet_client::FleetClient;

use super::explain::explain;
use super::fetch::{FetchError, fetch};
use super::{Link, LinkError};
use crate::facts;
use crate::reconcile::{Content, Offered};

/// How long the controller may take to answer Hello.
const WELCOME_LIMIT: Duration = Duration::from_secs(20);
/// The longest message that is taken: a chunk is 256 KiB.
const MAX_MESSAGE: usize = 512 << 10;
/// Messages on their way to the stream; a slow controller holds us up here, not in memory.
const IN_FLIGHT: usize = 16;

type Fetching = Pin<Box<dyn Future<Output = Result<Vec<u8>, FetchError>> + Send>>;

/// An offer whose content is on its way.
struct Fetch {
    offer: pb::Offer,
    held: Held,
    received: Instant,
    content: Fetching,
}

/// Holds a session until it ends, and says why. Sets `welcomed` when the controller answered.
pub(super) async fn hold(link: &Link, channel: Channel, welcomed: &mut bool) -> LinkError {
    let address = link.config.controller.as_str();
    let told = |error: &(dyn std::error::Error + 'static)| LinkError::Told(explain(error, address));
    let mut client = FleetClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let (up, stream) = mpsc::channel(IN_FLIGHT);
    if send(&up, Up::Hello(hello(link))).await.is_err() {
        return closed(address);
    }
    let opening = async {
        let mut down = client
            .session(ReceiverStream::new(stream))
            .await?
            .into_inner();
        let first = down.message().await?;
        Ok::<_, tonic::Status>((down, first))
    };
    let (mut down, first) = match tokio::time::timeout(WELCOME_LIMIT, opening).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(status)) => return told(&status),
        Err(_) => {
            return LinkError::Told(format!(
                "the controller at {address} did not answer within {} s",
                WELCOME_LIMIT.as_secs()
            ));
        }
    };
    match first.and_then(|message| message.kind) {
        Some(Down::Welcome(welcome)) => {
            *welcomed = true;
            info!(
                controller = address,
                version = welcome.controller_version,
                "session with the controller"
            );
        }
        _ => return LinkError::Told(format!("what answers at {address} is no controller")),
    }
    let mut fetching: Option<Fetch> = None;
    loop {
        tokio::select! {
            message = down.message() => match message {
                Ok(Some(message)) => match message.kind {
                    Some(Down::Offer(offer)) => fetching = take(link, &client, offer),
                    Some(Down::DriftAck(ack)) => link.outbox.acknowledged(&ack.ids),
                    // Of a newer controller, or said twice.
                    Some(Down::Welcome(_)) | None => {}
                },
                Ok(None) => return closed(address),
                Err(status) => return told(&status),
            },
            () = link.outbox.filled() => {
                for message in link.outbox.take() {
                    if send(&up, message).await.is_err() {
                        return closed(address);
                    }
                }
            }
            content = content_of(&mut fetching) => {
                if let Some(fetch) = fetching.take() {
                    let content = match content {
                        Ok(bytes) => Content::Bytes(bytes),
                        Err(error) => Content::Missing(error.to_string()),
                    };
                    hand_over(link, &fetch.offer, fetch.held, fetch.received, content);
                }
            }
        }
    }
}

async fn content_of(fetching: &mut Option<Fetch>) -> Result<Vec<u8>, FetchError> {
    match fetching {
        Some(fetch) => fetch.content.as_mut().await,
        None => pending().await,
    }
}

fn closed(address: &str) -> LinkError {
    LinkError::Told(format!("the controller at {address} ended the session"))
}

async fn send(up: &mpsc::Sender<pb::AgentMessage>, kind: Up) -> Result<(), ()> {
    let message = pb::AgentMessage { kind: Some(kind) };
    up.send(message).await.map_err(drop)
}

fn hello(link: &Link) -> pb::Hello {
    let (facts, status) = link.outbox.hello();
    pb::Hello {
        site: link.config.site.to_string(),
        node: link.config.node.to_string(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: facts::boot_id(),
        generation: status.confirmed_generation,
        digest: status.confirmed_digest.clone(),
        facts: Some(facts),
        status: Some(status),
    }
}

/// Looks at an offer; what is not to be applied needs no content. A newer offer ends the
/// fetch of an older one.
fn take(link: &Link, client: &FleetClient<Channel>, offer: pb::Offer) -> Option<Fetch> {
    let received = Instant::now();
    let Ok(digest) = Digest::try_from(offer.digest.as_slice()) else {
        warn!(generation = offer.generation, "an offer without a digest");
        return None;
    };
    let held = Held {
        generation: offer.generation,
        digest,
    };
    debug!(generation = held.generation, digest = %digest.short(), "offer");
    match judge(link.outbox.confirmed(), held) {
        Answer::Take => {
            let content = Box::pin(fetch(client.clone(), digest, offer.size));
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
        confirm_within: Duration::from_millis(offer.confirm_within_ms),
        received,
    });
}
