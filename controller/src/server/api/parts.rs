//! Building the operator service from the parts of a controller.

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};
use voipfleet_ruleset::identifiers::OperatorName;

use super::document_usage::DocumentUsage;
use super::expiries::Expiries;
use super::service::OperatorService;
use super::{
    Access, AuditApi, BackupApi, DocumentsApi, EmergencyApi, FleetApi, OperatorsApi, PlanApi,
    PushApi, SourcesApi, TokensApi,
};
use crate::audit::Audit;
use crate::clock::Clock;
use crate::dynamic_sets::Sources;
use crate::fleet::Fleet;
use crate::pki::{Authority, ServerCertificate};
use crate::push::Pushes;
use crate::settings::Address;
use crate::store::{Health, Store};

/// What the service is made of.
#[derive(Debug, Clone)]
pub struct Parts {
    pub store: Arc<dyn Store>,
    pub clock: Arc<dyn Clock>,
    pub authority: Arc<Authority>,
    pub fleet: Fleet,
    pub pushes: Pushes,
    /// Where agents and operators connect.
    pub address: Address,
    /// Where machines enrol.
    pub enrol_address: Address,
    pub audit: Audit,
    /// The first admin, who has every right whatever the store says.
    pub admin: OperatorName,
    pub sources: Sources,
    /// Whether the store can be written.
    pub health: watch::Receiver<Health>,
    pub certificate: Arc<ServerCertificate>,
}

impl OperatorService {
    pub fn new(parts: Parts) -> Self {
        let Parts {
            store,
            clock,
            authority,
            fleet,
            pushes,
            address,
            enrol_address,
            audit,
            admin,
            sources,
            health,
            certificate,
        } = parts;
        let documents = pushes.documents.clone();
        Self {
            access: Access {
                store: Arc::clone(&store),
                clock: Arc::clone(&clock),
                audit,
                admin: admin.clone(),
                documents: documents.clone(),
                usage: DocumentUsage::default(),
            },
            expiries: Expiries {
                store: Arc::clone(&store),
                clock: Arc::clone(&clock),
                authority: Arc::clone(&authority),
                certificate,
            },
            documents: DocumentsApi {
                store: Arc::clone(&store),
                clock: Arc::clone(&clock),
                documents: documents.clone(),
            },
            fleet: FleetApi {
                store: Arc::clone(&store),
                clock: Arc::clone(&clock),
                fleet: fleet.clone(),
                documents: documents.clone(),
                health,
            },
            emergency: EmergencyApi {
                store: Arc::clone(&store),
                clock: Arc::clone(&clock),
                fleet: fleet.clone(),
                documents: documents.clone(),
            },
            pushes: PushApi {
                store: Arc::clone(&store),
                clock: Arc::clone(&clock),
                fleet: fleet.clone(),
                pushes: pushes.clone(),
            },
            plans: PlanApi {
                clock: Arc::clone(&clock),
                pushes,
            },
            operators: OperatorsApi {
                store: Arc::clone(&store),
                clock: Arc::clone(&clock),
                authority: Arc::clone(&authority),
                address,
                admin,
            },
            tokens: TokensApi {
                store: Arc::clone(&store),
                clock: Arc::clone(&clock),
                documents,
                authority: Arc::clone(&authority),
                enrol_address,
            },
            audit: AuditApi {
                store: Arc::clone(&store),
                clock: Arc::clone(&clock),
            },
            backups: BackupApi {
                store: Arc::clone(&store),
                clock,
                authority,
                turn: Arc::new(Semaphore::new(1)),
            },
            sources: SourcesApi {
                store,
                fleet,
                sources,
            },
        }
    }

    /// Who may do what.
    pub fn access(&self) -> &Access {
        &self.access
    }
}
