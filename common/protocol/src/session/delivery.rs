//! The controller's side: what to offer to one node, decided without I/O.

use super::Held;

/// How far a node got with an offer, by its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It works on it.
    Working,
    /// It runs it.
    Applied,
    /// It does not, and keeps what it had.
    Refused,
}

/// Why nothing is offered now, or what is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Send the offer under the nonce that was given.
    Offer,
    /// It runs that already.
    Synced,
    /// The same offer is on its way.
    Outstanding,
    /// It refused exactly that, and no retry was requested.
    Refused,
    /// It has confirmed a later generation, or this one with other content: the controller
    /// has forgotten a push, and only a new one helps.
    Ahead,
}

/// The offers of one session with one node: at most one is outstanding, a newer one replaces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    confirmed: Option<Held>,
    outstanding: Option<(u64, Held)>,
    /// The trial that Hello announced, until it is decided on.
    announced: Option<(u64, Held)>,
    refused: Option<Held>,
}

impl Delivery {
    /// A session with a node that reports its confirmed content.
    pub fn new(confirmed: Option<Held>) -> Self {
        Self {
            confirmed,
            outstanding: None,
            announced: None,
            refused: None,
        }
    }

    /// The same, and Hello announces a trial: what it tries need not be offered again.
    #[must_use]
    pub fn with_trial(mut self, nonce: u64, held: Held) -> Self {
        self.outstanding = Some((nonce, held));
        self.announced = Some((nonce, held));
        self
    }

    /// The same, and the node has tried `held` and gone back. Trying is not free: the node may
    /// be unreachable meanwhile. So it is offered again only on request.
    #[must_use]
    pub fn with_rolled_back(mut self, held: Held) -> Self {
        self.refused = Some(held);
        self
    }

    /// The nonce of the trial to confirm, if Hello announced one of what the node should run.
    /// Gives it once: a trial that begins later is announced by a session of its own.
    pub fn confirm(&mut self, target: Held) -> Option<u64> {
        let (nonce, held) = self.announced.take()?;
        (held == target).then_some(nonce)
    }

    /// What the node has confirmed.
    pub fn confirmed(&self) -> Option<Held> {
        self.confirmed
    }

    /// The offer that the node has not answered yet, with its nonce.
    pub fn outstanding(&self) -> Option<(u64, Held)> {
        self.outstanding
    }

    /// The node should run `target`. `again` requests another try of what it
    /// refused. `nonce` must be one that was never used before.
    pub fn want(&mut self, target: Held, again: bool, nonce: u64) -> Decision {
        if let Some(confirmed) = self.confirmed {
            if confirmed == target {
                return Decision::Synced;
            }
            if confirmed.generation >= target.generation {
                return Decision::Ahead;
            }
        }
        if self.outstanding.is_some_and(|(_, held)| held == target) {
            return Decision::Outstanding;
        }
        if self.refused == Some(target) && !again {
            return Decision::Refused;
        }
        self.refused = None;
        self.outstanding = Some((nonce, target));
        Decision::Offer
    }

    /// The node reports progress on the offer with `nonce`, if on any, the content of that offer,
    /// and its confirmed content. Returns whether that answers the outstanding offer.
    pub fn hear(
        &mut self,
        nonce: Option<u64>,
        about: Option<Held>,
        progress: Progress,
        confirmed: Option<Held>,
    ) -> bool {
        self.confirmed = confirmed;
        // A late word about an offer that was replaced must not count for the new one.
        let Some((_, held)) = self
            .outstanding
            .filter(|(sent, held)| Some(*sent) == nonce && about == Some(*held))
        else {
            return false;
        };
        match progress {
            Progress::Working => {}
            Progress::Applied => self.outstanding = None,
            Progress::Refused => {
                self.outstanding = None;
                self.refused = Some(held);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::session::{Answer, judge};
    use voipfleet_ruleset::ruleset::Digest;

    fn held(generation: u64, content: u8) -> Held {
        Held {
            generation,
            digest: Digest::of(&[content]),
        }
    }

    #[test]
    fn a_refused_offer_is_tried_again_only_when_asked() {
        let mut delivery = Delivery::new(None);
        assert_eq!(delivery.want(held(1, 1), false, 10), Decision::Offer);
        assert_eq!(delivery.want(held(1, 1), true, 11), Decision::Outstanding);
        assert!(delivery.hear(Some(10), Some(held(1, 1)), Progress::Refused, None));
        assert_eq!(delivery.want(held(1, 1), false, 12), Decision::Refused);
        assert_eq!(delivery.want(held(1, 1), true, 13), Decision::Offer);
        assert_eq!(delivery.want(held(2, 1), false, 14), Decision::Offer);
        // The answer to the replaced offer does not answer the new one.
        assert!(!delivery.hear(
            Some(13),
            Some(held(1, 1)),
            Progress::Applied,
            Some(held(1, 1))
        ));
        assert_eq!(delivery.outstanding(), Some((14, held(2, 1))));
    }

    #[test]
    fn a_node_ahead_is_offered_nothing() {
        let mut delivery = Delivery::new(Some(held(7, 1)));
        assert_eq!(delivery.want(held(6, 1), true, 1), Decision::Ahead);
        assert_eq!(delivery.want(held(7, 2), true, 2), Decision::Ahead);
        assert_eq!(delivery.want(held(7, 1), true, 3), Decision::Synced);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(u8),
        Again,
        Arrive { fails: bool },
        Reconnect,
    }

    proptest! {
        /// Whatever is pushed, lost and refused: the node ends on the last push, and nothing
        /// that it is offered makes it go back.
        #[test]
        fn a_node_ends_on_the_last_push(steps in prop::collection::vec(prop_oneof![
            any::<u8>().prop_map(|content| Step::Push(content % 4)),
            Just(Step::Again),
            any::<bool>().prop_map(|fails| Step::Arrive { fails }),
            Just(Step::Reconnect),
        ], 0..60)) {
            let mut node: Option<Held> = None;
            let mut current = held(1, 0);
            let mut nonce = 0;
            let mut delivery = Delivery::new(node);
            let mut in_flight: Option<(u64, Held)> = None;
            let mut offer = |delivery: &mut Delivery, target, again| {
                nonce += 1;
                (delivery.want(target, again, nonce) == Decision::Offer).then_some((nonce, target))
            };
            let answer = |node: &mut Option<Held>, (nonce, held): (u64, Held), fails,
                          delivery: &mut Delivery| {
                let before = *node;
                let progress = match judge(*node, held) {
                    Answer::Take if fails => Progress::Refused,
                    Answer::Take | Answer::Renumber | Answer::Same => {
                        *node = Some(held);
                        Progress::Applied
                    }
                    Answer::Refuse(why) => panic!("offered what must be refused: {why}"),
                };
                assert!(node.map(|h| h.generation) >= before.map(|h| h.generation));
                delivery.hear(Some(nonce), Some(held), progress, *node);
            };
            for step in steps {
                match step {
                    Step::Push(content) => {
                        current = held(current.generation + 1, content);
                        in_flight = offer(&mut delivery, current, false).or(in_flight);
                    }
                    Step::Again => {
                        in_flight = offer(&mut delivery, current, true).or(in_flight);
                    }
                    Step::Arrive { fails } => {
                        if let Some(arrived) = in_flight.take() {
                            answer(&mut node, arrived, fails, &mut delivery);
                        }
                    }
                    Step::Reconnect => {
                        delivery = Delivery::new(node);
                        in_flight = offer(&mut delivery, current, false);
                    }
                }
            }
            while let Some(offered) = offer(&mut delivery, current, true).or(in_flight.take()) {
                answer(&mut node, offered, false, &mut delivery);
            }
            prop_assert_eq!(node, Some(current));
        }
    }
}
