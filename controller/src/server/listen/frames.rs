//! HTTP/2 frames as they pass: which requests are open, and how many frames carry none.
//!
//! The HTTP/2 library answers PING and SETTINGS frames for as long as they come, whoever sends
//! them, and refuses requests beyond its bound one by one. Here they are counted, and a peer that
//! sends nothing else is cut off.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

/// Frames without content that a peer may send at once, and in a second.
const BURST: u32 = 256;
const PER_SECOND: u32 = 32;
/// And for each frame with content that it is sent: window updates, measurements of the way.
const PER_ANSWER: u32 = 4;

/// What a client sends first.
const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
const HEADER: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Head {
    fn of(bytes: [u8; HEADER]) -> Self {
        let [l2, l1, l0, kind, flags, s3, s2, s1, s0] = bytes;
        Self {
            length: u32::from_be_bytes([0, l2, l1, l0]),
            kind,
            flags,
            stream: u32::from_be_bytes([s3 & 0x7f, s2, s1, s0]),
        }
    }

    fn ends_its_stream(self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }
}

/// One direction of a connection.
#[derive(Debug)]
struct Direction {
    /// Bytes that are not looked at: the preface, payloads.
    skip: usize,
    head: [u8; HEADER],
    filled: usize,
}

impl Direction {
    fn new(skip: usize) -> Self {
        Self {
            skip,
            head: [0; HEADER],
            filled: 0,
        }
    }

    /// Calls `found` with the head of each frame that begins in `bytes`.
    fn pass(&mut self, mut bytes: &[u8], mut found: impl FnMut(Head)) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let wanted = HEADER - self.filled;
            let (next, rest) = bytes.split_at(wanted.min(bytes.len()));
            for (to, from) in self.head.iter_mut().skip(self.filled).zip(next) {
                *to = *from;
            }
            self.filled += next.len();
            bytes = rest;
            if self.filled == HEADER {
                let head = Head::of(self.head);
                self.filled = 0;
                self.skip = usize::try_from(head.length).unwrap_or(usize::MAX);
                found(head);
            }
        }
    }
}

/// A peer sent more frames without content than anybody needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many HTTP/2 frames that carry no request")]
pub(super) struct Flood;

/// The frames of a connection.
#[derive(Debug)]
pub(super) struct Frames {
    inbound: Direction,
    outbound: Direction,
    open: HashSet<u32>,
    /// The last request; the numbers of streams only grow.
    last: u32,
    left: u32,
    refilled: Instant,
}

impl Frames {
    /// Of a connection that has just been accepted.
    pub(super) fn new() -> Self {
        Self {
            inbound: Direction::new(PREFACE),
            outbound: Direction::new(0),
            open: HashSet::new(),
            last: 0,
            left: BURST,
            refilled: Instant::now(),
        }
    }

    /// Requests that are not answered to their end.
    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    /// Whether any request has begun.
    pub(super) fn any_request(&self) -> bool {
        self.last > 0
    }

    /// What the peer sends.
    pub(super) fn inbound(&mut self, bytes: &[u8]) -> Result<(), Flood> {
        self.refill();
        let Self {
            inbound,
            open,
            last,
            left,
            ..
        } = self;
        let mut empty: u32 = 0;
        inbound.pass(bytes, |head| match head.kind {
            // The end of a request that is known is in HEADERS too.
            HEADERS if head.stream > *last => {
                *last = head.stream;
                open.insert(head.stream);
            }
            DATA if head.length > 0 || head.ends_its_stream() => {}
            // The library bounds these itself.
            CONTINUATION => {}
            RST_STREAM => {
                open.remove(&head.stream);
                empty = empty.saturating_add(1);
            }
            _ => empty = empty.saturating_add(1),
        });
        *left = left
            .checked_sub(empty)
            .filter(|left| *left > 0)
            .ok_or(Flood)?;
        Ok(())
    }

    /// What is sent to the peer.
    pub(super) fn outbound(&mut self, bytes: &[u8]) {
        let Self {
            outbound,
            open,
            left,
            ..
        } = self;
        outbound.pass(bytes, |head| {
            if head.kind == RST_STREAM || head.ends_its_stream() {
                open.remove(&head.stream);
            }
            // A request beyond those that may be open at once.
            if head.kind == RST_STREAM {
                *left = left.saturating_sub(1);
            }
            if matches!(head.kind, DATA | HEADERS) {
                *left = left.saturating_add(PER_ANSWER).min(BURST);
            }
        });
    }

    fn refill(&mut self) {
        let elapsed = self.refilled.elapsed();
        let more = elapsed.as_secs_f64() * f64::from(PER_SECOND);
        if more < 1.0 {
            return;
        }
        // At most a burst, whose number is small.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let more = more.min(f64::from(BURST)) as u32;
        self.left = self.left.saturating_add(more).min(BURST);
        self.refilled +=
            Duration::from_secs_f64(f64::from(more) / f64::from(PER_SECOND)).min(elapsed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: u8 = 6;
    const SETTINGS: u8 = 4;
    const PRIORITY: u8 = 2;
    const WINDOW_UPDATE: u8 = 8;

    fn frame(kind: u8, flags: u8, stream: u32, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut bytes = length[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(vec![0xff; payload]);
        bytes
    }

    fn started() -> Frames {
        let mut frames = Frames::new();
        frames.inbound(&[b'x'; PREFACE]).unwrap();
        frames.inbound(&frame(SETTINGS, 0, 0, 6)).unwrap();
        frames
    }

    #[tokio::test]
    async fn requests_are_open_until_they_are_answered() {
        let mut frames = started();
        assert!(!frames.any_request());
        frames.inbound(&frame(HEADERS, 4, 1, 100)).unwrap();
        frames.inbound(&frame(DATA, END_STREAM, 1, 5)).unwrap();
        frames.inbound(&frame(HEADERS, 4, 3, 100)).unwrap();
        assert_eq!((frames.any_request(), frames.open()), (true, 2));
        frames.outbound(&frame(HEADERS, 4, 1, 20));
        frames.outbound(&frame(DATA, 0, 1, 70_000));
        assert_eq!(frames.open(), 2);
        frames.outbound(&frame(HEADERS, 4 | END_STREAM, 1, 20));
        assert_eq!(frames.open(), 1);
        // Trailers of a request open nothing.
        frames.inbound(&frame(HEADERS, 5, 1, 9)).unwrap();
        frames.inbound(&frame(RST_STREAM, 0, 3, 4)).unwrap();
        assert_eq!(frames.open(), 0);
    }

    /// However the bytes are cut into reads.
    #[tokio::test]
    async fn frames_are_found_across_reads() {
        let mut bytes = vec![b'x'; PREFACE];
        for stream in [1, 3, 5, 7] {
            bytes.extend(frame(HEADERS, 4, stream, 33));
            bytes.extend(frame(DATA, END_STREAM, stream, 1000));
        }
        for size in [1, 2, 7, 9, 10, 100, 5000] {
            let mut frames = Frames::new();
            for part in bytes.chunks(size) {
                frames.inbound(part).unwrap();
            }
            assert_eq!((frames.open(), frames.last), (4, 7), "{size}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_without_requests_is_noticed() {
        for kind in [PING, SETTINGS, PRIORITY, WINDOW_UPDATE, 0x42] {
            let mut frames = started();
            let flood = frame(kind, 0, 0, 8);
            let sent = (0..10 * BURST).take_while(|_| frames.inbound(&flood).is_ok());
            assert_eq!(sent.count(), BURST as usize - 2, "{kind}");
        }
        let mut frames = started();
        let refused = (1..1000).map(|number| 2 * number + 1).take_while(|stream| {
            frames.outbound(&frame(RST_STREAM, 0, *stream, 4));
            frames.inbound(&frame(HEADERS, 5, *stream + 2, 100)).is_ok()
        });
        assert_eq!(refused.count(), BURST as usize - 2);
        let mut frames = started();
        frames.inbound(&frame(HEADERS, 4, 1, 100)).unwrap();
        let empty = frame(DATA, 0, 1, 0);
        assert!((0..1000).any(|_| frames.inbound(&empty).is_err()));
    }

    /// Keepalive for days, and a long answer whose reader says so for every frame.
    #[tokio::test(start_paused = true)]
    async fn what_peers_need_is_no_flood() {
        let mut frames = started();
        for _ in 0..10_000 {
            tokio::time::advance(Duration::from_secs(1)).await;
            for _ in 0..4 {
                frames.inbound(&frame(PING, 1, 0, 8)).unwrap();
            }
        }
        frames.inbound(&frame(HEADERS, 5, 1, 100)).unwrap();
        for _ in 0..100_000 {
            frames.outbound(&frame(DATA, 0, 1, 1));
            frames.inbound(&frame(WINDOW_UPDATE, 0, 0, 4)).unwrap();
            frames.inbound(&frame(WINDOW_UPDATE, 0, 1, 4)).unwrap();
        }
    }
}
