//! TLS listeners with bounds: who may connect, how many, how fast.

mod connection;
mod refusal;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use voipfleet_common::identity::{TrustDomain, of_certificate};

pub use connection::{Connection, Peer, Proven};

use crate::pki::authority;

/// How long a TLS handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often an idle connection is probed by an HTTP/2 ping.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long the answer to such a ping may take before the connection counts as dead.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Accepted connections that wait for the server; it takes them at once.
const BACKLOG: usize = 32;
/// A pause after the system refused a connection (most often: out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How much a listener takes on.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Connections at once; more are closed before the handshake.
    pub connections: usize,
    /// Handshakes at once; more wait in the kernel's backlog.
    pub handshakes: usize,
}

/// Who may connect.
#[derive(Debug, Clone)]
pub enum Admission {
    /// Peers with a certificate of this trust domain.
    Members(TrustDomain),
    /// Anybody: for enrolment.
    Anybody,
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for {what}{}", hint(source))]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// What the listener is for.
    pub what: &'static str,
    /// The system's reason.
    #[source]
    pub source: io::Error,
}

/// Linux's errno for a socket of a family that the kernel lacks.
const EAFNOSUPPORT: i32 = 97;

fn hint(error: &io::Error) -> &'static str {
    if error.raw_os_error() == Some(EAFNOSUPPORT) {
        return ": this machine has no IPv6; use 0.0.0.0 and the port";
    }
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            ": another program has it; stop that one (see `ss -ltnp`), or choose another port"
        }
        io::ErrorKind::AddrNotAvailable => {
            ": this machine has no such address; use one that `ip address` shows, or 0.0.0.0"
        }
        io::ErrorKind::PermissionDenied => {
            ": not permitted; choose a port above 1023, or give the service CAP_NET_BIND_SERVICE"
        }
        _ => "",
    }
}

/// Binds an address.
pub async fn bind(address: SocketAddr, what: &'static str) -> Result<TcpListener, BindError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| BindError {
            address,
            what,
            source,
        })
}

/// Accepts connections until `stop`; gives those whose handshake was good.
pub fn accept(
    listener: TcpListener,
    tls: ServerConfig,
    admission: Admission,
    bounds: Bounds,
    stop: CancellationToken,
) -> ReceiverStream<io::Result<Connection>> {
    let (ready, connections) = mpsc::channel(BACKLOG);
    let acceptor = Acceptor {
        tls: TlsAcceptor::from(Arc::new(tls)),
        admission,
        ready,
        bounds,
        connections: Arc::new(Semaphore::new(bounds.connections)),
        handshakes: Arc::new(Semaphore::new(bounds.handshakes)),
    };
    tokio::spawn(async move {
        tokio::select! {
            () = acceptor.run(listener) => {}
            () = stop.cancelled() => {}
        }
    });
    ReceiverStream::new(connections)
}

#[derive(Clone)]
struct Acceptor {
    tls: TlsAcceptor,
    admission: Admission,
    ready: mpsc::Sender<io::Result<Connection>>,
    bounds: Bounds,
    connections: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
}

impl Acceptor {
    async fn run(&self, listener: TcpListener) {
        loop {
            let Ok(handshake) = Arc::clone(&self.handshakes).acquire_owned().await else {
                return;
            };
            let (tcp, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(slot) = Arc::clone(&self.connections).try_acquire_owned() else {
                let limit = self.bounds.connections;
                tracing::warn!(%peer, limit, "connection refused: too many are open");
                continue;
            };
            let this = self.clone();
            tokio::spawn(async move {
                let result = this.handshake(tcp, peer, slot).await;
                drop(handshake);
                match result {
                    // The server is gone when nobody receives: then the connection goes too.
                    Ok(connection) => drop(this.ready.send(Ok(connection)).await),
                    Err(reason) => tracing::warn!(%peer, reason, "connection refused"),
                }
            });
        }
    }

    async fn handshake(
        &self,
        tcp: TcpStream,
        address: SocketAddr,
        slot: OwnedSemaphorePermit,
    ) -> Result<Connection, String> {
        tcp.set_nodelay(true).map_err(|error| error.to_string())?;
        let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.tls.accept(tcp))
            .await
            .map_err(|_| "the TLS handshake took too long".to_owned())?
            .map_err(|error| refusal::words(&error))?;
        let proven = match &self.admission {
            Admission::Anybody => None,
            Admission::Members(domain) => {
                let certificate = stream
                    .get_ref()
                    .1
                    .peer_certificates()
                    .and_then(<[_]>::first)
                    .ok_or("the peer showed no certificate")?;
                let (peer_domain, identity) =
                    of_certificate(certificate).map_err(|error| error.to_string())?;
                if peer_domain != *domain {
                    return Err(format!(
                        "{identity} is of trust domain {peer_domain}, not of {domain}"
                    ));
                }
                let leaf = authority::leaf(certificate)
                    .ok_or_else(|| format!("the certificate of {identity} cannot be read"))?;
                Some(Proven { identity, leaf })
            }
        };
        let peer = Peer { address, proven };
        Ok(Connection::new(stream, peer, slot))
    }
}
