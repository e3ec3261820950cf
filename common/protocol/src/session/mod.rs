//! The protocol between agent and controller as decisions without I/O.

mod delivery;
mod trial;
#[cfg(test)]
mod trial_model;

use voipfleet_ruleset::ruleset::Digest;

pub use delivery::{Decision, Delivery, Progress};
pub use trial::{Attempt, JournalState, Reaction, Start, TrialState, confirm_within};

/// A site's numbered push; 0 is none.
pub type Generation = u64;

/// What a node holds: content and its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The generation.
    pub generation: Generation,
    /// The digest of its ruleset.
    pub digest: Digest,
}

/// What an agent does with an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Fetch the ruleset and apply it.
    Take,
    /// The same content under a newer number: record the number, and report applied.
    Renumber,
    /// It runs already: report applied.
    Same,
    /// Refuse it.
    Refuse(Refusal),
}

/// Why an offer is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// An older generation than the confirmed one.
    #[error("generation {offered} is older than the confirmed {confirmed}")]
    Older {
        /// The generation offered.
        offered: Generation,
        /// The generation confirmed on the node.
        confirmed: Generation,
    },
    /// The confirmed generation with other content.
    #[error("generation {0} is confirmed here with another digest")]
    OtherDigest(Generation),
    /// An older generation than the one on trial, or that one with other content.
    #[error("generation {offered} is not newer than generation {on_trial}, which is on trial here")]
    NotNewer {
        /// The generation offered.
        offered: Generation,
        /// The generation on trial.
        on_trial: Generation,
    },
    /// Generation 0.
    #[error("generation 0 is no push")]
    Zero,
}

/// Judges an offer against what is confirmed on the node.
pub fn judge(confirmed: Option<Held>, offered: Held) -> Answer {
    if offered.generation == 0 {
        return Answer::Refuse(Refusal::Zero);
    }
    let Some(confirmed) = confirmed else {
        return Answer::Take;
    };
    match (
        offered.generation.cmp(&confirmed.generation),
        offered.digest == confirmed.digest,
    ) {
        (std::cmp::Ordering::Less, _) => Answer::Refuse(Refusal::Older {
            offered: offered.generation,
            confirmed: confirmed.generation,
        }),
        (std::cmp::Ordering::Equal, true) => Answer::Same,
        (std::cmp::Ordering::Equal, false) => {
            Answer::Refuse(Refusal::OtherDigest(offered.generation))
        }
        (std::cmp::Ordering::Greater, true) => Answer::Renumber,
        (std::cmp::Ordering::Greater, false) => Answer::Take,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(generation: Generation, content: &str) -> Held {
        Held {
            generation,
            digest: Digest::of(content.as_bytes()),
        }
    }

    #[test]
    fn a_node_never_goes_back() {
        assert_eq!(judge(None, held(7, "x")), Answer::Take);
        assert_eq!(judge(None, held(0, "x")), Answer::Refuse(Refusal::Zero));
        let confirmed = Some(held(7, "x"));
        assert_eq!(judge(confirmed, held(8, "y")), Answer::Take);
        assert_eq!(judge(confirmed, held(8, "x")), Answer::Renumber);
        assert_eq!(judge(confirmed, held(7, "x")), Answer::Same);
        assert_eq!(
            judge(confirmed, held(7, "y")),
            Answer::Refuse(Refusal::OtherDigest(7))
        );
        assert_eq!(
            judge(confirmed, held(6, "x")),
            Answer::Refuse(Refusal::Older {
                offered: 6,
                confirmed: 7
            })
        );
    }
}
