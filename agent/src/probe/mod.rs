//! The site's probes: endpoints that must answer this node through its new rules before they are
//! kept.
//!
//! Every probe makes a new connection or exchange, since connection tracking keeps older ones
//! alive. Names are resolved on the node and through the new rules, as its own services do it.

mod datagram;
mod dns;
mod icmp;
mod sip;

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::{join_all, select_ok};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use voipfleet_ruleset::ruleset::{Host, MAX_PROBES, Probe, ProbeCheck};

/// How long a probe may take, the resolution of its name included.
pub const LIMIT: Duration = Duration::from_secs(3);
/// A name's addresses that are tried, all at the same time. One that answers is enough: of a
/// name with both families, a node may have but one.
const MAX_ADDRESSES: usize = 4;

/// Why a probe failed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Nothing came back.
    #[error("no answer within {} s", _0.as_secs_f64())]
    NoAnswer(Duration),
    /// The network refused.
    #[error("{}", words(_0))]
    Io(#[from] io::Error),
    /// The resolver of this node failed.
    #[error("the name cannot be resolved on this node: {}", words(_0))]
    Unresolved(#[source] io::Error),
    /// The resolver of this node did not answer.
    #[error("the name was not resolved on this node within {} s", _0.as_secs_f64())]
    ResolverSilent(Duration),
    /// The name exists without an address.
    #[error("the name has no address")]
    NoAddress,
    /// A DNS server that does not resolve.
    #[error("the server answered SERVFAIL")]
    ServerFailure,
}

/// Rust's texts for common errors are clearer than the C library's.
fn words(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused
        | ErrorKind::ConnectionReset
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable
        | ErrorKind::PermissionDenied
        | ErrorKind::TimedOut => error.kind().to_string(),
        _ => error.to_string(),
    }
}

/// A probe that failed.
#[derive(Debug)]
pub struct Failed {
    /// Which.
    pub probe: Probe,
    /// Why.
    pub error: ProbeError,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed: {}", self.probe, self.error)
    }
}

/// Runs all probes on a thread of their own, each for at most `limit`, and passes `done` those
/// that failed, in the order of the document.
pub fn start(
    probes: Vec<Probe>,
    limit: Duration,
    done: impl FnOnce(Vec<Failed>) + Send + 'static,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // A name that does not resolve holds its thread for longer than its probe may take.
        .max_blocking_threads(MAX_PROBES)
        .build()?;
    let work = move || {
        let failed = runtime.block_on(run(probes, limit));
        // A name that is still being resolved is not waited for.
        runtime.shutdown_background();
        done(failed);
    };
    let thread = std::thread::Builder::new().name("probes".to_owned());
    thread.spawn(work).map(drop)
}

/// Runs all probes at the same time, and returns those that failed in their order.
pub async fn run(probes: Vec<Probe>, limit: Duration) -> Vec<Failed> {
    let deadline = Instant::now() + limit;
    let ends = probes.into_iter().map(async |probe| {
        let end = try_out(&probe.check, deadline, limit).await;
        end.err().map(|error| Failed { probe, error })
    });
    join_all(ends).await.into_iter().flatten().collect()
}

async fn try_out(check: &ProbeCheck, deadline: Instant, limit: Duration) -> Result<(), ProbeError> {
    let (host, port) = match check {
        ProbeCheck::Tcp(to) | ProbeCheck::UdpSip(to) | ProbeCheck::Dns(to) => {
            (&to.host, to.port.get())
        }
        ProbeCheck::Icmp(host) => (host, 0),
    };
    let addresses = timeout_at(deadline, resolve(host, port))
        .await
        .map_err(|_| ProbeError::ResolverSilent(limit))??;
    if addresses.is_empty() {
        return Err(ProbeError::NoAddress);
    }
    let tries = addresses.into_iter().map(|to| Box::pin(reach(check, to)));
    match timeout_at(deadline, select_ok(tries)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(last)) => Err(last),
        Err(_) => Err(ProbeError::NoAnswer(limit)),
    }
}

async fn resolve(host: &Host, port: u16) -> Result<Vec<SocketAddr>, ProbeError> {
    match host {
        Host::Address(address) => Ok(vec![SocketAddr::new(*address, port)]),
        Host::Name(name) => tokio::net::lookup_host((name.as_str(), port))
            .await
            .map(|found| found.take(MAX_ADDRESSES).collect())
            .map_err(ProbeError::Unresolved),
    }
}

/// One that answers; goes on trying until it is dropped.
async fn reach(check: &ProbeCheck, to: SocketAddr) -> Result<(), ProbeError> {
    match check {
        ProbeCheck::Tcp(_) => Ok(TcpStream::connect(to).await.map(drop)?),
        ProbeCheck::UdpSip(endpoint) => Ok(sip::options(endpoint, to).await?),
        ProbeCheck::Dns(_) => dns::ask(to).await,
        ProbeCheck::Icmp(_) => Ok(icmp::echo(to.ip()).await?),
    }
}
