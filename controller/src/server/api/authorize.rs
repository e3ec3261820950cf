//! The one place where an operator's call is allowed or refused, and written down.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Response, Status};
use voipfleet_protocol::audit::{Ending, Kind, Record, Who};
use voipfleet_protocol::identity::Identity;
use voipfleet_protocol::identity::rights::{Binding, Call, Refusal, Sight, Target, Uses, decide};
use voipfleet_ruleset::identifiers::{OperatorName, SiteName};

use super::audit_detail::Asks;
use super::{Api, convert, failed};
use crate::audit::{Audit, ended};
use crate::errors::chain;
use crate::pki::authority::Leaf;
use crate::records::{self, OperatorRecord, Read};
use crate::server::listen::Peer;
use crate::store::keys;

/// The metadata of every answer that tells the number of the request.
pub const REQUEST_ID: &str = "voipfleet-request";

/// An operator whose call was allowed.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Its name.
    pub name: OperatorName,
    /// What it sees and may touch with this call.
    pub sight: Sight,
    /// What it may do altogether.
    pub bindings: Arc<[Binding]>,
    /// The call.
    pub call: Call,
    /// What the call is about.
    pub target: Target,
    /// The number of the request, as the caller is told.
    pub request: String,
    /// Where it called from.
    pub peer: SocketAddr,
    /// SHA-256 of its key, hexadecimal.
    pub key_hash: String,
    /// When its certificate ends, Unix time.
    pub certificate_expires_ms: u64,
    record: Arc<Mutex<Record>>,
}

impl Caller {
    fn with_record(&self, change: impl FnOnce(&mut Record)) {
        change(&mut self.record.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Writes the site's generation before and after into the result's audit record.
    pub fn generations(&self, before: Option<u64>, after: Option<u64>) {
        self.with_record(|record| {
            record.before = before;
            record.after = after;
        });
    }

    /// Adds a document, node or operator (`Tenant/acme`) to the result's audit record.
    pub fn concerns(&self, object: impl Into<String>) {
        let object = object.into();
        self.with_record(|record| {
            if !record.objects.contains(&object) {
                record.objects.push(object);
            }
        });
    }

    /// Adds a site to the result's audit record.
    pub fn concerns_site(&self, site: &SiteName) {
        self.with_record(|record| {
            if !record.sites.iter().any(|known| known == site.as_str()) {
                record.sites.push(site.to_string());
            }
        });
    }

    /// Says more in the result's audit record. Never a secret.
    pub fn detail(&self, detail: impl Into<String>) {
        self.with_record(|record| record.detail = detail.into());
    }

    /// The answer tells that nothing was changed: the result's audit record says so too.
    pub fn changed_nothing(&self, why: impl Into<String>) {
        self.with_record(|record| {
            record.result = Some(Ending::Failed);
            record.message = why.into();
        });
    }

    /// What a refusal that depends on what is stored looks like to the caller.
    pub fn refuse(&self, refusal: &Refusal) -> Status {
        refused(&self.name, self.call, refusal)
    }
}

/// What a call is about, or why the request does not say it.
pub(super) trait About {
    /// The target.
    fn target(self) -> Result<Target, Status>;
}

impl About for Target {
    fn target(self) -> Result<Target, Status> {
        Ok(self)
    }
}

impl About for Result<Target, Status> {
    fn target(self) -> Result<Target, Status> {
        self
    }
}

/// The site that a request names; without one whatever its caller may see.
pub(super) fn site(name: &str) -> Result<Target, Status> {
    match name {
        "" => Ok(Target::Visible),
        name => convert::parse(name).map(Target::site),
    }
}

/// A call that was allowed and, if it may change anything, written down as asked for.
///
/// It must be ended. One that is dropped before (its caller hung up) ends as `unknown`.
#[derive(Debug)]
pub struct Begun {
    /// Who calls.
    pub caller: Caller,
    audit: Audit,
    open: bool,
}

impl Begun {
    /// Writes down how the call ended, and only then gives its answer, with the number of the
    /// request in the metadata.
    pub async fn end<T>(mut self, result: Result<T, Status>) -> Result<Response<T>, Status> {
        let request = self.caller.request.clone();
        let record = {
            let record = self.caller.record.lock();
            record.unwrap_or_else(PoisonError::into_inner).clone()
        };
        let refused = result
            .as_ref()
            .err()
            .filter(|status| status.code() == Code::PermissionDenied);
        if std::mem::take(&mut self.open) {
            let ending = match &result {
                Ok(_) => record.result.unwrap_or(Ending::Done),
                Err(_) if refused.is_some() => Ending::Refused,
                Err(_) => Ending::Failed,
            };
            let mut record = ended(record, ending);
            if let Err(status) = &result {
                status.message().clone_into(&mut record.message);
            }
            // On a task of its own: a caller who hangs up now leaves no record open.
            let audit = self.audit.clone();
            let written = tokio::spawn(async move { audit.append(record).await }).await;
            if !matches!(written, Ok(Ok(_))) && result.is_ok() {
                return Err(marked(
                    Status::internal(
                        "it was done, but its end could not be written into the audit log; look \
                         at the controller's disk and log before you try again",
                    ),
                    &request,
                ));
            }
        } else if let Some(status) = refused {
            let mut record = record;
            record.kind = Kind::Refused;
            record.result = Some(Ending::Refused);
            status.message().clone_into(&mut record.message);
            self.audit.refused(&self.caller.key_hash, record).await;
        }
        match result {
            Ok(answer) => {
                let mut response = Response::new(answer);
                if let Ok(value) = MetadataValue::try_from(&request) {
                    response.metadata_mut().insert(REQUEST_ID, value);
                }
                Ok(response)
            }
            Err(status) => Err(marked(status, &request)),
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        // Without a runtime the controller has ended; its next start closes the record.
        if let (true, Ok(runtime)) = (self.open, tokio::runtime::Handle::try_current()) {
            let record = self.caller.record.lock();
            let record = record.unwrap_or_else(PoisonError::into_inner).clone();
            let record = Record {
                message: "the caller hung up before the result was known".to_owned(),
                ..ended(record, Ending::Unknown)
            };
            let audit = self.audit.clone();
            runtime.spawn(async move {
                if let Err(error) = audit.append(record).await {
                    tracing::error!(error = %chain(&error), "a result is missing in the audit log");
                }
            });
        }
    }
}

fn marked(mut status: Status, request: &str) -> Status {
    if let Ok(value) = MetadataValue::try_from(request) {
        status.metadata_mut().insert(REQUEST_ID, value);
    }
    status
}

pub(super) fn refused(name: &OperatorName, call: Call, refusal: &Refusal) -> Status {
    Status::permission_denied(format!(
        "operator {name} may not {}: {refusal}; an admin gives rights: voipctl operator bind {name}",
        call.words()
    ))
}

/// What an unknown operator is told.
fn unknown(name: &OperatorName) -> Status {
    Status::permission_denied(format!(
        "operator {name} is not known here, or was added again with another key; an admin adds \
         operators: voipctl operator add {name} --role ROLE. The first admin is named in the \
         controller's controller.json"
    ))
}

fn objects(target: &Target) -> (Vec<String>, Vec<String>) {
    match target {
        Target::Visible | Target::Installation => (Vec::new(), Vec::new()),
        Target::Sites(sites) => (sites.iter().map(ToString::to_string).collect(), Vec::new()),
        Target::Node(site, node) => (vec![site.to_string()], vec![format!("Node/{site}/{node}")]),
        Target::Document(kind, name) => {
            let name: String = name.chars().take(80).collect();
            (Vec::new(), vec![format!("{kind}/{name}")])
        }
    }
}

impl Api {
    /// Writes down that somebody called who is no operator, or is one no more.
    async fn refuse_stranger<T>(
        &self,
        request: &Request<T>,
        call: Call,
        number: String,
        status: Status,
    ) -> Status {
        let Some(peer) = request.extensions().get::<Peer>() else {
            return marked(status, &number);
        };
        let proven = peer.proven.as_ref();
        let key = proven.map_or("", |proven| proven.leaf.key_hash.as_str());
        let who = Who {
            operator: proven.map_or_else(String::new, |proven| proven.identity.to_string()),
            serial: proven.map_or_else(String::new, |proven| proven.leaf.serial.clone()),
            peer: peer.address.to_string(),
        };
        let record = Record {
            who: Some(who),
            request: number,
            ..Record::new(Kind::Refused, call.as_str())
        };
        self.refuse(key, record, status).await
    }

    /// Writes down that a call was refused, and why.
    async fn refuse(&self, key: &str, record: Record, status: Status) -> Status {
        let status = marked(status, &record.request);
        let refusal = Record {
            kind: Kind::Refused,
            result: Some(Ending::Refused),
            message: status.message().to_owned(),
            ..record
        };
        self.audit.refused(key, refusal).await;
        status
    }

    /// Whom a request comes from: only the certificate counts.
    fn proven<T>(
        &self,
        request: &Request<T>,
        call: Call,
    ) -> Result<(OperatorName, Peer, Leaf), Status> {
        let peer = request
            .extensions()
            .get::<Peer>()
            .ok_or_else(|| Status::internal("the connection has no peer"))?;
        let Some(proven) = &peer.proven else {
            return Err(Status::unauthenticated("this call needs a certificate"));
        };
        if proven.leaf.expires_ms <= self.clock.now_ms() {
            return Err(Status::unauthenticated("its certificate has expired"));
        }
        let Identity::Operator(name) = &proven.identity else {
            let identity = &proven.identity;
            tracing::warn!(peer = %peer.address, %identity, %call, "only operators may make this call");
            return Err(Status::permission_denied(format!(
                "only operators may make this call, and this certificate is of {identity}"
            )));
        };
        Ok((name.clone(), peer.clone(), proven.leaf.clone()))
    }

    /// What an operator may do, as it stands now; none: nobody knows it.
    pub(super) async fn bindings(
        &self,
        name: &OperatorName,
        key_hash: &str,
    ) -> Result<Option<Arc<[Binding]>>, Status> {
        if *name == self.admin {
            return Ok(Some(Arc::from([Binding::everything()])));
        }
        let key = keys::operator(name);
        let read: Option<Read<OperatorRecord>> = records::read(self.store.as_ref(), &key)
            .await
            .map_err(failed)?;
        Ok(read
            .filter(|read| read.record.keys.iter().any(|key| key.key_hash == key_hash))
            .map(|read| read.record.bindings.into()))
    }

    /// Allows or refuses a call; one that may change anything is in the audit log when this
    /// returns.
    pub(super) async fn begin<T: Asks>(
        &self,
        request: &Request<T>,
        call: Call,
        about: impl About,
    ) -> Result<Begun, Status> {
        let number = format!("{:016x}", rand::random::<u64>());
        let (name, peer, leaf) = match self.proven(request, call) {
            Ok(proven) => proven,
            Err(status) => {
                return Err(self.refuse_stranger(request, call, number, status).await);
            }
        };
        let who = Who {
            operator: name.to_string(),
            serial: leaf.serial.clone(),
            peer: peer.address.to_string(),
        };
        let target = about.target()?;
        let (sites, mut objects) = objects(&target);
        let words = request.get_ref().words();
        objects.extend(words.objects);
        let record = Record {
            who: Some(who),
            request: number.clone(),
            sites,
            objects,
            detail: words.detail,
            ..Record::new(Kind::Asked, call.as_str())
        };
        let bindings = self.bindings(&name, &leaf.key_hash).await?;
        let decided = match &bindings {
            None => Err(unknown(&name)),
            Some(bindings) => {
                let all = Sight::new(bindings, call.role(), &Uses::new()).is_all();
                let uses = if all {
                    Arc::default()
                } else {
                    self.uses().await?
                };
                decide(bindings, call, &target, &uses)
                    .map_err(|refusal| refused(&name, call, &refusal))
            }
        };
        let (allowed, bindings) = match (decided, bindings) {
            (Ok(allowed), Some(bindings)) => (allowed, bindings),
            (Ok(_), None) => return Err(marked(unknown(&name), &number)),
            (Err(status), _) => {
                tracing::warn!(operator = %name, %call, reason = status.message(), "call refused");
                return Err(self.refuse(&leaf.key_hash, record, status).await);
            }
        };
        // Whoever has to cut somebody off in that minute must not wait for its end.
        if call.changes() && !call.is_emergency() && self.audit.floods(&leaf.key_hash) {
            let status = Status::resource_exhausted(
                "this operator was refused too often within a minute; wait one",
            );
            return Err(self.refuse(&leaf.key_hash, record, status).await);
        }
        let caller = Caller {
            name,
            sight: allowed.sight,
            bindings,
            call,
            target,
            request: number.clone(),
            peer: peer.address,
            key_hash: leaf.key_hash,
            certificate_expires_ms: leaf.expires_ms,
            record: Arc::new(Mutex::new(record.clone())),
        };
        let audit = self.audit.clone();
        if !call.changes() {
            let open = false;
            return Ok(Begun {
                caller,
                audit,
                open,
            });
        }
        // On a task of its own: a caller who hangs up now leaves no record open.
        let asking = tokio::spawn(async move {
            let seq = audit.append(record).await?;
            caller.with_record(|record| record.seq = seq);
            let open = true;
            Ok::<_, crate::audit::AuditError>(Begun {
                caller,
                audit,
                open,
            })
        });
        let begun = asking
            .await
            .map_err(|_| Status::internal("the audit log broke"))?;
        begun.map_err(|error| {
            tracing::error!(error = %chain(&error), %call, "a call was refused: the audit log cannot be written");
            let message = "the audit log cannot be written, so nothing was changed; look at the \
                           controller's disk and log";
            marked(Status::unavailable(message), &number)
        })
    }
}
