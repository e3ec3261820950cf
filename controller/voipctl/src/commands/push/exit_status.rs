//! The exit status of a push.

use std::collections::BTreeSet;

use voipfleet_proto::v1;

use crate::failure::ExitStatus;

/// Done only if every node runs the site's generation.
pub(super) fn of_site(done: &v1::PushDone) -> ExitStatus {
    if done.failed + done.rolled_back + done.offline + done.waiting == 0 {
        ExitStatus::Done
    } else {
        ExitStatus::NotEverywhere
    }
}

/// The status of several sites: their common one, otherwise that it did not succeed everywhere.
/// `stored`: documents were stored first, so the push did not leave everything unchanged.
pub(super) fn of_sites(sites: &BTreeSet<ExitStatus>, stored: bool) -> ExitStatus {
    let mut sites = sites.iter();
    match (sites.next(), sites.next()) {
        (None, _) => ExitStatus::Done,
        (Some(ExitStatus::BadInput), None) if stored => ExitStatus::NotEverywhere,
        (Some(status), None) => *status,
        _ => ExitStatus::NotEverywhere,
    }
}
