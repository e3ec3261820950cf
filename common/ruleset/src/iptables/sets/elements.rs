//! The elements of one set: those that a ruleset wants against those that the kernel holds.

use std::cmp::Ordering;

use ipnet::IpNet;

use super::{KernelSet, Slack};
use crate::ruleset::{AddressSet, Until};

/// An element on which ruleset and kernel do not agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ElementChange {
    /// Wanted, and not there. Without an end it stays.
    Missing(IpNet, Option<Until>),
    /// There, and not wanted or over. With a timer it goes by itself.
    Extra(IpNet, Option<u32>),
    /// There with another timer.
    Retimed {
        /// The element.
        net: IpNet,
        /// When it should go; `None`: never.
        wanted: Option<Until>,
        /// When it goes, in seconds from now; `None`: never.
        found: Option<u32>,
    },
}

/// How long an element is in its set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stay<T> {
    ForEver,
    Until(T),
}

impl<T> Stay<T> {
    fn end(self) -> Option<T> {
        match self {
            Stay::ForEver => None,
            Stay::Until(end) => Some(end),
        }
    }
}

/// Elements with their ends, ascending.
fn ascending<'a, E, T: 'a>(
    lasting: &'a [IpNet],
    expiring: &'a [E],
    read: fn(&E) -> (IpNet, T),
) -> impl Iterator<Item = (IpNet, Stay<T>)> + 'a {
    let mut lasting = lasting.iter().copied().peekable();
    let mut expiring = expiring.iter().map(read).peekable();
    std::iter::from_fn(move || {
        let ends_first = match (lasting.peek(), expiring.peek()) {
            (Some(stays), Some((ends, _))) => ends < stays,
            (None, Some(_)) => true,
            _ => false,
        };
        if ends_first {
            expiring.next().map(|(net, end)| (net, Stay::Until(end)))
        } else {
            lasting.next().map(|net| (net, Stay::ForEver))
        }
    })
}

/// An element that is wanted, held, or both.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair {
    pub(super) net: IpNet,
    pub(super) wanted: Option<Stay<Until>>,
    pub(super) held: Option<Stay<u32>>,
}

/// Every element of either side, ascending: one pass over both, however many there are.
pub(super) fn pairs(set: &AddressSet, held: &KernelSet) -> impl Iterator<Item = Pair> {
    let mut wanted = ascending(&set.elements, &set.expiring, |one| (one.net, one.until)).peekable();
    let mut found = ascending(&held.elements, &held.expiring, |one| *one).peekable();
    std::iter::from_fn(move || {
        let order = match (wanted.peek(), found.peek()) {
            (Some((a, _)), Some((b, _))) => a.cmp(b),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        let wanted = (order != Ordering::Greater).then(|| wanted.next());
        let found = (order != Ordering::Less).then(|| found.next());
        let (wanted, found) = (wanted.flatten(), found.flatten());
        Some(Pair {
            net: wanted.map(|(net, _)| net).or(found.map(|(net, _)| net))?,
            wanted: wanted.map(|(_, end)| end),
            held: found.map(|(_, timer)| timer),
        })
    })
}

/// Where the two differ by more than `slack` at `now`.
pub(crate) fn changes(
    set: &AddressSet,
    held: &KernelSet,
    now: u64,
    slack: Slack,
) -> Vec<ElementChange> {
    let set = set.at(now);
    let changes = pairs(&set, held).filter_map(|pair| pair.change(now, slack));
    changes.collect()
}

impl ElementChange {
    /// The element.
    pub(crate) fn net(&self) -> &IpNet {
        match self {
            ElementChange::Missing(net, _)
            | ElementChange::Extra(net, _)
            | ElementChange::Retimed { net, .. } => net,
        }
    }
}

impl Pair {
    fn change(self, now: u64, slack: Slack) -> Option<ElementChange> {
        let net = self.net;
        let Some(wanted) = self.wanted else {
            return self
                .held
                .map(|found| ElementChange::Extra(net, found.end()));
        };
        let Some(found) = self.held else {
            let about_to_go = match wanted {
                Stay::ForEver => false,
                Stay::Until(until) => slack.covers(until.left(now)),
            };
            return (!about_to_go).then_some(ElementChange::Missing(net, wanted.end()));
        };
        let retimed = ElementChange::Retimed {
            net,
            wanted: wanted.end(),
            found: found.end(),
        };
        match (wanted, found) {
            (Stay::ForEver, Stay::ForEver) => None,
            (Stay::Until(until), Stay::Until(found)) => match until.left(now) {
                0 => {
                    (!slack.covers(found.into())).then_some(ElementChange::Extra(net, Some(found)))
                }
                left => (!slack.fits(left, found)).then_some(retimed),
            },
            (Stay::Until(until), Stay::ForEver) if until.left(now) == 0 => {
                Some(ElementChange::Extra(net, None))
            }
            _ => Some(retimed),
        }
    }
}
