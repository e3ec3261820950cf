//! Documents that were changed concurrently.

use std::num::NonZeroU64;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use voipfleet_proto::v1;

use crate::Session;
use crate::format::{Moment, count, or_null};

/// How many conflicts are shown; the rest is counted.
const SHOWN: usize = 20;

/// A document that is not at the expected revision.
#[derive(Debug, Serialize)]
pub struct Conflict {
    /// `Site`, …
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The revision on which the apply is based; `None`: it expects no such document.
    #[serde(serialize_with = "number_or_zero")]
    pub expected: Option<NonZeroU64>,
    /// The stored revision; `None`: there is no such document.
    #[serde(serialize_with = "number_or_zero")]
    pub found: Option<NonZeroU64>,
    pub changed_by: Option<String>,
    pub changed_at: Moment,
}

impl Conflict {
    pub(super) fn of(conflict: v1::DocumentConflict) -> Self {
        Self {
            kind: conflict.kind,
            name: conflict.name,
            expected: NonZeroU64::new(conflict.expected),
            found: NonZeroU64::new(conflict.found),
            changed_by: or_null(conflict.changed_by),
            changed_at: Moment::of(conflict.changed_ms),
        }
    }

    /// `tenant acme: changed by ben 5m ago (…); now at revision 31, your copy is based on 12`.
    fn describe(&self, now: Timestamp) -> String {
        let by = self
            .changed_by
            .as_ref()
            .map_or_else(String::new, |by| format!(" by {by}"));
        let at = if self.changed_at.is_known() {
            format!(" {} ({})", self.changed_at.relative(now), self.changed_at)
        } else {
            String::new()
        };
        let what = match (self.expected, self.found) {
            // Revisions of another installation, for example.
            (Some(expected), None) if self.changed_by.is_none() => {
                format!("not stored; your copy is based on revision {expected}")
            }
            (Some(expected), None) => {
                format!("deleted{by}{at}; your copy is based on revision {expected}")
            }
            (None, Some(found)) => {
                format!("created{by}{at}; now at revision {found}, your copy is new")
            }
            (Some(expected), Some(found)) => format!(
                "changed{by}{at}; now at revision {found}, your copy is based on {expected}"
            ),
            (None, None) => "changed concurrently".to_owned(),
        };
        format!("{} {}: {what}", self.kind.to_lowercase(), self.name)
    }
}

/// The wire and JSON write no revision as 0.
#[allow(
    clippy::ref_option,
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn number_or_zero<S: Serializer>(
    number: &Option<NonZeroU64>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(number.map_or(0, NonZeroU64::get))
}

/// Shows conflicts on stderr, and how to resolve them.
pub(super) fn show(conflicts: &[Conflict], session: &mut Session<'_>) {
    let Some(first) = conflicts.first() else {
        return;
    };
    for conflict in conflicts.iter().take(SHOWN) {
        let text = conflict.describe(session.now);
        session.console.note(&format!("conflict: {text}"));
    }
    if let Some(more) = conflicts.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        session
            .console
            .note(&format!("and {} more", count(more, "conflict")));
    }
    let stored = conflicts.iter().find(|conflict| conflict.found.is_some());
    let shown = stored.unwrap_or(first);
    let get = match stored {
        Some(_) => format!("{} {} -o yaml", shown.kind.to_lowercase(), shown.name),
        None => shown.kind.to_lowercase(),
    };
    session
        .console
        .hint(&format!("see the stored version: voipctl get {get}"));
    session
        .console
        .hint("to replace it with yours anyway, apply again with --overwrite");
}
