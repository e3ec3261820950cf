//! Words at the wrong time, for the wrong thing, or too many of them.

use tonic::Status;
use voipfleet_agent::kernel::Backend;
use voipfleet_proto::v1::controller_message::Kind as Down;
use voipfleet_proto::v1::{Confirm, ControllerMessage, DriftAck, NodeState, Offer, Welcome};
use voipfleet_ruleset::ruleset::{Digest, Ruleset};

use super::Victim;

use crate::node::{LONG, announced, confirm, hear, run, say, until};
use crate::support::{in_namespace, on_both_backends, sample};

fn offer(nonce: u64, generation: u64, ruleset: &Ruleset) -> Offer {
    Offer {
        nonce,
        generation,
        digest: ruleset.digest().as_bytes().to_vec(),
        size: ruleset.encode().len() as u64,
        confirm_within_ms: LONG,
        ..Offer::default()
    }
}

#[test]
fn older_or_conflicting_generation_is_refused() {
    on_both_backends(|place| {
        run(async {
            let victim = Victim::start(place).await;
            let mut victim = victim.takes(&sample(5)).await;
            let at = victim.generation;
            for (name, generation, ruleset, words) in [
                (
                    "an older one",
                    at - 1,
                    sample(6),
                    "is older than the confirmed 2",
                ),
                (
                    "what it ran before",
                    at - 1,
                    sample(1),
                    "is older than the confirmed 2",
                ),
                (
                    "the same again, older",
                    at - 1,
                    sample(5),
                    "is older than the confirmed 2",
                ),
                (
                    "the same number",
                    at,
                    sample(6),
                    "confirmed here with another digest",
                ),
                ("no number", 0, sample(6), "generation 0 is no push"),
                (
                    "no number, the same",
                    0,
                    sample(5),
                    "generation 0 is no push",
                ),
            ] {
                let nonce = victim.next();
                let offer = offer(nonce, generation, &ruleset);
                victim.refuses(name, offer, words).await;
            }
            let status = {
                let nonce = victim.next();
                victim.say(Down::Offer(offer(nonce, at, &sample(5)))).await;
                victim.answer(nonce).await
            };
            assert_eq!(status.state(), NodeState::Applied, "what it runs already");
            victim.is_unchanged("what it runs already");
            for digest in [vec![], vec![7; 31], vec![7; 33]] {
                let nonce = victim.next();
                let offer = Offer {
                    digest,
                    ..offer(nonce, 99, &sample(6))
                };
                victim.say(Down::Offer(offer)).await;
            }
            victim.node.logs("offer ignored: it has no digest").await;
            victim.is_unchanged("without a digest");
            victim.takes(&sample(6)).await;
        });
    });
}

#[test]
fn confirmation_counts_only_for_the_trial_its_session_announced() {
    on_both_backends(|place| {
        run(async {
            let mut victim = Victim::start(place).await;
            // Of nothing, and of what is not yet on trial.
            victim.say(confirm(2, &sample(2))).await;
            victim.say(confirm(1, &sample(1))).await;
            victim
                .node
                .logs("this session announced no such trial")
                .await;
            let nonce = victim.next();
            let node = &victim.node;
            node.offer(&victim.session, nonce, &sample(2), LONG).await;
            victim.say(confirm(nonce, &sample(2))).await;
            while hear(&mut victim.session).await.is_some() {}
            let (session, hello) = victim.node.session().await;
            assert_eq!(announced(&hello), Some(nonce));
            assert_eq!(hello.generation, 1, "a word before the trial counted");
            let digest = sample(2).digest().as_bytes().to_vec();
            let right = Confirm {
                nonce,
                generation: nonce,
                digest: digest.clone(),
            };
            for wrong in [
                Confirm {
                    nonce: nonce + 1,
                    ..right.clone()
                },
                Confirm {
                    generation: nonce + 1,
                    ..right.clone()
                },
                Confirm {
                    digest: Digest::of(b"x").as_bytes().to_vec(),
                    ..right.clone()
                },
                Confirm {
                    digest: digest[..31].to_vec(),
                    ..right.clone()
                },
                Confirm::default(),
            ] {
                say(&session, Down::Confirm(wrong)).await;
            }
            victim.node.logs("confirmation ignored: late").await;
            assert_eq!(victim.node.confirmed(), Some(1));
            // The right one counts once, and later ones for nothing.
            let mut session = session;
            for _ in 0..3 {
                say(&session, Down::Confirm(right.clone())).await;
            }
            let status = until(&mut session, NodeState::Applied).await;
            assert_eq!(status.confirmed_generation, nonce);
            victim.session = session;
            victim.generation = nonce;
            victim.before = place.everything();
            victim.takes(&sample(3)).await;
        });
    });
}

#[test]
fn trial_length_is_bounded() {
    on_both_backends(|place| {
        run(async {
            let mut victim = Victim::start(place).await;
            for within_ms in [u64::MAX, 0] {
                let nonce = victim.next();
                let node = &victim.node;
                node.offer(&victim.session, nonce, &sample(2), within_ms)
                    .await;
                until(&mut victim.session, NodeState::Trial).await;
                let (session, hello) = victim.node.session().await;
                assert_eq!(announced(&hello), Some(nonce));
                // A newer one takes the place of the trial, and is over at once.
                let nonce = victim.next();
                let node = &victim.node;
                node.offer(&session, nonce, &sample(3), 1).await;
                // The link may not have let go of the older ones yet.
                let mut older = vec![std::mem::replace(&mut victim.session, session)];
                loop {
                    let (session, hello) = victim.node.session().await;
                    older.push(std::mem::replace(&mut victim.session, session));
                    let status = hello.status.unwrap();
                    if status.state() != NodeState::Trial {
                        assert_eq!(status.state(), NodeState::RolledBack);
                        assert_eq!(status.generation, nonce);
                        break;
                    }
                }
                victim.is_unchanged("after a trial of a millisecond");
            }
            victim.ends_well().await;
        });
    });
}

#[test]
fn unknown_and_malformed_messages_are_ignored() {
    on_both_backends(|place| {
        run(async {
            let victim = Victim::start(place).await;
            let controller_version = "x".repeat(100_000);
            victim
                .say(Down::Welcome(Welcome {
                    controller_version,
                    ..Welcome::default()
                }))
                .await;
            // As of a newer controller: a kind that this agent does not know.
            let unknown = ControllerMessage { kind: None };
            victim.session.answers.send(Ok(unknown)).await.unwrap();
            let ids = (0..10_000).map(|id| format!("no-{id}")).collect();
            victim.say(Down::DriftAck(DriftAck { ids })).await;
            victim.is_unchanged("nonsense");
            victim.ends_well().await;
        });
    });
}

#[test]
fn flood_of_offers_ends_with_the_last() {
    on_both_backends(|place| {
        run(async {
            let mut victim = Victim::start(place).await;
            let missing = Digest::of(b"missing").as_bytes().to_vec();
            for _ in 0..5000 {
                let nonce = victim.next();
                let offer = Offer {
                    nonce,
                    generation: nonce,
                    digest: missing.clone(),
                    size: 1 << 20,
                    confirm_within_ms: 1,
                    ..Offer::default()
                };
                victim.say(Down::Offer(offer)).await;
            }
            let last = victim.last;
            let status = victim.answer(last).await;
            assert_eq!(status.state(), NodeState::Rejected);
            assert!(status.error.contains("no such ruleset"), "{}", status.error);
            victim.is_unchanged("after a flood of offers");
            let peak = victim.node.peak_memory();
            assert!(peak < 128 << 20, "the agent took {} MiB", peak >> 20);
            victim.ends_well().await;
        });
    });
}

type Words = fn() -> Vec<Result<Down, Status>>;

/// How a session may end that the node did not end.
const ENDS: &[(&str, Words, &str)] = &[
    (
        "no Welcome",
        || vec![Ok(Down::Offer(Offer::default()))],
        "is not a Voipfleet controller",
    ),
    ("not a word", Vec::new, "is not a Voipfleet controller"),
    (
        "an error in place of Welcome",
        || vec![Err(Status::internal("a word of the controller's"))],
        "a word of the controller's",
    ),
    (
        "an error after Welcome",
        || {
            vec![
                Ok(Down::Welcome(Welcome::default())),
                Err(Status::data_loss("lost on purpose")),
            ]
        },
        "lost on purpose",
    ),
    (
        "a message above every limit",
        || {
            let controller_version = "x".repeat(2 << 20);
            vec![
                Ok(Down::Welcome(Welcome::default())),
                Ok(Down::Welcome(Welcome {
                    controller_version,
                    ..Welcome::default()
                })),
            ]
        },
        "message",
    ),
    (
        "the end after Welcome",
        || vec![Ok(Down::Welcome(Welcome::default()))],
        "ended the session",
    ),
];

#[test]
fn broken_session_is_dialled_again() {
    in_namespace(Backend::Nft, |place| {
        run(async {
            let mut victim = Victim::start(place).await;
            for (name, words, reason) in ENDS {
                // A new one waits but half a second after the first failure.
                victim.node.kill();
                drop(victim.session);
                victim.node.run();
                let session = victim.node.controller.sessions.recv().await.unwrap();
                for word in words() {
                    let message = word.map(|kind| ControllerMessage { kind: Some(kind) });
                    session.answers.send(message).await.unwrap();
                }
                drop(session.answers);
                victim.node.logs(reason).await;
                drop(session.messages);
                let (session, hello) = victim.node.session().await;
                assert_eq!(hello.generation, 1, "{name}");
                victim.session = session;
                victim.is_unchanged(name);
            }
            victim.ends_well().await;
        });
    });
}
