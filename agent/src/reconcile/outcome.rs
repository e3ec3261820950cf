//! The fate of an offer, as the node reports it.

use voipfleet_proto::v1 as pb;
use voipfleet_protocol::session::Held;

/// The fate of the last offer, or of the node where there was none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nothing was ever offered or confirmed.
    #[default]
    None,
    /// The kernel is being changed.
    Applying(Held),
    /// It runs, and waits for its confirmation.
    OnTrial(Held),
    /// It is confirmed and in force.
    Applied(Held),
    /// It was refused before the kernel was touched.
    Rejected(Held, String),
    /// Its trial failed, and what ran before runs again.
    RolledBack(Held, String),
    Failed(Held, Undo),
    /// The node runs its management rules in place of what it has confirmed.
    Fallback(Option<Held>, String),
}

/// How far the node has gone back after a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Undo {
    /// There was nothing to undo, or it is undone.
    NotDue { reason: String },
    /// The rollback failed, and is tried again.
    Pending { reason: String, error: String },
    /// The rollback of an earlier push fails, and is tried again.
    Earlier { error: String },
}

impl Undo {
    /// A failure, with the result of its rollback.
    pub(super) fn after(reason: String, undone: Result<(), String>) -> Self {
        match undone {
            Ok(()) => Undo::NotDue { reason },
            Err(error) => Undo::Pending { reason, error },
        }
    }
}

impl Outcome {
    pub(super) fn failed(held: Held, reason: String) -> Self {
        Outcome::Failed(held, Undo::NotDue { reason })
    }

    pub(super) fn held(&self) -> Option<Held> {
        match self {
            Outcome::None => None,
            Outcome::Applying(held)
            | Outcome::OnTrial(held)
            | Outcome::Applied(held)
            | Outcome::Rejected(held, _)
            | Outcome::RolledBack(held, _)
            | Outcome::Failed(held, _) => Some(*held),
            Outcome::Fallback(held, _) => *held,
        }
    }

    pub(super) fn state(&self) -> pb::NodeState {
        match self {
            Outcome::None => pb::NodeState::Unspecified,
            Outcome::Applying(_) => pb::NodeState::Applying,
            Outcome::OnTrial(_) => pb::NodeState::Trial,
            Outcome::Applied(_) => pb::NodeState::Applied,
            Outcome::Rejected(..) => pb::NodeState::Rejected,
            Outcome::RolledBack(..) => pb::NodeState::RolledBack,
            Outcome::Failed(..) | Outcome::Fallback(..) => pb::NodeState::Failed,
        }
    }

    /// The reason why it did not succeed.
    pub(super) fn error(&self) -> Option<String> {
        match self {
            Outcome::None | Outcome::Applying(_) | Outcome::OnTrial(_) | Outcome::Applied(_) => {
                None
            }
            Outcome::Rejected(_, reason)
            | Outcome::RolledBack(_, reason)
            | Outcome::Fallback(_, reason) => Some(reason.clone()),
            Outcome::Failed(_, undo) => Some(undo.describe()),
        }
    }

    /// The outcome once a rollback that had failed is done. What was tried is not tried again by
    /// itself.
    #[must_use]
    pub(super) fn undone(self, confirmed: Option<Held>) -> Self {
        match self {
            Outcome::Failed(held, Undo::Pending { reason, .. }) => {
                let done = "the rollback failed at first, and is done now";
                Outcome::RolledBack(held, format!("{reason}; {done}"))
            }
            Outcome::Failed(_, Undo::Earlier { .. }) => {
                confirmed.map_or(Outcome::None, Outcome::Applied)
            }
            other => other,
        }
    }
}

impl Undo {
    fn describe(&self) -> String {
        match self {
            Undo::NotDue { reason } => reason.clone(),
            Undo::Pending { reason, error } => {
                format!("{reason}; the rollback failed too, and is being retried: {error}")
            }
            Undo::Earlier { error } => {
                format!("the rollback of an earlier push fails, and is being retried: {error}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use voipfleet_ruleset::ruleset::Digest;

    use super::*;

    fn held() -> Held {
        Held {
            generation: 7,
            digest: Digest::of(b"x"),
        }
    }

    #[test]
    fn a_late_rollback_is_reported_once_it_is_done() {
        let undone = Err("the table is busy".to_owned());
        let stuck = Outcome::Failed(held(), Undo::after("no confirmation".to_owned(), undone));
        assert_eq!(
            stuck.error().unwrap(),
            "no confirmation; the rollback failed too, and is being retried: the table is busy"
        );
        let done = stuck.undone(None);
        assert_eq!(done.state(), pb::NodeState::RolledBack);
        assert_eq!(
            done.error().unwrap(),
            "no confirmation; the rollback failed at first, and is done now"
        );
        // A reason that happens to use the same words changes nothing.
        let words = Outcome::failed(held(), done.error().unwrap());
        assert_eq!(words.clone().undone(None), words);
    }

    #[test]
    fn a_late_rollback_of_an_earlier_push_leaves_what_is_confirmed() {
        let error = "the table is busy".to_owned();
        let stuck = Outcome::Failed(held(), Undo::Earlier { error });
        assert_eq!(stuck.clone().undone(Some(held())), Outcome::Applied(held()));
        assert_eq!(stuck.undone(None), Outcome::None);
    }
}
