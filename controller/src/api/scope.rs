//! Which documents an operator may change, as they stand when it changes them.

use std::borrow::Cow;

use tonic::Status;
use voipfleet_common::identity::rights::{Call, OperatorRole, Sight, Target, Use, Uses, decide};
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
        let sight = self.sight_of(stored, self.call.role());
        puts.into_iter().try_for_each(|(kind, name)| {
            let written = sight.write(kind, name, stored.contains(kind, name));
            written.map_err(|refusal| self.refuse(&refusal))
        })
    }

    /// Whether it may delete all of these documents. It takes what a Delete takes: a site goes by
    /// an admin's hand, and a tenant by that of a site.
    pub(super) fn may_delete<'n>(
        &self,
        stored: &Documents,
        deletes: impl IntoIterator<Item = (Kind, &'n str)>,
    ) -> Result<(), Status> {
        let uses = if self.sight.is_all() {
            Uses::new()
        } else {
            Use::of_all(stored)
        };
        deletes.into_iter().try_for_each(|(kind, name)| {
            let target = Target::Document(kind, name.to_owned());
            let decided = decide(&self.bindings, Call::Delete, &target, &uses);
            decided.map(drop).map_err(|refusal| self.refuse(&refusal))
        })
    }
}
