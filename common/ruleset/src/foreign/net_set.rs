//! Addresses of both families as ranges.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

use crate::ruleset::Family;

/// Addresses: one search finds whether one is among them, whatever their number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetSet {
    /// First and last, ascending and apart from each other.
    v4: Vec<(u128, u128)>,
    v6: Vec<(u128, u128)>,
}

impl FromIterator<IpNet> for NetSet {
    fn from_iter<I: IntoIterator<Item = IpNet>>(nets: I) -> Self {
        nets.into_iter()
            .map(|net| (net.network(), net.broadcast()))
            .collect()
    }
}

/// Ranges, first and last of one family.
impl FromIterator<(IpAddr, IpAddr)> for NetSet {
    fn from_iter<I: IntoIterator<Item = (IpAddr, IpAddr)>>(ranges: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (first, last) in ranges {
            let family = match (first, last) {
                (IpAddr::V4(_), IpAddr::V4(_)) => &mut v4,
                (IpAddr::V6(_), IpAddr::V6(_)) => &mut v6,
                _ => continue,
            };
            if number(first) <= number(last) {
                family.push((number(first), number(last)));
            }
        }
        Self {
            v4: merged(v4),
            v6: merged(v6),
        }
    }
}

fn merged(mut ranges: Vec<(u128, u128)>) -> Vec<(u128, u128)> {
    ranges.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    merged
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

impl NetSet {
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    fn of(&self, family: Family) -> &[(u128, u128)] {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        let ranges = self.of(Family::of(&IpNet::from(address)));
        let address = number(address);
        let after = ranges.partition_point(|(first, _)| *first <= address);
        let before = after.checked_sub(1).and_then(|index| ranges.get(index));
        before.is_some_and(|(_, last)| address <= *last)
    }

    /// Adds the addresses of another set.
    pub fn extend(&mut self, other: &NetSet) {
        self.v4 = merged(self.v4.iter().chain(&other.v4).copied().collect());
        self.v6 = merged(self.v6.iter().chain(&other.v6).copied().collect());
    }

    /// What is in both, of one family, as prefixes in ascending order.
    pub fn common<'a>(&'a self, other: &'a NetSet, family: Family) -> impl Iterator<Item = IpNet> {
        let (mut ours, mut theirs) = (self.of(family).iter(), other.of(family).iter());
        let (mut our, mut their) = (ours.next(), theirs.next());
        let ranges = std::iter::from_fn(move || {
            while let (Some(a), Some(b)) = (our, their) {
                let (first, last) = (a.0.max(b.0), a.1.min(b.1));
                if a.1 < b.1 {
                    our = ours.next();
                } else {
                    their = theirs.next();
                }
                if first <= last {
                    return Some((first, last));
                }
            }
            None
        });
        ranges.flat_map(move |(first, last)| prefixes(first, last, family))
    }

    /// Its first address of one family.
    pub fn first(&self, family: Family) -> Option<IpAddr> {
        self.of(family)
            .first()
            .map(|(first, _)| address(*first, family))
    }
}

fn address(number: u128, family: Family) -> IpAddr {
    match family {
        // A set of IPv4 holds no larger number.
        Family::V4 => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        Family::V6 => Ipv6Addr::from(number).into(),
    }
}

fn prefixes(first: u128, last: u128, family: Family) -> Box<dyn Iterator<Item = IpNet>> {
    match (address(first, family), address(last, family)) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            Box::new(Ipv4Subnets::new(first, last, 0).map(IpNet::V4))
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            Box::new(Ipv6Subnets::new(first, last, 0).map(IpNet::V6))
        }
        _ => Box::new(std::iter::empty()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(texts: &[&str]) -> NetSet {
        texts
            .iter()
            .map(|text| text.parse::<IpNet>().unwrap())
            .collect()
    }

    #[test]
    fn what_is_in_both_is_given_as_prefixes() {
        let ours = set(&["203.0.113.0/24", "2001:db8::/32", "198.51.100.10/32"]);
        let theirs = set(&[
            "203.0.113.9/32",
            "203.0.113.128/25",
            "192.0.2.0/24",
            "2001:db8:1::/48",
        ]);
        let common = |family| -> Vec<String> {
            ours.common(&theirs, family)
                .map(|net| net.to_string())
                .collect()
        };
        assert_eq!(common(Family::V4), ["203.0.113.9/32", "203.0.113.128/25"]);
        assert_eq!(common(Family::V6), ["2001:db8:1::/48"]);
    }

    proptest! {
        #[test]
        fn an_address_is_in_both_where_it_is_in_each(
            ours in prop::collection::vec((any::<u8>(), 24_u8..=32), 0..8),
            theirs in prop::collection::vec((any::<u8>(), 24_u8..=32), 0..8),
            last: u8,
        ) {
            let nets = |parts: &[(u8, u8)]| -> NetSet {
                parts
                    .iter()
                    .map(|(last, length)| IpNet::new([192, 0, 2, *last].into(), *length).unwrap().trunc())
                    .collect()
            };
            let (ours, theirs) = (nets(&ours), nets(&theirs));
            let address: IpAddr = [192, 0, 2, last].into();
            let both: Vec<IpNet> = ours.common(&theirs, Family::V4).collect();
            prop_assert_eq!(
                both.iter().any(|net| net.contains(&address)),
                ours.contains(address) && theirs.contains(address)
            );
        }
    }
}
