//! Port lists that fit one multiport match.

use std::fmt;

/// Slots of one `multiport` match: a port takes one, a range two (`XT_MULTI_PORTS`).
pub const MAX_PORT_SLOTS: usize = 15;

/// An inclusive range of ports; `first == last` is a single port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// The first port, 1 or more.
    pub first: u16,
    /// The last port, `first` or more.
    pub last: u16,
}

impl PortRange {
    /// The range of one port.
    pub const fn single(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }

    /// A range; none if it starts at 0 or runs backwards.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first > 0 && first <= last).then_some(Self { first, last })
    }

    /// Whether `port` is inside.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    fn slots(self) -> usize {
        if self.first == self.last { 1 } else { 2 }
    }
}

impl fmt::Display for PortRange {
    /// As documents write it: `5060` or `10000-20000`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// Port ranges that are not in canonical form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("port ranges must ascend, apart from each other, within {MAX_PORT_SLOTS} slots")]
pub struct InvalidPorts;

/// Ports of one rule: ascending, neither overlapping nor adjacent, at most
/// [`MAX_PORT_SLOTS`]. Empty means any port.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports(Vec<PortRange>);

impl Ports {
    /// Any port.
    pub const ANY: Ports = Ports(Vec::new());

    /// One port.
    pub fn single(port: u16) -> Self {
        Self(vec![PortRange::single(port)])
    }

    /// The ranges as they are, if they are canonical.
    pub fn exact(ranges: Vec<PortRange>) -> Result<Self, InvalidPorts> {
        let apart = ranges
            .iter()
            .zip(ranges.iter().skip(1))
            .all(|(a, b)| u32::from(b.first) > u32::from(a.last) + 1);
        let formed = ranges
            .iter()
            .all(|r| PortRange::new(r.first, r.last).is_some());
        let slots: usize = ranges.iter().map(|r| r.slots()).sum();
        if apart && formed && slots <= MAX_PORT_SLOTS {
            Ok(Self(ranges))
        } else {
            Err(InvalidPorts)
        }
    }

    /// Any ranges, merged and sorted, in as many lists as it takes to fit. None for no range.
    pub fn split(mut ranges: Vec<PortRange>) -> Vec<Ports> {
        ranges.sort_unstable();
        let mut merged: Vec<PortRange> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut() {
                Some(last) if u32::from(range.first) <= u32::from(last.last) + 1 => {
                    last.last = last.last.max(range.last);
                }
                _ => merged.push(range),
            }
        }
        let mut lists: Vec<Ports> = Vec::new();
        let mut free = 0;
        for range in merged {
            match lists.last_mut() {
                Some(list) if range.slots() <= free => {
                    free -= range.slots();
                    list.0.push(range);
                }
                _ => {
                    free = MAX_PORT_SLOTS - range.slots();
                    lists.push(Ports(vec![range]));
                }
            }
        }
        lists
    }

    /// The ranges, ascending.
    pub fn ranges(&self) -> &[PortRange] {
        &self.0
    }

    /// Whether any port matches.
    pub fn is_any(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `port` matches.
    pub fn contains(&self, port: u16) -> bool {
        self.is_any() || self.0.iter().any(|range| range.contains(port))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn split_keeps_exactly_the_ports(pairs in prop::collection::vec((1_u16.., 0_u16..40), 1..60)) {
            let ranges: Vec<PortRange> = pairs
                .iter()
                .map(|(first, width)| PortRange { first: *first, last: first.saturating_add(*width) })
                .collect();
            let lists = Ports::split(ranges.clone());
            for list in &lists {
                prop_assert!(Ports::exact(list.ranges().to_vec()).is_ok());
            }
            // Only where something changes can a port be on the wrong side.
            let edges = ranges.iter().flat_map(|r| {
                [r.first.saturating_sub(1).max(1), r.first, r.last, r.last.saturating_add(1)]
            });
            for port in edges {
                let wanted = ranges.iter().any(|r| r.contains(port));
                prop_assert_eq!(lists.iter().any(|l| l.contains(port)), wanted, "{}", port);
            }
        }
    }

    #[test]
    fn sixteen_ports_need_two_rules() {
        let ranges = (0..16).map(|i| PortRange::single(1000 + i * 2)).collect();
        let lists = Ports::split(ranges);
        assert_eq!(
            lists.iter().map(|l| l.ranges().len()).collect::<Vec<_>>(),
            [15, 1]
        );
    }
}
