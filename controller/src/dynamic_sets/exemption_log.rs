//! What fetched lists lose because a site serves it, for the audit log.

use std::collections::BTreeSet;

use voipfleet_compiler::Dropped;
use voipfleet_ruleset::identifiers::{ListName, SiteName};

use crate::audit::Event;
use crate::site_inputs::LeftOut;

/// An event for each list that loses other entries than `before`.
pub(super) fn events(site: &SiteName, before: &LeftOut, now: &LeftOut) -> Vec<(ListName, Event)> {
    let lists: BTreeSet<&ListName> = before.keys().chain(now.keys()).collect();
    let changed = lists
        .into_iter()
        .filter(|list| before.get(*list) != now.get(*list));
    let event = |list: &ListName| {
        let event = Event::new("DenyExemptions")
            .site(site)
            .object(format!("List/{list}"))
            .detail(format!(
                "not denied: {}; before: {}",
                words(now.get(list)),
                words(before.get(list))
            ));
        (list.clone(), event)
    };
    changed.map(event).collect()
}

/// `tenants 2 (203.0.113.7/32, 203.0.113.9/32)`, or `nothing`.
fn words(dropped: Option<&Vec<Dropped>>) -> String {
    let dropped: Vec<String> = dropped
        .into_iter()
        .flatten()
        .map(Dropped::to_string)
        .collect();
    match dropped.as_slice() {
        [] => "nothing".to_owned(),
        some => some.join("; "),
    }
}
