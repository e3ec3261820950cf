//! The number of the last transaction of `nf_tables`, in the network namespace of the calling thread.

use netlink_packet_core::{Emitable as _, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader};

use super::events::NFTABLES;
use super::netlink::{self, NETFILTER_HEADER, attributes};

/// `NFT_MSG_GETGEN` of `linux/netfilter/nf_tables.h`.
const GET_GENERATION: u16 = NFTABLES | 16;
/// `NFTA_GEN_ID`.
const GENERATION_ID: u16 = 1;
/// The answer has three short attributes.
const BUFFER: usize = 4096;

/// It changes with every change of rules or sets of `nf_tables`; `None` where the kernel does not tell.
/// A kernel that has `nf_tables` as a module loads it.
pub fn nft_generation() -> Option<u32> {
    let socket = netlink::connect().ok()?;
    let mut header = NetlinkHeader::default();
    header.message_type = GET_GENERATION;
    header.flags = NLM_F_REQUEST;
    let length = header.buffer_len();
    header.length = u32::try_from(length + NETFILTER_HEADER).ok()?;
    // `struct nfgenmsg`: any family, version 0.
    let mut request = vec![0; length + NETFILTER_HEADER];
    header.emit(request.get_mut(..length)?);
    socket.send(&request, 0).ok()?;
    let mut answer = Vec::with_capacity(BUFFER);
    socket.recv(&mut answer, 0).ok()?;
    let message = NetlinkBuffer::new_checked(answer.as_slice()).ok()?;
    let found = attributes(message.payload().get(NETFILTER_HEADER..)?)
        .find(|(kind, _)| *kind == GENERATION_ID)
        .and_then(|(_, value)| value.try_into().ok());
    found.map(u32::from_be_bytes)
}
