//! What counts as one source of connections.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A network that an address is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Network {
    base: IpAddr,
    prefix: u8,
}

/// Prefix lengths of IPv6, and the part of all places that one such network may take: whoever
/// has an IPv6 address has a /64, often a /56, and a customer of a provider a /48.
const IPV6: [(u8, usize); 3] = [(64, 8), (56, 4), (48, 2)];
/// The same for IPv4.
const IPV4: [(u8, usize); 2] = [(32, 8), (24, 2)];

/// The networks of an address, the narrowest first, and by what the number of all places is
/// divided for each.
pub(super) fn of(address: IpAddr) -> Vec<(Network, usize)> {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let network = |(prefix, part): (u8, usize)| (v4_network(v4, prefix), part);
            IPV4.into_iter().map(network).collect()
        }
        IpAddr::V6(v6) => {
            let network = |(prefix, part): (u8, usize)| (v6_network(v6, prefix), part);
            IPV6.into_iter().map(network).collect()
        }
    }
}

/// The narrowest of them: one host, as far as a server can tell.
pub(super) fn host(address: IpAddr) -> Network {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4_network(v4, 32),
        IpAddr::V6(v6) => v6_network(v6, 64),
    }
}

fn v4_network(address: Ipv4Addr, prefix: u8) -> Network {
    let mask = u32::MAX
        .checked_shl(32 - u32::from(prefix))
        .unwrap_or_default();
    Network {
        base: Ipv4Addr::from_bits(address.to_bits() & mask).into(),
        prefix,
    }
}

fn v6_network(address: Ipv6Addr, prefix: u8) -> Network {
    let mask = u128::MAX
        .checked_shl(128 - u32::from(prefix))
        .unwrap_or_default();
    Network {
        base: Ipv6Addr::from_bits(address.to_bits() & mask).into(),
        prefix,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(text: &str) -> Vec<Network> {
        let networks = of(text.parse().unwrap());
        networks.into_iter().map(|(network, _)| network).collect()
    }

    #[test]
    fn addresses_share_the_networks_that_hold_them() {
        let shared = |a, b| {
            let b = networks(b);
            networks(a).iter().filter(|one| b.contains(one)).count()
        };
        assert_eq!(shared("2001:db8::1", "2001:db8::ffff:2"), 3);
        assert_eq!(shared("2001:db8:0:1::1", "2001:db8::1"), 2);
        assert_eq!(shared("2001:db8:0:100::1", "2001:db8::1"), 1);
        assert_eq!(shared("2001:db8:1::1", "2001:db8::1"), 0);
        assert_eq!(shared("192.0.2.1", "::ffff:192.0.2.1"), 2);
        assert_eq!(shared("192.0.2.1", "192.0.2.2"), 1);
        assert_eq!(shared("192.0.2.1", "192.0.3.1"), 0);
    }
}
