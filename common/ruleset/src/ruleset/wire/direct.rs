//! Long lists of networks as protobuf, written straight: a message for each would be an
//! allocation for each, and a site's rulesets hold a million.

use ipnet::IpNet;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::super::Expiring;

/// Field numbers of `Network` and `ExpiringNetwork` in `ruleset.proto`.
const ADDRESS: u32 = 1;
const PREFIX_LENGTH: u32 = 2;
const NETWORK: u32 = 1;
const UNTIL: u32 = 2;

/// Writes `field` of a message: its bytes as another message, text or bytes.
pub(in crate::ruleset) fn field(tag: u32, content: &[u8], out: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}

/// Writes a number; 0 is what a reader takes for one that is not there.
pub(in crate::ruleset) fn number(tag: u32, value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        encode_key(tag, WireType::Varint, out);
        encode_varint(value, out);
    }
}

/// Writes each network as `field`.
pub(in crate::ruleset) fn networks(tag: u32, nets: &[IpNet], out: &mut Vec<u8>) {
    let mut one = Vec::with_capacity(32);
    for net in nets {
        one.clear();
        network(net, &mut one);
        field(tag, &one, out);
    }
}

/// Writes each network that ends as `field`.
pub(in crate::ruleset) fn expiring(tag: u32, all: &[Expiring], out: &mut Vec<u8>) {
    let (mut net, mut one) = (Vec::with_capacity(32), Vec::with_capacity(48));
    for expiring in all {
        net.clear();
        one.clear();
        network(&expiring.net, &mut net);
        field(NETWORK, &net, &mut one);
        number(UNTIL, expiring.until.unix(), &mut one);
        field(tag, &one, out);
    }
}

fn network(net: &IpNet, out: &mut Vec<u8>) {
    match net {
        IpNet::V4(net) => field(ADDRESS, &net.addr().octets(), out),
        IpNet::V6(net) => field(ADDRESS, &net.addr().octets(), out),
    }
    number(PREFIX_LENGTH, net.prefix_len().into(), out);
}
