//! Which documents an operator may change, as they stand when it changes them.

use std::borrow::Cow;

use tonic::Status;
use voipfleet_common::identity::rights::{OperatorRole, Refusal, Sight, Use};
use voipfleet_common::policy::{Documents, Kind};

use super::Caller;

impl Caller {
    /// The documents that it may see or name, of all that are stored: what is checked against
    /// these says nothing of the others.
    pub(super) fn sees<'d>(&self, stored: &'d Documents) -> Cow<'d, Documents> {
        if self.sight.is_all() {
            return Cow::Borrowed(stored);
        }
        Cow::Owned(self.sight_of(stored, self.call.role()).restrict(stored))
    }

    fn sight_of(&self, stored: &Documents, role: OperatorRole) -> Sight {
        Sight::new(&self.bindings, role, &Use::of_all(stored))
    }

    /// Whether it may store all of these documents.
    pub(super) fn may_put<'n>(
        &self,
        stored: &Documents,
        puts: impl IntoIterator<Item = (Kind, &'n str)>,
    ) -> Result<(), Status> {
        let exists = |kind, name: &str| stored.contains(kind, name);
        self.may(stored, self.call.role(), exists, puts)
    }

    /// Whether it may delete all of these documents: a site takes an admin.
    pub(super) fn may_delete<'n>(
        &self,
        stored: &Documents,
        deletes: impl IntoIterator<Item = (Kind, &'n str)>,
    ) -> Result<(), Status> {
        // Whether it is there makes no difference to the answer.
        let exists = |_, _: &str| true;
        let (sites, others): (Vec<_>, Vec<_>) = deletes
            .into_iter()
            .partition(|(kind, _)| *kind == Kind::Site);
        if !sites.is_empty() {
            let found = self.bindings.iter().map(|binding| binding.role).max();
            if found.is_none_or(|found| found < OperatorRole::Admin) {
                let needed = OperatorRole::Admin;
                let found = found.unwrap_or(OperatorRole::Viewer);
                return Err(self.refuse(&Refusal::Role { needed, found }));
            }
            self.may(stored, OperatorRole::Admin, exists, sites)?;
        }
        self.may(stored, self.call.role(), exists, others)
    }

    fn may<'n>(
        &self,
        stored: &Documents,
        role: OperatorRole,
        exists: impl Fn(Kind, &str) -> bool,
        documents: impl IntoIterator<Item = (Kind, &'n str)>,
    ) -> Result<(), Status> {
        let sight = self.sight_of(stored, role);
        documents.into_iter().try_for_each(|(kind, name)| {
            let written = sight.write(kind, name, exists(kind, name));
            written.map_err(|refusal| self.refuse(&refusal))
        })
    }
}
