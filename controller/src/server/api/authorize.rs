//! The one place where an operator's call is allowed or refused, and recorded in the audit log.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Response, Status};
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1::Reason;
use voipfleet_protocol::audit::{self, Ending, Kind, Record, Who};
use voipfleet_protocol::identity::Identity;
use voipfleet_protocol::identity::rights::{
    self, Allowed, Binding, Call, Target, Uses, Visibility, decide,
};
use voipfleet_ruleset::identifiers::{OperatorName, SiteName};

use super::audit_detail::AuditDetail;
use super::document_usage::DocumentUsage;
use super::failed;
use super::target::Targeted;
use crate::audit::{Audit, AuditError, ended};
use crate::clock::{Clock, show};
use crate::documents::Cache;
use crate::errors::chain;
use crate::pki::authority::Leaf;
use crate::records::{self, OperatorRecord, Read, Taken};
use crate::server::listen::Peer;
use crate::store::{Store, keys};

/// The metadata of every answer that holds the request's id.
pub const REQUEST_ID: &str = "voipfleet-request";

/// Who may do what: certificates, bindings, and the audit log of every decision.
#[derive(Debug, Clone)]
pub struct Access {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) audit: Audit,
    /// Has every right whatever the store says: root on the controller's host decides, and operators
    /// cannot lock themselves out.
    pub(super) admin: OperatorName,
    pub(super) documents: Cache,
    pub(super) usage: DocumentUsage,
}

/// An operator whose call was allowed.
#[derive(Debug, Clone)]
pub struct Caller {
    pub name: OperatorName,
    /// What it sees and may change with this call.
    pub sight: Visibility,
    /// All its rights.
    pub bindings: Arc<[Binding]>,
    pub call: Call,
    pub target: Target,
    /// The request's id, as in the answer's metadata and the audit log.
    pub request: String,
    pub peer: SocketAddr,
    /// SHA-256 of its key, hexadecimal.
    pub key_hash: String,
    /// Unix time.
    pub certificate_expires_ms: u64,
    record: Arc<Mutex<Record>>,
}

impl Caller {
    fn with_record(&self, change: impl FnOnce(&mut Record)) {
        change(&mut self.record.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn record(&self) -> Record {
        let record = self.record.lock();
        record.unwrap_or_else(PoisonError::into_inner).clone()
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
        self.concerns_sites([site.to_string()]);
    }

    /// Adds sites to the result's audit record.
    pub fn concerns_sites(&self, sites: impl IntoIterator<Item = String>) {
        self.with_record(|record| {
            for site in sites {
                if !record.sites.contains(&site) {
                    record.sites.push(site);
                }
            }
        });
    }

    /// Sets the detail of the result's audit record. Never a secret.
    pub fn detail(&self, detail: impl Into<String>) {
        self.with_record(|record| record.detail = audit::text(detail));
    }

    /// Records that the call was answered but changed nothing.
    pub fn changed_nothing(&self, why: impl Into<String>) {
        self.with_record(|record| {
            record.result = Some(Ending::Failed);
            record.message = audit::text(why);
        });
    }

    /// A refusal that depends on what is stored, for the caller.
    pub fn refuse(&self, refusal: &rights::Refusal) -> Status {
        not_permitted(&self.name, self.call, refusal)
    }
}

/// An operator's request on its way to its handler: authorised first, its end recorded after.
#[derive(Debug)]
pub(super) struct AuditedRequest<'a, T> {
    access: &'a Access,
    call: Call,
    request: Request<T>,
    detail: AuditDetail,
}

impl<T: Targeted> AuditedRequest<'_, T> {
    /// With what the audit log records of the request besides its target.
    pub(super) fn detail(mut self, of: impl FnOnce(&T) -> AuditDetail) -> Self {
        self.detail = of(self.request.get_ref());
        self
    }

    /// Answers the request with `handler`, if its caller may make the call.
    pub(super) async fn answer<R, F>(
        self,
        handler: impl FnOnce(Caller, T) -> F,
    ) -> Result<Response<R>, Status>
    where
        F: Future<Output = Result<R, Status>>,
    {
        let authorized = self.access.authorize(self.call, &self.request, self.detail);
        let call = authorized.await?;
        let answer = handler(call.caller.clone(), self.request.into_inner()).await;
        call.end(answer).await
    }
}

/// A call that was allowed and, if it may change anything, is in the audit log as asked for.
///
/// It must be ended. One that is dropped before (its caller hung up) is recorded as `unknown`.
#[derive(Debug)]
pub struct AuditedCall {
    pub caller: Caller,
    audit: Audit,
    /// Whether the audit log waits for the call's result.
    open: bool,
}

impl AuditedCall {
    /// Records how the call ended, and only then gives its answer, with the request's id in the
    /// metadata.
    pub async fn end<T>(mut self, result: Result<T, Status>) -> Result<Response<T>, Status> {
        let request = self.caller.request.clone();
        if std::mem::take(&mut self.open) {
            let recorded = self.record_result(result.as_ref().err()).await;
            if !recorded && result.is_ok() {
                return Err(with_request_id(audit_incomplete(), &request));
            }
        } else if let Err(status) = &result
            && status.code() == Code::PermissionDenied
        {
            let record = refusal_record(self.caller.record(), status);
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
            Err(status) => Err(with_request_id(status, &request)),
        }
    }

    /// False: the audit log could not be written.
    async fn record_result(&self, error: Option<&Status>) -> bool {
        let record = self.caller.record();
        let ending = match error {
            None => record.result.unwrap_or(Ending::Done),
            Some(status) if status.code() == Code::PermissionDenied => Ending::Refused,
            Some(_) => Ending::Failed,
        };
        let mut record = ended(record, ending);
        if let Some(status) = error {
            record.message = audit::text(status.message());
        }
        // In a task of its own: a caller that hangs up now leaves no open record behind.
        let audit = self.audit.clone();
        let written = tokio::spawn(async move { audit.append(record).await }).await;
        matches!(written, Ok(Ok(_)))
    }
}

impl Drop for AuditedCall {
    fn drop(&mut self) {
        // Without a runtime the controller has ended; its next start closes the record.
        if let (true, Ok(runtime)) = (self.open, tokio::runtime::Handle::try_current()) {
            let record = Record {
                message: audit::text("the caller hung up before the result was known"),
                ..ended(self.caller.record(), Ending::Unknown)
            };
            let audit = self.audit.clone();
            runtime.spawn(async move {
                if let Err(error) = audit.append(record).await {
                    tracing::error!(error = %chain(&error), "audit log: result not recorded");
                }
            });
        }
    }
}

fn with_request_id(mut status: Status, request: &str) -> Status {
    if let Ok(value) = MetadataValue::try_from(request) {
        status.metadata_mut().insert(REQUEST_ID, value);
    }
    status
}

fn refusal_record(record: Record, status: &Status) -> Record {
    Record {
        kind: Kind::Refused,
        result: Some(Ending::Refused),
        message: audit::text(status.message()),
        ..record
    }
}

fn audit_incomplete() -> Status {
    let message = "the call was carried out, but its end could not be written to the audit log";
    Refusal::new(Reason::AuditIncomplete, message)
        .hint("check the controller's disk and log before trying again")
        .into()
}

pub(super) fn not_permitted(name: &OperatorName, call: Call, refusal: &rights::Refusal) -> Status {
    let message = format!("operator {name} may not {}: {refusal}", call.words());
    Refusal::new(Reason::NotPermitted, message)
        .hint("ask an admin for rights; show yours: voipctl operator whoami")
        .fact("operator", name)
        .into()
}

fn unknown_caller(name: &OperatorName) -> Status {
    let message = format!("operator {name} is unknown here, or was added again with another key");
    Refusal::new(Reason::UnknownCaller, message)
        .hint(format!(
            "ask an admin to add the operator: voipctl operator add {name} --role viewer"
        ))
        .hint("for the first admin, on the controller's host: voipfleet-controller new-admin")
        .fact("operator", name)
        .into()
}

/// Somebody has a copy of the key, or an old copy of the context file is used.
fn replaced_caller(name: &OperatorName, taken: &Taken) -> Status {
    let message = format!(
        "this certificate of operator {name} was replaced at {} by {}",
        show(taken.at_ms),
        taken.by
    );
    Refusal::new(Reason::UnknownCaller, message)
        .hint("if that was you, use the context file that was written then")
        .hint(format!(
            "if it was not, someone else has your key: have an admin take it away: voipctl operator \
             remove {name} (for the first admin, on the controller's host: voipfleet-controller \
             new-admin)"
        ))
        .fact("operator", name)
        .into()
}

fn sites_and_objects(target: &Target) -> (Vec<String>, Vec<String>) {
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

/// An operator as its certificate proves it.
struct Proven {
    name: OperatorName,
    peer: SocketAddr,
    leaf: Leaf,
}

impl Access {
    /// A request, before it is authorised.
    pub(super) fn request<T: Targeted>(
        &self,
        call: Call,
        request: Request<T>,
    ) -> AuditedRequest<'_, T> {
        AuditedRequest {
            access: self,
            call,
            request,
            detail: AuditDetail::default(),
        }
    }

    /// Allows or refuses a call; one that may change anything is in the audit log when this
    /// returns.
    async fn authorize<T: Targeted>(
        &self,
        call: Call,
        request: &Request<T>,
        detail: AuditDetail,
    ) -> Result<AuditedCall, Status> {
        let id = format!("{:016x}", rand::random::<u64>());
        let proven = match self.identify(request, call) {
            Ok(proven) => proven,
            Err(status) => return Err(self.refuse_stranger(request, call, id, status).await),
        };
        let target = request.get_ref().target()?;
        let record = asked_record(call, &target, detail, &proven, id.clone());
        let (allowed, bindings) = match self.check_rights(&proven, call, &target).await? {
            Ok(decided) => decided,
            Err(status) => {
                tracing::warn!(operator = %proven.name, %call, reason = status.message(), "call refused");
                return Err(self.refuse(&proven.leaf.key_hash, record, status).await);
            }
        };
        self.check_rate(&proven, call, &record).await?;
        let caller = Caller {
            name: proven.name,
            sight: allowed.visibility,
            bindings,
            call,
            target,
            request: id,
            peer: proven.peer,
            key_hash: proven.leaf.key_hash,
            certificate_expires_ms: proven.leaf.expires_ms,
            record: Arc::new(Mutex::new(record.clone())),
        };
        let audited = AuditedCall {
            caller,
            audit: self.audit.clone(),
            open: false,
        };
        if call.changes() && !request.get_ref().is_dry_run() {
            record_asked(audited, record).await
        } else {
            Ok(audited)
        }
    }

    /// The caller of a request: only its certificate counts.
    fn identify<T>(&self, request: &Request<T>, call: Call) -> Result<Proven, Status> {
        let peer = request.extensions().get::<Peer>().ok_or_else(|| {
            Status::from(Refusal::new(Reason::Internal, "the connection has no peer"))
        })?;
        let Some(proven) = &peer.proven else {
            let message = "this call needs a certificate";
            return Err(Refusal::new(Reason::CertificateRequired, message).into());
        };
        if proven.leaf.expires_ms <= self.clock.now_ms() {
            let message = "the certificate has expired";
            return Err(Refusal::new(Reason::CertificateExpired, message).into());
        }
        let Identity::Operator(name) = &proven.identity else {
            let identity = &proven.identity;
            tracing::warn!(peer = %peer.address, %identity, %call, "only operators may make this call");
            let message =
                format!("only operators may make this call; this certificate is for {identity}");
            return Err(Refusal::new(Reason::WrongIdentity, message).into());
        };
        Ok(Proven {
            name: name.clone(),
            peer: peer.address,
            leaf: proven.leaf.clone(),
        })
    }

    /// Decides by the operator's bindings. The outer error is a failure, the inner one a refusal.
    async fn check_rights(
        &self,
        proven: &Proven,
        call: Call,
        target: &Target,
    ) -> Result<Result<(Allowed, Arc<[Binding]>), Status>, Status> {
        let name = &proven.name;
        let Some(bindings) = self.bindings(name, &proven.leaf.key_hash).await? else {
            let record = self.operator(name).await?;
            let taken = record
                .as_ref()
                .and_then(|read| read.record.taken(&proven.leaf.key_hash));
            return Ok(Err(match taken {
                Some(taken) => replaced_caller(name, taken),
                None => unknown_caller(name),
            }));
        };
        let everything = Visibility::new(&bindings, call.role(), &Uses::new()).is_all();
        let uses = if everything {
            Arc::default()
        } else {
            self.usage.read(&self.documents).await?
        };
        Ok(decide(&bindings, call, target, &uses)
            .map(|allowed| (allowed, Arc::clone(&bindings)))
            .map_err(|refusal| not_permitted(name, call, &refusal)))
    }

    /// Refuses changes by an operator that was refused too often. Emergency calls pass: they must not
    /// wait.
    async fn check_rate(&self, proven: &Proven, call: Call, record: &Record) -> Result<(), Status> {
        let key_hash = &proven.leaf.key_hash;
        if !call.changes() || call.is_emergency() || !self.audit.floods(key_hash) {
            return Ok(());
        }
        let message = "this operator was refused too often within the last minute";
        let status = Refusal::new(Reason::RateLimited, message)
            .retry_after(crate::audit::RATE_WINDOW)
            .into();
        Err(self.refuse(key_hash, record.clone(), status).await)
    }

    /// Records a refused call of a peer that is not, or no longer, an operator.
    async fn refuse_stranger<T>(
        &self,
        request: &Request<T>,
        call: Call,
        id: String,
        status: Status,
    ) -> Status {
        let Some(peer) = request.extensions().get::<Peer>() else {
            return with_request_id(status, &id);
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
            request: Some(id),
            ..Record::new(Kind::Refused, call.as_str())
        };
        self.refuse(key, record, status).await
    }

    /// Records that a call was refused, and why.
    async fn refuse(&self, key: &str, record: Record, status: Status) -> Status {
        let status = match &record.request {
            Some(id) => with_request_id(status, id),
            None => status,
        };
        self.audit
            .refused(key, refusal_record(record, &status))
            .await;
        status
    }

    /// An operator's current rights; none for an unknown operator or key.
    pub(super) async fn bindings(
        &self,
        name: &OperatorName,
        key_hash: &str,
    ) -> Result<Option<Arc<[Binding]>>, Status> {
        let now_ms = self.clock.now_ms();
        let read = self.operator(name).await?;
        let known = read.filter(|read| read.record.has_key(key_hash, now_ms));
        Ok(known.map(|read| {
            if *name == self.admin {
                Arc::from([Binding::everything()])
            } else {
                read.record.bindings.into()
            }
        }))
    }

    async fn operator(&self, name: &OperatorName) -> Result<Option<Read<OperatorRecord>>, Status> {
        let read = records::read(self.store.as_ref(), &keys::operator(name)).await;
        read.map_err(failed)
    }
}

fn asked_record(
    call: Call,
    target: &Target,
    detail: AuditDetail,
    proven: &Proven,
    id: String,
) -> Record {
    let (sites, mut objects) = sites_and_objects(target);
    objects.extend(detail.objects);
    Record {
        who: Some(Who {
            operator: proven.name.to_string(),
            serial: proven.leaf.serial.clone(),
            peer: proven.peer.to_string(),
        }),
        request: Some(id),
        sites,
        objects,
        detail: audit::text(detail.detail),
        ..Record::new(Kind::Asked, call.as_str())
    }
}

/// Appends the record of a call that may change something.
async fn record_asked(mut audited: AuditedCall, record: Record) -> Result<AuditedCall, Status> {
    let (call, id) = (audited.caller.call, audited.caller.request.clone());
    // In a task of its own: a caller that hangs up now leaves no open record behind.
    let appending = tokio::spawn(async move {
        let seq = audited.audit.append(record).await?;
        audited.caller.with_record(|record| record.seq = seq);
        audited.open = true;
        Ok::<_, AuditError>(audited)
    });
    let unavailable = |reason: &str| {
        let message = format!("{reason}, so nothing was changed");
        let refusal = Refusal::new(Reason::AuditUnavailable, message)
            .hint("check the controller's disk and log");
        with_request_id(refusal.into(), &id)
    };
    let not_written = "the audit log cannot be written";
    match appending.await {
        Ok(Ok(audited)) => Ok(audited),
        Ok(Err(error)) => {
            tracing::error!(error = %chain(&error), %call, "audit log cannot be written; call refused");
            // A full disk is the one cause with a remedy of its own.
            let full = error.full_disk();
            Err(unavailable(full.as_deref().unwrap_or(not_written)))
        }
        Err(panic) => {
            tracing::error!(error = %panic, %call, "audit log writer panicked; call refused");
            Err(unavailable(not_written))
        }
    }
}
