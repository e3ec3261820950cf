//! Bounds on answers: how many are made at once, how many bytes of them wait, and for how long.
//!
//! An answer is made whole before its first byte is sent, so that its caller gets either all of
//! it or a reason. Made answers are counted, by caller and in all, until they were read.

mod calls;
mod shares;
mod unread;

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Body as _;
use tonic::body::Body;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::codegen::{BoxFuture, Service};
use tonic::{Code, Status};
use tower::Layer;
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1::Reason;
use voipfleet_protocol::identity::Identity;

pub use shares::MAX_ANSWER_BYTES;
use shares::Shares;
use unread::Unread;

use super::listen::Peer;

/// Puts the bounds around the services of a listener.
#[derive(Debug, Clone)]
pub struct AnswerBounds(Shares);

impl AnswerBounds {
    /// Nobody has anything yet.
    #[allow(
        clippy::new_without_default,
        reason = "every one has counts of its own"
    )]
    pub fn new() -> Self {
        Self(Shares::new())
    }
}

impl<S> Layer<S> for AnswerBounds {
    type Service = Bounded<S>;

    fn layer(&self, inner: S) -> Bounded<S> {
        Bounded {
            inner,
            shares: self.0.clone(),
        }
    }
}

/// Services whose answers are bounded.
#[derive(Debug, Clone)]
pub struct Bounded<S> {
    inner: S,
    shares: Shares,
}

impl<S> Service<Request<Body>> for Bounded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The one that was asked whether it is ready.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let peer = request.extensions().get::<Peer>();
        if let Some(excess) = peer.and_then(|peer| peer.excess.as_ref()) {
            let refusal = Refusal::new(Reason::Busy, excess.to_string())
                .hint("end some of the calls that are under way");
            return Box::pin(std::future::ready(Ok(refused(refusal))));
        }
        let call = calls::of_path(request.uri().path());
        let weight = call
            .filter(|call| calls::is_heavy(*call))
            .map(calls::weight);
        let caller = peer.and_then(|peer| peer.proven.as_ref());
        let caller = caller.map(|proven| proven.identity.clone());
        let (Some(caller), Some(weight)) = (caller, weight) else {
            return Box::pin(inner.call(request));
        };
        let shares = self.shares.clone();
        Box::pin(async move { bounded(&mut inner, &shares, (&caller, weight), request).await })
    }
}

fn refused(refusal: Refusal) -> Response<Body> {
    Status::from(refusal).into_http()
}

/// Makes an answer in the caller's turn.
async fn bounded<S>(
    inner: &mut S,
    shares: &Shares,
    (caller, weight): (&Identity, u32),
    request: Request<Body>,
) -> Result<Response<Body>, Infallible>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let mut turn = match shares.turn(caller, weight).await {
        Ok(turn) => turn,
        Err(refusal) => {
            tracing::warn!(%caller, path = request.uri().path(), "call refused: too many are under way");
            return Ok(refused(refusal));
        }
    };
    let (head, body) = inner.call(request).await?.into_parts();
    let (data, trailers) = match made(body).await {
        Ok(made) => made,
        Err(status) => return Ok(status.into_http()),
    };
    let bytes = data.iter().map(Bytes::len).sum();
    if let Err(refusal) = turn.made(bytes) {
        return Ok(refused(refusal));
    }
    let body = Body::new(Unread::new(data, trailers, turn));
    Ok(Response::from_parts(head, body))
}

/// A whole answer: its bytes, and its end.
type Made = (Vec<Bytes>, Option<HeaderMap>);

async fn made(mut body: Body) -> Result<Made, Status> {
    let mut data = Vec::new();
    let mut trailers = None;
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        match frame?.into_data() {
            // The encoder reserves twice what it needs: only that is kept.
            Ok(bytes) => data.push(Bytes::copy_from_slice(&bytes)),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    // The encoder's own word for an answer that is too long.
    let end = trailers.as_ref().and_then(Status::from_header_map);
    if end.is_some_and(|end| end.code() == Code::OutOfRange) {
        let message = format!(
            "the answer is longer than {} MiB",
            MAX_ANSWER_BYTES / 1024 / 1024
        );
        return Err(Refusal::new(Reason::LimitReached, message)
            .hint("ask for less: one site, node, kind or name")
            .into());
    }
    Ok((data, trailers))
}
