//! How a machine becomes a node: it shows a join token, and its key is signed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Semaphore;
use voipfleet_proto::v1::{EnrolRequest, EnrolResponse};
use voipfleet_protocol::audit::{self, Ending, Kind, Record, Who};
use voipfleet_protocol::identity::Identity;
use voipfleet_ruleset::identifiers::NodeName;

use crate::audit::{Audit, AuditError, Event};
use crate::clock::{self, Clock};
use crate::pki::authority::Request as Csr;
use crate::pki::{Authority, Issued, PkiError, token};
use crate::records::{self, NodeId, NodeRecord, Read, TokenRecord, TokenUse};
use crate::settings::Address;
use crate::store::{Expect, Store, StoreError, keys, transact};

/// Machines that are signed for at the same time.
const AT_ONCE: usize = 8;

/// Enrols machines.
#[derive(Debug, Clone)]
pub struct Registrar {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    authority: Arc<Authority>,
    controller: Address,
    audit: Audit,
    turns: Arc<Semaphore>,
}

/// Why a machine was not enrolled. The text is for the person at the machine.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// No such id, or another secret: the answer does not reveal which.
    #[error("unknown token; ask an operator for a new one")]
    UnknownToken,
    /// Its time is over.
    #[error("the token expired at {at}; create a new one: {create}")]
    Expired {
        /// When, RFC 3339.
        at: String,
        /// The command for another one.
        create: String,
    },
    /// It was used.
    #[error("the token was used by node {node} at {at}; create a new one: {create}")]
    Used {
        /// The node that it enrolled.
        node: NodeId,
        /// When, RFC 3339.
        at: String,
        /// The command for another one.
        create: String,
    },
    /// The name is no name.
    #[error(transparent)]
    Name(#[from] voipfleet_ruleset::identifiers::InvalidName),
    /// The token is for one other name.
    #[error("the token is only for node {only}; enrol with --node {only}")]
    OtherName {
        /// The name that it is for.
        only: NodeName,
    },
    /// There is such a node.
    #[error(
        "node {0} already exists; to enrol this machine under another name: --node NAME; if it \
         replaces the old one: voipctl token create --node NAME --replaces, or voipctl delete node {0}"
    )]
    Taken(NodeId),
    /// The certificate request is not acceptable, or signing failed.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The audit log cannot be written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Too many at once.
    #[error("too many machines are enrolling; try again later")]
    Busy,
}

/// How an operator creates a token like this one.
fn create_command(token: &TokenRecord) -> String {
    let mut command = format!("voipctl token create --site {}", token.site);
    for role in &token.roles {
        command.push_str(" --role ");
        command.push_str(role.code());
    }
    command
}

impl Registrar {
    /// A registrar whose nodes will dial `controller`.
    pub fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        authority: Arc<Authority>,
        controller: Address,
        audit: Audit,
    ) -> Self {
        Self {
            store,
            clock,
            authority,
            controller,
            audit,
            turns: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Enrols one machine. The same key with the same token may ask again until the token's end,
    /// as long as the node is there: an answer that was lost on the way must not cost the token.
    pub async fn enrol(&self, request: &EnrolRequest) -> Result<EnrolResponse, EnrolError> {
        let _turn = self.turns.try_acquire().map_err(|_| EnrolError::Busy)?;
        let token_key = keys::token(&request.token_id);
        let announced = AtomicBool::new(false);
        let enrolled = transact(self.store.as_ref(), "the node", async |mut tx| {
            let token = self.token(&token_key, &request.token_secret).await?;
            let id = NodeId {
                site: token.record.site.clone(),
                node: request.node.parse()?,
            };
            if let Some(only) = token.record.node.as_ref().filter(|only| **only != id.node) {
                return Err(EnrolError::OtherName { only: only.clone() });
            }
            let csr = Csr::parse(&request.csr_pem)?;
            let node_key = keys::node(&id.site, &id.node);
            let known: Option<NodeRecord> = tx.read(&node_key).await?;
            self.check_usable(&token.record, &id, &csr, known.is_some())?;
            let other = |node: &NodeRecord| {
                node.key_hash != csr.key_hash() || node.token != request.token_id
            };
            if known.as_ref().is_some_and(other) && !token.record.replaces {
                return Err(EnrolError::Taken(id));
            }
            // Before the node is a member: a member without a record is worse than a machine
            // that has to wait.
            if !announced.swap(true, Ordering::Relaxed) {
                let event = joins("Enrolling", &id, &token.record, &request.token_id);
                self.audit.append(event.record()).await?;
            }
            let issued = self.sign(csr, &id).await?;
            let now_ms = self.clock.now_ms();
            let used = TokenRecord {
                used: Some(TokenUse {
                    node: id.node.clone(),
                    at_ms: token.record.used.as_ref().map_or(now_ms, |u| u.at_ms),
                    key_hash: issued.key_hash.clone(),
                }),
                ..token.record.clone()
            };
            let node = NodeRecord {
                roles: token.record.roles.clone(),
                key_hash: issued.key_hash.clone(),
                serial: issued.serial.clone(),
                enrolled_ms: now_ms,
                expires_ms: issued.expires_ms,
                token: request.token_id.clone(),
            };
            tx.expect(token_key.clone(), Expect::At(token.revision));
            tx.put_json(&token_key, &used)?;
            tx.put_json(&node_key, &node)?;
            Ok(tx.done((id, token.record, issued)))
        })
        .await;
        let (id, token, issued) = enrolled.map_err(|error| match error {
            EnrolError::Store(StoreError::Contended { .. }) => EnrolError::Busy,
            error => error,
        })?;
        tracing::info!(node = %id, token = request.token_id, "node enrolled");
        let event = joins("Enrolled", &id, &token, &request.token_id);
        self.audit.note(event).await;
        Ok(self.answer(&id, &token, issued))
    }

    /// The token, if the secret is right.
    async fn token(&self, key: &str, secret: &str) -> Result<Read<TokenRecord>, EnrolError> {
        let found = records::read::<TokenRecord>(self.store.as_ref(), key).await?;
        // Compared without a token too: the time must not reveal whether it exists.
        let hash = found
            .as_ref()
            .map_or("-", |read| read.record.secret_hash.as_str());
        let right = token::matches(secret, hash);
        found.filter(|_| right).ok_or(EnrolError::UnknownToken)
    }

    /// A used token is good for nothing but the answer that was lost: neither for another
    /// certificate years later, nor for a node that an operator has deleted since.
    fn check_usable(
        &self,
        token: &TokenRecord,
        id: &NodeId,
        csr: &Csr,
        enrolled: bool,
    ) -> Result<(), EnrolError> {
        let ended = token.expires_ms <= self.clock.now_ms();
        if let Some(used) = &token.used {
            let same = used.node == id.node && used.key_hash == csr.key_hash();
            if same && enrolled && !ended {
                return Ok(());
            }
            return Err(EnrolError::Used {
                node: NodeId {
                    site: token.site.clone(),
                    node: used.node.clone(),
                },
                at: clock::show(used.at_ms),
                create: create_command(token),
            });
        }
        if ended {
            return Err(EnrolError::Expired {
                at: clock::show(token.expires_ms),
                create: create_command(token),
            });
        }
        Ok(())
    }

    async fn sign(&self, csr: Csr, id: &NodeId) -> Result<Issued, EnrolError> {
        let authority = Arc::clone(&self.authority);
        let now_ms = self.clock.now_ms();
        let identity = Identity::Node {
            site: id.site.clone(),
            node: id.node.clone(),
        };
        // Reads the CA's key from disk.
        let issued = tokio::task::spawn_blocking(move || authority.sign(&csr, &identity, now_ms))
            .await
            .map_err(|_| EnrolError::Busy)??;
        Ok(issued)
    }

    /// Writes down that a machine was not enrolled: of strangers a bounded number in a minute.
    pub(crate) async fn refused(&self, peer: String, node: &str, token: &str, why: String) {
        let who = Who {
            operator: String::new(),
            serial: String::new(),
            peer,
        };
        let refusal = Record {
            who: Some(who),
            objects: vec![format!("Token/{token}")],
            detail: Some(format!("node {node}")),
            result: Some(Ending::Refused),
            message: audit::text(why),
            ..Record::new(Kind::Refused, "Enrol")
        };
        self.audit.refused("", refusal).await;
    }

    fn answer(&self, id: &NodeId, token: &TokenRecord, issued: Issued) -> EnrolResponse {
        EnrolResponse {
            certificate_pem: issued.certificate_pem,
            ca_pem: self.authority.ca_pem().to_owned(),
            site: id.site.to_string(),
            node: id.node.to_string(),
            roles: token.roles.iter().map(ToString::to_string).collect(),
            controller: self.controller.to_string(),
            clock_ms: self.clock.now_ms(),
        }
    }
}

fn joins(what: &str, id: &NodeId, token: &TokenRecord, token_id: &str) -> Event {
    let roles: Vec<&str> = token.roles.iter().map(|role| role.code()).collect();
    let (roles, by) = (roles.join(", "), &token.created_by);
    Event::new(what)
        .site(&id.site)
        .object(format!("Node/{id}"))
        .detail(format!("as {roles} with token {token_id} of {by}"))
}
