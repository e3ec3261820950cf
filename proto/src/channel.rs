//! A gRPC channel over our own TLS configuration.
//!
//! tonic's own TLS settings cannot ask for TLS 1.3 only, nor verify a peer by its SPIFFE ID.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::proxy::Proxy;

/// How long a TCP connection and the TLS handshake together may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often an idle connection is probed by an HTTP/2 ping.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long the answer to such a ping may take before the connection counts as dead.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// An address that is not `HOST:PORT`.
#[derive(Debug)]
pub struct InvalidAddress(pub String);

impl std::fmt::Display for InvalidAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?} is not HOST:PORT; write for example controller.example:7443",
            self.0
        )
    }
}

impl std::error::Error for InvalidAddress {}

/// The endpoint for `address` (`HOST:PORT`), with time limits and keepalive set.
pub fn endpoint(address: &str) -> Result<Endpoint, InvalidAddress> {
    let invalid = || InvalidAddress(address.to_owned());
    // The scheme only satisfies the URI; the connector below speaks TLS.
    let uri: Uri = format!("http://{address}").parse().map_err(|_| invalid())?;
    if uri.host().is_none_or(str::is_empty) || uri.port_u16().is_none() || uri.path() != "/" {
        return Err(invalid());
    }
    Ok(Endpoint::from(uri)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}

/// Dials `address` anew: one TCP connection, one TLS handshake, no reuse.
///
/// The peer is proved by the verifier inside `tls`, not by its host name.
pub async fn connect(
    address: &str,
    tls: Arc<ClientConfig>,
) -> Result<Channel, Box<dyn std::error::Error + Send + Sync>> {
    connect_through(None, address, tls).await
}

/// The same through a proxy, which resolves the host's name.
pub async fn connect_through(
    proxy: Option<&Proxy>,
    address: &str,
    tls: Arc<ClientConfig>,
) -> Result<Channel, Box<dyn std::error::Error + Send + Sync>> {
    let proxy = proxy.cloned();
    let connector = tower::service_fn(move |uri: Uri| {
        let tls = TlsConnector::from(Arc::clone(&tls));
        let proxy = proxy.clone();
        async move {
            let host = uri
                .host()
                .unwrap_or_default()
                .trim_matches(['[', ']'])
                .to_owned();
            let port = uri.port_u16().unwrap_or_default();
            let dial = async {
                let tcp = match &proxy {
                    Some(proxy) => proxy.open(&host, port).await?,
                    None => {
                        let tcp = TcpStream::connect((host.as_str(), port)).await?;
                        tcp.set_nodelay(true)?;
                        tcp
                    }
                };
                let name = ServerName::try_from(host.clone()).map_err(std::io::Error::other)?;
                tls.connect(name, tcp).await
            };
            let stream = tokio::time::timeout(CONNECT_TIMEOUT, dial)
                .await
                .map_err(|_| {
                    std::io::Error::new(
                        std::io::ErrorKind::TimedOut,
                        format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()),
                    )
                })??;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    Ok(endpoint(address)?.connect_with_connector(connector).await?)
}
