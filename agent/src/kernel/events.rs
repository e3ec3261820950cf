//! Changes of `nf_tables`, as the kernel announces them, with their author.

use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};

use super::OwnProcesses;

/// `NETLINK_NETFILTER` of linux/netlink.h.
const NETLINK_NETFILTER: isize = 12;
/// `NFNLGRP_NFTABLES` of linux/netfilter/nfnetlink.h.
const NFTABLES_GROUP: u32 = 7;
/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWGEN`: the last message of every transaction.
const NEW_GENERATION: u16 = 10 << 8 | 15;
/// `NLMSG_OVERRUN` of linux/netlink.h.
const OVERRUN: u16 = 4;
/// `enum nft_gen_attributes` of `linux/netfilter/nf_tables.h`.
const GEN_PROC_PID: u16 = 2;
const GEN_PROC_NAME: u16 = 3;
/// The kernel sends at most a page, or 8 KiB, at once (`NLMSG_GOODSIZE`).
const BUFFER: usize = 64 << 10;
/// What the kernel may hold for us while we are busy. A transaction of 10,000 rules is more;
/// then the kernel says so, and everything is checked.
const KERNEL_BUFFER: i32 = 1 << 20;
/// `TASK_COMM_LEN` is 16, its terminator counted.
const MAX_COMM: usize = 15;

/// The process that changed the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// Its id.
    pub pid: u32,
    /// Its command, as the kernel knows it: at most 15 bytes, without control characters.
    pub comm: String,
}

/// What was announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelEvent {
    /// A transaction was committed.
    Changed(Option<Author>),
    /// Announcements were lost: anything may have changed.
    Lost,
}

impl KernelEvent {
    /// Whether one of our own tools caused it.
    pub fn is_by(&self, own: &OwnProcesses) -> bool {
        match self {
            KernelEvent::Changed(Some(author)) => own.contains(author.pid),
            KernelEvent::Changed(None) | KernelEvent::Lost => false,
        }
    }
}

/// No announcements can be had.
#[derive(Debug, thiserror::Error)]
#[error("the kernel announces no changes of nf_tables")]
pub struct EventsError(#[from] std::io::Error);

/// Announcements of the network namespace in which this was opened.
pub struct Events {
    socket: TokioSocket,
    buffer: Vec<u8>,
    seen: std::collections::VecDeque<KernelEvent>,
}

impl Events {
    /// Listens. Needs a running tokio runtime.
    pub fn open() -> Result<Self, EventsError> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        let plain = socket.socket_mut();
        // Best effort: beyond the system's limit the kernel takes what it may.
        let _smaller = plain.set_rx_buf_sz(KERNEL_BUFFER);
        plain.bind_auto()?;
        plain.add_membership(NFTABLES_GROUP)?;
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(BUFFER),
            seen: std::collections::VecDeque::new(),
        })
    }

    /// The next announcement. Safe to drop while it waits.
    pub async fn next(&mut self) -> Result<KernelEvent, EventsError> {
        loop {
            if let Some(event) = self.seen.pop_front() {
                return Ok(event);
            }
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer).await {
                Ok(from) if is_kernel(&from) => self.seen.extend(parse(&self.buffer)),
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(nix::Error::ENOBUFS as i32) => {
                    return Ok(KernelEvent::Lost);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn is_kernel(from: &SocketAddr) -> bool {
    from.port_number() == 0
}

fn native_u16(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..at.checked_add(2)?)?;
    field.try_into().ok().map(u16::from_ne_bytes)
}

fn native_u32(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    field.try_into().ok().map(u32::from_ne_bytes)
}

/// The events in one datagram. One that is cut short counts as lost.
fn parse(mut datagram: &[u8]) -> Vec<KernelEvent> {
    const HEADER: usize = 16; // struct nlmsghdr
    const NETFILTER_HEADER: usize = 4; // struct nfgenmsg
    let mut events = Vec::new();
    while !datagram.is_empty() {
        let length = native_u32(datagram, 0).and_then(|length| usize::try_from(length).ok());
        let kind = native_u16(datagram, 4);
        let (Some(length), Some(kind)) = (length, kind) else {
            events.push(KernelEvent::Lost);
            break;
        };
        let Some(message) = datagram.get(HEADER..length) else {
            events.push(KernelEvent::Lost);
            break;
        };
        match kind {
            NEW_GENERATION => {
                let attributes = message.get(NETFILTER_HEADER..).unwrap_or_default();
                events.push(KernelEvent::Changed(author(attributes)));
            }
            OVERRUN => events.push(KernelEvent::Lost),
            _ => {}
        }
        datagram = datagram.get(aligned(length)..).unwrap_or_default();
    }
    events
}

fn aligned(length: usize) -> usize {
    length.saturating_add(3) & !3
}

fn author(mut attributes: &[u8]) -> Option<Author> {
    const HEADER: usize = 4; // struct nlattr
    const FLAGS: u16 = 0xc000; // NLA_F_NESTED, NLA_F_NET_BYTEORDER
    let (mut pid, mut comm) = (None, None);
    while !attributes.is_empty() {
        let length = usize::from(native_u16(attributes, 0)?);
        let kind = native_u16(attributes, 2)? & !FLAGS;
        let value = attributes.get(HEADER..length)?;
        match kind {
            GEN_PROC_PID => pid = value.try_into().ok().map(u32::from_be_bytes),
            GEN_PROC_NAME => comm = Some(name(value)),
            _ => {}
        }
        attributes = attributes.get(aligned(length)..).unwrap_or_default();
    }
    Some(Author {
        pid: pid?,
        comm: comm.unwrap_or_default(),
    })
}

/// Any process names itself as it likes: what reaches logs and terminals is printable.
fn name(value: &[u8]) -> String {
    let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
    let value = value.get(..MAX_COMM).unwrap_or(value);
    String::from_utf8_lossy(value)
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(4 + value.len())
            .unwrap()
            .to_ne_bytes()
            .to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(16 + body.len())
            .unwrap()
            .to_ne_bytes()
            .to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    fn generation() -> Vec<u8> {
        let mut body = vec![0; 4];
        body.extend(attribute(1, &77_u32.to_be_bytes()));
        body.extend(attribute(GEN_PROC_PID, &4711_u32.to_be_bytes()));
        body.extend(attribute(GEN_PROC_NAME, b"ipta\x1bbles\0"));
        message(NEW_GENERATION, &body)
    }

    #[test]
    fn a_transaction_names_its_author() {
        let mut datagram = message(10 << 8 | 6, &[0; 21]); // a new rule
        datagram.extend(generation());
        let author = Author {
            pid: 4711,
            comm: "ipta?bles".to_owned(),
        };
        assert_eq!(parse(&datagram), [KernelEvent::Changed(Some(author))]);
    }

    #[test]
    fn what_is_cut_short_is_lost() {
        let whole = generation();
        assert_eq!(parse(&whole[..whole.len() - 4]), [KernelEvent::Lost]);
        let bare = message(NEW_GENERATION, &[0; 4]);
        assert_eq!(parse(&bare), [KernelEvent::Changed(None)]);
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(datagram in prop::collection::vec(any::<u8>(), 0..200)) {
            let _events = parse(&datagram);
        }

        #[test]
        fn no_change_of_a_message_breaks_it(at in 0_usize..64, byte: u8) {
            let mut datagram = generation();
            let at = at % datagram.len();
            datagram[at] = byte;
            let _events = parse(&datagram);
        }
    }
}
