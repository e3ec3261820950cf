//! Echo requests by a raw socket.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, socket,
};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout, timeout_at};

use super::plan::Seen;

const ECHO_REPLY_4: u8 = 0;
const ECHO_REQUEST_4: u8 = 8;
const ECHO_REQUEST_6: u8 = 128;
const ECHO_REPLY_6: u8 = 129;

/// Sends echo requests until an answer comes or `wait` is over.
pub(super) async fn ping(
    from: IpAddr,
    to: IpAddr,
    wait: Duration,
    resend: Duration,
) -> Result<Seen> {
    let socket = open(from, to)?;
    socket.connect(SocketAddr::new(to, 0)).await?;
    let id: u16 = rand::random();
    let request = request(to.is_ipv4(), id);
    let deadline = Instant::now() + wait;
    let exchange = async {
        loop {
            socket.send(&request).await?;
            if let Ok(answered) = timeout(resend, answer(&socket, to.is_ipv4(), id)).await {
                return answered;
            }
        }
    };
    match timeout_at(deadline, exchange).await {
        Ok(Ok(())) => Ok(Seen::Open),
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => Ok(Seen::Refused),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Ok(Seen::Closed),
    }
}

/// A raw socket in the type that tokio can wait on: it sends and receives whole packets, as
/// a UDP socket does.
fn open(from: IpAddr, to: IpAddr) -> Result<UdpSocket> {
    let (family, protocol) = if to.is_ipv4() {
        (AddressFamily::Inet, SockProtocol::Icmp)
    } else {
        (AddressFamily::Inet6, SockProtocol::IcmpV6)
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(family, SockType::Raw, flags, protocol)
        .context("cannot open a raw socket; run as root")?;
    bind(
        fd.as_raw_fd(),
        &SockaddrStorage::from(SocketAddr::new(from, 0)),
    )?;
    Ok(UdpSocket::from_std(fd.into())?)
}

async fn answer(socket: &UdpSocket, v4: bool, id: u16) -> std::io::Result<()> {
    let mut buffer = [0; 256];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if is_reply(buffer.get(..length).unwrap_or_default(), v4, id) {
            return Ok(());
        }
    }
}

/// Raw IPv4 sockets give the IP header too, raw IPv6 sockets do not.
fn is_reply(packet: &[u8], v4: bool, id: u16) -> bool {
    let header = match packet.first() {
        Some(first) if v4 => usize::from(first & 0x0f) * 4,
        _ => 0,
    };
    let reply = if v4 { ECHO_REPLY_4 } else { ECHO_REPLY_6 };
    let [high, low] = id.to_be_bytes();
    matches!(
        packet.get(header..),
        Some([kind, 0, _, _, a, b, ..]) if *kind == reply && *a == high && *b == low
    )
}

fn request(v4: bool, id: u16) -> [u8; 8] {
    let kind = if v4 { ECHO_REQUEST_4 } else { ECHO_REQUEST_6 };
    let [high, low] = id.to_be_bytes();
    // The kernel fills in the checksum of ICMPv6, which covers the addresses.
    let [sum_high, sum_low] = if v4 {
        let sum = u32::from(kind) * 256 + u32::from(id);
        let folded = (sum & 0xffff) + (sum >> 16);
        u16::try_from(folded).map_or(0, |sum| !sum).to_be_bytes()
    } else {
        [0, 0]
    };
    [kind, 0, sum_high, sum_low, high, low, 0, 0]
}
