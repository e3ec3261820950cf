//! Changes of `nf_tables`, as the kernel announces them, with their author.

use netlink_packet_core::{NLA_ALIGNTO, NLMSG_OVERRUN, NetlinkBuffer};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use voipfleet_ruleset::ruleset::CHAIN_PREFIX;

use super::Author;
use super::netlink::{NETFILTER_HEADER, attributes};
use crate::host::exec::OwnProcesses;
use crate::host::{Processes, comm_text};

/// `NFNLGRP_NFTABLES` of linux/netfilter/nfnetlink.h.
const NFTABLES_GROUP: u32 = 7;
/// `NFNL_SUBSYS_NFTABLES << 8`; the message's kind, `enum nf_tables_msg_types`, is below it.
pub(super) const NFTABLES: u16 = 10 << 8;
/// `NFT_MSG_NEWGEN`: the last message of every transaction.
const NEW_GENERATION: u16 = NFTABLES | 15;
/// `NFT_MSG_NEWTABLE` and `NFT_MSG_DELTABLE`.
const TABLES: [u16; 2] = [NFTABLES, NFTABLES | 2];
/// `NFT_MSG_NEWCHAIN` and `NFT_MSG_DELCHAIN`.
const CHAINS: [u16; 2] = [NFTABLES | 3, NFTABLES | 5];
/// `NFT_MSG_NEWRULE` and `NFT_MSG_DELRULE`.
const RULES: [u16; 2] = [NFTABLES | 6, NFTABLES | 8];
/// `enum nft_gen_attributes` of `linux/netfilter/nf_tables.h`.
const GEN_PROC_PID: u16 = 2;
const GEN_PROC_NAME: u16 = 3;
/// The name of the table: `NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE`, `NFTA_RULE_TABLE`.
const TABLE_NAME: u16 = 1;
/// `NFTA_CHAIN_NAME`.
const CHAIN_NAME: u16 = 3;
/// `NFTA_RULE_CHAIN`.
const RULE_CHAIN: u16 = 2;
/// `NFPROTO_IPV4` and `NFPROTO_IPV6` of linux/netfilter.h.
const IPV4: u8 = 2;
const IPV6: u8 = 10;
/// The tools by which the agent changes rules, as the kernel cuts their names.
const OUR_TOOLS: [&str; 2] = ["iptables-restor", "ip6tables-resto"];
/// The kernel sends at most a page, or 8 KiB, at once (`NLMSG_GOODSIZE`).
const BUFFER: usize = 64 << 10;
/// What the kernel may buffer while we are busy. A transaction of 10,000 rules is more; the kernel
/// reports the loss then, and everything is inspected.
const KERNEL_BUFFER: i32 = 1 << 20;

/// How far a transaction reached into one family's filter table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    #[default]
    Nothing,
    /// Only chains other than ours and `INPUT`, which has our jump.
    Others,
    /// Chains of ours, `INPUT`, or the table itself.
    Ours,
}

/// One committed transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// Its author, where the kernel names one.
    pub author: Option<Box<Author>>,
    /// Its reach in IPv4.
    pub v4: Reach,
    /// Its reach in IPv6.
    pub v6: Reach,
}

impl Transaction {
    /// Notes one message before the one that ends the transaction.
    fn note(&mut self, kind: u16, family: u8, bytes: &[u8]) {
        let reach = match family {
            IPV4 => &mut self.v4,
            IPV6 => &mut self.v6,
            _ => return, // tables of other families hold nothing that iptables shows
        };
        let named = |wanted| {
            attributes(bytes)
                .find(|(kind, _)| *kind == wanted)
                .map(|(_, value)| value.split(|byte| *byte == 0).next().unwrap_or_default())
        };
        if named(TABLE_NAME).is_some_and(|table| table != b"filter") {
            return;
        }
        let chain = match kind {
            kind if CHAINS.contains(&kind) => named(CHAIN_NAME),
            kind if RULES.contains(&kind) => named(RULE_CHAIN),
            kind if TABLES.contains(&kind) => None,
            // Sets and the like of a table in which iptables has none.
            _ => Some(b"".as_slice()),
        };
        let ours = chain
            .is_none_or(|chain| chain == b"INPUT" || chain.starts_with(CHAIN_PREFIX.as_bytes()));
        *reach = (*reach).max(if ours { Reach::Ours } else { Reach::Others });
    }
}

/// An announcement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelEvent {
    /// A transaction was committed.
    Changed(Transaction),
    /// Announcements were lost: anything may have changed.
    Lost,
}

impl KernelEvent {
    /// Whether one of our own tools caused it.
    pub fn is_by(&self, own: &OwnProcesses) -> bool {
        match self {
            KernelEvent::Changed(transaction) => transaction
                .author
                .as_ref()
                .is_some_and(|author| own.contains(author.process.pid)),
            KernelEvent::Lost => false,
        }
    }

    /// Without the id of its author, which is one of another namespace: whether a tool is ours
    /// cannot be known then, so that one like ours is unknown.
    #[must_use]
    pub fn without_ids(self) -> Self {
        let KernelEvent::Changed(by) = self else {
            return self;
        };
        let comm = by.author.map(|author| author.process.comm);
        let foreign = comm.filter(|comm| !OUR_TOOLS.contains(&comm.as_str()));
        KernelEvent::Changed(Transaction {
            author: foreign.map(|comm| Box::new(Author::named(0, comm))),
            ..by
        })
    }

    /// Adds what can still be read of its author, if it reached anything.
    #[must_use]
    pub fn looked_up(self, processes: &Processes) -> Self {
        match self {
            // Changes of NAT are not worth a look at /proc.
            KernelEvent::Changed(by) if by.v4.max(by.v6) == Reach::Nothing => {
                KernelEvent::Changed(by)
            }
            KernelEvent::Changed(by) => KernelEvent::Changed(Transaction {
                author: by
                    .author
                    .map(|author| Box::new(author.looked_up(processes))),
                ..by
            }),
            KernelEvent::Lost => KernelEvent::Lost,
        }
    }
}

/// The kernel announces nothing.
#[derive(Debug, thiserror::Error)]
#[error("the kernel does not announce changes of nf_tables")]
pub struct EventsError(#[from] std::io::Error);

/// Announcements of the network namespace in which this was opened.
pub struct Events {
    socket: TokioSocket,
    buffer: Vec<u8>,
    seen: std::collections::VecDeque<KernelEvent>,
    /// The transaction whose end has not come yet: a large one fills many datagrams.
    open: Transaction,
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
            open: Transaction::default(),
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
                Ok(from) if is_kernel(&from) => {
                    self.seen.extend(parse(&self.buffer, &mut self.open));
                }
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

/// The events in one datagram, after what came of the transaction that is `open`. One that is
/// cut short counts as lost.
fn parse(mut datagram: &[u8], open: &mut Transaction) -> Vec<KernelEvent> {
    let mut events = Vec::new();
    while !datagram.is_empty() {
        let Ok(message) = NetlinkBuffer::new_checked(datagram) else {
            events.push(KernelEvent::Lost);
            break;
        };
        let (kind, payload) = (message.message_type(), message.payload());
        let attributes = payload.get(NETFILTER_HEADER..).unwrap_or_default();
        match kind {
            NEW_GENERATION => {
                let mut transaction = std::mem::take(open);
                transaction.author = author(attributes).map(Box::new);
                events.push(KernelEvent::Changed(transaction));
            }
            NLMSG_OVERRUN => events.push(KernelEvent::Lost),
            kind if kind & 0xff00 == NFTABLES => {
                let family = payload.first().copied().unwrap_or_default();
                open.note(kind, family, attributes);
            }
            _ => {}
        }
        let length = usize::try_from(message.length()).unwrap_or(usize::MAX);
        let next = length.checked_next_multiple_of(NLA_ALIGNTO);
        datagram = next
            .and_then(|next| datagram.get(next..))
            .unwrap_or_default();
    }
    events
}

fn author(bytes: &[u8]) -> Option<Author> {
    let (mut pid, mut comm) = (None, None);
    for (kind, value) in attributes(bytes) {
        match kind {
            GEN_PROC_PID => pid = value.try_into().ok().map(u32::from_be_bytes),
            GEN_PROC_NAME => comm = Some(name(value)),
            _ => {}
        }
    }
    Some(Author::named(pid?, comm.unwrap_or_default()))
}

fn name(value: &[u8]) -> String {
    comm_text(value.split(|byte| *byte == 0).next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{DefaultNla, Emitable as _, NetlinkHeader};
    use proptest::prelude::*;

    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let attribute = DefaultNla::new(kind, value.to_vec());
        let mut bytes = vec![0; attribute.buffer_len()];
        attribute.emit(&mut bytes);
        bytes
    }

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut header = NetlinkHeader::default();
        header.message_type = kind;
        header.length = u32::try_from(header.buffer_len() + body.len()).unwrap();
        let mut bytes = vec![0; header.buffer_len()];
        header.emit(&mut bytes);
        bytes.extend(body);
        bytes
    }

    fn generation() -> Vec<u8> {
        let mut body = vec![0; 4];
        body.extend(attribute(1, &77_u32.to_be_bytes()));
        body.extend(attribute(GEN_PROC_PID, &4711_u32.to_be_bytes()));
        body.extend(attribute(GEN_PROC_NAME, b"ipta\x1bbles\0"));
        message(NEW_GENERATION, &body)
    }

    fn rule(family: u8, table: &[u8], chain: &[u8]) -> Vec<u8> {
        let mut body = vec![family, 0, 0, 0];
        body.extend(attribute(TABLE_NAME, table));
        body.extend(attribute(RULE_CHAIN, chain));
        message(RULES[0], &body)
    }

    #[test]
    fn transaction_has_author_and_reach() {
        let mut open = Transaction::default();
        for (family, table, chain, v4, v6) in [
            (
                IPV4,
                b"filter\0".as_slice(),
                "VF-SIP\0",
                Reach::Ours,
                Reach::Nothing,
            ),
            (IPV6, b"filter\0", "INPUT\0", Reach::Nothing, Reach::Ours),
            (
                IPV4,
                b"filter\0",
                "f2b-sshd\0",
                Reach::Others,
                Reach::Nothing,
            ),
            (IPV4, b"nat\0", "INPUT\0", Reach::Nothing, Reach::Nothing),
            (1, b"filter\0", "INPUT\0", Reach::Nothing, Reach::Nothing), // inet
        ] {
            // The end of a large transaction comes in a datagram of its own.
            assert!(parse(&rule(family, table, chain.as_bytes()), &mut open).is_empty());
            let author = Some(Box::new(Author::named(4711, "ipta?bles".to_owned())));
            let transaction = Transaction { author, v4, v6 };
            let events = parse(&generation(), &mut open);
            assert_eq!(events, [KernelEvent::Changed(transaction)], "{chain}");
        }
    }

    #[test]
    fn tool_like_ours_is_unknown_where_ids_mean_nothing() {
        for (comm, expected) in [("iptables-restor", None), ("nft", Some((0, "nft")))] {
            let author = Some(Box::new(Author::named(4711, comm.to_owned())));
            let event = KernelEvent::Changed(Transaction {
                author,
                v4: Reach::Ours,
                v6: Reach::Nothing,
            });
            let KernelEvent::Changed(seen) = event.without_ids() else {
                panic!("it is a change");
            };
            let author = seen.author.as_ref().map(|author| &author.process);
            let author = author.map(|process| (process.pid, process.comm.as_str()));
            assert_eq!(author, expected);
            assert_eq!(seen.v4, Reach::Ours);
        }
    }

    #[test]
    fn truncated_datagram_counts_as_lost() {
        let mut open = Transaction::default();
        let whole = generation();
        let cut = &whole[..whole.len() - 4];
        assert_eq!(parse(cut, &mut open), [KernelEvent::Lost]);
        let bare = message(NEW_GENERATION, &[0; 4]);
        let no_author = KernelEvent::Changed(Transaction::default());
        assert_eq!(parse(&bare, &mut open), [no_author]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(datagram in prop::collection::vec(any::<u8>(), 0..200)) {
            let _events = parse(&datagram, &mut Transaction::default());
        }

        #[test]
        fn corrupted_message_does_not_panic(at in 0_usize..64, byte: u8) {
            let mut datagram = generation();
            let at = at % datagram.len();
            datagram[at] = byte;
            let _events = parse(&datagram, &mut Transaction::default());
        }
    }
}
