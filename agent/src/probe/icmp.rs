//! Echo requests by a raw socket (RFC 792, RFC 4443), for which the agent needs `CAP_NET_RAW`.

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use tokio::net::UdpSocket;

use super::datagram::exchange;

const REQUEST_V4: u8 = 8;
const REPLY_V4: u8 = 0;
const REQUEST_V6: u8 = 128;
const REPLY_V6: u8 = 129;
/// After the type, the code and the checksum: an identifier, a sequence number and data. A raw
/// socket gets the answers to all requests, and these are ours alone.
type Token = [u8; 20];

/// Asks until an answer comes.
pub(super) async fn echo(to: IpAddr) -> io::Result<()> {
    let socket = open(to)?;
    socket.connect(SocketAddr::new(to, 0)).await?;
    let token: Token = rand::random();
    exchange(&socket, &request(to, &token), |packet| {
        is_reply(packet, to, &token).then_some(())
    })
    .await
}

/// A raw socket in the type that tokio can wait on: it sends and receives whole packets, as a
/// UDP socket does.
fn open(to: IpAddr) -> io::Result<UdpSocket> {
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(family, SockType::Raw, flags, protocol)?;
    UdpSocket::from_std(fd.into())
}

fn request(to: IpAddr, token: &Token) -> Vec<u8> {
    let kind = match to {
        IpAddr::V4(_) => REQUEST_V4,
        IpAddr::V6(_) => REQUEST_V6,
    };
    // The kernel fills in the checksum of ICMPv6, which covers the addresses.
    let mut sum = [0, 0];
    if to.is_ipv4() {
        sum = checksum(kind, token).to_be_bytes();
    }
    let mut packet = vec![kind, 0];
    packet.extend(sum);
    packet.extend(token);
    packet
}

/// RFC 1071, over a message of code 0.
fn checksum(kind: u8, token: &Token) -> u16 {
    let words = token.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        _ => 0, // its length is even
    });
    let mut sum = u32::from(kind) << 8;
    sum += words.sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

/// Raw IPv4 sockets give the IP header too, raw IPv6 sockets do not.
fn is_reply(packet: &[u8], to: IpAddr, token: &Token) -> bool {
    let (header, reply) = match (to, packet.first()) {
        (IpAddr::V4(_), Some(first)) => (usize::from(first & 0x0f) * 4, REPLY_V4),
        _ => (0, REPLY_V6),
    };
    match packet.get(header..) {
        Some([kind, 0, _, _, echoed @ ..]) => *kind == reply && echoed == token,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echo_request_has_a_valid_checksum() {
        for token in [[0; 20], [0xff; 20], *b"0123456789abcdefghij"] {
            let packet = request("192.0.2.1".parse().unwrap(), &token);
            let words = packet
                .chunks(2)
                .map(|w| u32::from(w[0]) << 8 | u32::from(w[1]));
            let mut sum: u32 = words.sum();
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            assert_eq!(sum, 0xffff);
        }
    }

    #[test]
    fn only_the_reply_to_this_echo_request_counts() {
        let (v4, v6) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        let token: Token = std::array::from_fn(|i| u8::try_from(i).unwrap());
        let message = |kind: u8, token: &Token| [&[kind, 0, 1, 2][..], token].concat();
        let with_header = |message: Vec<u8>| [&[0x45; 20][..], &message].concat();
        assert!(is_reply(&with_header(message(0, &token)), v4, &token));
        assert!(is_reply(&message(129, &token), v6, &token));
        let other = [9; 20];
        for (bad, of) in [
            (with_header(message(8, &token)), v4),
            (with_header(message(0, &other)), v4),
            (with_header(message(3, &token)), v4),
            (message(128, &token), v6),
            (message(129, &other), v6),
            (message(129, &token)[..8].to_vec(), v6),
            (vec![0x4f], v4),
            (Vec::new(), v4),
            (Vec::new(), v6),
        ] {
            assert!(!is_reply(&bad, of, &token), "{bad:?}");
        }
    }
}
