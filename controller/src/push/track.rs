//! One node of a push, as the operator sees it: decided without I/O.

use std::time::Duration;

use tokio::time::Instant;
use voipfleet_common::session::Held;
use voipfleet_proto::v1::PushNodeState;

use crate::fleet::View;
use crate::rollout;

/// One node in this push.
#[derive(Debug, Clone)]
pub(super) struct Track {
    /// What it should come to hold.
    pub(super) target: Held,
    /// It ran this content before.
    pub(super) had: bool,
    /// The last offer that it had refused before this push: that answer does not count.
    pub(super) refused_before: Option<u64>,
    /// How it stands.
    pub(super) state: PushNodeState,
    /// Why it stands so; empty: nothing to say.
    pub(super) error: String,
    /// Live flows that it cut; known once it is applied.
    pub(super) flows_cut: u64,
    /// Until when it is waited for.
    pub(super) deadline: Instant,
    /// It was connected at some time during the push.
    pub(super) seen: bool,
}

impl Track {
    /// Brings it up to date; true: something changed. `answer` is how long a connected node
    /// may take.
    pub(super) fn look(&mut self, view: Option<&View>, now: Instant, answer: Duration) -> bool {
        if is_final(self.state) {
            return false;
        }
        let (state, error) = match view {
            Some(view) => {
                if !self.seen {
                    self.seen = true;
                    self.deadline = now + answer;
                }
                match self.judge(view) {
                    (state, _) if !is_final(state) && now >= self.deadline => {
                        let error = format!("no answer within {} s", answer.as_secs());
                        (PushNodeState::TimedOut, error)
                    }
                    judged => judged,
                }
            }
            // A connection may break during an apply and come back; until then the node stands
            // as it stood.
            None if self.seen && now < self.deadline => return false,
            None => {
                self.seen = false;
                (PushNodeState::Offline, String::new())
            }
        };
        let changed = state != self.state || error != self.error;
        if state == PushNodeState::Applied {
            let status = view.and_then(|view| view.status.as_ref());
            self.flows_cut = status.map_or(0, |status| status.flows_cut);
        }
        self.state = state;
        self.error = error;
        changed
    }

    /// The node is no more; true: that is new.
    pub(super) fn deleted(&mut self) -> bool {
        if is_final(self.state) {
            return false;
        }
        self.state = PushNodeState::Failed;
        "it was deleted during the push".clone_into(&mut self.error);
        true
    }

    /// Nothing more is awaited of it.
    pub(super) fn ended(&self, now: Instant) -> bool {
        match self.state {
            PushNodeState::Offline => !self.seen && now >= self.deadline,
            _ => is_final(self.state),
        }
    }
}

fn is_final(state: PushNodeState) -> bool {
    matches!(
        state,
        PushNodeState::Applied
            | PushNodeState::Unchanged
            | PushNodeState::RolledBack
            | PushNodeState::Rejected
            | PushNodeState::Failed
            | PushNodeState::TimedOut
    )
}

impl Track {
    fn judge(&self, view: &View) -> (PushNodeState, String) {
        match rollout::judge(self.target, self.refused_before, view) {
            (PushNodeState::Applied, error) if self.had && error.is_empty() => {
                let confirmed = view.confirmed == Some(self.target);
                let state = if confirmed {
                    PushNodeState::Unchanged
                } else {
                    PushNodeState::Applied
                };
                (state, error)
            }
            judged => judged,
        }
    }
}

#[cfg(test)]
mod tests {
    use voipfleet_common::ruleset::Digest;
    use voipfleet_proto::v1::{NodeState, NodeStatus};

    use super::*;
    use crate::fleet::Offered;

    const ANSWER: Duration = Duration::from_mins(1);

    fn held(generation: u64, content: u8) -> Held {
        Held {
            generation,
            digest: Digest::of(&[content]),
        }
    }

    fn track(now: Instant) -> Track {
        Track {
            target: held(5, 5),
            had: false,
            refused_before: None,
            state: PushNodeState::Offline,
            error: String::new(),
            flows_cut: 0,
            deadline: now,
            seen: false,
        }
    }

    fn view(confirmed: Option<Held>, offered: Option<(u64, Held, NodeState)>) -> View {
        View {
            peer: "127.0.0.1:1".parse().unwrap(),
            agent_version: String::new(),
            confirmed,
            offered: offered.map(|(nonce, held, state)| Offered {
                nonce,
                held,
                answer: (state != NodeState::Unspecified).then(|| NodeStatus {
                    state: state.into(),
                    error: "words".to_owned(),
                    ..NodeStatus::default()
                }),
            }),
            status: None,
            facts: None,
            live: None,
        }
    }

    #[test]
    fn a_connected_node_that_does_not_answer_times_out() {
        let now = Instant::now();
        let mut track = track(now);
        let silent = view(None, Some((1, held(5, 5), NodeState::Applying)));
        assert!(track.look(Some(&silent), now, ANSWER));
        assert_eq!(track.state, PushNodeState::Applying);
        assert!(!track.look(Some(&silent), now + ANSWER / 2, ANSWER));
        assert!(track.look(Some(&silent), now + ANSWER, ANSWER));
        assert_eq!(track.state, PushNodeState::TimedOut);
        assert!(track.ended(now + ANSWER));
        // What comes later changes nothing of what was told.
        let late = view(Some(held(5, 5)), None);
        assert!(!track.look(Some(&late), now + ANSWER, ANSWER));
    }

    #[test]
    fn a_node_that_loses_its_connection_is_waited_for() {
        let now = Instant::now();
        let mut track = track(now);
        let offered = Some((1, held(5, 5), NodeState::Applying));
        track.look(Some(&view(None, offered)), now, ANSWER);
        assert!(!track.look(None, now + ANSWER / 2, ANSWER));
        assert!(!track.ended(now + ANSWER / 2));
        let mut back = track.clone();
        back.look(
            Some(&view(Some(held(5, 5)), None)),
            now + ANSWER / 2,
            ANSWER,
        );
        assert_eq!(back.state, PushNodeState::Applied);
        track.look(None, now + ANSWER, ANSWER);
        assert_eq!(track.state, PushNodeState::Offline);
        assert!(track.ended(now + ANSWER));
    }

    #[test]
    fn an_old_refusal_is_not_the_answer_to_another_try() {
        let now = Instant::now();
        let mut track = track(now);
        track.refused_before = Some(1);
        let old = view(None, Some((1, held(5, 5), NodeState::Failed)));
        track.look(Some(&old), now, ANSWER);
        assert_eq!(track.state, PushNodeState::Sent);
        let new = view(None, Some((2, held(5, 5), NodeState::Rejected)));
        track.look(Some(&new), now, ANSWER);
        assert_eq!(track.state, PushNodeState::Rejected);
        assert_eq!(track.error, "words");
    }

    #[test]
    fn a_later_generation_ends_the_wait() {
        let now = Instant::now();
        for newer in [
            view(Some(held(6, 5)), None),
            view(
                Some(held(4, 5)),
                Some((1, held(6, 6), NodeState::Unspecified)),
            ),
        ] {
            let mut track = track(now);
            track.look(Some(&newer), now, ANSWER);
            assert_eq!(track.state, PushNodeState::Failed);
            assert!(track.error.contains("generation 6"), "{}", track.error);
        }
    }
}
