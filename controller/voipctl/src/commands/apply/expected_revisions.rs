//! What an apply stands on: the revisions that its folder, its files, or the operator names.

use std::str::FromStr;

use voipfleet_policy::Kind;
use voipfleet_proto::v1;

use super::{Applied, Change, DocumentFiles};
use crate::Session;
use crate::failure::Failure;
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
            "write KIND/NAME=REVISION, for example tenant/acme=57; `voipctl get KIND` shows \
             revisions"
                .to_owned()
        })
    }
}

/// What the controller's documents must be at.
#[derive(Debug)]
pub(super) struct Preconditions {
    /// The folder's own notes.
    pub(super) revisions: Option<Revisions>,
    /// Documents with the revision that they must be at.
    pub(super) expected: Vec<v1::DocumentRevision>,
    /// Of the others none may be there yet.
    pub(super) rest_is_new: bool,
    /// Documents that go.
    pub(super) prune: Vec<v1::DocumentRevision>,
}

impl Preconditions {
    /// What the folder stands on, if it is one; the controller's installation tells whose notes
    /// they are.
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

    /// The same with what the operator says. It may say one of two things.
    pub(super) fn with(mut self, expected: &[Expected], overwrite: bool) -> Result<Self, Failure> {
        if overwrite && !expected.is_empty() {
            return Err(Failure::input(
                "--overwrite takes whatever is there, and --expect-revision does not: use one",
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

    /// Documents that the folder had and has no longer.
    pub(super) fn missing(&self, applied: &Applied) -> Vec<v1::DocumentRevision> {
        let there = applied.present();
        let known = self.revisions.iter().flat_map(Revisions::expected);
        known
            .filter(|known| !there.contains(&workspace::shown(&known.kind, &known.name)))
            .collect()
    }

    /// Says that documents stay which the folder no longer has.
    pub(super) fn tell_missing(&self, applied: &Applied, session: &mut Session<'_>) {
        if applied.is_refused() {
            return;
        }
        let missing = self.missing(applied).len();
        if missing > 0 {
            session.console.note(&format!(
                "stored, and no longer in the folder: {}; to delete what it has lost: add \
                 --prune",
                count(missing, "document")
            ));
        }
    }
}

/// Adds what a file says. A folder may know a newer one: of its own apply.
fn expect(expected: &mut Vec<v1::DocumentRevision>, told: v1::DocumentRevision) {
    let shown = workspace::shown(&told.kind, &told.name);
    let mut known = expected.iter_mut();
    match known.find(|known| workspace::shown(&known.kind, &known.name) == shown) {
        Some(known) => known.revision = known.revision.max(told.revision),
        None => expected.push(told),
    }
}

/// Notes in the files and in the folder what they stand on now. What is stored is stored: what
/// cannot be written is only told of.
pub(super) fn note(read: &DocumentFiles, applied: &Applied, session: &mut Session<'_>) {
    let now = |document: &v1::DocumentRevision| {
        let named = |change: &&Change| {
            change.kind == document.kind && change.name == document.name && change.revision > 0
        };
        applied
            .changes
            .iter()
            .find(named)
            .map(|change| change.revision)
    };
    for source in &read.sources {
        if let Err(failure) = revision_comments::moved(source, now) {
            session.console.warning(&format!(
                "the revisions in it could not be noted: {}",
                crate::failure::chain(&failure)
            ));
        }
    }
    let Some(folder) = &read.folder else { return };
    let noted = session.context().and_then(|context| {
        let mut revisions = Revisions::load(folder, &context.ca)?;
        for change in &applied.changes {
            if change.change == "deleted" {
                revisions.remove(&change.shown());
            } else {
                revisions.moved(&change.shown(), change.revision);
            }
        }
        revisions.save()
    });
    if let Err(failure) = noted {
        session.console.warning(&format!(
            "what the folder stands on could not be noted: {}",
            crate::failure::chain(&failure)
        ));
    }
}
