//! Which documents an operator may change, as they are when it changes them.

use std::borrow::Cow;

use tonic::Status;
use voipfleet_policy::{Documents, Kind};
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1;
use voipfleet_proto::v1::Reason;
use voipfleet_protocol::identity::rights::{
    Call, OperatorRole, Target, Use, Uses, Visibility, decide,
};

use super::{Caller, DocumentsApi};

impl DocumentsApi {
    /// Checks documents that a caller gives without storing them: against what it may see, and
    /// that it might store them. After that a check against everything that is stored has
    /// nothing of others to reveal.
    pub(super) async fn check_given(
        &self,
        caller: &Caller,
        sources: &[v1::Source],
    ) -> Result<(), Status> {
        if sources.is_empty() || caller.sight.is_all() {
            return Ok(());
        }
        let request = v1::ApplyRequest {
            sources: sources.to_vec(),
            dry_run: true,
            ..v1::ApplyRequest::default()
        };
        let answer = self.apply(caller, request).await?;
        let mut errors = answer.diagnostics.iter();
        match errors.find(|found| found.severity() == v1::Severity::Error) {
            None => Ok(()),
            Some(first) => {
                let message = format!(
                    "the given documents have errors, the first in {}:{}: {}",
                    first.path, first.line, first.message
                );
                Err(Refusal::new(Reason::InvalidDocuments, message)
                    .hint("show all of them: voipctl apply --dry-run")
                    .into())
            }
        }
    }
}

impl Caller {
    /// The documents that it may see or name, of all that are stored: what is checked against
    /// these reveals nothing of the others.
    pub(super) fn sees<'d>(&self, stored: &'d Documents) -> Cow<'d, Documents> {
        if self.sight.is_all() {
            return Cow::Borrowed(stored);
        }
        Cow::Owned(restrict(&self.sight_of(stored, self.call.role()), stored))
    }

    fn sight_of(&self, stored: &Documents, role: OperatorRole) -> Visibility {
        Visibility::new(&self.bindings, role, &uses_of(stored))
    }

    /// Whether it may store all of these documents.
    pub(super) fn may_put<'n>(
        &self,
        stored: &Documents,
        puts: impl IntoIterator<Item = (Kind, &'n str)>,
    ) -> Result<(), Status> {
        let sight = self.sight_of(stored, self.call.role());
        // Who may store no new document anyway does not learn from the answer which names are taken.
        let may_create = self.sight_of(stored, OperatorRole::Operator).has_sites();
        puts.into_iter().try_for_each(|(kind, name)| {
            let exists = !may_create || stored.contains(kind, name);
            let written = sight.write(kind, name, exists);
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
            uses_of(stored)
        };
        deletes.into_iter().try_for_each(|(kind, name)| {
            let target = Target::Document(kind, name.to_owned());
            let decided = decide(&self.bindings, Call::Delete, &target, &uses);
            decided.map(drop).map_err(|refusal| self.refuse(&refusal))
        })
    }
}

/// What the sites of `documents` name.
fn uses_of(documents: &Documents) -> Uses {
    let sites = documents.sites.values();
    sites
        .map(|site| (site.name.clone(), Use::new(site.needs())))
        .collect()
}

/// The documents that may be read, of all that are stored; and with a site, those that its
/// document may name.
fn restrict(sight: &Visibility, documents: &Documents) -> Documents {
    let mut seen = Documents::default();
    for (name, site) in &documents.sites {
        if sight.whole_site(name) {
            seen.sites.insert(name.clone(), site.clone());
        }
    }
    for (name, tenant) in &documents.tenants {
        if sight.tenant(name) {
            seen.tenants.insert(name.clone(), tenant.clone());
        }
    }
    if sight.has_sites() {
        seen.providers.clone_from(&documents.providers);
        seen.lists.clone_from(&documents.lists);
    }
    seen
}
