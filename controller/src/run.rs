//! A running controller: store, listeners, fleet, and an orderly stop.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use voipfleet_protocol::identity::tls::{self, Credentials, TlsError};

use crate::audit::Audit;
use crate::clock::Clock;
use crate::dynamic_sets::{SourceOptions, Sources};
use crate::enrolment::Registrar;
use crate::errors::chain;
use crate::fleet::Fleet;
use crate::pki::{Authority, PkiError};
use crate::push::{Pushes, QueueWorker, Rights};
use crate::records::NodeId;
use crate::server::api::{OperatorService, Parts};
use crate::server::listen::{self, Admission, BindError, Bounds};
use crate::server::serve::{self, STOPPING, ServeError};
use crate::settings::{self, Files, Settings, SettingsError};
use crate::store::{Embedded, Store, StoreError};

/// The fleet and operator listener: design.md speaks of 5,000 agents on one controller.
const FLEET: Bounds = Bounds {
    connections: 20_000,
    handshakes: 256,
};
/// The enrolment listener, whose peers have no certificate.
const ENROLMENT: Bounds = Bounds {
    connections: 256,
    handshakes: 32,
};

/// Where a controller runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// The installation.
    pub files: Files,
    /// Where agents and operators connect.
    pub listen: SocketAddr,
    /// Where machines enrol.
    pub enrol_listen: SocketAddr,
    /// Where names are resolved, and where files of feeds may be.
    pub sources: SourceOptions,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Why a controller does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The installation.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The trust domain in `controller.json`.
    #[error("the trust domain in controller.json is invalid")]
    TrustDomain(#[from] voipfleet_ruleset::identifiers::InvalidName),
    /// Certificates and keys.
    #[error("the server's certificate or key is unusable; restore it from a copy")]
    Tls(#[from] TlsError),
    /// The CA.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An address.
    #[error(transparent)]
    Bind(#[from] BindError),
}

/// A controller that runs until it is stopped.
#[derive(Debug)]
pub struct Controller {
    address: SocketAddr,
    enrol_address: SocketAddr,
    store: Embedded,
    fleet: Fleet,
    stop: CancellationToken,
    servers: Vec<JoinHandle<Result<(), ServeError>>>,
}

/// Opens an installation's store, off the async threads.
pub async fn open_store(files: &Files) -> Result<Embedded, StoreError> {
    let path = files.store();
    tokio::task::spawn_blocking(move || Embedded::open(&path))
        .await
        .map_err(|_| StoreError::Closed)?
}

impl Controller {
    /// Starts: when this returns, both listeners accept.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let files = &options.files;
        let settings = Settings::load(files)?;
        let domain = settings.trust_domain()?;
        let authority = Arc::new(Authority::load(files.clone(), domain.clone())?);
        let certificate_pem = settings::read(&files.server_certificate())?;
        let key_pem = settings::read(&files.server_key())?;
        let credentials = Credentials {
            certificate_pem: &certificate_pem,
            key_pem: &key_pem,
            ca_pem: authority.ca_pem(),
        };
        let mut fleet_tls = tls::server(credentials)?;
        // A resumed session would not check the peer's certificate again, which may have expired.
        fleet_tls.send_tls13_tickets = 0;
        let enrol_tls = tls::enrolment_server(credentials)?;
        let fleet_listener = listen::bind(options.listen, "agents and operators").await?;
        let enrol_listener = listen::bind(options.enrol_listen, "enrolment").await?;
        let address = local(&fleet_listener, options.listen);
        let enrol_address = local(&enrol_listener, options.enrol_listen);
        let embedded = open_store(files).await?;
        let store: Arc<dyn Store> = Arc::new(embedded.clone());

        let stop = CancellationToken::new();
        let clock = Arc::clone(&options.clock);
        let audit = Audit::open(Arc::clone(&store), Arc::clone(&clock)).await?;
        let fleet = Fleet::new(
            Arc::clone(&store),
            Arc::clone(&clock),
            Some(audit.clone()),
            stop.clone(),
        );
        let registrar = Registrar::new(
            Arc::clone(&store),
            Arc::clone(&clock),
            Arc::clone(&authority),
            settings.address.clone(),
            audit.clone(),
        );
        let sources = Sources::start(
            Arc::clone(&store),
            Arc::clone(&clock),
            options.sources,
            files.feeds(),
            audit.clone(),
            stop.clone(),
        )
        .await?;
        let listening = Arc::clone(&clock);
        let pushes = Pushes::new(Arc::clone(&store), Arc::clone(&clock), fleet.clone());
        let operators = OperatorService::new(Parts {
            pushes: pushes.clone(),
            store,
            clock,
            authority,
            fleet: fleet.clone(),
            address: settings.address.clone(),
            enrol_address: settings.enrol_address.clone(),
            audit: audit.clone(),
            admin: settings.admin.clone(),
            sources,
        });
        let rollouts = pushes.rollouts.clone();
        let log = audit.clone();
        let rights: Arc<dyn Rights> = Arc::new(operators.access().clone());
        let queue_worker = QueueWorker::new(&pushes, rights, audit.clone());
        let listen = |listener, tls, admission, bounds| {
            let clock = Arc::clone(&listening);
            listen::accept(listener, tls, admission, bounds, clock, stop.clone())
        };
        let members = Admission::Members(domain);
        let fleet_incoming = listen(fleet_listener, fleet_tls, members, FLEET);
        let enrol_incoming = listen(enrol_listener, enrol_tls, Admission::Anyone, ENROLMENT);
        let servers = vec![
            serve::fleet(fleet_incoming, &fleet, operators, &stop),
            serve::enrolment(enrol_incoming, registrar, &stop),
        ];
        let follower = fleet.clone();
        tokio::spawn(async move { rollouts.run(log).await });
        tokio::spawn(async move { queue_worker.run().await });
        tokio::spawn(async move { follower.follow().await });
        let dynamic_sets = fleet.dynamic_sets().clone();
        tokio::spawn(async move { dynamic_sets.follow(Some(audit)).await });
        tracing::info!(%address, %enrol_address, "controller started");
        Ok(Self {
            address,
            enrol_address,
            store: embedded,
            fleet,
            stop,
            servers,
        })
    }

    /// What it stores; to be read and watched beside it.
    pub fn store(&self) -> &dyn Store {
        &self.store
    }

    /// The nodes whose view changes, from now on.
    pub fn node_events(&self) -> broadcast::Receiver<NodeId> {
        self.fleet.events()
    }

    /// Where agents and operators connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where machines enrol.
    pub fn enrol_address(&self) -> SocketAddr {
        self.enrol_address
    }

    /// Ends every session with "controller is stopping", closes the listeners, and flushes
    /// the store.
    pub async fn stop(self) {
        tracing::info!("controller is stopping");
        self.stop.cancel();
        let ending = async {
            self.fleet.stopped().await;
            for server in self.servers {
                match server.await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::warn!(error = %chain(&error), "listener failed"),
                    Err(error) => tracing::warn!(%error, "listener panicked"),
                }
            }
        };
        if tokio::time::timeout(STOPPING, ending).await.is_err() {
            tracing::warn!("open connections cut");
        }
        self.store.close().await;
        tracing::info!("controller stopped");
    }
}

fn local(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}
