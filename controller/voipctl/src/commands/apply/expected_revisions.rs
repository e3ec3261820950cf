//! The revisions that an apply expects: from its folder, its files, and the command line.

use std::num::NonZeroU64;
use std::str::FromStr;

use voipfleet_policy::Kind;
use voipfleet_proto::v1;

use super::{Applied, Change, ChangeKind, DocumentFiles};
use crate::Session;
use crate::failure::{Failure, chain};
use crate::format::count;
use crate::revision_comments;
use crate::workspace::{self, Revisions};

/// `KIND/NAME=REVISION` on the command line.
#[derive(Debug, Clone)]
pub(super) struct Expected(v1::DocumentRevision);

impl FromStr for Expected {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('=').and_then(|(shown, number)| {
            let mut found = workspace::revision(shown, number.parse().ok()?)?;
            found.kind = found.kind.parse::<Kind>().ok()?.to_string();
            Some(found)
        });
        parts.map(Self).ok_or_else(|| {
            "expected KIND/NAME=REVISION, for example tenant/acme=57; to see revisions: voipctl get \
             all"
                .to_owned()
        })
    }
}

/// The revisions at which the controller's documents must be.
#[derive(Debug)]
pub(super) struct Preconditions {
    /// The folder's base revisions.
    pub(super) revisions: Option<Revisions>,
    /// Documents with the revisions at which they must be.
    pub(super) expected: Vec<v1::DocumentRevision>,
    /// Whether the other documents must not exist yet.
    pub(super) rest_is_new: bool,
    /// Documents to delete.
    pub(super) prune: Vec<v1::DocumentRevision>,
}

impl Preconditions {
    /// The expectations of the folder, if it is one, and of revision comments in the files.
    pub(super) fn of(read: &DocumentFiles, session: &mut Session<'_>) -> Result<Self, Failure> {
        let revisions = match &read.folder {
            Some(folder) => Some(Revisions::load(folder, &session.context()?.ca)?),
            None => None,
        };
        let known = revisions.as_ref().filter(|known| !known.is_empty());
        let mut expected = known.map(Revisions::expected).unwrap_or_default();
        for source in &read.sources {
            for noted in revision_comments::of(&source.text) {
                expect(&mut expected, noted.document);
            }
        }
        Ok(Self {
            expected,
            rest_is_new: known.is_some(),
            prune: Vec::new(),
            revisions,
        })
    }

    /// The same, changed by `--expect-revision` or `--overwrite`.
    pub(super) fn with(mut self, expected: &[Expected], overwrite: bool) -> Result<Self, Failure> {
        if overwrite && !expected.is_empty() {
            return Err(Failure::input(
                "--overwrite and --expect-revision cannot be used together",
            ));
        }
        if overwrite {
            self.expected.clear();
            self.rest_is_new = false;
        }
        for Expected(one) in expected {
            let shown = workspace::shown(&one.kind, &one.name);
            self.expected
                .retain(|known| workspace::shown(&known.kind, &known.name) != shown);
            self.expected.push(one.clone());
        }
        Ok(self)
    }

    /// Documents that the folder had, and has no longer.
    pub(super) fn missing(&self, applied: &Applied) -> Vec<v1::DocumentRevision> {
        let there = applied.present();
        let known = self.revisions.iter().flat_map(Revisions::expected);
        known
            .filter(|known| !there.contains(&workspace::shown(&known.kind, &known.name)))
            .collect()
    }

    /// Reports documents that stay although the folder no longer has them.
    pub(super) fn report_missing(&self, applied: &Applied, session: &mut Session<'_>) {
        if applied.is_refused() {
            return;
        }
        let missing = self.missing(applied).len();
        if missing > 0 {
            session.console.note(&format!(
                "{} no longer in the folder, but still stored; to delete: add --prune",
                count(missing, "document")
            ));
        }
    }
}

/// Adds a file's revision. The folder may have a newer one, from its own last apply.
fn expect(expected: &mut Vec<v1::DocumentRevision>, found: v1::DocumentRevision) {
    let shown = workspace::shown(&found.kind, &found.name);
    let mut known = expected.iter_mut();
    match known.find(|known| workspace::shown(&known.kind, &known.name) == shown) {
        Some(known) => known.revision = known.revision.max(found.revision),
        None => expected.push(found),
    }
}

/// Records the new revisions in the files and the folder. The documents are stored by then, so a
/// failure is only a warning.
pub(super) fn record(read: &DocumentFiles, applied: &Applied, session: &mut Session<'_>) {
    let now = |document: &v1::DocumentRevision| {
        let named = |change: &&Change| change.kind == document.kind && change.name == document.name;
        applied
            .changes
            .iter()
            .find(named)
            .and_then(|change| change.revision)
            .map(NonZeroU64::get)
    };
    for source in &read.sources {
        if let Err(failure) = revision_comments::update(source, now) {
            session.console.warning(&format!(
                "cannot update revision comments: {}",
                chain(&failure)
            ));
        }
    }
    let Some(folder) = &read.folder else { return };
    let noted = session.context().and_then(|context| {
        let mut revisions = Revisions::load(folder, &context.ca)?;
        for change in &applied.changes {
            if change.change == ChangeKind::Deleted {
                revisions.remove(&change.shown());
            } else if let Some(revision) = change.revision {
                revisions.moved(&change.shown(), revision.get());
            }
        }
        revisions.save()
    });
    if let Err(failure) = noted {
        session.console.warning(&format!(
            "cannot record the folder's revisions: {}",
            chain(&failure)
        ));
    }
}
