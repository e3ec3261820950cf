//! Pushes that wait for the rollout of their site.

use tonic::{Code, Status, Streaming};
use voipfleet_controller::store::{Embedded, Store as _, keys};
use voipfleet_proto::v1::push_event::Kind;
use voipfleet_proto::v1::{
    BindOperatorRequest, HistoryRequest, NodeState, PauseRolloutRequest, PlanRequest, PushDone,
    PushEvent, PushQueued, PushRequest, ResumeRolloutRequest, RolloutReport,
};
use voipfleet_protocol::audit::{Ending, Record};
use voipfleet_testkit::AgentSession;

use super::installation::{Installation, canary, connected, refused, staged, with_network};
use super::operators::{add, client, of_all};

pub(crate) fn queue() -> PushRequest {
    PushRequest {
        site: "site-a".to_owned(),
        queue: true,
        ..PushRequest::default()
    }
}

/// A push that waits, as its operator follows it.
struct Waiting {
    events: Streaming<PushEvent>,
    place: PushQueued,
}

impl Waiting {
    async fn of(events: Streaming<PushEvent>) -> Self {
        let mut events = events;
        let first = events.message().await.unwrap().unwrap().kind;
        let Some(Kind::Queued(place)) = first else {
            panic!("{first:?}");
        };
        Self { events, place }
    }

    /// Reads on to its start; the generation.
    async fn started(&mut self) -> u64 {
        loop {
            match self.events.message().await.unwrap().unwrap().kind {
                Some(Kind::Started(started)) => return started.generation,
                Some(Kind::Queued(place)) => self.place = place,
                other => panic!("{other:?}"),
            }
        }
    }

    async fn done(mut self) -> PushDone {
        loop {
            if let Some(Kind::Done(done)) = self.events.message().await.unwrap().unwrap().kind {
                return done;
            }
        }
    }

    /// Reads on to the reason for which it is not pushed.
    async fn dropped(mut self) -> Status {
        loop {
            match self.events.message().await {
                Ok(Some(event)) => assert!(matches!(event.kind, Some(Kind::Queued(_)))),
                Ok(None) => panic!("it ended without a reason"),
                Err(status) => return status,
            }
        }
    }
}

async fn queued(installation: &Installation, request: PushRequest) -> Waiting {
    let answer = installation.operator().await.push(request).await;
    Waiting::of(answer.unwrap().into_inner()).await
}

/// Waits until the queue is empty and the last rollout has ended.
async fn over(installation: &Installation) -> RolloutReport {
    installation
        .until_rollout(|report| report.waiting.is_empty() && report.ended_ms != 0)
        .await
}

async fn pause(installation: &Installation) {
    let request = PauseRolloutRequest {
        site: "site-a".to_owned(),
    };
    let mut client = installation.operator().await;
    client.pause_rollout(request).await.unwrap();
}

async fn resume(installation: &Installation) {
    let request = ResumeRolloutRequest {
        site: "site-a".to_owned(),
    };
    let mut client = installation.operator().await;
    client.resume_rollout(request).await.unwrap();
}

async fn generations(installation: &Installation) -> Vec<u64> {
    let request = HistoryRequest {
        site: "site-a".to_owned(),
        ..HistoryRequest::default()
    };
    let answer = installation.operator().await.history(request).await;
    let generations = answer.unwrap().into_inner().generations;
    let mut numbers: Vec<u64> = generations.iter().map(|one| one.generation).collect();
    numbers.sort_unstable();
    numbers
}

/// The documents, the `number`th of their kind.
fn documents(number: u8) -> String {
    with_network(&network(number))
}

fn network(number: u8) -> String {
    format!("203.0.{number}.0/24")
}

/// What the audit log says of pushes that waited: the word, how it ended, and the generations.
async fn audited(installation: &mut Installation) -> Vec<Record> {
    installation.stop().await;
    let store = Embedded::open(&installation.store_path()).unwrap();
    let entries = store.all(keys::ALL_AUDIT, 1000).await.unwrap();
    store.close().await;
    let records = entries
        .iter()
        .map(|entry| -> Record { serde_json::from_slice(&entry.held.value).unwrap() });
    let of_queue = |record: &Record| {
        let detail = record.detail.as_deref().unwrap_or_default();
        record.what.starts_with("QueuedPush") || detail.starts_with("queued as")
    };
    records.filter(of_queue).collect()
}

/// A rollout of generation 1 that is held, and whose node was offered it.
async fn held() -> (Installation, AgentSession, voipfleet_proto::v1::Offer) {
    let (installation, _, mut session) = connected().await;
    drop(installation.push().await);
    let offer = session.offer().await;
    pause(&installation).await;
    (installation, session, offer)
}

#[tokio::test]
async fn queued_pushes_run_once_in_order() {
    let (mut installation, mut session, offer) = held().await;
    installation.apply(&documents(2)).await;
    let mut first = queued(&installation, queue()).await;
    let second = queued(&installation, queue()).await;
    assert_eq!((first.place.ticket, first.place.ahead), (1, 0));
    assert_eq!((second.place.ticket, second.place.ahead), (2, 1));
    assert_eq!(
        (second.place.generation, second.place.by.as_str()),
        (1, "ada")
    );
    let waiting = installation.rollout().await.waiting;
    let tickets: Vec<_> = waiting.iter().map(|one| (one.ticket, &*one.by)).collect();
    assert_eq!(tickets, [(1, "ada"), (2, "ada")]);
    // Without the flag it is refused, and told of it.
    let plain = PushRequest {
        queue: false,
        ..queue()
    };
    let plain = installation.operator().await.push(plain).await;
    let message = refused(plain.map(|_| ()), Code::FailedPrecondition);
    assert!(message.contains("voipctl push site-a --queue"), "{message}");

    resume(&installation).await;
    session.apply(&offer).await;
    assert_eq!(first.started().await, 2);
    let offer = session.offer().await;
    assert_eq!(offer.generation, 2);
    // What the documents say at its turn counts.
    installation.apply(&documents(3)).await;
    session.apply(&offer).await;
    let done = first.done().await;
    assert_eq!((done.generation, done.applied), (2, 1));
    let offer = session.offer().await;
    assert_eq!(offer.generation, 3);
    session.apply(&offer).await;
    let done = second.done().await;
    assert_eq!((done.generation, done.applied), (3, 1));
    let last = over(&installation).await;
    assert_eq!((last.number, last.state.as_str()), (3, "done"));
    assert_eq!(generations(&installation).await, [1, 2, 3]);
    // One with nothing to wait for goes at once.
    let (done, _) = installation.try_push(queue()).await.unwrap().end().await;
    assert_eq!((done.generation, done.changed), (3, false));

    let records = audited(&mut installation).await;
    let asked: Vec<_> = records.iter().filter(|r| r.what == "Push").collect();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1].detail.as_deref(), Some("queued as 2"));
    let started: Vec<_> = records
        .iter()
        .filter(|record| record.what == "QueuedPushStarted")
        .map(|record| {
            (
                record.before,
                record.after,
                record.detail.as_deref().unwrap_or_default(),
            )
        })
        .collect();
    assert_eq!(
        started,
        [
            (Some(1), Some(2), "queued as 1 by ada"),
            (Some(2), Some(3), "queued as 2 by ada")
        ]
    );
}

#[tokio::test]
async fn queued_pushes_survive_a_restart_without_a_client() {
    let (mut installation, mut session, _) = held().await;
    installation.apply(&documents(2)).await;
    drop(queued(&installation, queue()).await);
    let watched = queued(&installation, queue()).await;
    let (_, (), end) = tokio::join!(session.closed(), installation.stop(), watched.dropped());
    assert_eq!(end.code(), Code::Unavailable);
    assert!(end.message().contains("stays queued"), "{}", end.message());

    installation.run().await;
    assert_eq!(installation.rollout().await.waiting.len(), 2);
    let mut session = session
        .agent
        .connect(&installation.address())
        .await
        .unwrap();
    resume(&installation).await;
    let offer = session.offer().await;
    assert_eq!(offer.generation, 1);
    session.apply(&offer).await;
    let offer = session.offer().await;
    assert_eq!(offer.generation, 2);
    session.apply(&offer).await;
    // The second one found nothing to do.
    let last = over(&installation).await;
    assert_eq!((last.number, last.generation), (2, 2));
    assert_eq!(generations(&installation).await, [1, 2]);
    let records = audited(&mut installation).await;
    let told: Vec<_> = records
        .iter()
        .filter(|record| record.what != "Push")
        .map(|record| record.what.as_str())
        .collect();
    assert_eq!(told, ["QueuedPushStarted", "QueuedPushNeedless"]);
}

#[tokio::test]
async fn a_queued_push_without_changes_succeeds() {
    let (installation, mut session, offer) = held().await;
    let waiting = queued(&installation, queue()).await;
    resume(&installation).await;
    session.apply(&offer).await;
    let done = waiting.done().await;
    assert_eq!((done.generation, done.changed, done.applied), (1, false, 1));
}

#[tokio::test]
async fn a_halted_rollout_drops_queued_pushes() {
    let (mut installation, _, mut session) = connected().await;
    let staged = |number| staged(canary(), &network(number));
    installation.apply(&staged(1)).await;
    drop(installation.push().await);
    let offer = session.offer().await;
    let first = queued(&installation, queue()).await;
    let second = queued(&installation, queue()).await;
    installation.apply(&staged(2)).await;
    let words = "the probe dns failed";
    session.report(&offer, NodeState::RolledBack, words).await;
    for waiting in [first, second] {
        let end = waiting.dropped().await;
        assert_eq!(end.code(), Code::FailedPrecondition);
        let message = end.message();
        assert!(message.contains("generation 1"), "{message}");
        assert!(
            message.contains("was halted: a: the probe dns"),
            "{message}"
        );
    }
    let halted = over(&installation).await;
    assert_eq!((halted.state.as_str(), halted.number), ("halted", 1));
    assert_eq!(generations(&installation).await, [1]);
    // Nothing is left that a push would have to wait for.
    let push = installation.push().await;
    assert_eq!(push.started.generation, 2);
    let offer = session.offer().await;
    session.apply(&offer).await;
    assert_eq!(push.end().await.0.applied, 1);
    let records = audited(&mut installation).await;
    let dropped: Vec<_> = records
        .iter()
        .filter(|record| record.what == "QueuedPushDropped")
        .map(|record| (record.result, record.detail.as_deref().unwrap_or_default()))
        .collect();
    assert_eq!(
        dropped,
        [
            (Some(Ending::Failed), "queued as 1 by ada"),
            (Some(Ending::Failed), "queued as 2 by ada")
        ]
    );
}

#[tokio::test]
async fn an_aborted_rollout_drops_queued_pushes() {
    let (installation, _, mut session) = connected().await;
    let push = installation.push().await;
    let offer = session.offer().await;
    session.apply(&offer).await;
    assert_eq!(push.end().await.0.applied, 1);
    installation.apply(&documents(2)).await;
    drop(installation.push().await);
    let _unanswered = session.offer().await;
    let waiting = queued(&installation, queue()).await;
    assert_eq!(installation.abort(true).await.state, "rolling_back");
    let end = waiting.dropped().await;
    assert!(
        end.message().contains("was rolled back: aborted by ada"),
        "{}",
        end.message()
    );
    // Nothing waits for a way back.
    let late = installation.operator().await.push(queue()).await;
    let message = refused(late.map(|_| ()), Code::FailedPrecondition);
    assert!(message.contains("being rolled back"), "{message}");
}

#[tokio::test]
async fn a_queued_plan_is_pushed_at_its_turn_or_refused() {
    let (installation, mut session, offer) = held().await;
    installation.apply(&documents(2)).await;
    let request = PlanRequest {
        site: "site-a".to_owned(),
        ..PlanRequest::default()
    };
    let plan = installation.operator().await.plan(request).await.unwrap();
    let planned = PushRequest {
        basis: plan.into_inner().basis,
        ..queue()
    };
    let mut first = queued(&installation, planned.clone()).await;
    let second = queued(&installation, planned).await;
    assert!(installation.rollout().await.waiting[0].planned);
    resume(&installation).await;
    // The node takes generation 1 after the plan: what it brings is the same.
    session.apply(&offer).await;
    assert_eq!(first.started().await, 2);
    let offer = session.offer().await;
    installation.apply(&documents(3)).await;
    session.apply(&offer).await;
    assert_eq!(first.done().await.applied, 1);
    let end = second.dropped().await;
    assert_eq!(end.code(), Code::FailedPrecondition);
    let message = end.message();
    assert!(
        message.contains("rules of a: different since ada changed the documents"),
        "{message}"
    );
    assert_eq!(generations(&installation).await, [1, 2]);
}

#[tokio::test]
async fn a_dropped_push_gives_its_turn_to_the_next() {
    let (installation, mut session, offer) = held().await;
    let request = PlanRequest {
        site: "site-a".to_owned(),
        ..PlanRequest::default()
    };
    let plan = installation.operator().await.plan(request).await.unwrap();
    let first = queued(
        &installation,
        PushRequest {
            basis: plan.into_inner().basis,
            ..queue()
        },
    )
    .await;
    installation.apply(&documents(2)).await;
    let second = queued(&installation, queue()).await;
    resume(&installation).await;
    session.apply(&offer).await;
    assert_eq!(first.dropped().await.code(), Code::FailedPrecondition);
    let offer = session.offer().await;
    assert_eq!(offer.generation, 2);
    session.apply(&offer).await;
    assert_eq!(second.done().await.applied, 1);
}

#[tokio::test]
async fn the_queue_is_bounded() {
    let (installation, _session, _) = held().await;
    for ticket in 1..=16 {
        let waiting = queued(&installation, queue()).await;
        assert_eq!(waiting.place.ticket, ticket);
    }
    let more = installation.operator().await.push(queue()).await;
    let message = refused(more.map(|_| ()), Code::FailedPrecondition);
    assert!(message.contains("16 pushes are waiting"), "{message}");
    assert_eq!(installation.rollout().await.waiting.len(), 16);
}

#[tokio::test]
async fn a_queued_push_is_dropped_when_its_operator_loses_the_right() {
    let (mut installation, mut session, offer) = held().await;
    installation.apply(&documents(2)).await;
    let ben = add(&installation, "ben", of_all("operator")).await;
    let mut ben = client(&installation, &ben).await;
    drop(Waiting::of(ben.push(queue()).await.unwrap().into_inner()).await);
    let bind = BindOperatorRequest {
        name: "ben".to_owned(),
        bindings: vec![of_all("viewer")],
    };
    let mut admin = installation.operator().await;
    admin.bind_operator(bind).await.unwrap();
    resume(&installation).await;
    session.apply(&offer).await;
    let last = over(&installation).await;
    assert_eq!((last.number, last.generation), (1, 1));
    assert_eq!(generations(&installation).await, [1]);
    let records = audited(&mut installation).await;
    let end = records.last().unwrap();
    assert_eq!(end.what, "QueuedPushDropped");
    let message = end.message.as_deref().unwrap_or_default();
    assert!(message.contains("ben may not"), "{end:?}");
}
