//! What a push or a rollback asks for.

use std::time::Duration;

use tonic::Status;
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1;
use voipfleet_proto::v1::Reason;
use voipfleet_protocol::session::Generation;

use super::fields::{invalid, parse, sources};
use super::{Caller, plan_basis};
use crate::push::{CONFIRM_WITHIN_MS, PushRequest, RequestedContent};

/// The longest wait for nodes that are offline.
const MAX_WAIT_MS: u64 = 24 * 3600 * 1000;

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
            .hint("apply them first, with voipctl apply")
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
        precondition: request.basis.map(plan_basis::precondition).transpose()?,
        ..PushRequest::new(site, caller.name.as_str())
    })
}
