//! Between the wire's messages and the types behind them.

use std::time::Duration;
use voipfleet_ruleset::identifiers::SiteName;

use tonic::Status;
use voipfleet_policy as policy;
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1;
use voipfleet_proto::v1::Reason;
use voipfleet_protocol::session::Generation;

use super::Caller;
use crate::push::{CONFIRM_WITHIN_MS, PushError, PushRequest, RequestedContent};
use crate::rollout::CommandError;
use crate::site_inputs::InputsError;

/// Sources in one request.
const MAX_SOURCES: usize = 10_000;
/// The longest wait for nodes that are offline.
const MAX_WAIT_MS: u64 = 24 * 3600 * 1000;

/// A wrong value in a request.
pub(super) fn invalid(error: impl std::fmt::Display) -> Status {
    Refusal::new(Reason::InvalidRequest, error.to_string()).into()
}

/// Parses a name or number.
pub(super) fn parse<T>(text: &str) -> Result<T, Status>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    text.parse().map_err(invalid)
}

/// Files as an operator wrote them.
pub(super) fn sources(sources: Vec<v1::Source>) -> Result<Vec<policy::Source>, Status> {
    if sources.len() > MAX_SOURCES {
        let message = format!("more than {MAX_SOURCES} files in one request");
        return Err(Refusal::new(Reason::InvalidRequest, message)
            .hint("apply them in parts")
            .into());
    }
    let source = |source: v1::Source| policy::Source {
        path: source.path,
        text: source.text,
    };
    Ok(sources.into_iter().map(source).collect())
}

/// A mistake in a document.
pub(super) fn diagnostic(found: policy::Diagnostic) -> v1::Diagnostic {
    v1::Diagnostic {
        severity: match found.severity {
            policy::Severity::Error => v1::Severity::Error,
            policy::Severity::Warning => v1::Severity::Warning,
        }
        .into(),
        path: found.path,
        offset: found.offset as u64,
        length: found.length as u64,
        line: found.line,
        column: found.column,
        message: found.message,
        label: found.label,
        help: found.help,
    }
}

/// A failed push, plan or render.
pub(super) fn refused(error: PushError) -> Status {
    let message = crate::errors::chain(&error);
    let refusal = |reason| Refusal::new(reason, message.clone());
    match error {
        PushError::Store(error) | PushError::Inputs(InputsError::Store(error)) => {
            return super::failed(error);
        }
        PushError::Inputs(InputsError::UnknownSite(site)) => refusal(Reason::UnknownSite)
            .hint("apply a document of kind Site with that name first: voipctl apply -f PATH")
            .fact("site", site),
        PushError::Inputs(InputsError::Sources(_)) => {
            refusal(Reason::InvalidDocuments).hint("show all of them: voipctl apply --dry-run")
        }
        PushError::Inputs(InputsError::Broken(site)) | PushError::Broken(site) => {
            refusal(Reason::Internal)
                .hint("check the controller's log")
                .fact("site", site)
        }
        PushError::UnknownNode(node) => refusal(Reason::UnknownNode)
            .hint("list the nodes: voipctl nodes")
            .fact("node", node),
        PushError::UnknownGeneration(site, number) => refusal(Reason::UnknownGeneration)
            .hint(format!("list the generations: voipctl history {site}"))
            .fact("site", site)
            .fact("generation", number),
        PushError::Compile { site, .. } => refusal(Reason::DoesNotCompile).fact("site", site),
        PushError::NothingBefore(site) => refusal(Reason::NoEarlierGeneration)
            .hint(format!("list the generations: voipctl history {site}"))
            .hint(format!("choose one: voipctl rollback {site} --to GEN"))
            .fact("site", site),
        PushError::Busy {
            site,
            generation,
            by,
            state,
            since,
        } => refusal(Reason::RolloutActive)
            .hint(format!("watch it: voipctl rollout watch {site}"))
            .hint(format!("push after it: voipctl push {site} --queue"))
            .hint(format!("end it: voipctl rollout abort {site}"))
            .fact("site", site)
            .fact("generation", generation)
            .fact("by", by)
            .fact("state", state)
            .fact("since", since),
        PushError::Waiting { site, .. } => refusal(Reason::PushesQueued)
            .hint(format!("push after them: voipctl push {site} --queue"))
            .hint(format!("show them: voipctl rollout status {site}"))
            .fact("site", site),
        PushError::QueueFull { site } => refusal(Reason::QueueFull)
            .hint(format!(
                "wait for some of them: voipctl rollout status {site}"
            ))
            .fact("site", site),
        PushError::GoingBack { site, generation } => refusal(Reason::RollingBack)
            .hint(format!("see why: voipctl rollout status {site}"))
            .hint(format!(
                "when it has ended, push again: voipctl push {site}"
            ))
            .fact("site", site)
            .fact("generation", generation),
        PushError::Contended(site) => refusal(Reason::Conflict).fact("site", site),
        PushError::Stale { site, .. } => refusal(Reason::PlanStale)
            .hint(format!("make a new plan: voipctl plan {site}"))
            .fact("site", site),
    }
    .into()
}

/// A refused or failed command about a rollout.
pub(super) fn not_commanded(error: CommandError) -> Status {
    let message = crate::errors::chain(&error);
    let (reason, site) = match error {
        CommandError::Store(error) => return super::failed(error),
        CommandError::None(site) => return no_rollout(&site),
        CommandError::Refused(site, _) => (Reason::RolloutState, site),
        CommandError::Contended(site) => (Reason::Conflict, site),
    };
    Refusal::new(reason, message).fact("site", site).into()
}

pub(super) fn no_rollout(site: &SiteName) -> Status {
    Refusal::new(Reason::NoRollout, format!("site {site} has no rollout"))
        .hint(format!("start one: voipctl push {site}"))
        .fact("site", site)
        .into()
}

/// What a rollback asks for.
pub(super) fn rollback(
    caller: &Caller,
    request: &v1::RollbackRequest,
) -> Result<PushRequest, Status> {
    let push = v1::PushRequest {
        site: request.site.clone(),
        wait_offline_ms: request.wait_offline_ms,
        confirm_within_ms: request.confirm_within_ms,
        dry_run: request.dry_run,
        basis: request.basis.clone(),
        ..v1::PushRequest::default()
    };
    Ok(PushRequest {
        content: earlier(request.to),
        ..push_request(caller, push)?
    })
}

/// The generation that a rollback asks for; 0: none is named.
pub(super) fn earlier(to: Generation) -> RequestedContent {
    match to {
        0 => RequestedContent::LastGood,
        to => RequestedContent::Generation(to),
    }
}

/// What a push asks for.
pub(super) fn push_request(
    caller: &Caller,
    request: v1::PushRequest,
) -> Result<PushRequest, Status> {
    let confirm_within_ms = (request.confirm_within_ms != 0).then_some(request.confirm_within_ms);
    if confirm_within_ms.is_some_and(|ms| !CONFIRM_WITHIN_MS.contains(&ms)) {
        return Err(invalid("confirm_within must be between 100 ms and 1 h"));
    }
    if request.wait_offline_ms > MAX_WAIT_MS {
        return Err(invalid("the wait for offline nodes must be at most 24 h"));
    }
    if !request.sources.is_empty() && !request.dry_run {
        let message = "a push takes documents only in a dry run";
        return Err(Refusal::new(Reason::InvalidRequest, message)
            .hint("apply them first: voipctl apply -f PATH")
            .into());
    }
    let site = parse(&request.site)?;
    if request
        .basis
        .as_ref()
        .is_some_and(|basis| basis.site != request.site)
    {
        return Err(invalid("the plan is of another site"));
    }
    Ok(PushRequest {
        confirm_within_ms,
        wait_offline: Duration::from_millis(request.wait_offline_ms),
        dry_run: request.dry_run,
        rehearse: request.rehearse,
        sources: sources(request.sources)?,
        precondition: request.basis.map(super::plan::precondition).transpose()?,
        ..PushRequest::new(site, caller.name.as_str())
    })
}
