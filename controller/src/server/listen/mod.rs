//! TLS listeners with bounds: which peers, how many, how fast.

mod connection;
mod frames;
mod identities;
mod networks;
mod proven_sources;
mod refusal;
mod refusal_log;
mod unproven;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use voipfleet_protocol::identity::{TrustDomain, of_certificate};

use connection::Holding;
use identities::{Activity, Identities};
use proven_sources::ProvenSources;
use refusal_log::RefusalLog;
use unproven::{Place, Unproven};

pub use connection::{Connection, Peer, Proven};
pub use identities::Excess;

use crate::clock::Clock;
use crate::pki::authority;

/// How long a peer may take to send its whole `ClientHello`.
const CLIENT_HELLO: Duration = Duration::from_secs(2);
/// How long the rest of the TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How often the log says how many connections made room for others.
const GIVEN_UP: Duration = Duration::from_secs(10);
/// How often an idle connection is probed by an HTTP/2 ping.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long the answer to such a ping may take before the connection counts as dead.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Accepted connections that wait for the server; it takes them at once.
const BACKLOG: usize = 32;
/// A pause after the system refused a connection (most often: out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How much a listener takes on: each is a number of connections at once.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Those that have proved who they are.
    pub proven: usize,
    /// Those of strangers; the oldest makes room for the newest.
    pub unproven: usize,
    /// Those that have proved nothing yet, from addresses at which somebody did so lately.
    pub familiar: usize,
}

impl Bounds {
    /// The most that agents and operators may take: 5,000 agents on one controller, each with
    /// its session and one connection to prove a trial.
    const PROVEN: usize = 20_000;
    const UNPROVEN: usize = 1024;
    const FAMILIAR: usize = 4096;
    const ENROLLING: usize = 256;

    /// The bounds of the listener for agents and operators, and of that for enrolment, where so
    /// many files may be open for connections.
    pub fn of(files: usize) -> (Self, Self) {
        let enrolling = Self::ENROLLING.min(files / 8).max(1);
        let members = Self {
            proven: Self::PROVEN.min(files / 2).max(1),
            unproven: Self::UNPROVEN.min(files / 8).max(1),
            familiar: Self::FAMILIAR.min(files / 8).max(1),
        };
        let enrolment = Self {
            proven: 0,
            unproven: enrolling,
            familiar: 0,
        };
        (members, enrolment)
    }
}

/// Which peers may connect.
#[derive(Debug, Clone)]
pub enum Admission {
    /// Peers with a certificate of this trust domain. The addresses are those at which such
    /// peers were before.
    Members(TrustDomain, Vec<IpAddr>),
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
    let (domain, before) = match admission {
        Admission::Members(domain, before) => (Some(domain), before),
        Admission::Anyone => (None, Vec::new()),
    };
    let acceptor = Acceptor {
        tls: Arc::new(tls),
        domain,
        ready,
        clock,
        strangers: Unproven::shared(bounds.unproven),
        familiar: Unproven::unshared(bounds.familiar),
        sources: ProvenSources::new(before),
        identities: Identities::default(),
        proven: Arc::new(Semaphore::new(bounds.proven)),
        log: RefusalLog::new(),
    };
    let counting = acceptor.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = acceptor.run(listener) => {}
            () = counting.report_given_up() => {}
            () = stop.cancelled() => {}
        }
    });
    ReceiverStream::new(connections)
}

/// An IPv4 peer of an IPv6 listener by its own address, not as `::ffff:192.0.2.1`.
fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

#[derive(Clone)]
struct Acceptor {
    tls: Arc<ServerConfig>,
    /// None: peers have no certificate.
    domain: Option<TrustDomain>,
    ready: mpsc::Sender<io::Result<Connection>>,
    clock: Arc<dyn Clock>,
    strangers: Unproven,
    familiar: Unproven,
    sources: ProvenSources,
    identities: Identities,
    proven: Arc<Semaphore>,
    log: RefusalLog,
}

/// A connection is not served: with the reason, or because another took its place.
enum Refused {
    Reason(String),
    GivenUp,
}

impl From<String> for Refused {
    fn from(reason: String) -> Self {
        Self::Reason(reason)
    }
}

impl Acceptor {
    async fn run(&self, listener: TcpListener) {
        loop {
            let (tcp, peer) = match listener.accept().await {
                Ok((tcp, peer)) => (tcp, canonical(peer)),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let places = if self.sources.knows(peer.ip()) {
                &self.familiar
            } else {
                &self.strangers
            };
            let place = places.enter(peer.ip());
            let this = self.clone();
            tokio::spawn(async move {
                match this.welcome(tcp, peer, place).await {
                    // Without a receiver the server is gone: drop the connection.
                    Ok(connection) => drop(this.ready.send(Ok(connection)).await),
                    Err(Refused::Reason(reason)) => this.log.refused(peer, &reason),
                    Err(Refused::GivenUp) => {}
                }
            });
        }
    }

    async fn report_given_up(&self) {
        loop {
            tokio::time::sleep(GIVEN_UP).await;
            let strangers = self.strangers.take_given_up();
            refusal_log::given_up(strangers + self.familiar.take_given_up());
        }
    }

    /// Serves the peer, unless its place goes to another connection.
    async fn welcome(
        &self,
        tcp: TcpStream,
        address: SocketAddr,
        place: Place,
    ) -> Result<Connection, Refused> {
        let cut = place.cut();
        tokio::select! {
            welcomed = self.handshake(tcp, address, place) => welcomed,
            () = cut.cancelled() => Err(Refused::GivenUp),
        }
    }

    async fn handshake(
        &self,
        tcp: TcpStream,
        address: SocketAddr,
        place: Place,
    ) -> Result<Connection, Refused> {
        tcp.set_nodelay(true).map_err(|error| error.to_string())?;
        let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), tcp);
        let hello = tokio::time::timeout(CLIENT_HELLO, hello)
            .await
            .map_err(|_| "no whole TLS ClientHello came in time".to_owned())?
            .map_err(|error| refusal::words(&error))?;
        place.spoke();
        let accepting = hello.into_stream(Arc::clone(&self.tls));
        let stream = tokio::time::timeout(HANDSHAKE, accepting)
            .await
            .map_err(|_| "the TLS handshake took too long".to_owned())?
            .map_err(|error| refusal::words(&error))?;
        let Some(domain) = &self.domain else {
            let peer = Peer {
                address,
                proven: None,
                excess: None,
            };
            let holding = (Holding::Place(place), Activity::default());
            return Ok(Connection::new(
                stream,
                peer,
                None,
                holding,
                self.log.clone(),
            ));
        };
        let proven = proof(&stream, domain)?;
        self.sources.remember(address.ip());
        drop(place);
        let all = Arc::clone(&self.proven).try_acquire_owned();
        let all = all.map_err(|_| "too many connections".to_owned())?;
        let activity = Activity::default();
        let (holding, excess) = match self.identities.enter(&proven.identity, &activity) {
            Ok(seat) => (Holding::Seat { seat, _all: all }, None),
            Err(excess) => {
                self.log.refused(address, &excess.to_string());
                (Holding::Excess { _all: all }, Some(excess))
            }
        };
        let left = proven.leaf.expires_ms.saturating_sub(self.clock.now_ms());
        let peer = Peer {
            address,
            proven: Some(proven),
            excess,
        };
        let left = Some(Duration::from_millis(left));
        let holding = (holding, activity);
        Ok(Connection::new(
            stream,
            peer,
            left,
            holding,
            self.log.clone(),
        ))
    }
}

/// What a peer has proved.
fn proof(stream: &TlsStream<TcpStream>, domain: &TrustDomain) -> Result<Proven, String> {
    let certificate = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(<[_]>::first)
        .ok_or("the peer showed no certificate")?;
    let (peer_domain, identity) = of_certificate(certificate).map_err(|error| error.to_string())?;
    if peer_domain != *domain {
        return Err(format!(
            "{identity} is of trust domain {peer_domain}, not of {domain}"
        ));
    }
    let leaf = authority::leaf(certificate)
        .ok_or_else(|| format!("the certificate of {identity} cannot be read"))?;
    Ok(Proven { identity, leaf })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However few files there are: connections never take them all.
    #[test]
    fn bounds_follow_the_limit_of_files() {
        for files in [64, 768, 3840, 65_280, 1_000_000] {
            let (members, enrolment) = Bounds::of(files);
            let all = members.proven + members.unproven + members.familiar + enrolment.unproven;
            assert!(all <= files, "{all} of {files}");
        }
        assert_eq!(Bounds::of(65_280).0.proven, 20_000);
        assert_eq!(Bounds::of(768).0.unproven, 96);
    }
}
