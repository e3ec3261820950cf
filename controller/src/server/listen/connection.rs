//! An accepted connection and its peer.

use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use voipfleet_protocol::identity::Identity;

use super::per_source_limits::Slot;
use crate::pki::authority::Leaf;

/// How long a connection stays open after its certificate's end, to answer with the reason.
const FAREWELL: Duration = Duration::from_secs(1);

/// The other end of a connection; every request carries it as an extension.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Where it connected from.
    pub address: SocketAddr,
    /// What its certificate proves; none on the enrolment listener.
    pub proven: Option<Proven>,
}

/// What a certificate proves.
#[derive(Debug, Clone)]
pub struct Proven {
    /// Its proven identity.
    pub identity: Identity,
    /// The certificate's key, serial and end.
    pub leaf: Leaf,
}

/// A TLS connection; its slot among the listener's connections is free when it is dropped.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    /// When it is cut: no connection outlives its certificate.
    end: Option<Pin<Box<Sleep>>>,
    _slot: Slot,
}

impl Connection {
    /// `left` is for how long the peer's certificate is still good; none: for ever.
    pub(super) fn new(
        stream: TlsStream<TcpStream>,
        peer: Peer,
        left: Option<Duration>,
        slot: Slot,
    ) -> Self {
        let end = left.map(|left| Box::pin(tokio::time::sleep(left.saturating_add(FAREWELL))));
        Self {
            stream,
            peer,
            end,
            _slot: slot,
        }
    }

    fn has_ended(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(end) = &mut self.end else {
            return false;
        };
        let ended = end.as_mut().poll(cx).is_ready();
        if ended {
            tracing::info!(peer = %self.peer.address, "connection closed: its certificate has expired");
        }
        ended
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.has_ended(cx) {
            let reason = "the peer's certificate has expired";
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                reason,
            )));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
