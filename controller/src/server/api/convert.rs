//! Between the wire's messages and the types behind them.

use std::time::Duration;

use tonic::{Code, Status};
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

/// A push or render that did not come about.
pub(super) fn refused(error: PushError) -> Status {
    let code = match &error {
        PushError::UnknownNode(_)
        | PushError::UnknownGeneration(..)
        | PushError::Inputs(InputsError::UnknownSite(_)) => Code::NotFound,
        PushError::Compile { .. }
        | PushError::NothingBefore(_)
        | PushError::Busy { .. }
        | PushError::Waiting { .. }
        | PushError::QueueFull { .. }
        | PushError::GoingBack { .. } => Code::FailedPrecondition,
        PushError::Inputs(InputsError::Sources(_)) => Code::InvalidArgument,
        PushError::Contended(_) | PushError::Stale { .. } => Code::Aborted,
        PushError::Broken(_)
        | PushError::Store(_)
        | PushError::Inputs(InputsError::Broken(_) | InputsError::Store(_)) => Code::Internal,
    };
    match error {
        PushError::Store(error) | PushError::Inputs(InputsError::Store(error)) => {
            super::failed(error)
        }
        error => Status::new(code, crate::errors::chain(&error)),
    }
}

/// A command about a rollout that was not done.
pub(super) fn not_commanded(error: CommandError) -> Status {
    let code = match &error {
        CommandError::Store(_) => Code::Internal,
        CommandError::None(_) => Code::NotFound,
        CommandError::Refused(..) => Code::FailedPrecondition,
        CommandError::Contended(_) => Code::Aborted,
    };
    match error {
        CommandError::Store(error) => super::failed(error),
        error => Status::new(code, crate::errors::chain(&error)),
    }
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
        return Err(invalid(
            "a push takes documents in a dry run only; apply them first: voipctl apply -f PATH",
        ));
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
