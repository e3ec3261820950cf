//! The names of calls and events in the audit log, for a `--what` that found nothing.

use std::collections::BTreeSet;

use voipfleet_proto::v1;
use voipfleet_protocol::audit::Record;
use voipfleet_protocol::identity::rights::Call;

use crate::client::Controller;
use crate::failure::Failure;

/// Records that are searched for the names of events.
const RECENT: u32 = 1000;

/// Fails if there is no call, and no event in the newest records, of this name.
pub(super) async fn check(what: &str, controller: &Controller) -> Result<(), Failure> {
    let calls: BTreeSet<String> = Call::ALL
        .iter()
        .filter(|call| call.changes())
        .map(ToString::to_string)
        .collect();
    let is_call = Call::ALL
        .iter()
        .any(|call| call.as_str().eq_ignore_ascii_case(what));
    let request = v1::AuditRequest {
        limit: RECENT,
        ..v1::AuditRequest::default()
    };
    let answer = controller.answer(controller.calls().audit(request)).await?;
    let events: BTreeSet<String> = answer
        .records
        .iter()
        .filter_map(|bytes| serde_json::from_slice::<Record>(bytes).ok())
        .map(|record| record.what)
        .filter(|name| !calls.contains(name))
        .collect();
    if is_call || events.iter().any(|name| name.eq_ignore_ascii_case(what)) {
        return Ok(());
    }
    let names = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(", ");
    let mut failure = Failure::input(format!("no call or event is named {what}"))
        .detail(format!("calls: {}", names(&calls)));
    if !events.is_empty() {
        failure = failure.detail(format!("events so far: {}", names(&events)));
    }
    Err(failure.hint("names are as in the column WHAT: voipctl audit"))
}
