//! Which addresses a name or a feed may bring.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Why an address from elsewhere is not taken as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Space {
    /// Used inside many networks: the same address means different hosts.
    Private,
    /// No packet from another machine has it as its source.
    Bogon,
    /// So wide that it is the world.
    TooWide,
}

/// The shortest prefixes that one network can have: no registry gives more.
const WIDEST: (u8, u8) = (8, 16);

const PRIVATE_V4: [Ipv4Net; 4] = [
    v4([10, 0, 0, 0], 8),     // RFC 1918
    v4([172, 16, 0, 0], 12),  // RFC 1918
    v4([192, 168, 0, 0], 16), // RFC 1918
    v4([100, 64, 0, 0], 10),  // RFC 6598, carrier-grade NAT
];

// Networks for documentation (RFC 5737, RFC 3849) are left alone: no host sends from them, and
// laboratories do.
const BOGON_V4: [Ipv4Net; 4] = [
    v4([0, 0, 0, 0], 8),      // RFC 791, "this network"
    v4([127, 0, 0, 0], 8),    // RFC 1122, loopback
    v4([169, 254, 0, 0], 16), // RFC 3927, link-local
    v4([224, 0, 0, 0], 3),    // RFC 1112, multicast and reserved
];

const PRIVATE_V6: [Ipv6Net; 1] = [
    v6(0xfc00, 7), // RFC 4193
];

const BOGON_V6: [Ipv6Net; 4] = [
    // RFC 4291: unspecified, loopback, and IPv4 addresses that are mapped or compatible. No
    // packet carries those.
    v6(0, 8),
    v6(0xfe80, 10), // RFC 4291, link-local
    v6(0xfec0, 10), // RFC 3879, site-local
    v6(0xff00, 8),  // RFC 4291, multicast
];

const fn v4([a, b, c, d]: [u8; 4], length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(first: u16, length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0), length)
}

/// What speaks against a network; none: nothing. One that only overlaps counts as what it
/// overlaps with: it is taken whole or not at all.
pub(super) fn objection(net: &IpNet) -> Option<Space> {
    let widest = if net.addr().is_ipv4() {
        WIDEST.0
    } else {
        WIDEST.1
    };
    let (private, bogon) = match net {
        IpNet::V4(net) => (overlaps(&PRIVATE_V4, net), overlaps(&BOGON_V4, net)),
        IpNet::V6(net) => (overlaps(&PRIVATE_V6, net), overlaps(&BOGON_V6, net)),
    };
    // 10.0.0.0/8 and fc00::/7 are private first, and wide only then.
    match (private, bogon) {
        (Some(Overlap::Inside), _) => Some(Space::Private),
        (_, Some(Overlap::Inside)) => Some(Space::Bogon),
        _ if net.prefix_len() < widest => Some(Space::TooWide),
        (Some(Overlap::Around), _) => Some(Space::Private),
        (None, Some(Overlap::Around)) => Some(Space::Bogon),
        (None, None) => None,
    }
}

enum Overlap {
    Inside,
    Around,
}

fn overlaps<N: PartialEq + Contains>(spaces: &[N], net: &N) -> Option<Overlap> {
    if spaces.iter().any(|space| space.has(net)) {
        return Some(Overlap::Inside);
    }
    let around = spaces.iter().any(|space| net.has(space));
    around.then_some(Overlap::Around)
}

trait Contains {
    fn has(&self, other: &Self) -> bool;
}

impl Contains for Ipv4Net {
    fn has(&self, other: &Self) -> bool {
        self.contains(other)
    }
}

impl Contains for Ipv6Net {
    fn has(&self, other: &Self) -> bool {
        self.contains(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classifies_bogons() {
        for (net, wanted) in [
            ("192.0.2.7/32", None),
            ("203.0.113.0/24", None),
            ("8.0.0.0/8", None),
            ("2001:db8::/32", None),
            ("2a00::/16", None),
            ("10.1.2.3/32", Some(Space::Private)),
            ("10.0.0.0/8", Some(Space::Private)),
            ("100.64.9.0/24", Some(Space::Private)),
            ("192.168.0.0/15", Some(Space::Private)),
            ("fd00::1/128", Some(Space::Private)),
            ("fc00::/7", Some(Space::Private)),
            ("127.0.0.1/32", Some(Space::Bogon)),
            ("0.0.0.0/32", Some(Space::Bogon)),
            ("255.255.255.255/32", Some(Space::Bogon)),
            ("169.254.169.254/32", Some(Space::Bogon)),
            ("239.1.1.1/32", Some(Space::Bogon)),
            ("::1/128", Some(Space::Bogon)),
            ("::/128", Some(Space::Bogon)),
            ("::ffff:192.0.2.1/128", Some(Space::Bogon)),
            ("fe80::1/128", Some(Space::Bogon)),
            ("ff02::1/128", Some(Space::Bogon)),
            ("0.0.0.0/0", Some(Space::TooWide)),
            ("128.0.0.0/1", Some(Space::TooWide)),
            ("8.0.0.0/7", Some(Space::TooWide)),
            ("::/0", Some(Space::TooWide)),
            ("2000::/3", Some(Space::TooWide)),
        ] {
            assert_eq!(objection(&net.parse().unwrap()), wanted, "{net}");
        }
    }
}
