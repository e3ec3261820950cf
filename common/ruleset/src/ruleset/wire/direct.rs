//! Long lists of networks as protobuf, written straight: a message for each would be an
//! allocation for each, and a site's rulesets hold a million.

use ipnet::IpNet;

use super::super::{Expiring, Scheduled};
use crate::protobuf::{put_bytes, put_number};

/// Field numbers of `Network`, `ExpiringNetwork` and `ScheduledNetwork` in `ruleset.proto`.
const ADDRESS: u32 = 1;
const PREFIX_LENGTH: u32 = 2;
const NETWORK: u32 = 1;
const UNTIL: u32 = 2;
const FROM_OF_SCHEDULED: u32 = 2;
const UNTIL_OF_SCHEDULED: u32 = 3;

/// Writes each network as `field`.
pub(in crate::ruleset) fn networks(tag: u32, nets: &[IpNet], out: &mut Vec<u8>) {
    let mut one = Vec::with_capacity(32);
    for net in nets {
        one.clear();
        network(net, &mut one);
        put_bytes(tag, &one, out);
    }
}

/// Writes each network that ends as `field`.
pub(in crate::ruleset) fn expiring(tag: u32, all: &[Expiring], out: &mut Vec<u8>) {
    let (mut net, mut one) = (Vec::with_capacity(32), Vec::with_capacity(48));
    for expiring in all {
        net.clear();
        one.clear();
        network(&expiring.net, &mut net);
        put_bytes(NETWORK, &net, &mut one);
        put_number(UNTIL, expiring.until.unix(), &mut one);
        put_bytes(tag, &one, out);
    }
}

/// Writes each network that begins as `field`.
pub(in crate::ruleset) fn scheduled(tag: u32, all: &[Scheduled], out: &mut Vec<u8>) {
    let (mut net, mut one) = (Vec::with_capacity(32), Vec::with_capacity(48));
    for scheduled in all {
        net.clear();
        one.clear();
        network(&scheduled.net, &mut net);
        put_bytes(NETWORK, &net, &mut one);
        put_number(FROM_OF_SCHEDULED, scheduled.from.unix(), &mut one);
        if let Some(until) = scheduled.until {
            put_number(UNTIL_OF_SCHEDULED, until.unix(), &mut one);
        }
        put_bytes(tag, &one, out);
    }
}

fn network(net: &IpNet, out: &mut Vec<u8>) {
    match net {
        IpNet::V4(net) => put_bytes(ADDRESS, &net.addr().octets(), out),
        IpNet::V6(net) => put_bytes(ADDRESS, &net.addr().octets(), out),
    }
    put_number(PREFIX_LENGTH, net.prefix_len().into(), out);
}
