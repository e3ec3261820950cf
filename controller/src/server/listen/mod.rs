//! TLS listeners with bounds: which peers, how many, how fast.

mod connection;
mod per_source_limits;
mod refusal;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use voipfleet_protocol::identity::{TrustDomain, of_certificate};

use per_source_limits::{Slot, Sources};

pub use connection::{Connection, Peer, Proven};

use crate::clock::Clock;
use crate::log_limit::{LogLimit, short};
use crate::pki::authority;

/// How long a TLS handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may wait for its handshake's turn.
const TURN: Duration = Duration::from_secs(20);
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
    /// Handshakes at once; more wait for their turn.
    pub handshakes: usize,
}

/// Which peers may connect.
#[derive(Debug, Clone)]
pub enum Admission {
    /// Peers with a certificate of this trust domain.
    Members(TrustDomain),
    /// Anyone: for enrolment.
    Anyone,
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

/// Connections whose handshake was good.
pub type Incoming = ReceiverStream<io::Result<Connection>>;

/// Accepts connections until `stop`; gives those whose handshake was good.
pub fn accept(
    listener: TcpListener,
    tls: ServerConfig,
    admission: Admission,
    bounds: Bounds,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) -> Incoming {
    let (ready, connections) = mpsc::channel(BACKLOG);
    let acceptor = Acceptor {
        tls: TlsAcceptor::from(Arc::new(tls)),
        admission,
        ready,
        clock,
        sources: Sources::new(bounds.connections, bounds.handshakes),
        handshakes: Arc::new(Semaphore::new(bounds.handshakes)),
        lines: LogLimit::new("listener"),
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
    clock: Arc<dyn Clock>,
    sources: Sources,
    handshakes: Arc<Semaphore>,
    lines: LogLimit,
}

impl Acceptor {
    /// Of a stranger's lines only the first of each second are written.
    fn log_refusal(&self, peer: SocketAddr, reason: &str) {
        if self.lines.admits("strangers") {
            tracing::warn!(%peer, reason = short(reason), "connection refused");
        }
    }

    async fn run(&self, listener: TcpListener) {
        loop {
            let (tcp, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let slot = match self.sources.take(peer.ip()) {
                Ok(slot) => slot,
                Err(full) => {
                    self.log_refusal(peer, &full.to_string());
                    continue;
                }
            };
            let this = self.clone();
            tokio::spawn(async move {
                match this.welcome(tcp, peer, slot).await {
                    // Without a receiver the server is gone: drop the connection.
                    Ok(connection) => drop(this.ready.send(Ok(connection)).await),
                    Err(reason) => this.log_refusal(peer, &reason),
                }
            });
        }
    }

    /// Waits for a turn, first among the connections of the same source: one that dawdles keeps
    /// up no other.
    async fn welcome(
        &self,
        tcp: TcpStream,
        address: SocketAddr,
        slot: Slot,
    ) -> Result<Connection, String> {
        let turns = async {
            let own = slot.handshakes().acquire_owned().await;
            (own, Arc::clone(&self.handshakes).acquire_owned().await)
        };
        let _turns = tokio::time::timeout(TURN, turns)
            .await
            .map_err(|_| "too many handshakes are under way".to_owned())?;
        self.handshake(tcp, address, slot).await
    }

    async fn handshake(
        &self,
        tcp: TcpStream,
        address: SocketAddr,
        mut slot: Slot,
    ) -> Result<Connection, String> {
        tcp.set_nodelay(true).map_err(|error| error.to_string())?;
        let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.tls.accept(tcp))
            .await
            .map_err(|_| "the TLS handshake took too long".to_owned())?
            .map_err(|error| refusal::words(&error))?;
        let proven = match &self.admission {
            Admission::Anyone => None,
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
        let now_ms = self.clock.now_ms();
        let left = proven.as_ref().map(|proven| {
            slot.proven();
            Duration::from_millis(proven.leaf.expires_ms.saturating_sub(now_ms))
        });
        let peer = Peer { address, proven };
        Ok(Connection::new(stream, peer, left, slot))
    }
}
