//! An answer on its way: given out slice by slice, as its caller reads, and thrown away if it
//! does not.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::Instant;
use tonic::Status;
use tonic::codegen::http::HeaderMap;
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1::Reason;

use super::shares::Turn;

/// How much is handed to the HTTP/2 library at once: what it has is no longer counted.
pub(super) const SLICE: usize = 16 * 1024;
/// How long a caller may read nothing.
const STALLED: Duration = Duration::from_secs(30);
/// How long it may take for all of an answer.
const WHOLE: Duration = Duration::from_mins(5);

/// The body of an answer.
#[derive(Debug)]
pub(super) struct Unread {
    held: Arc<Mutex<Held>>,
}

#[derive(Debug)]
struct Held {
    data: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    turn: Option<Turn>,
    begun: Instant,
    moved: Instant,
}

impl Unread {
    /// An answer that was made in a turn, which ends when it was read.
    pub(super) fn new(data: Vec<Bytes>, trailers: Option<HeaderMap>, turn: Turn) -> Self {
        let now = Instant::now();
        let short = data.iter().map(Bytes::len).sum::<usize>() <= SLICE;
        let held = Arc::new(Mutex::new(Held {
            data: data.into(),
            trailers,
            turn: (!short).then_some(turn),
            begun: now,
            moved: now,
        }));
        if !short {
            tokio::spawn(expire(Arc::downgrade(&held)));
        }
        Self { held }
    }
}

/// Throws an answer away when its caller has stopped to read it.
async fn expire(held: Weak<Mutex<Held>>) {
    loop {
        let due = {
            let Some(held) = held.upgrade() else { return };
            let mut held = lock(&held);
            let due = (held.moved + STALLED).min(held.begun + WHOLE);
            if held.turn.is_none() {
                return;
            }
            if Instant::now() >= due {
                held.give_up();
                return;
            }
            due
        };
        tokio::time::sleep_until(due).await;
    }
}

impl Held {
    fn give_up(&mut self) {
        tracing::warn!("an answer was not read in time, and is given up");
        self.data = VecDeque::new();
        self.turn = None;
        let message = "the answer was not read in time";
        let status = Status::from(Refusal::new(Reason::TooSlow, message));
        let mut trailers = HeaderMap::new();
        // Without a status the caller still learns that the answer is not whole.
        let _added = status.add_header(&mut trailers);
        self.trailers = Some(trailers);
    }

    fn next(&mut self) -> Option<Frame<Bytes>> {
        self.moved = Instant::now();
        while let Some(mut first) = self.data.pop_front() {
            if first.is_empty() {
                continue;
            }
            let slice = first.split_to(first.len().min(SLICE));
            if !first.is_empty() {
                self.data.push_front(first);
            }
            return Some(Frame::data(slice));
        }
        self.turn = None;
        self.trailers.take().map(Frame::trailers)
    }
}

impl Body for Unread {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(lock(&self.held).next().map(Ok))
    }
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    // What a panic leaves is a shorter answer without its end, which no reader takes for whole.
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use voipfleet_protocol::identity::Identity;

    use super::super::shares::Shares;
    use super::*;

    async fn turn(shares: &Shares) -> Turn {
        let ada = Identity::Operator("ada".parse().unwrap());
        shares.turn(&ada, 1).await.unwrap()
    }

    async fn next(body: &mut Unread) -> Option<Frame<Bytes>> {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await;
        frame.map(Result::unwrap)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_given_out_whole_in_slices() {
        let shares = Shares::new();
        let data: Vec<u8> = (0..100_000u32).map(|n| n.to_be_bytes()[3]).collect();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        let turn = turn(&shares).await;
        let mut body = Unread::new(vec![data.clone().into()], Some(trailers), turn);
        let mut read = Vec::new();
        let end = loop {
            // Slowly, but on and on.
            tokio::time::sleep(STALLED / 2).await;
            match next(&mut body).await.unwrap().into_data() {
                Ok(slice) => {
                    assert!(slice.len() <= SLICE);
                    read.extend(slice);
                }
                Err(frame) => break frame.into_trailers().unwrap(),
            }
        };
        assert!(read == data);
        assert_eq!(end["grpc-status"], "0");
        assert!(next(&mut body).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_read_is_given_up() {
        let shares = Shares::new();
        let mut first = turn(&shares).await;
        first.made(super::super::shares::CALLER_BYTES).unwrap();
        let mut body = Unread::new(vec![vec![1; 1_000_000].into()], None, first);
        assert!(next(&mut body).await.unwrap().is_data());
        tokio::time::sleep(STALLED + Duration::from_secs(1)).await;
        // Its share is free again.
        let mut second = turn(&shares).await;
        second.made(super::super::shares::CALLER_BYTES).unwrap();
        let end = next(&mut body).await.unwrap().into_trailers().unwrap();
        let status = Status::from_header_map(&end).unwrap();
        assert_eq!(Refusal::of(&status).reason, Some(Reason::TooSlow));
        assert!(next(&mut body).await.is_none());
    }

    /// One that reads a little now and then does not keep its share for ever.
    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_read_too_slowly_is_given_up() {
        let shares = Shares::new();
        let turn = turn(&shares).await;
        let mut body = Unread::new(vec![vec![1; 10_000_000].into()], None, turn);
        let mut slices = 0;
        while next(&mut body).await.unwrap().is_data() {
            slices += 1;
            tokio::time::sleep(STALLED / 2).await;
        }
        assert!(slices <= WHOLE.as_secs() / (STALLED / 2).as_secs() + 1);
    }
}
