//! Arithmetic of prefixes: what a set holds, and what a deny set must not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use voipfleet_ruleset::ruleset::{Expiring, Scheduled, distinct};

/// Ranges that public lists carry by mistake: "this network", private, carrier-grade
/// NAT, loopback, link-local, multicast and reserved (RFC 6890). The documentation networks are
/// not among them: nothing is lost when they are denied.
const PRIVATE_V4: [Ipv4Net; 9] = [
    Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 8),
    Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10),
    Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8),
    Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12),
    Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4),
    Ipv4Net::new_assert(Ipv4Addr::new(240, 0, 0, 0), 4),
];
const PRIVATE_V6: [Ipv6Net; 5] = [
    Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128),
    Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128),
    Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
    Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
    Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
];

/// Private and reserved ranges of both families, minimal.
pub(super) fn private_ranges() -> Vec<IpNet> {
    let v4 = PRIVATE_V4.into_iter().map(IpNet::V4);
    minimal(v4.chain(PRIVATE_V6.into_iter().map(IpNet::V6)).collect())
}

/// The same addresses, ascending, no prefix inside another.
pub(crate) fn minimal(mut nets: Vec<IpNet>) -> Vec<IpNet> {
    for net in &mut nets {
        *net = net.trunc();
    }
    // A wider prefix sorts before those inside it.
    nets.sort_unstable();
    nets.dedup_by(|next, kept| kept.contains(&*next));
    nets
}

/// Addresses of a set: those that stay, those with an end, and those with a beginning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Elements {
    /// Minimal.
    pub(super) lasting: Vec<IpNet>,
    /// Ascending. None is inside one that lasts as long.
    pub(super) expiring: Vec<Expiring>,
    /// Ascending. None is inside one that lasts.
    pub(super) scheduled: Vec<Scheduled>,
}

impl Elements {
    /// The same with addresses that begin later, without those that last already.
    #[must_use]
    pub(super) fn with_scheduled(mut self, mut scheduled: Vec<Scheduled>) -> Self {
        for one in &mut scheduled {
            one.net = one.net.trunc();
        }
        scheduled.retain(|one| {
            let around = touching(&self.lasting, &one.net);
            !around.iter().any(|net| net.contains(&one.net))
        });
        scheduled.sort_unstable();
        scheduled.dedup();
        self.scheduled = scheduled;
        self
    }

    /// At any moment the same addresses, without those that others cover until their end.
    pub(super) fn new(lasting: Vec<IpNet>, mut expiring: Vec<Expiring>) -> Self {
        let lasting = minimal(lasting);
        for one in &mut expiring {
            one.net = one.net.trunc();
        }
        let mut expiring = distinct(expiring, &lasting);
        expiring.retain(|one| {
            let around = touching(&lasting, &one.net);
            !around.iter().any(|net| net.contains(&one.net))
        });
        // A wider prefix sorts before those inside it: these are the ones around the next.
        let mut around: Vec<Expiring> = Vec::new();
        expiring.retain(|one| {
            while around
                .last()
                .is_some_and(|wider| !wider.net.contains(&one.net))
            {
                around.pop();
            }
            let covered = around.iter().any(|wider| wider.until >= one.until);
            if !covered {
                around.push(*one);
            }
            !covered
        });
        Self {
            lasting,
            expiring,
            scheduled: Vec::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lasting.is_empty() && self.expiring.is_empty() && self.scheduled.is_empty()
    }

    /// All of them, minimal, whatever their time.
    pub(super) fn now(&self) -> Vec<IpNet> {
        let lasting = self.lasting.iter().copied();
        minimal(lasting.chain(self.dated()).collect())
    }

    /// Those that end or begin.
    fn dated(&self) -> impl Iterator<Item = IpNet> {
        let ending = self.expiring.iter().map(|one| one.net);
        ending.chain(self.scheduled.iter().map(|one| one.net))
    }

    /// How many of them touch one of `others` (minimal).
    pub(super) fn count_touching(&self, others: &[IpNet]) -> usize {
        let dated: Vec<IpNet> = self.dated().collect();
        count_touching(&self.lasting, others) + count_touching(&dated, others)
    }

    /// Those that are in none of `holes` (minimal).
    pub(super) fn subtract(&self, holes: &[IpNet]) -> Self {
        let mut left = Vec::with_capacity(self.expiring.len());
        for one in &self.expiring {
            let mut parts = Vec::new();
            carve(one.net, touching(holes, &one.net), &mut parts);
            left.extend(parts.into_iter().map(|net| Expiring { net, ..*one }));
        }
        let mut later = Vec::with_capacity(self.scheduled.len());
        for one in &self.scheduled {
            let mut parts = Vec::new();
            carve(one.net, touching(holes, &one.net), &mut parts);
            later.extend(parts.into_iter().map(|net| Scheduled { net, ..*one }));
        }
        Self::new(subtract(&self.lasting, holes), left).with_scheduled(later)
    }
}

/// Those of `sorted` (minimal) that touch `net`.
pub(super) fn touching<'a>(sorted: &'a [IpNet], net: &IpNet) -> &'a [IpNet] {
    let start = sorted.partition_point(|other| other.broadcast() < net.network());
    let end = sorted.partition_point(|other| other.network() <= net.broadcast());
    sorted.get(start..end).unwrap_or_default()
}

/// How many of `nets` touch one of `others` (minimal).
pub(super) fn count_touching(nets: &[IpNet], others: &[IpNet]) -> usize {
    nets.iter()
        .filter(|net| !touching(others, net).is_empty())
        .count()
}

/// The addresses of `nets` that are in none of `holes`; both minimal.
pub(crate) fn subtract(nets: &[IpNet], holes: &[IpNet]) -> Vec<IpNet> {
    let mut left = Vec::with_capacity(nets.len());
    for net in nets {
        carve(*net, touching(holes, net), &mut left);
    }
    left
}

/// Halves `net` until each part is in a hole or clear of them: at most one split per bit of an
/// address and hole.
fn carve(net: IpNet, holes: &[IpNet], left: &mut Vec<IpNet>) {
    match holes.first() {
        None => left.push(net),
        Some(hole) if hole.contains(&net) => {}
        Some(_) => {
            for half in net.subnets(net.prefix_len() + 1).into_iter().flatten() {
                carve(half, touching(holes, &half), left);
            }
        }
    }
}

/// Whether other machines can reach `address`: not loopback, link-local, multicast or nothing.
pub(super) fn is_reachable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.is_unspecified())
        }
        IpAddr::V6(v6) => {
            !(v6.is_loopback()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
                || v6.is_unspecified())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixtures::any_net;
    use voipfleet_ruleset::ruleset::Until;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_wider_prefix_swallows_those_inside() {
        let all = nets(&[
            "10.0.1.0/24",
            "10.0.0.0/16",
            "10.0.0.0/24",
            "2001:db8::1/128",
            "10.1.0.0/16",
        ]);
        assert_eq!(
            minimal(all),
            nets(&["10.0.0.0/16", "10.1.0.0/16", "2001:db8::1/128"])
        );
    }

    #[test]
    fn a_hole_leaves_the_rest() {
        assert_eq!(
            subtract(&nets(&["192.0.2.0/30"]), &nets(&["192.0.2.1/32"])),
            nets(&["192.0.2.0/32", "192.0.2.2/31"])
        );
        assert!(subtract(&nets(&["10.1.0.0/16"]), &private_ranges()).is_empty());
    }

    fn any_elements() -> impl Strategy<Value = Elements> {
        let expiring = (any_net(), 1_u64..5).prop_map(|(net, until)| Expiring {
            net,
            until: Until::from_unix(until).unwrap(),
        });
        (
            prop::collection::vec(any_net(), 0..12),
            prop::collection::vec(expiring, 0..12),
        )
            .prop_map(|(lasting, expiring)| Elements {
                lasting,
                expiring,
                scheduled: Vec::new(),
            })
    }

    proptest! {
        /// At every moment, what covers something else changes nothing, and holes are holes.
        #[test]
        fn ends_are_exact(
            written in any_elements(),
            holes in prop::collection::vec(any_net(), 0..12),
        ) {
            let holes = minimal(holes);
            let elements = Elements::new(written.lasting.clone(), written.expiring.clone());
            let left = elements.subtract(&holes);
            prop_assert_eq!(&left, &Elements::new(left.lasting.clone(), left.expiring.clone()));
            prop_assert!(left.expiring.iter().all(|one| !left.lasting.contains(&one.net)));
            let at = |elements: &Elements, moment: u64, address: IpAddr| {
                let ending = elements.expiring.iter();
                let living = ending.filter(|one| one.until.left(moment) > 0).map(|one| one.net);
                let mut all = elements.lasting.iter().copied().chain(living);
                all.any(|net| net.contains(&address))
            };
            let nets = written.expiring.iter().map(|one| one.net);
            for edge in nets.chain(written.lasting.iter().chain(&holes).copied()) {
                for address in [edge.network(), edge.broadcast()] {
                    let in_hole = holes.iter().any(|net| net.contains(&address));
                    for moment in 0..6 {
                        let wanted = at(&written, moment, address);
                        prop_assert_eq!(at(&elements, moment, address), wanted);
                        prop_assert_eq!(at(&left, moment, address), wanted && !in_hole);
                    }
                }
            }
        }

        #[test]
        fn subtraction_is_exact(
            nets in prop::collection::vec(any_net(), 0..20),
            holes in prop::collection::vec(any_net(), 0..20),
        ) {
            let nets = minimal(nets);
            let holes = minimal(holes);
            let left = subtract(&nets, &holes);
            prop_assert_eq!(&minimal(left.clone()), &left);
            let inside = |sorted: &[IpNet], address: IpAddr| {
                sorted.iter().any(|net| net.contains(&address))
            };
            // Only at an edge can an address be on the wrong side.
            for edge in nets.iter().chain(&holes).chain(&left) {
                for address in [edge.network(), edge.broadcast()] {
                    prop_assert_eq!(
                        inside(&left, address),
                        inside(&nets, address) && !inside(&holes, address),
                        "{}", address
                    );
                }
            }
        }
    }
}
