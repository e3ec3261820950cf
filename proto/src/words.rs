//! The words of states for people and JSON.

use crate::v1::{DriftClass, NodeState};

impl DriftClass {
    /// `missing`, `altered`; the words are a contract.
    pub fn word(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Altered => "altered",
            Self::Extra => "extra",
            Self::Order => "order",
            Self::Policy => "policy",
            Self::Set => "set",
            Self::Bypass => "bypass",
            Self::Unreadable => "unreadable",
            Self::Unspecified => "unknown",
        }
    }
}

impl NodeState {
    /// `applied`, `rolled back`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Applying => "applying",
            Self::Trial => "trial",
            Self::Applied => "applied",
            Self::RolledBack => "rolled back",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
            Self::Unspecified => "unknown",
        }
    }
}
