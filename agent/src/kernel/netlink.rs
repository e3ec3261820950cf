//! What all requests to netfilter over netlink have in common.

use std::io::Error;

use netlink_packet_core::{NLA_HEADER_SIZE, NlasIterator};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};

/// The length of `struct nfgenmsg`, before the attributes of a message.
pub(super) const NETFILTER_HEADER: usize = 4;

/// A socket to the kernel, in the network namespace of the calling thread, which never waits: the
/// kernel answers while it takes a request, and goes on with a list while it hands out a part.
/// What is not there at once never comes.
pub(super) fn connect() -> Result<Socket, Error> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// The attributes of a message, up to the first that is malformed.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(|attribute| {
        let attribute = attribute.ok()?;
        let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
        let value = attribute.into_inner().get(NLA_HEADER_SIZE..length)?;
        Some((kind, value))
    })
}
