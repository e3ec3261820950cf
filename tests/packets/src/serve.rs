//! Echo servers on many ports, IPv4 and IPv6.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

/// Connections of all ports together; more wait in the kernel's queues.
const MAX_CONNECTIONS: usize = 1_024;
/// How long a connection may live.
const MAX_AGE: Duration = Duration::from_mins(1);

/// Listens on every port and echoes what comes, until the process ends. Calls `ready` once
/// all ports are bound.
pub async fn serve(tcp: &[u16], udp: &[u16], ready: impl FnOnce()) -> Result<()> {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // A socket on :: takes IPv4 as well.
    let on = |port: u16| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    for &port in tcp {
        let listener = TcpListener::bind(on(port))
            .await
            .with_context(|| format!("cannot listen on {port}/tcp"))?;
        tokio::spawn(accept(listener, Arc::clone(&slots)));
    }
    for &port in udp {
        let socket = UdpSocket::bind(on(port))
            .await
            .with_context(|| format!("cannot listen on {port}/udp"))?;
        tokio::spawn(echo_datagrams(socket));
    }
    ready();
    std::future::pending().await
}

async fn accept(listener: TcpListener, slots: Arc<Semaphore>) -> io::Result<()> {
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return Ok(());
        };
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let _ended = tokio::time::timeout(MAX_AGE, echo(stream)).await;
            drop(slot);
        });
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 1_024];
    loop {
        let length = stream.read(&mut buffer).await?;
        let Some(received @ [_, ..]) = buffer.get(..length) else {
            return Ok(());
        };
        stream.write_all(received).await?;
    }
}

async fn echo_datagrams(socket: UdpSocket) {
    let mut buffer = [0; 1_024];
    loop {
        // An error here is the ICMP answer to an earlier datagram: nothing to this one.
        if let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            let received = buffer.get(..length).unwrap_or_default();
            let _unsent = socket.send_to(received, peer).await;
        }
    }
}
