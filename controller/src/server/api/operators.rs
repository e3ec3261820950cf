//! Operators: adding, binding, removing, and new certificates.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::server::rpc_status::{conflict, internal};
use tonic::Status;
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1;
use voipfleet_proto::v1::Reason;
use voipfleet_protocol::identity::Identity;
use voipfleet_protocol::identity::rights::{Binding, OperatorRole, Scope};
use voipfleet_ruleset::identifiers::OperatorName;

use super::fields::{invalid, parse};
use super::{Caller, failed};
use crate::clock::Clock;
use crate::limits::MAX_OPERATORS;
use crate::pki::authority::Request as Csr;
use crate::pki::{Authority, Issued, PkiError};
use crate::records::{self, OperatorKey, OperatorRecord, Read, TokenRecord};
use crate::settings::Address;
use crate::store::{Entry, Expect, Outcome, Store, Txn, every, keys, write_batched};

/// The most bindings of an operator.
const MAX_BINDINGS: usize = 100;
/// The most sites or tenants of a binding.
const MAX_NAMES: usize = 1000;

/// How long a key still counts after it was replaced: the answer with its successor may be lost,
/// and then the caller asks again.
const REPLACED_FOR_MS: u64 = 5 * 60_000;

fn binding(asked: &v1::OperatorBinding) -> Result<Binding, Status> {
    fn names<T>(names: &[String]) -> Result<std::collections::BTreeSet<T>, Status>
    where
        T: std::str::FromStr<Err: std::fmt::Display> + Ord,
    {
        if names.len() > MAX_NAMES {
            return Err(invalid(format!("a binding names at most {MAX_NAMES}")));
        }
        names.iter().map(|name| parse(name)).collect()
    }
    let role: OperatorRole = parse(&asked.role)?;
    let scope = match (asked.all, asked.sites.is_empty(), asked.tenants.is_empty()) {
        (true, true, true) => Scope::All,
        (false, false, true) => Scope::Sites(names(&asked.sites)?),
        (false, true, false) => Scope::Tenants(names(&asked.tenants)?),
        _ => {
            return Err(invalid(
                "a binding covers everything, or sites, or tenants: exactly one of the three",
            ));
        }
    };
    if role == OperatorRole::Admin && matches!(scope, Scope::Tenants(_)) {
        let message = "an admin of a tenant would have no more rights than an operator";
        return Err(Refusal::new(Reason::InvalidRequest, message)
            .hint("use --role operator")
            .into());
    }
    Ok(Binding { role, scope })
}

fn bindings(asked: &[v1::OperatorBinding]) -> Result<Vec<Binding>, Status> {
    if asked.is_empty() {
        return Err(
            Refusal::new(Reason::InvalidRequest, "an operator needs a role")
                .hint("name one, such as --role viewer")
                .into(),
        );
    }
    if asked.len() > MAX_BINDINGS {
        return Err(invalid(format!(
            "an operator has at most {MAX_BINDINGS} bindings"
        )));
    }
    asked.iter().map(binding).collect()
}

fn shown(binding: &Binding) -> v1::OperatorBinding {
    let mut shown = v1::OperatorBinding {
        role: binding.role.to_string(),
        ..v1::OperatorBinding::default()
    };
    match &binding.scope {
        Scope::All => shown.all = true,
        Scope::Sites(names) => shown.sites = names.iter().map(ToString::to_string).collect(),
        Scope::Tenants(names) => shown.tenants = names.iter().map(ToString::to_string).collect(),
    }
    shown
}

fn words(bindings: &[Binding]) -> String {
    let bindings: Vec<String> = bindings.iter().map(ToString::to_string).collect();
    bindings.join("; ")
}

fn unknown_operator(name: &OperatorName) -> Status {
    Refusal::new(
        Reason::UnknownOperator,
        format!("there is no operator {name}"),
    )
    .hint("list the operators: voipctl operator list")
    .fact("operator", name)
    .into()
}

fn contended() -> Status {
    conflict("the operator")
}

fn key_of(issued: &Issued) -> OperatorKey {
    OperatorKey {
        key_hash: issued.key_hash.clone(),
        serial: issued.serial.clone(),
        expires_ms: issued.expires_ms,
        until_ms: None,
    }
}

/// Operators, their rights and certificates.
#[derive(Debug, Clone)]
pub(super) struct OperatorsApi {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) authority: Arc<Authority>,
    /// Where new operators connect.
    pub(super) address: Address,
    pub(super) admin: OperatorName,
}

impl OperatorsApi {
    fn report(&self, name: &OperatorName, record: Option<&OperatorRecord>) -> v1::OperatorReport {
        let first_admin = *name == self.admin;
        let everything = [Binding::everything()];
        let bindings = match record {
            Some(record) if !first_admin => &record.bindings,
            _ if first_admin => everything.as_slice(),
            _ => &[],
        };
        let keys = record
            .map(|record| record.keys.as_slice())
            .unwrap_or_default();
        v1::OperatorReport {
            name: name.to_string(),
            bindings: bindings.iter().map(shown).collect(),
            first_admin,
            added_ms: record.map_or(0, |record| record.added_ms),
            added_by: record
                .map(|record| record.added_by.clone())
                .unwrap_or_default(),
            certificate_expires_ms: keys.last().map_or(0, |key| key.expires_ms),
        }
    }

    async fn operator(&self, name: &OperatorName) -> Result<Option<Read<OperatorRecord>>, Status> {
        let read = records::read(self.store.as_ref(), &keys::operator(name)).await;
        read.map_err(failed)
    }

    async fn write_operator(
        &self,
        name: &OperatorName,
        expect: Expect,
        record: &OperatorRecord,
    ) -> Result<(), Status> {
        let key = keys::operator(name);
        let value = records::to_json(&key, record).map_err(failed)?;
        let txn = Txn::new().expect(key.clone(), expect).put(key, value);
        match self.store.commit(txn).await.map_err(failed)? {
            Outcome::Committed { .. } => Ok(()),
            Outcome::Conflict => Err(contended()),
        }
    }

    async fn sign(&self, csr: Csr, name: &OperatorName) -> Result<Issued, Status> {
        let authority = Arc::clone(&self.authority);
        let now_ms = self.clock.now_ms();
        let identity = Identity::Operator(name.clone());
        // Reads the CA's key from disk.
        let signing = tokio::task::spawn_blocking(move || authority.sign(&csr, &identity, now_ms));
        let issued = signing
            .await
            .map_err(|_| internal("the certificate could not be signed"))?;
        issued.map_err(|error| {
            tracing::error!(error = %crate::errors::chain(&error), "certificate not signed");
            internal("the certificate could not be signed")
        })
    }

    /// Signs an operator's key and writes down its rights.
    pub(super) async fn add(
        &self,
        caller: &Caller,
        request: v1::AddOperatorRequest,
    ) -> Result<v1::AddOperatorResponse, Status> {
        let name: OperatorName = parse(&request.name)?;
        caller.concerns(format!("Operator/{name}"));
        let bindings = bindings(&request.bindings)?;
        caller.detail(words(&bindings));
        let csr = csr(&request.csr_pem)?;
        if name == self.admin || self.operator(&name).await?.is_some() {
            let message = format!("operator {name} already exists");
            return Err(Refusal::new(Reason::OperatorExists, message)
                .hint("change its rights instead; see: voipctl operator bind --help")
                .hint(format!(
                    "for another key, remove it first: voipctl operator remove {name}"
                ))
                .fact("operator", name)
                .into());
        }
        let there = self
            .store
            .range(keys::ALL_OPERATORS, None, MAX_OPERATORS)
            .await;
        if there.map_err(failed)?.entries.len() >= MAX_OPERATORS {
            let message = format!("there are {MAX_OPERATORS} operators, the most that may exist");
            return Err(Refusal::new(Reason::LimitReached, message)
                .hint("remove some; list them: voipctl operator list")
                .into());
        }
        let issued = self.sign(csr, &name).await?;
        let now_ms = self.clock.now_ms();
        let mut record = OperatorRecord {
            bindings,
            keys: Vec::new(),
            taken: Vec::new(),
            added_ms: now_ms,
            added_by: caller.name.to_string(),
        };
        record.add_key(key_of(&issued), now_ms);
        self.write_operator(&name, Expect::Absent, &record).await?;
        tracing::info!(operator = %caller.name, added = %name, "operator added");
        Ok(v1::AddOperatorResponse {
            certificate_pem: issued.certificate_pem,
            ca_pem: self.authority.ca_pem().to_owned(),
            controller: self.address.to_string(),
            report: Some(self.report(&name, Some(&record))),
        })
    }

    /// Every operator, by name; the first admin among them.
    pub(super) async fn list(&self) -> Result<v1::ListOperatorsResponse, Status> {
        let entries = every(self.store.as_ref(), keys::ALL_OPERATORS).await;
        let mut operators = Vec::new();
        let read = |entry: &Entry| {
            let name = entry.key.strip_prefix(keys::ALL_OPERATORS)?;
            let name: OperatorName = name.parse().ok()?;
            Some((
                name,
                records::from_json::<OperatorRecord>(&entry.key, &entry.held),
            ))
        };
        for (name, record) in entries.map_err(failed)?.iter().filter_map(read) {
            operators.push(self.report(&name, Some(&record.map_err(failed)?)));
        }
        if !operators.iter().any(|operator| operator.first_admin) {
            operators.push(self.report(&self.admin, None));
        }
        operators.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(v1::ListOperatorsResponse { operators })
    }

    /// Gives an operator other rights, from its next call on.
    pub(super) async fn bind(
        &self,
        caller: &Caller,
        request: v1::BindOperatorRequest,
    ) -> Result<v1::BindOperatorResponse, Status> {
        let name: OperatorName = parse(&request.name)?;
        caller.concerns(format!("Operator/{name}"));
        let bindings = bindings(&request.bindings)?;
        caller.detail(words(&bindings));
        self.refuse_first_admin(&name)?;
        let read = self
            .operator(&name)
            .await?
            .ok_or_else(|| unknown_operator(&name))?;
        if name == caller.name && !bindings.contains(&Binding::everything()) {
            let message = "you cannot take away your own rights";
            return Err(Refusal::new(Reason::OwnRights, message)
                .hint("ask another admin")
                .into());
        }
        caller.detail(format!(
            "{}; before: {}",
            words(&bindings),
            words(&read.record.bindings)
        ));
        let record = OperatorRecord {
            bindings,
            ..read.record
        };
        self.write_operator(&name, Expect::At(read.revision), &record)
            .await?;
        tracing::info!(operator = %caller.name, bound = %name, "operator's rights changed");
        Ok(v1::BindOperatorResponse {
            report: Some(self.report(&name, Some(&record))),
        })
    }

    /// Forgets an operator: its certificates are refused from now on, its open streams end.
    pub(super) async fn remove(
        &self,
        caller: &Caller,
        request: &v1::RemoveOperatorRequest,
    ) -> Result<v1::RemoveOperatorResponse, Status> {
        let name: OperatorName = parse(&request.name)?;
        caller.concerns(format!("Operator/{name}"));
        self.refuse_first_admin(&name)?;
        if name == caller.name {
            let message = "you cannot remove yourself";
            return Err(Refusal::new(Reason::OwnRights, message)
                .hint("ask another admin")
                .into());
        }
        let read = self
            .operator(&name)
            .await?
            .ok_or_else(|| unknown_operator(&name))?;
        let tokens = self.open_tokens_of(&name).await?;
        let with_tokens = match tokens.len() {
            0 => String::new(),
            1 => "; 1 join token revoked".to_owned(),
            count => format!("; {count} join tokens revoked"),
        };
        caller.detail(format!("was {}{with_tokens}", words(&read.record.bindings)));
        let key = keys::operator(&name);
        let txn = Txn::new()
            .expect(key.clone(), Expect::At(read.revision))
            .delete(key);
        if self.store.commit(txn).await.map_err(failed)? == Outcome::Conflict {
            return Err(contended());
        }
        // Found again: one may have been made in between.
        let tokens: BTreeSet<String> = tokens
            .into_iter()
            .chain(self.open_tokens_of(&name).await?)
            .collect();
        let gone: Vec<_> = tokens.iter().map(|id| (keys::token(id), None)).collect();
        write_batched(self.store.as_ref(), gone)
            .await
            .map_err(failed)?;
        tracing::info!(operator = %caller.name, removed = %name, "operator removed");
        Ok(v1::RemoveOperatorResponse {
            revoked_tokens: tokens.into_iter().collect(),
        })
    }

    /// The unused join tokens that an operator made.
    async fn open_tokens_of(&self, name: &OperatorName) -> Result<Vec<String>, Status> {
        let entries = every(self.store.as_ref(), keys::ALL_TOKENS).await;
        let mut open = Vec::new();
        for entry in entries.map_err(failed)? {
            let token: TokenRecord = records::from_json(&entry.key, &entry.held).map_err(failed)?;
            if token.used.is_none()
                && token.created_by == name.as_str()
                && let Some(id) = entry.key.strip_prefix(keys::ALL_TOKENS)
            {
                open.push(id.to_owned());
            }
        }
        Ok(open)
    }

    fn refuse_first_admin(&self, name: &OperatorName) -> Result<(), Status> {
        if *name != self.admin {
            return Ok(());
        }
        let message = format!(
            "{name} is the first admin, named in the controller's controller.json, and always keeps \
             all rights"
        );
        Err(Refusal::new(Reason::FirstAdmin, message)
            .hint("to make another operator the first admin, name it there and restart the controller")
            .fact("operator", name)
            .into())
    }

    /// Signs a new key of the caller, in place of the one that it calls with: whoever has a copy of
    /// that is refused from soon after, and told why.
    pub(super) async fn renew(
        &self,
        caller: &Caller,
        request: &v1::RenewOperatorRequest,
    ) -> Result<v1::RenewOperatorResponse, Status> {
        let name = &caller.name;
        caller.concerns(format!("Operator/{name}"));
        let csr = csr(&request.csr_pem)?;
        let read = self.operator(name).await?;
        let read = read.ok_or_else(|| unknown_operator(name))?;
        let issued = self.sign(csr, name).await?;
        let now_ms = self.clock.now_ms();
        let mut record = read.record;
        let by = format!("a renewal from {}", caller.peer.ip());
        let until_ms = now_ms.saturating_add(REPLACED_FOR_MS);
        record.replace_key(&caller.key_hash, now_ms, until_ms, &by);
        record.add_key(key_of(&issued), now_ms);
        self.write_operator(name, Expect::At(read.revision), &record)
            .await?;
        tracing::info!(operator = %name, serial = issued.serial, "certificate renewed");
        caller.detail(format!(
            "serial {}; the certificate of this call counts no longer",
            issued.serial
        ));
        Ok(v1::RenewOperatorResponse {
            certificate_pem: issued.certificate_pem,
            ca_pem: self.authority.ca_pem().to_owned(),
            controller: self.address.to_string(),
            certificate_expires_ms: issued.expires_ms,
        })
    }

    /// The caller itself.
    pub(super) async fn who_am_i(&self, caller: &Caller) -> Result<v1::WhoAmIResponse, Status> {
        let read = self.operator(&caller.name).await?;
        Ok(v1::WhoAmIResponse {
            report: Some(self.report(&caller.name, read.as_ref().map(|read| &read.record))),
            certificate_expires_ms: caller.certificate_expires_ms,
            peer: caller.peer.to_string(),
        })
    }
}

fn csr(pem: &str) -> Result<Csr, Status> {
    Csr::parse(pem).map_err(|error| match error {
        PkiError::Request(_) => invalid(error),
        error => {
            tracing::error!(error = %crate::errors::chain(&error), "cannot read a certificate request");
            internal("the certificate request could not be read")
        }
    })
}
