//! A question and its answer over a network that loses packets.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

/// The first pause before a question is sent again; each further one is twice as long (RFC 3261,
/// 17.1.2.1: timer E, from T1). A probe is over before they reach T2.
const T1: Duration = Duration::from_millis(500);
/// The start of a longer answer suffices.
const LONGEST: usize = 8192;

/// A socket that sends to `to`, and takes only what comes from there: answers, and the errors
/// that ICMP reports.
pub(super) async fn socket_to(to: SocketAddr) -> io::Result<UdpSocket> {
    let any = match to {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(to).await?;
    Ok(socket)
}

/// Sends `question` again and again until `read` finds its answer in what comes; whoever waits
/// sets the limit.
pub(super) async fn exchange<T>(
    socket: &UdpSocket,
    question: &[u8],
    read: impl Fn(&[u8]) -> Option<T>,
) -> io::Result<T> {
    let mut pause = T1;
    let mut buffer = vec![0; LONGEST];
    loop {
        socket.send(question).await?;
        let again = Instant::now() + pause;
        while let Ok(received) = timeout_at(again, socket.recv(&mut buffer)).await {
            if let Some(answer) = buffer.get(..received?).and_then(&read) {
                return Ok(answer);
            }
        }
        pause *= 2;
    }
}
