//! Documents that somebody else has changed.

use serde::Serialize;
use voipfleet_proto::v1;

use crate::Session;
use crate::format::{Moment, or_null, printable};

/// The most conflicts that are shown one by one.
const SHOWN: usize = 20;

/// A document that is not what the apply stands on.
#[derive(Debug, Serialize)]
pub struct Conflict {
    /// `Site`, …
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The revision that the apply stands on; 0: that there is none.
    pub expected: u64,
    /// The revision that the controller has; 0: it was deleted.
    pub found: u64,
    /// Who changed it.
    pub changed_by: Option<String>,
    /// When.
    pub changed_at: Moment,
}

impl Conflict {
    pub(super) fn of(conflict: v1::DocumentConflict) -> Self {
        Self {
            kind: conflict.kind,
            name: conflict.name,
            expected: conflict.expected,
            found: conflict.found,
            changed_by: or_null(conflict.changed_by),
            changed_at: Moment::of(conflict.changed_ms),
        }
    }

    fn words(&self, session: &Session<'_>) -> String {
        let who = self.changed_by.as_deref().unwrap_or("somebody");
        let when = if self.changed_at == Moment::of(0) {
            String::new()
        } else {
            let relative = self.changed_at.relative(session.now);
            format!(" {relative} ({})", self.changed_at)
        };
        let did = match (self.expected, self.found, &self.changed_by) {
            // Of another installation's revisions, say.
            (_, 0, None) => "is not stored".to_owned(),
            (_, 0, _) => format!("was deleted by {who}{when}"),
            (0, _, _) => format!("was made by {who}{when}"),
            _ => format!("was changed by {who}{when}"),
        };
        let stands = match (self.expected, self.found) {
            (expected, 0) => format!("you stand on revision {expected}"),
            (0, found) => format!("it is at revision {found}, and is new to you"),
            (expected, found) => {
                format!("it is at revision {found}, and you stand on {expected}")
            }
        };
        format!("{} {} {did}; {stands}", self.kind.to_lowercase(), self.name)
    }
}

/// Shows conflicts on stderr, and the ways out.
pub(super) fn show(conflicts: &[Conflict], session: &mut Session<'_>) {
    let Some(first) = conflicts.first() else {
        return;
    };
    for conflict in conflicts.iter().take(SHOWN) {
        let words = conflict.words(session);
        session
            .console
            .note(&format!("conflict: {}", printable(&words)));
    }
    if conflicts.len() > SHOWN {
        let more = conflicts.len() - SHOWN;
        session.console.note(&format!("… and {more} more"));
    }
    let document = format!("{} {}", first.kind.to_lowercase(), first.name);
    session.console.hint(&format!(
        "see what is there now, or edit that instead: voipctl get {document} -o yaml; bring a \
         folder up to date: voipctl export DIR; to replace it all the same: voipctl apply \
         --overwrite"
    ));
}
