//! A running controller: store, listeners, fleet, and an orderly stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use voipfleet_protocol::identity::tls::TlsError;

use crate::audit::Audit;
use crate::clock::Clock;
use crate::clock_watch;
use crate::dynamic_sets::{SourceOptions, Sources};
use crate::enrolment::Registrar;
use crate::errors::chain;
use crate::fleet::Fleet;
use crate::operations::new_admin::FirstAdmin;
use crate::pki::{Authority, PkiError, ServerCertificate};
use crate::push::{Joiner, Pushes, QueueWorker, Rights};
use crate::records::NodeId;
use crate::server::api::{OperatorService, Parts};
use crate::server::listen::{self, Admission, BindError, Bounds};
use crate::server::serve::{self, STOPPING, ServeError};
use crate::settings::{Files, Settings, SettingsError};
use crate::store::{Embedded, Health, Store, StoreError, StoreFailure, Supervised};
use crate::{open_files, store_health, systemd};

/// How long callers get their last answers after the store failed.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

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
    supervised: Supervised,
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
    #[expect(
        clippy::too_many_lines,
        reason = "the parts, in the order in which they need each other"
    )]
    pub async fn start(options: Options) -> Result<Self, StartError> {
        let files = &options.files;
        let settings = Settings::load(files)?;
        let domain = settings.trust_domain()?;
        let authority = Arc::new(Authority::load(files.clone(), domain.clone())?);
        let certificate = {
            let (authority, files) = (Arc::clone(&authority), files.clone());
            let (settings, now_ms) = (settings.clone(), options.clock.now_ms());
            let opening = tokio::task::spawn_blocking(move || {
                ServerCertificate::open(authority, files, &settings, now_ms)
            });
            Arc::new(opening.await.map_err(|_| StoreError::Closed)??)
        };
        let mut fleet_tls = certificate.shown().server(authority.ca_pem())?;
        // A resumed session would not check the peer's certificate again, which may have expired.
        fleet_tls.send_tls13_tickets = 0;
        let enrol_tls = certificate.shown().enrolment_server()?;
        let fleet_listener = listen::bind(options.listen, "agents and operators").await?;
        let enrol_listener = listen::bind(options.enrol_listen, "enrolment").await?;
        let address = local(&fleet_listener, options.listen);
        let enrol_address = local(&enrol_listener, options.enrol_listen);
        let embedded = open_store(files).await?;
        let supervised = Supervised::new(Arc::new(embedded.clone()));
        let store: Arc<dyn Store> = Arc::new(supervised.clone());

        let stop = CancellationToken::new();
        let clock = Arc::clone(&options.clock);
        let audit = Audit::open(Arc::clone(&store), Arc::clone(&clock)).await?;
        let first_admin = FirstAdmin::new(files, &store, &audit, settings.admin.clone());
        first_admin.take_new().await?;
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
            certificate: Arc::clone(&certificate),
            sources,
            health: supervised.health(),
        });
        let rollouts = pushes.rollouts.clone();
        let log = audit.clone();
        let exemptions = audit.clone();
        let audit_of_clock = audit.clone();
        let rights: Arc<dyn Rights> = Arc::new(operators.access().clone());
        let joiner = Joiner::new(&pushes, audit.clone());
        let queue_worker = QueueWorker::new(&pushes, rights, audit);
        let listen = |listener, tls, admission, bounds| {
            let clock = Arc::clone(&listening);
            listen::accept(listener, tls, admission, bounds, clock, stop.clone())
        };
        let (for_members, for_enrolment) =
            Bounds::of(open_files::for_connections(open_files::raise()));
        let members = Admission::Members(domain, fleet.last_peers().await?);
        let fleet_incoming = listen(fleet_listener, fleet_tls, members, for_members);
        let enrol_incoming = listen(enrol_listener, enrol_tls, Admission::Anyone, for_enrolment);
        let servers = vec![
            serve::fleet(fleet_incoming, &fleet, operators, &stop),
            serve::enrolment(enrol_incoming, registrar, &stop),
        ];
        let watched =
            clock_watch::watch(Arc::clone(&listening), audit_of_clock.clone(), stop.clone());
        tokio::spawn(watched);
        let clock = Arc::clone(&listening);
        tokio::spawn(certificate.keep(clock, audit_of_clock, stop.clone()));
        tokio::spawn(first_admin.follow(stop.clone()));
        let follower = fleet.clone();
        tokio::spawn(async move { rollouts.run(log).await });
        tokio::spawn(async move { queue_worker.run().await });
        tokio::spawn(async move { joiner.run().await });
        tokio::spawn(async move { follower.follow().await });
        let dynamic_sets = fleet.dynamic_sets().clone();
        tokio::spawn(async move { dynamic_sets.follow(&exemptions).await });
        tokio::spawn(store_health::watch(supervised.clone(), stop.clone()));
        tracing::info!(%address, %enrol_address, "controller started");
        systemd::ready();
        Ok(Self {
            address,
            enrol_address,
            store: embedded,
            supervised,
            fleet,
            stop,
            servers,
        })
    }

    /// Whether the store can be written, also after the controller has stopped.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.supervised.health()
    }

    /// Returns when the store has failed: then the process must end, and no write that was not
    /// acknowledged can be told from one that was lost.
    pub async fn failed(&self) -> StoreFailure {
        self.supervised.failed().await
    }

    /// Ends after the store has failed: callers learn that the controller stops, and the store
    /// is left as it is.
    pub async fn abandon(self) {
        self.supervised.closing();
        self.stop.cancel();
        let answered = async {
            for server in self.servers {
                // It ends with the process at the latest.
                let _ = server.await;
            }
        };
        let _cut = tokio::time::timeout(LAST_ANSWERS, answered).await;
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
        systemd::stopping();
        self.supervised.closing();
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
