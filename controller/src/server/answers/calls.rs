//! Which calls have answers that may be long.

use voipfleet_protocol::identity::rights::Call;

/// Answers of one caller that are made at the same time.
pub(super) const MAKING: u32 = 2;

const SERVICE: &str = "/voipfleet.v1.Operator/";

/// The operator's call that a request's path names; none of another service.
pub(super) fn of_path(path: &str) -> Option<Call> {
    let name = path.strip_prefix(SERVICE)?;
    Call::ALL.iter().copied().find(|call| call.as_str() == name)
}

/// Whether the call reads as much as is stored, and answers at once. Streams are bounded by their
/// own backlogs, and what changes anything answers shortly.
pub(super) fn is_heavy(call: Call) -> bool {
    let streams = matches!(call, Call::WatchRollout | Call::Backup);
    !call.changes() && !streams && call != Call::WhoAmI
}

/// How many of a caller's answers the making of one counts for: those that hold whole documents
/// or rulesets are made one after the other.
pub(super) fn weight(call: Call) -> u32 {
    match call {
        Call::GetDocuments | Call::Render | Call::ShowGeneration => MAKING,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_calls() {
        let call = of_path("/voipfleet.v1.Operator/GetDocuments");
        assert_eq!(call, Some(Call::GetDocuments));
        assert_eq!(of_path("/voipfleet.v1.Fleet/Session"), None);
        assert_eq!(of_path("/voipfleet.v1.Operator/"), None);
        assert!(is_heavy(Call::GetDocuments));
        // Whoever must act at once does not wait behind readers.
        let emergency = Call::ALL.iter().filter(|call| call.is_emergency());
        assert!(!emergency.copied().any(is_heavy));
    }
}
