//! An accepted connection and its peer.

use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;
use voipfleet_protocol::identity::Identity;

use super::frames::Frames;
use super::identities::{Activity, Excess, Seat};
use super::refusal_log::RefusalLog;
use super::unproven::Place;
use crate::pki::authority::Leaf;

/// How long a connection stays open after its certificate's end, to answer with the reason.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long one that is too many stays open, for the same.
const EXCESS: Duration = Duration::from_secs(2);
/// How long a peer without a certificate may take to begin its request.
const FIRST_REQUEST: Duration = Duration::from_secs(5);

/// The other end of a connection; every request carries it as an extension.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Where it connected from.
    pub address: SocketAddr,
    /// What its certificate proves; none on the enrolment listener.
    pub proven: Option<Proven>,
    /// Why no call of this connection is answered.
    pub excess: Option<Excess>,
}

/// What a certificate proves.
#[derive(Debug, Clone)]
pub struct Proven {
    /// Its proven identity.
    pub identity: Identity,
    /// The certificate's key, serial and end.
    pub leaf: Leaf,
}

/// What a connection takes of its listener's bounds, free when it is dropped.
#[derive(Debug)]
pub(super) enum Holding {
    /// A place among those that have proved nothing.
    Place(Place),
    /// A seat of its identity, and one among all connections.
    Seat {
        seat: Seat,
        _all: OwnedSemaphorePermit,
    },
    /// Only one among all: it is told so, and cut.
    Excess { _all: OwnedSemaphorePermit },
}

impl Holding {
    fn cut(&self) -> Option<CancellationToken> {
        match self {
            Holding::Place(place) => Some(place.cut()),
            Holding::Seat { seat, .. } => Some(seat.cut()),
            Holding::Excess { .. } => None,
        }
    }
}

/// Why a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Cut {
    #[error("its certificate has expired")]
    Expired,
    #[error("its identity has too many connections open")]
    Excess,
    #[error("a newer one of its identity took its place")]
    Replaced,
    #[error("no request came in time")]
    NoRequest,
    #[error("it sends HTTP/2 frames that carry no request, too many of them")]
    Flood,
}

/// A TLS connection.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    frames: Frames,
    activity: Activity,
    /// When it is cut, and why: no connection outlives its certificate.
    end: Option<(Pin<Box<Sleep>>, Cut)>,
    /// Until when its first request must have begun.
    first_request: Option<Pin<Box<Sleep>>>,
    displaced: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// Its place and its turn among others of its identity, given back with it.
    _holding: Holding,
    log: RefusalLog,
    cut: Option<Cut>,
}

impl Connection {
    /// `left` is for how long the peer's certificate is still good; none: for ever.
    pub(super) fn new(
        stream: TlsStream<TcpStream>,
        peer: Peer,
        left: Option<Duration>,
        (holding, activity): (Holding, Activity),
        log: RefusalLog,
    ) -> Self {
        let sleep = |time| Box::pin(tokio::time::sleep(time));
        let end = match &holding {
            Holding::Excess { .. } => Some((sleep(EXCESS), Cut::Excess)),
            _ => left.map(|left| (sleep(left.saturating_add(FAREWELL)), Cut::Expired)),
        };
        let first_request = matches!(holding, Holding::Place(_)).then(|| sleep(FIRST_REQUEST));
        let displaced = holding.cut().map(|cut| Box::pin(cut.cancelled_owned()));
        Self {
            stream,
            peer,
            frames: Frames::new(),
            activity,
            end,
            first_request,
            displaced,
            _holding: holding,
            log,
            cut: None,
        }
    }

    /// Why the connection ends now, if it does.
    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Option<Cut> {
        if self.cut.is_none() {
            self.cut = self.due(cx);
            match self.cut {
                // Peers decide how often. Those that were displaced are counted where they are,
                // those of too many were refused before.
                None | Some(Cut::Replaced | Cut::Excess) => {}
                Some(Cut::Expired) => {
                    tracing::info!(peer = %self.peer.address, "connection closed: its certificate has expired");
                }
                Some(cut) => self.log.refused(self.peer.address, &cut.to_string()),
            }
        }
        self.cut
    }

    fn due(&mut self, cx: &mut Context<'_>) -> Option<Cut> {
        if let Some((end, why)) = &mut self.end
            && end.as_mut().poll(cx).is_ready()
        {
            return Some(*why);
        }
        if let Some(displaced) = &mut self.displaced
            && displaced.as_mut().poll(cx).is_ready()
        {
            return Some(Cut::Replaced);
        }
        if let Some(first) = &mut self.first_request
            && first.as_mut().poll(cx).is_ready()
        {
            return Some(Cut::NoRequest);
        }
        None
    }

    /// Follows what the peer has sent.
    fn came(&mut self, bytes: &[u8]) -> Result<(), Cut> {
        self.frames.inbound(bytes).map_err(|_| Cut::Flood)?;
        self.activity.set_open(self.frames.open());
        if self.first_request.is_some() && self.frames.any_request() {
            self.first_request = None;
        }
        Ok(())
    }

    fn went(&mut self, bytes: &[u8]) {
        self.frames.outbound(bytes);
        self.activity.set_open(self.frames.open());
    }
}

fn aborted(cut: Cut) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, cut)
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(cut) = this.poll_cut(cx) {
            return Poll::Ready(Err(aborted(cut)));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let new = buf.filled().get(before..).unwrap_or_default();
        if let Err(cut) = this.came(new) {
            this.cut = Some(cut);
            this.log.refused(this.peer.address, &cut.to_string());
            return Poll::Ready(Err(aborted(cut)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.went(buf.get(..written).unwrap_or_default());
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bufs))?;
        let mut left = written;
        for buf in bufs {
            let part = buf.get(..left.min(buf.len())).unwrap_or_default();
            self.went(part);
            left -= part.len();
        }
        Poll::Ready(Ok(written))
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
