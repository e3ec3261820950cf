//! Requests to `nf_conntrack_netlink`, in the network namespace of the calling thread.

use std::io::{Error, ErrorKind};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_netfilter::conntrack::{ConntrackAttribute, ConntrackMessage};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::Socket;

use super::ConntrackError;
use super::entry::Entry;
use crate::kernel::netlink;

/// The kernel fills at most 32 KiB at once (`netlink_recvmsg`).
const BUFFER: usize = 64 << 10;

/// The result of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deleted {
    /// It is gone by our request.
    Now,
    /// It was gone already.
    Before,
}

pub(super) struct Netlink {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Netlink {
    pub(super) fn open() -> Result<Self, Error> {
        Ok(Self {
            socket: netlink::connect()?,
            buffer: Vec::with_capacity(BUFFER),
        })
    }

    /// Calls `each` with every entry of both families. Returns how many could not be parsed.
    pub(super) fn list(
        &mut self,
        mut each: impl FnMut(Vec<ConntrackAttribute>),
    ) -> Result<u64, ConntrackError> {
        let any = NetfilterProtoFamily::Unspec;
        let request = request(any, ConntrackMessage::Get(Vec::new()), NLM_F_DUMP);
        self.send(&request).map_err(ConntrackError::List)?;
        let mut unread = 0;
        loop {
            self.receive().map_err(ConntrackError::List)?;
            let mut left = self.buffer.as_slice();
            while let Some((message, after)) = first_message(left) {
                left = after;
                match message {
                    Ok(NetlinkPayload::InnerMessage(message)) => {
                        if let NetfilterMessageInner::Conntrack(ConntrackMessage::New(entry)) =
                            message.inner
                        {
                            each(entry);
                        }
                    }
                    Ok(NetlinkPayload::Done(_)) => return Ok(unread),
                    Ok(NetlinkPayload::Error(refusal)) => {
                        return Err(ConntrackError::List(refusal.to_io()));
                    }
                    Ok(_) => {}
                    Err(Unread) => unread += 1,
                }
            }
        }
    }

    /// Deletes exactly that entry.
    pub(super) fn delete(&mut self, entry: Entry) -> Result<Deleted, Error> {
        let family = if entry.original.source.is_ipv4() {
            NetfilterProtoFamily::IPv4
        } else {
            NetfilterProtoFamily::IPv6
        };
        let message = ConntrackMessage::Delete(entry.key);
        self.send(&request(family, message, NLM_F_ACK))?;
        self.receive()?;
        match first_message(&self.buffer) {
            Some((Ok(NetlinkPayload::Error(answer)), _)) => match answer.code {
                None => Ok(Deleted::Now),
                Some(code) if code.get() == -(nix::Error::ENOENT as i32) => Ok(Deleted::Before),
                Some(_) => Err(answer.to_io()),
            },
            _ => Err(Error::from(ErrorKind::InvalidData)),
        }
    }

    fn send(&mut self, request: &[u8]) -> Result<(), Error> {
        self.socket.send(request, 0).map(drop)
    }

    fn receive(&mut self) -> Result<(), Error> {
        self.buffer.clear();
        match self.socket.recv(&mut self.buffer, 0)? {
            0 => Err(Error::from(ErrorKind::UnexpectedEof)),
            _ => Ok(()),
        }
    }
}

type Payload = NetlinkPayload<NetfilterMessage>;

/// A message that could not be parsed.
struct Unread;

/// The first message of a datagram, and what is after it; none where nothing is left, or it is
/// cut short.
fn first_message(datagram: &[u8]) -> Option<(Result<Payload, Unread>, &[u8])> {
    let header = NetlinkBuffer::new_checked(datagram).ok()?;
    let length = usize::try_from(header.length()).ok()?;
    let message = datagram.get(..length)?;
    let after = datagram
        .get(length.next_multiple_of(4)..)
        .unwrap_or_default();
    let message = NetlinkMessage::<NetfilterMessage>::deserialize(message);
    Some((
        message.map(|message| message.payload).map_err(|_| Unread),
        after,
    ))
}

fn request(family: NetfilterProtoFamily, message: ConntrackMessage, flags: u16) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let message = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message);
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    // It panics only where the buffer is shorter than that length.
    message.serialize(&mut bytes);
    bytes
}
