//! Why a call was refused: a status whose reason, hints and facts are details, not message text.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::v1::Reason;

/// The `domain` of every [`Reason`] in an `ErrorInfo`.
pub const DOMAIN: &str = "voipfleet";

impl Reason {
    /// The status code that goes with it.
    pub fn code(self) -> Code {
        match self {
            Reason::Unspecified => Code::Unknown,
            Reason::InvalidRequest | Reason::InvalidDocuments => Code::InvalidArgument,
            Reason::UnknownSite
            | Reason::UnknownNode
            | Reason::UnknownDocument
            | Reason::UnknownGeneration
            | Reason::UnknownOperator
            | Reason::UnknownToken
            | Reason::UnknownList
            | Reason::UnknownAuditRecord
            | Reason::NoRollout
            | Reason::UnknownException => Code::NotFound,
            Reason::DoesNotCompile
            | Reason::NoEarlierGeneration
            | Reason::RolloutActive
            | Reason::RollingBack
            | Reason::PushesQueued
            | Reason::RolloutState
            | Reason::QueueEntryGone
            | Reason::SiteHasNodes
            | Reason::DocumentInUse
            | Reason::OwnRights
            | Reason::FirstAdmin
            | Reason::ProtectedAddress
            | Reason::ListNotFetched
            | Reason::AuditRecordDiffers
            | Reason::QueueFull => Code::FailedPrecondition,
            Reason::OperatorExists => Code::AlreadyExists,
            Reason::Conflict | Reason::PlanStale | Reason::RolloutReplaced => Code::Aborted,
            Reason::CertificateRequired | Reason::CertificateExpired => Code::Unauthenticated,
            Reason::WrongIdentity
            | Reason::UnknownCaller
            | Reason::NotPermitted
            | Reason::NodeDeleted
            | Reason::NodeKeyReplaced
            | Reason::NodeDuplicate => Code::PermissionDenied,
            Reason::LimitReached | Reason::RateLimited | Reason::Busy => Code::ResourceExhausted,
            Reason::TooSlow => Code::DeadlineExceeded,
            Reason::Stopping | Reason::NotReady | Reason::AuditUnavailable => Code::Unavailable,
            Reason::AuditIncomplete | Reason::StoreFailed | Reason::Internal => Code::Internal,
        }
    }
}

/// A refused call. The sender turns it into a [`Status`]; the receiver reads it back with [`Refusal::of`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusal {
    /// Why; none from a peer that names no reason of ours.
    pub reason: Option<Reason>,
    /// What happened, without what to do next.
    pub message: String,
    /// What to do next, the best first; commands can be pasted as they are.
    pub hints: Vec<String>,
    /// Names and numbers that the message mentions, by the keys of `errors.proto`.
    pub facts: HashMap<String, String>,
    /// What has changed since the plan that the call is based on.
    pub changed: Vec<Changed>,
    /// After what time the same call may succeed.
    pub retry_after: Option<Duration>,
}

/// One thing that is no longer as a plan assumed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// What: "Tenant acme", "sip1".
    pub subject: String,
    /// How, as a sentence without its full stop.
    pub description: String,
}

impl Refusal {
    /// A refusal without hints and facts.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason: Some(reason),
            message: message.into(),
            ..Self::default()
        }
    }

    /// With what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// With a name or number that the message mentions.
    #[must_use]
    pub fn fact(mut self, key: &str, value: impl ToString) -> Self {
        self.facts.insert(key.to_owned(), value.to_string());
        self
    }

    /// With something that has changed since the plan.
    #[must_use]
    pub fn changed(mut self, subject: impl Into<String>, description: impl Into<String>) -> Self {
        self.changed.push(Changed {
            subject: subject.into(),
            description: description.into(),
        });
        self
    }

    /// With the time after which the same call may succeed.
    #[must_use]
    pub fn retry_after(mut self, time: Duration) -> Self {
        self.retry_after = Some(time);
        self
    }

    /// What a status says, also one of another server or of the connection.
    pub fn of(status: &Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        let ours = info.filter(|info| info.domain == DOMAIN);
        let links = details.help().map(|help| help.links.clone());
        let violations = details.precondition_failure();
        let violations = violations.map(|failure| failure.violations.clone());
        Self {
            reason: ours.and_then(|info| Reason::from_str_name(&info.reason)),
            message: status.message().to_owned(),
            hints: links
                .unwrap_or_default()
                .into_iter()
                .map(|link| link.description)
                .collect(),
            facts: ours.map(|info| info.metadata.clone()).unwrap_or_default(),
            changed: violations
                .unwrap_or_default()
                .into_iter()
                .map(|violation| Changed {
                    subject: violation.subject,
                    description: violation.description,
                })
                .collect(),
            retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let reason = refusal.reason.unwrap_or_default();
        let mut details = ErrorDetails::new();
        details.set_error_info(reason.as_str_name(), DOMAIN, refusal.facts);
        for hint in refusal.hints {
            details.add_help_link(hint, "");
        }
        for changed in refusal.changed {
            details.add_precondition_failure_violation(
                reason.as_str_name(),
                changed.subject,
                changed.description,
            );
        }
        if refusal.retry_after.is_some() {
            details.set_retry_info(refusal.retry_after);
        }
        Status::with_error_details(reason.code(), refusal.message, details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_survives_the_wire() {
        let refusal = Refusal::new(Reason::PlanStale, "the plan of site-a no longer holds")
            .hint("make a new plan: voipctl plan site-a")
            .fact("site", "site-a")
            .changed("Tenant acme", "changed by ben")
            .retry_after(Duration::from_secs(2));
        let status = Status::from(refusal.clone());
        assert_eq!(status.code(), Code::Aborted);
        assert_eq!(Refusal::of(&status), refusal);
    }

    #[test]
    fn a_status_without_details_keeps_its_message() {
        let status = Status::unavailable("connection refused");
        let read = Refusal::of(&status);
        assert_eq!(
            (read.reason, read.message.as_str()),
            (None, "connection refused")
        );
        assert!(read.hints.is_empty());
    }
}
