//! Certificates that end soon, as status, plan and nodes show them.

use serde::Serialize;
use voipfleet_proto::v1;

use crate::Session;
use crate::format::{Moment, first_names};

/// Certificates that one line names.
const NAMED: usize = 5;

/// A certificate; the names are a contract.
#[derive(Debug, Serialize)]
pub struct Expiry<'e> {
    what: &'e str,
    at: Moment,
}

pub fn as_json(expiries: &[v1::Expiry]) -> Vec<Expiry<'_>> {
    let expiries = expiries.iter().map(|one| Expiry {
        what: &one.what,
        at: Moment::of(one.at_ms),
    });
    expiries.collect()
}

/// Warns of those of all `sites`, each once: `certificates end soon: node site-a/sip1 in 12d, …`.
pub fn warn<'e>(sites: impl IntoIterator<Item = &'e [v1::Expiry]>, session: &mut Session<'_>) {
    let mut all: Vec<&v1::Expiry> = sites.into_iter().flatten().collect();
    all.sort_by(|a, b| (a.at_ms, &a.what).cmp(&(b.at_ms, &b.what)));
    all.dedup();
    if all.is_empty() {
        return;
    }
    let now = session.now;
    let describe = |one: &&v1::Expiry| {
        let at = Moment::of(one.at_ms);
        let ended = if at.is_past(now) { "ended " } else { "" };
        format!("{} {ended}{}", one.what, at.relative(now))
    };
    let texts: Vec<String> = all.iter().map(describe).collect();
    let texts = first_names(&texts, NAMED);
    session
        .console
        .warning(&format!("certificates end soon: {texts}"));
}
