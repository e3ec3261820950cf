//! How much of the address space networks hold: the one definition of "the world".
//!
//! Networks are the world if letting them in lets in strangers, whatever they are called: one
//! prefix is wider than any that a registry gives to one network (/8, in IPv6 /16), or together
//! they hold half of IPv4, or as much of IPv6 as is given out at all (`2000::/3`). Prefixes inside
//! `fc00::/7` (unique local) and `fe80::/10` (link-local) never count: no stranger has such an
//! address, however wide the prefix.

use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv6Net};

const UNIQUE_LOCAL: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7);
const LINK_LOCAL: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);

/// The shortest prefixes that one network may have.
const WIDEST_V4: u8 = 8;
const WIDEST_V6: u8 = 16;

/// What networks hold of the address space, each address counted once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AddressSpace {
    /// IPv4 addresses.
    v4: u64,
    /// IPv6, in prefixes of 127 bits: the whole space would not fit otherwise.
    v6: u128,
    /// Whether one prefix alone is wider than any network.
    has_world: bool,
}

impl AddressSpace {
    /// That of `nets`, which may overlap.
    pub fn of<'a>(nets: impl IntoIterator<Item = &'a IpNet>) -> Self {
        let mut nets: Vec<IpNet> = nets.into_iter().map(IpNet::trunc).collect();
        // A wider prefix sorts before those inside it.
        nets.sort_unstable();
        nets.dedup_by(|next, kept| kept.contains(&*next));
        let mut space = Self::default();
        for net in nets {
            space.has_world |= is_world(&net);
            match net {
                IpNet::V4(net) => space.v4 += 1 << (32 - net.prefix_len()),
                IpNet::V6(net) if !is_internal(&net) => {
                    let size = 1 << 127_u8.saturating_sub(net.prefix_len());
                    space.v6 = space.v6.saturating_add(size);
                }
                IpNet::V6(_) => {}
            }
        }
        space
    }

    /// Whether that is too much to open anything to: as much as sixteen of the widest networks,
    /// or more.
    pub fn is_wide(self) -> bool {
        self.is_world() || self.v4 >= 1 << 28 || self.v6 >= 1 << (127 - 12)
    }

    /// Whether that is the world.
    pub fn is_world(self) -> bool {
        self.has_world || self.v4 >= 1 << 31 || self.v6 >= 1 << (127 - 3)
    }
}

/// Whether one prefix is the world by itself.
pub fn is_world(net: &IpNet) -> bool {
    match net {
        IpNet::V4(net) => net.prefix_len() < WIDEST_V4,
        IpNet::V6(net) => net.prefix_len() < WIDEST_V6 && !is_internal(net),
    }
}

fn is_internal(net: &Ipv6Net) -> bool {
    UNIQUE_LOCAL.contains(net) || LINK_LOCAL.contains(net)
}

/// Whether no packet from another machine carries an address of `net` as its source: "this
/// network", loopback, multicast and reserved (RFC 6890).
pub fn is_no_source(net: &IpNet) -> bool {
    match net {
        IpNet::V4(net) => {
            let first = net.network().octets()[0];
            net.prefix_len() >= 4
                && (first >= 224 || (net.prefix_len() >= 8 && [0, 127].contains(&first)))
        }
        IpNet::V6(net) => {
            let first = net.network();
            (net.prefix_len() == 128 && (first.is_loopback() || first.is_unspecified()))
                || (net.prefix_len() >= 8 && first.is_multicast())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn judged(nets: &[&str]) -> (bool, bool) {
        let nets: Vec<IpNet> = nets.iter().map(|net| net.parse().unwrap()).collect();
        let space = AddressSpace::of(&nets);
        (space.is_wide(), space.is_world())
    }

    #[test]
    fn overlapping_prefixes_count_once() {
        let eights =
            |count: u8| -> Vec<String> { (1..=count).map(|n| format!("{n}.0.0.0/8")).collect() };
        for (count, wide, world) in [(15, false, false), (16, true, false), (128, true, true)] {
            let nets = eights(count);
            let mut nets: Vec<&str> = nets.iter().map(String::as_str).collect();
            // Inside the others, once more, and host bits that mean nothing.
            nets.extend(["3.0.0.0/9", "3.7.0.0/16", "5.1.2.3/8"]);
            assert_eq!(judged(&nets), (wide, world), "{count}");
        }
        let sixteens = |count: u16| -> Vec<String> {
            (0..count)
                .map(|n| format!("{:x}::/16", 0x2a00 + n))
                .collect()
        };
        for (count, wide) in [(15, false), (16, true)] {
            let nets = sixteens(count);
            let nets: Vec<&str> = nets.iter().map(String::as_str).collect();
            assert_eq!(judged(&nets), (wide, false), "{count}");
        }
        assert_eq!(judged(&[]), (false, false));
    }

    /// No prefix alone is the world here: 8192 prefixes of 16 bits hold as much as `2000::/3`.
    #[test]
    fn many_ipv6_prefixes_together_are_the_world() {
        let sixteens = |count: u16| (0..count).map(|n| format!("{:x}::/16", 0x2000 + n));
        let halves = |n: u16| ["0", "8000"].map(|half| format!("{n:x}:{half}::/17"));
        for (nets, world) in [
            (sixteens(8191).collect::<Vec<_>>(), false),
            (sixteens(8192).collect(), true),
            (sixteens(8191).chain(halves(0x4000)).collect(), true),
            (
                sixteens(8191)
                    .chain(halves(0x4000).into_iter().take(1))
                    .collect(),
                false,
            ),
            (sixteens(8191).chain(halves(0x2000)).collect(), false),
            (sixteens(8191).chain(halves(0xfc00)).collect(), false),
        ] {
            let nets: Vec<&str> = nets.iter().map(String::as_str).collect();
            assert_eq!(
                judged(&nets),
                (true, world),
                "{} {:?}",
                nets.len(),
                nets.last()
            );
        }
    }

    #[test]
    fn unique_local_and_link_local_prefixes_never_count() {
        for internal in [
            &["fc00::/7"][..],
            &["fe80::/10"],
            &["fc00::/7", "fe80::/10"],
            &["fc00::/8", "fd00::/8", "fe80::/16"],
        ] {
            assert_eq!(judged(internal), (false, false), "{internal:?}");
        }
        // Wider than these ranges, it holds others too.
        for wider in ["fc00::/6", "fe80::/9", "f000::/5", "::/0"] {
            assert_eq!(judged(&[wider]), (true, true), "{wider}");
        }
    }

    #[test]
    fn one_prefix_wider_than_any_network_is_the_world() {
        for (text, world) in [
            ("0.0.0.0/0", true),
            ("128.0.0.0/1", true),
            ("64.0.0.0/3", true),
            ("10.0.0.0/7", true),
            ("10.0.0.0/8", false),
            ("::/0", true),
            ("2000::/3", true),
            ("2a00::/15", true),
            ("2a00::/16", false),
            ("2001:db8::/32", false),
        ] {
            let net = text.parse().unwrap();
            assert_eq!(is_world(&net), world, "{text}");
            assert_eq!(AddressSpace::of([&net]).is_world(), world, "{text}");
        }
    }

    #[test]
    fn no_other_machine_sends_from_reserved_ranges() {
        for (text, reserved) in [
            ("127.0.0.1/32", true),
            ("127.0.0.0/8", true),
            ("0.0.0.0/8", true),
            ("224.0.0.5/32", true),
            ("255.255.255.255/32", true),
            ("224.0.0.0/3", false),
            ("10.0.0.0/8", false),
            ("169.254.7.7/32", false),
            ("::1/128", true),
            ("ff02::1/128", true),
            ("::/0", false),
            ("fe80::1/128", false),
        ] {
            assert_eq!(is_no_source(&text.parse().unwrap()), reserved, "{text}");
        }
    }

    proptest! {
        /// More networks are never less of the address space.
        #[test]
        fn the_world_stays_the_world(
            nets in prop::collection::vec((any::<u128>(), 3_u8..=128), 1..20),
            more in (any::<u128>(), 0_u8..=128),
        ) {
            let net = |(bits, length)| {
                IpNet::V6(Ipv6Net::new(Ipv6Addr::from(bits), length).unwrap()).trunc()
            };
            let nets: Vec<IpNet> = nets.into_iter().map(net).collect();
            let all: Vec<IpNet> = nets.iter().copied().chain([net(more)]).collect();
            let (before, after) = (AddressSpace::of(&nets), AddressSpace::of(&all));
            prop_assert!(!before.is_wide() || after.is_wide());
            prop_assert!(!before.is_world() || after.is_world());
        }
    }
}
