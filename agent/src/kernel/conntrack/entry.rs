//! One entry of connection tracking, as far as it is needed.

use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::DefaultNla;
use netlink_packet_core::Nla as _;
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, IPTuple, ProtoTuple, Protocol as Number, Tuple,
};
use voipfleet_ruleset::ruleset::Protocol;

/// `CTA_ID`, `CTA_TUPLE_MASTER` and `CTA_ZONE` of `linux/netfilter/nfnetlink_conntrack.h`.
const ID: u16 = 12;
const MASTER: u16 = 14;
const ZONE: u16 = 18;

/// Where packets of one direction come from and go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
}

/// A TCP or UDP connection that belongs to no other.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) protocol: Protocol,
    /// Of packets of the side that spoke first.
    pub(super) original: Ends,
    /// Of the answers.
    pub(super) reply: Ends,
    /// What names exactly this entry: the original direction, and its zone and id where the
    /// kernel gives them.
    pub(super) key: Vec<ConntrackAttribute>,
}

impl Entry {
    #[cfg(test)]
    pub(super) fn new(protocol: Protocol, original: Ends, reply: Ends) -> Self {
        Self {
            protocol,
            original,
            reply,
            key: Vec::new(),
        }
    }

    /// None: it is of another kind.
    pub(super) fn read(attributes: Vec<ConntrackAttribute>) -> Option<Self> {
        let (mut original, mut reply) = (None, None);
        for attribute in &attributes {
            match attribute {
                ConntrackAttribute::CtaTupleOrig(tuple) => original = read_tuple(tuple),
                ConntrackAttribute::CtaTupleReply(tuple) => reply = read_tuple(tuple),
                ConntrackAttribute::Other(other) if other.kind() == MASTER => return None,
                _ => {}
            }
        }
        let ((protocol, original), (_, reply)) = (original?, reply?);
        let names = |other: &DefaultNla| [ID, ZONE].contains(&other.kind());
        let key = attributes.into_iter().filter(|attribute| match attribute {
            ConntrackAttribute::CtaTupleOrig(_) => true,
            ConntrackAttribute::Other(other) => names(other),
            _ => false,
        });
        Some(Self {
            protocol,
            original,
            reply,
            key: key.collect(),
        })
    }
}

/// None: neither TCP nor UDP.
fn read_tuple(tuple: &[Tuple]) -> Option<(Protocol, Ends)> {
    let (mut protocol, mut source_port, mut destination_port) = (None, None, None);
    let (mut source, mut destination): (Option<IpAddr>, Option<IpAddr>) = (None, None);
    for part in tuple {
        match part {
            Tuple::Ip(addresses) => {
                for address in addresses {
                    match address {
                        IPTuple::SourceAddress(address) => source = Some(*address),
                        IPTuple::DestinationAddress(address) => destination = Some(*address),
                        _ => {}
                    }
                }
            }
            Tuple::Proto(parts) => {
                for part in parts {
                    match part {
                        ProtoTuple::Protocol(Number::Tcp) => protocol = Some(Protocol::Tcp),
                        ProtoTuple::Protocol(Number::Udp) => protocol = Some(Protocol::Udp),
                        ProtoTuple::SourcePort(port) => source_port = Some(*port),
                        ProtoTuple::DestinationPort(port) => destination_port = Some(*port),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let ends = Ends {
        source: SocketAddr::new(source?, source_port?),
        destination: SocketAddr::new(destination?, destination_port?),
    };
    Some((protocol?, ends))
}
